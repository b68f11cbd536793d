"""Checks the built documentation without a network: `python docs/check.py docs/_build/html`.

Every internal link must lead to a file, every anchor to an element, every picture to an image file.
No page may load a script, style or picture from another server. Prints one line per problem.
Exit code: 0 if there is none, otherwise 1.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Page(HTMLParser):
    """Collects what a page can be linked to, what it links to and what it loads."""

    def __init__(self, path: Path):
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") in ("stylesheet", "icon", "shortcut icon"):
            self.loads.append(values["href"])
        elif "src" in values:
            self.loads.append(values["src"])


def problems(folder: Path) -> Iterator[str]:
    """Yields one line per broken link, missing anchor, missing file or remote resource.

    Args:
        folder: The folder of the HTML pages.
    """
    pages = {path.resolve(): _Page(path) for path in sorted(folder.rglob("*.html"))}
    if not pages:
        yield f"{folder} has no HTML page; build the documentation first"
    for path, page in pages.items():
        name = path.relative_to(folder.resolve())
        for url in page.loads:
            if _is_remote(url):
                yield f"{name} loads {url} from another server"
        for url in [*page.links, *page.loads]:
            if _is_remote(url) or urlsplit(url).scheme:
                continue
            place, anchor = unquote(urlsplit(url).path), unquote(urlsplit(url).fragment)
            target = (path.parent / place).resolve() if place else path
            if not target.is_file():
                yield f"{name} points to {url}, but there is no such file"
            elif anchor and target in pages and anchor not in pages[target].anchors:
                yield f"{name} points to {url}, but that page has no such anchor"


def _is_remote(url: str) -> bool:
    return bool(urlsplit(url).netloc)


def main(arguments: list[str]) -> int:
    """Prints the problems of the folder that the command line names."""
    if len(arguments) != 1:
        print("docs/check.py: expected one argument, the folder of the HTML pages")
        return 2
    found = list(problems(Path(arguments[0])))
    print("\n".join(found) if found else f"{arguments[0]}: all internal links are good")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
