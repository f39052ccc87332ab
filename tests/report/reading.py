"""A page of a report as tests read it, and the text that must never do anything on one."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta"}
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }}</pre></style>"
    "\x1b[2J\x1b]0;owned\x07 pay \u202e001\u202c & \u2066go\u2069 \x00"
)
SEEN = "␛[2J␛]0;owned␇ pay ⟨U+202E⟩001⟨U+202C⟩ & ⟨U+2066⟩go⟨U+2069⟩ ␀"
"""How a reader sees its second half."""


class Page(HTMLParser):
    """Text by element, elements and attributes of a page; fails on elements that do not nest."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.text += " "
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.text += " "

    def handle_data(self, data: str) -> None:
        if not {"style", "svg"} & set(self.open):
            self.text += data

    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def assert_inert(path: Path) -> None:
    """The page loads nothing, runs nothing, and holds no character that moves or hides others."""
    page, source = read(path), path.read_text(encoding="utf-8")
    assert not page.tags() & {"script", "link", "img", "iframe", "object", "embed", "form", "base", "a"}
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "srcset", "action"):
                assert str(value).startswith("#"), (tag, value)
    assert "@import" not in source
    assert set(re.findall(r"url\((.)", source)) <= {"#"}
    assert any("default-src 'none'" in str(attributes.get("content")) for _, attributes in page.elements)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\u200e\u200f]", source)
