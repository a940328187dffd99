"""datasets/prepare_balloon.py against a generated archive and a server on this machine."""

import hashlib
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "datasets" / "prepare_balloon.py"


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_balloon", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


prepare_balloon = load_script()


def archive_files() -> dict[str, bytes]:
    """What the real archive holds in names and counts, with noise for images."""
    files = {"__MACOSX/balloon/._train": b"resource fork"}
    for split, (images, polygons) in prepare_balloon.COUNTS.items():
        entries = {}
        for i in range(images):
            data = os.urandom(5000)
            files[f"balloon/{split}/{i}.jpg"] = data
            count = polygons // images + (i < polygons % images)
            entries[f"{i}.jpg5000"] = {
                "filename": f"{i}.jpg",
                "size": len(data),
                "regions": {str(r): {"shape_attributes": {}} for r in range(count)},
            }
        files[f"balloon/{split}/via_region_data.json"] = json.dumps(entries).encode()
    return files


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "balloon_dataset.zip"
    path.write_bytes(zipped(archive_files()))
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(root: Path, *args: object) -> int:
    return int(prepare_balloon.main(["--root", str(root), *map(str, args)]))


class Server:
    """Serves one file: with ranges or without, slowly, or breaking off after some bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.ranges: list[str | None] = []
        self.supports_ranges = True
        self.break_after: int | None = None
        self.pause = 0.0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/balloon_dataset.zip"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        header = request.headers.get("Range")
        self.ranges.append(header)
        start = 0
        if header and self.supports_ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", header)[1])  # type: ignore[index]
        if start >= len(self.data):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(self.data)}")
            request.end_headers()
            return
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(self.data) - start))
        request.end_headers()
        stop = len(self.data) if self.break_after is None else start + self.break_after
        for at in range(start, min(stop, len(self.data)), 20_000):
            try:
                request.wfile.write(self.data[at : min(at + 20_000, stop)])
            except OSError:  # the client was killed
                return
            time.sleep(self.pause)


@pytest.fixture
def server(archive: Path) -> Iterator[Server]:
    served = Server(archive.read_bytes())
    yield served
    served.http.shutdown()
    served.http.server_close()


def test_local_archive(tmp_path: Path, archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "datasets"
    assert run(root, "--archive", archive, "--sha256", sha256(archive)) == 0
    assert "74 images with 305 balloons" in capsys.readouterr().out
    assert sorted(p.name for p in root.iterdir()) == ["balloon"]
    assert len(list((root / "balloon" / "train").iterdir())) == 62
    archive.unlink()  # a second run needs neither archive nor network
    assert run(root, "--archive", archive) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_root_is_detectron2_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert prepare_balloon.parse_args([]).root == str(tmp_path)
    monkeypatch.delenv("DETECTRON2_DATASETS")
    assert prepare_balloon.parse_args([]).root == "datasets"


def test_download(tmp_path: Path, server: Server, archive: Path) -> None:
    assert run(tmp_path / "d", "--url", server.url, "--sha256", sha256(archive)) == 0
    assert [p.name for p in (tmp_path / "d").iterdir()] == ["balloon"]
    assert server.ranges == [None]


def test_download_goes_on_after_each_break(tmp_path: Path, server: Server, archive: Path) -> None:
    server.break_after = len(server.data) // 5 + 1000
    options = ("--url", server.url, "--sha256", sha256(archive))
    assert run(tmp_path / "d", *options) == 1  # gives up after three attempts, and keeps the bytes
    part = tmp_path / "d" / "balloon_dataset.zip.part"
    assert part.stat().st_size == 3 * server.break_after
    assert run(tmp_path / "d", *options) == 0
    assert server.ranges[0] is None
    assert server.ranges[1:] == [f"bytes={i * server.break_after}-" for i in range(1, 5)]


def test_download_without_range_support_starts_over(
    tmp_path: Path, server: Server, archive: Path
) -> None:
    server.supports_ranges = False
    part = tmp_path / "balloon_dataset.zip.part"
    part.write_bytes(b"bytes of another file")
    archive_sum = sha256(archive)
    archive.unlink()
    assert run(tmp_path, "--url", server.url, "--sha256", archive_sum) == 0


def test_part_that_is_already_whole_or_too_long(
    tmp_path: Path, server: Server, archive: Path
) -> None:
    for number, extra in enumerate([b"", b"more than there is"]):
        root = tmp_path / str(number)
        root.mkdir()
        (root / "balloon_dataset.zip.part").write_bytes(server.data + extra)
        assert run(root, "--url", server.url, "--sha256", sha256(archive)) == 0


def test_killed_download_is_resumed(tmp_path: Path, server: Server, archive: Path) -> None:
    server.pause = 0.05
    root = tmp_path / "d"
    command = [sys.executable, str(SCRIPT), "--root", str(root), "--url", server.url]
    command += ["--sha256", sha256(archive)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    part = root / "balloon_dataset.zip.part"
    deadline = time.time() + 60
    while not (part.exists() and part.stat().st_size > 60_000) and time.time() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = part.stat().st_size
    assert 0 < kept < len(server.data)
    assert not (root / "balloon").exists()
    server.pause = 0
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0
    assert server.ranges == [None, f"bytes={kept}-"]
    assert prepare_balloon.content_problem(root / "balloon") is None


def test_leftovers_of_a_killed_unpacking_are_removed(tmp_path: Path, archive: Path) -> None:
    root = tmp_path / "d"
    (root / ".balloon.unpacking" / "train").mkdir(parents=True)
    (root / ".balloon.unpacking" / "train" / "stray.jpg").write_bytes(b"")
    assert run(root, "--archive", archive, "--sha256", "none") == 0
    assert not list(root.rglob("stray.jpg"))


def test_download_with_a_wrong_checksum_is_thrown_away(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "d", "--url", server.url) == 1  # the checksum of the real archive
    assert prepare_balloon.SHA256 in capsys.readouterr().err
    assert list((tmp_path / "d").iterdir()) == []


def test_server_says_no(tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.answer = lambda request: request.send_error(404)  # type: ignore[method-assign]
    assert run(tmp_path / "d", "--url", server.url) == 1
    assert "404" in capsys.readouterr().err


def replace(old: str, new: dict[str, bytes]) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda files: {k: v for k, v in files.items() if k != old} | new


WRONG_CONTENT = [
    # what is wrong with the archive, and what the error must name
    (replace("balloon/val/3.jpg", {}), "val/3.jpg is missing"),
    (replace("", {"balloon/val/3.jpg": b"short"}), "val/3.jpg has 5 bytes"),
    (replace("balloon/train/via_region_data.json", {}), "train/via_region_data.json is missing"),
    (replace("", {"balloon/train/via_region_data.json": b"{"}), "is not a VIA annotation file"),
    (replace("", {"balloon/val/via_region_data.json": b"{}"}), "val has 0 images and 0 polygons"),
    (replace("", {"balloon/../../evil.jpg": b""}), "unsafe entry 'balloon/../../evil.jpg'"),
    (replace("", {"/etc/evil": b""}), "unsafe entry '/etc/evil'"),
    (replace("", {"balloon\\train\\evil.jpg": b""}), "unsafe entry"),
    (lambda files: {"cats/train/1.jpg": b""}, "train/via_region_data.json is missing"),
]


@pytest.mark.parametrize(("change", "message"), WRONG_CONTENT)
def test_wrong_content(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, bytes]], dict[str, bytes]],
    message: str,
) -> None:
    path = tmp_path / "other.zip"
    path.write_bytes(zipped(change(archive_files())))
    root = tmp_path / "deep" / "d"
    assert run(root, "--archive", path, "--sha256", "none") == 1
    assert message in capsys.readouterr().err
    assert list(root.iterdir()) == []
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["d", "deep", "other.zip"]


def test_symbolic_link_in_the_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "link.zip"
    with zipfile.ZipFile(path, "w") as archive:
        member = zipfile.ZipInfo("balloon/train/link.jpg")
        member.external_attr = 0o120777 << 16
        archive.writestr(member, "/etc/hostname")
    assert run(tmp_path / "d", "--archive", path, "--sha256", "none") == 1
    assert "unsafe entry" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],  # cut off
        lambda data: data[:30_000] + bytes(200) + data[30_200:],  # one image overwritten: CRC
        lambda data: b"<html>not found</html>",
    ],
)
def test_damaged_archive(
    tmp_path: Path,
    archive: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[bytes], bytes],
) -> None:
    archive.write_bytes(damage(archive.read_bytes()))
    assert run(tmp_path / "d", "--archive", archive, "--sha256", "none") == 1
    assert "cannot be unpacked" in capsys.readouterr().err
    assert list((tmp_path / "d").iterdir()) == []


def test_incomplete_dataset_is_reported_and_kept(
    tmp_path: Path, archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "d", "--archive", archive, "--sha256", "none") == 0
    (tmp_path / "d" / "balloon" / "val" / "5.jpg").unlink()
    assert run(tmp_path / "d", "--archive", archive) == 1
    assert "val/5.jpg is missing. Move it away" in capsys.readouterr().err
    assert (tmp_path / "d" / "balloon" / "train").is_dir()


def test_missing_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "d", "--archive", tmp_path / "none.zip") == 1
    assert "no archive" in capsys.readouterr().err
