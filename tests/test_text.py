"""Untrusted text: nothing invisible, nothing that steers a terminal, comes through."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentrl.text import clip, one_line, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("a\nb\tc", "a\nb\tc"),
        ("a\r\nb", "a\nb"),
        ("a\rb", "a␍b"),
        ("\x1b[31mred", "␛[31mred"),
        ("\x00\x7f\x9b", "␀␡⟨U+009B⟩"),
        ("pay \u202e001", "pay ⟨U+202E⟩001"),
        ("\u2066x\u2069\u200f\u061c", "⟨U+2066⟩x⟨U+2069⟩⟨U+200F⟩⟨U+061C⟩"),
        ("a\u200bb\ufeff\u2028", "a⟨U+200B⟩b⟨U+FEFF⟩⟨U+2028⟩"),
        ("\ud800", "⟨U+D800⟩"),
        ("Grüße 你好 👩\u200d💻", "Grüße 你好 👩\u200d💻"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text())
def test_nothing_invisible_comes_through(text: str) -> None:
    shown = visible(text)
    left = {character for character in shown if unicodedata.category(character)[0] == "C"} - set("\n\t\u200c\u200d")
    assert {character for character in left if unicodedata.category(character) != "Cn"} == set()
    shown.encode("utf-8")
    assert visible(shown) == shown


@given(st.text(max_size=50), st.integers(1, 20))
def test_one_line_is_one_line_of_the_width(text: str, width: int) -> None:
    line = one_line(text, width)
    assert len(line) <= width
    assert len(line.splitlines()) <= 1


@given(st.text(max_size=60), st.integers(0, 30), st.data())
def test_clip_accounts_for_every_character(text: str, limit: int, data: st.DataObject) -> None:
    tail_size = data.draw(st.integers(0, limit))
    head, tail, cut = clip(text, limit, tail_size)
    assert len(head) + len(tail) + cut == len(text)
    assert text.startswith(head) and text.endswith(tail)
    assert len(head) + len(tail) <= limit
