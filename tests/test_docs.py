"""What README.md, docs and configs refer to is there."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest
from detectron2.config import get_cfg
from detectron2.projects.point_rend import add_pointrend_config

import transfer_maskrcnn
from transfer_maskrcnn.config import add_transfer_config, flat_config

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("datasets/*.md")])


def anchors(page: Path) -> set[str]:
    """Of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


REFERENCE = runpy.run_path(str(ROOT / "docs" / "reference.py"))


@pytest.mark.parametrize("page", REFERENCE["pages"]())
def test_generated_pages_say_what_the_code_says(page: str) -> None:
    if page == "commands.md" and sys.version_info >= (3, 13):
        pytest.skip("argparse writes the same options in another way")
    written = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert written == REFERENCE["pages"]()[page], "python docs/reference.py writes it"


def test_every_key_has_a_comment() -> None:
    stock, cfg = get_cfg(), get_cfg()
    add_pointrend_config(stock)  # detectron2's own, too
    add_transfer_config(cfg)
    own = {key for key, _ in flat_config(cfg)} - {key for key, _ in flat_config(stock)}
    told = dict(REFERENCE["own_keys"]())
    assert own == set(told) and all(told.values())


def test_every_public_name_is_on_the_page() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: transfer_maskrcnn\.(\w+)$", page, re.MULTILINE)
    assert sorted([*named, "__version__"]) == sorted(transfer_maskrcnn.__all__)


def test_configs_open_with_their_command() -> None:
    for config in sorted(ROOT.glob("configs/*/mask_rcnn_*.yaml")) + sorted(
        ROOT.glob("configs/recipes/*.yaml")
    ):
        comment = config.read_text(encoding="utf-8").split("\n#\n")[0]
        command = f".venv/bin/python tools/train_net.py --config-file {config.relative_to(ROOT)}"
        assert command in comment, config
