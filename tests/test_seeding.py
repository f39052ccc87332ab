"""Seeds that depend on names alone."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from agentrl.seeding import derive_seed, draw

sizes = st.integers(1, 40)
seeds = st.integers(0, 2**63 - 1)
parts = st.lists(st.integers() | st.text(st.characters(blacklist_characters="\x1f", codec="utf-8")), max_size=4)


@given(parts)
def test_a_seed_fits_in_63_bits_and_repeats(given_parts: list[int | str]) -> None:
    assert 0 <= derive_seed(*given_parts) < 2**63
    assert derive_seed(*given_parts) == derive_seed(*given_parts)


@given(parts, parts)
def test_other_parts_give_another_seed(first: list[int | str], second: list[int | str]) -> None:
    same = list(map(str, first)) == list(map(str, second)) or "".join(map(str, [*first, *second])) == ""
    assert same or derive_seed(*first) != derive_seed(*second)


def test_borders_between_parts_count() -> None:
    assert derive_seed("a", "bc") != derive_seed("ab", "c")
    assert derive_seed(1, 23) != derive_seed(12, 3)


def test_a_seed_is_the_same_in_every_process() -> None:
    """No salted hash: a run that was killed draws the same numbers when it goes on."""
    program = "from agentrl.seeding import derive_seed, draw; print(derive_seed(7, 'train', 3), draw(5, 2, 4, 1))"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.split(maxsplit=1) == [str(derive_seed(7, "train", 3)), f"{draw(5, 2, 4, 1)}\n"]


@given(size=sizes, seed=seeds, passes=st.integers(1, 4))
def test_every_pass_holds_each_number_once(size: int, seed: int, passes: int) -> None:
    drawn = draw(size * passes, 0, size, seed)
    for epoch in range(passes):
        assert sorted(drawn[epoch * size : (epoch + 1) * size]) == list(range(size))


@given(size=sizes, seed=seeds, position=st.integers(0, 200), count=st.integers(0, 60))
def test_a_cursor_is_all_the_state(size: int, seed: int, position: int, count: int) -> None:
    whole = draw(position + count, 0, size, seed)
    assert draw(count, position, size, seed) == whole[position:]


@given(size=sizes, seed=seeds, cuts=st.lists(st.integers(1, 17), min_size=1, max_size=6))
def test_how_it_is_cut_does_not_matter(size: int, seed: int, cuts: list[int]) -> None:
    pieces: list[int] = []
    for count in cuts:
        pieces += draw(count, len(pieces), size, seed)
    assert pieces == draw(sum(cuts), 0, size, seed)


def test_passes_and_seeds_differ_in_their_order() -> None:
    first, second = draw(20, 0, 20, 0), draw(20, 20, 20, 0)
    assert first != second
    assert first != draw(20, 0, 20, 1)
    assert first != list(range(20))
