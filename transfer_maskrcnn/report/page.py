"""From a template and its content to one HTML file that needs nothing beside itself."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from transfer_maskrcnn.files import write_text
from transfer_maskrcnn.report import texts
from transfer_maskrcnn.text import listed, percent

REPORT_FILE = "report.html"


@dataclass(frozen=True)
class Picture:
    """An image within a page. ``kind``: png or jpeg; ``alt``: what it shows, in words."""

    data: bytes
    kind: str
    alt: str
    caption: str = ""

    @property
    def uri(self) -> str:
        return f"data:image/{self.kind};base64,{base64.b64encode(self.data).decode('ascii')}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("transfer_maskrcnn.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (texts.decimal, texts.count, texts.interval, texts.pieces, listed, percent)
    environment.filters.update({show.__name__: show for show in filters})
    return environment


def write_page(
    folder: Path, template: str, content: dict[str, Any], name: str = REPORT_FILE
) -> Path:
    """Write a page into ``folder``, whole or not at all, and return its path.

    Args:
        template: the name of a file in ``templates``.
        content: its variables. All text is escaped.
        name: of the page's file.
    """
    output = folder / name
    write_text(output, _environment().get_template(template).render(content))
    return output
