"""Downloads: whole, cut off and gone on with, damaged, unreachable; where detectron2 finds them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from detectron2.utils.file_io import PathManager

from transfer_maskrcnn.commands.weights import weights
from transfer_maskrcnn.errors import WeightFileError
from transfer_maskrcnn.surgery import fetch as fetching
from transfer_maskrcnn.surgery.fetch import cached_file, fetch
from transfer_maskrcnn.surgery.known import KNOWN, Known
from transfer_maskrcnn.surgery.load import local_file

CONTENT = bytes(range(256)) * 4000
RIGHT = hashlib.md5(CONTENT).hexdigest()[:6]


class Server(ThreadingHTTPServer):
    """Has CONTENT under every name.

    Attributes:
        ends: after so many bytes of an answer the connection ends.
        ranges: whether it knows how to go on.
        asked: the Range of every request.
    """

    ends: int | None = None
    ranges = True
    asked: list[str | None]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/zoo/"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.asked.append(asked)
        begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if begin and self.server.ranges:
            if begin >= len(CONTENT):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
        else:
            begin = 0
            self.send_response(404 if "absent" in self.path else 200)
        body = CONTENT[begin:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.ends])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    with Server(("127.0.0.1", 0), _Handler) as server:
        server.asked = []
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def test_detectron2_finds_what_was_fetched(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = "S3_DETECTRON2_PREFIX"
    monkeypatch.setattr(fetching.Detectron2Handler, prefix, server.url)
    address = f"detectron2://a/1/model_final_{RIGHT}.pkl"
    path = local_file(address)
    assert path.read_bytes() == CONTENT
    assert path == Path(PathManager.get_local_path(address))
    assert fetch(server.url + f"a/1/model_final_{RIGHT}.pkl") == path
    assert server.asked == [None], "once"
    assert not Path(f"{path}.part").exists()


def test_what_was_cut_off_goes_on(server: Server) -> None:
    url = f"{server.url}model_final_{RIGHT}.pkl"
    server.ends = 700_000
    with pytest.raises(WeightFileError, match=r"(?s)ended after 1 of 1 MB.*goes on.*put it there"):
        fetch(url)
    assert not cached_file(url).exists()
    server.ends = None
    assert fetch(url).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=700000-"]


# what lies there already, whether the server can go on, what it is asked for
CUT_OFF = [
    (CONTENT[:10], False, ["bytes=10-"]),  # it begins again
    (CONTENT, True, [f"bytes={len(CONTENT)}-"]),  # killed before it got its name
]


@pytest.mark.parametrize(("there", "ranges", "asked"), CUT_OFF)
def test_a_part_that_lies_there(
    there: bytes, ranges: bool, asked: list[str], server: Server
) -> None:
    url, server.ranges = f"{server.url}model_final_{RIGHT}.pkl", ranges
    part = Path(f"{cached_file(url)}.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(there)
    assert fetch(url).read_bytes() == CONTENT
    assert server.asked == asked


def test_a_damaged_part_is_not_kept(server: Server) -> None:
    url = f"{server.url}model_final_{RIGHT}.pkl"
    part = Path(f"{cached_file(url)}.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"something else")
    with pytest.raises(WeightFileError, match=rf"damaged .* says {RIGHT}"):
        fetch(url)
    assert not part.exists() and not cached_file(url).exists()
    assert fetch(url).read_bytes() == CONTENT
    part.write_bytes(CONTENT + b"more than there is")
    cached_file(url).unlink()
    with pytest.raises(WeightFileError, match=r"416|Range"):
        fetch(url)
    assert fetch(url).read_bytes() == CONTENT


def test_what_is_not_there(server: Server) -> None:
    url = f"{server.url}absent.pkl"
    with pytest.raises(WeightFileError) as caught:
        fetch(url)
    assert "Not Found" in str(caught.value)
    assert url in str(caught.value).split() and str(cached_file(url)) in str(caught.value).split()


def test_the_command(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{server.url}model_final_{RIGHT}.pkl"
    monkeypatch.setitem(KNOWN, "mine", Known(url, "shapes/Base-shapes.yaml", 1, 30.5, 28.0))
    weights([])
    first = capsys.readouterr().out
    assert "mine                                 1     30.5     28.0  no\n" in first
    assert url in first.split() and "CC BY-SA 3.0" in first
    assert "mask_rcnn_R_50_FPN_3x              178     41.0     37.2  no\n" in first
    weights(["mine"])
    assert capsys.readouterr().out == f"mine: {cached_file(url)}\n"
    weights([])
    assert "28.0  yes\n" in capsys.readouterr().out
    with pytest.raises(WeightFileError, match="did you mean 'mine'"):
        weights(["mime"])


def test_the_table_is_that_of_the_model_zoo(repository: Path) -> None:
    from detectron2.model_zoo.model_zoo import _ModelZooUrls

    for name, one in KNOWN.items():
        assert (repository / "configs" / one.base).is_file()
        zoo = _ModelZooUrls.query(f"COCO-InstanceSegmentation/{name}.yaml")
        assert zoo in (fetching.url_of(one.address), None)
