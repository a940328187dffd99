"""For MkDocs: what is left of reStructuredText's marks in docstrings."""

import re


def on_page_content(html: str, **_: object) -> str:
    """``:class:`~a.B``` becomes B, and a colon before a block is one."""
    html = re.sub(r":\w+:(<code[^>]*>)~?(?:[\w.]+\.)?(\w+)", r"\1\2", html)
    return html.replace("::</p>", ":</p>")
