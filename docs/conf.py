"""How Sphinx builds these pages (`make docs`): they are plain Markdown that reads on any code host as well.

index.md is the navigation: its links under each heading become a part of it. Links out of docs/ are checked here
and become paths in the repository, as the built pages travel without it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.util import logging

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s#]+)(#[^)\s]*)?\)")
log = logging.getLogger(__name__)

project = html_title = "syncrec"
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "furo"  # light, dark and phones; everything it needs lies in the built folder
smartquotes = False
html_show_copyright = False
exclude_patterns = ["_build"]


def navigation(index: str) -> str:
    """Return the tables of contents that the headings and links of index.md stand for."""
    parts = []
    for section in index.split("\n## ")[1:]:
        pages = [target for _, target, _ in LINK.findall(section) if not target.startswith("..")]
        if pages:
            caption = section.splitlines()[0]
            parts.append("\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```"]))
    return "\n\n".join(parts)


def outside_links(page: Path, text: str) -> str:
    """Return a page whose links out of docs/ are paths; warn of those that lead nowhere."""

    def path(found: re.Match[str]) -> str:
        words, target = found[1], found[2]
        if "://" in target:
            return found[0]
        place = (page.parent / target).resolve()
        if place.is_relative_to(DOCS):
            return found[0]
        if not place.exists():
            log.warning("link to %s, which does not exist", target, location=str(page))
        name = place.relative_to(ROOT)
        return words if str(name) in words else f"{words} (`{name}`)"

    return LINK.sub(path, text)


def _read(app: Any, docname: str, source: list[str]) -> None:
    page = DOCS / f"{docname}.md"
    text = outside_links(page, source[0])
    source[0] = text + ("\n" + navigation(source[0]) if docname == "index" else "")


def setup(app: Any) -> None:
    """Let Sphinx read every page through `_read`."""
    app.connect("source-read", _read)
