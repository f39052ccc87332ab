"""Attacks: hostile texts, foreign Host headers, paths that climb, writes; none of them gets anywhere."""

from __future__ import annotations

import hashlib
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from agentrl.errors import StoreError
from agentrl.messages import tool_result
from agentrl.store import RunStore
from agentrl.trajectory import ToolCallRecord, Trajectory
from agentrl.viewer.opening import open_for_reading
from agentrl.viewer.security import Guard, host_name, is_loopback
from tests.viewer.conftest import Site
from tests.viewer.synthetic import ANSI, BIDI, ENV, HOSTILE, SCRIPT, policy_turn

EPISODE = "/runs/hostile/1/episodes/1"
HOSTILE_PAGES = [
    "/",
    "/runs/hostile/1",
    "/runs/hostile/1/configuration",
    "/runs/hostile/1/episodes",
    EPISODE,
    "/compare?run=hostile:1&run=first:1",
    f"/?q={SCRIPT}",
    "/runs/hostile/1/episodes?q=%3Cscript%3Ealert(1)%3C/script%3E%22%20onfocus=%22alert(1)",
    "/runs/hostile/1/episodes?group=%22%3E%3Cimg%20src=x%20onerror=alert(1)%3E&phase='><blink>",
]
ALLOWED_LINKS = ("/", "?", "#")


class Elements(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize("path", HOSTILE_PAGES)
def test_hostile_text_stays_text(site: Site, path: str) -> None:
    elements = Elements(site.get(path)).found
    scripts = [attributes.get("src") for tag, attributes in elements if tag == "script"]
    assert scripts == ["/static/theme.js", "/static/main.js"]
    assert not {tag for tag, _ in elements} & {"img", "iframe", "object", "embed", "base", "textarea", "blink"}
    for tag, attributes in elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
        for name in ("href", "src", "action"):
            assert (attributes.get(name) or "/").startswith(ALLOWED_LINKS), (tag, attributes)
            assert not (attributes.get(name) or "/").startswith("//"), (tag, attributes)


@pytest.mark.parametrize("path", HOSTILE_PAGES)
def test_invisible_characters_are_shown_or_gone(site: Site, path: str) -> None:
    page = site.get(path)
    for character in set(ANSI + BIDI) - {"\n", "\t"}:
        if not character.isprintable():
            assert character not in page, f"U+{ord(character):04X}"


def test_what_was_hostile_can_still_be_read(site: Site) -> None:
    page = site.get(EPISODE)
    for shown in ("&lt;script&gt;window.hacked", "⟨U+202E⟩", "␛[31mred", "⟨U+2066⟩hidden", "{{ 7 * 7 }}"):
        assert shown in page


def test_texts_that_scripts_fetch_are_visible_json(site: Site) -> None:
    answer = site.ask("GET", "/data/hostile/1/episodes/1/text/turn.0.message")
    assert answer.headers["content-type"] == "application/json"
    assert "⟨U+202E⟩" in answer.json()["text"] and "\u202e" not in answer.json()["text"]
    plain = site.ask("GET", f"{EPISODE}/text/turn.0.observation.0")
    assert plain.headers["content-type"].startswith("text/plain")
    assert plain.headers["x-content-type-options"] == "nosniff"
    assert "\x1b" not in plain.text
    series = site.ask("GET", "/data/hostile/1/series").text
    assert "⟨U+202E⟩" in series
    for character in ("\u202e", "\x1b", "\\u202e", "\\u001b"):
        assert character not in series


@pytest.mark.parametrize("path", ["/", EPISODE, "/static/main.js", "/nothing", "/data/hostile/1/series"])
def test_every_answer_carries_the_policy(site: Site, path: str) -> None:
    headers = site.ask("GET", path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
    assert headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8321", "127.0.0.1.evil.example", "", "10.0.0.1", "[::2]"]
)
def test_a_foreign_host_is_refused(site: Site, host: str) -> None:
    answer = site.ask("GET", "/", host=host)
    assert answer.status_code == 421
    assert "first" not in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1:8321", "localhost", "LOCALHOST:9", "[::1]:8321", "127.1.2.3"])
def test_this_machine_is_answered(site: Site, host: str) -> None:
    assert site.ask("GET", "/", host=host).status_code == 200


def test_a_server_for_others_answers_to_addresses_but_to_no_foreign_name() -> None:
    guard = Guard(lambda *_: None, "0.0.0.0")  # type: ignore[arg-type, return-value]
    assert guard.answers("192.168.1.5") and guard.answers("localhost")
    assert not guard.answers("evil.example")
    named = Guard(lambda *_: None, "Box.lan")  # type: ignore[arg-type, return-value]
    assert named.answers("box.lan") and not named.answers("other.lan")
    assert host_name("[::1]:80") == "::1" and is_loopback("::1") and not is_loopback("box")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_only_reading_is_answered(site: Site, method: str) -> None:
    assert site.ask(method, "/").status_code == 405


@pytest.mark.parametrize(
    "path",
    [
        "/static/../catalog.py",
        "/static/%2e%2e/catalog.py",
        "/static/..%2fcatalog.py",
        "/static//etc/passwd",
        "/static/",
        "/runs/../../etc/1",
        "/runs/%2e%2e%2ffirst/1",
        "/runs/..%2F..%2Fetc%2Fpasswd/1",
        f"{EPISODE}/text/..%2f..%2fetc%2fpasswd",
        f"{EPISODE}/text/turn.9.message",
        f"{EPISODE}/text/turn.-1.message",
        f"{EPISODE}/text/turn.0.__class__",
        f"{EPISODE}/text/opening.99999999999999",
        "/data/hostile/1/episodes/1/tokens/7",
    ],
)
def test_no_path_leads_out(site: Site, path: str) -> None:
    assert site.ask("GET", path).status_code == 404


def test_looking_changes_nothing(stores: Path, site: Site) -> None:
    file = stores / "first" / "store.sqlite"
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    for path in ("/", "/runs/first/1", "/runs/first/1/episodes", "/runs/first/1/episodes/1", "/data/first/1/series"):
        site.get(path)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == before


def test_the_viewers_store_refuses_writes(tmp_path: Path) -> None:
    RunStore(tmp_path / "store.sqlite").close()
    with open_for_reading(str(tmp_path / "store.sqlite")) as store, pytest.raises(StoreError, match="readonly"):
        store.begin_run("x", "")


def test_ten_megabytes_leave_the_page_small_and_can_be_loaded(tmp_path: Path) -> None:
    text = "".join(chr(97 + index % 26) for index in range(10_000_000))
    turn = policy_turn("ok", (), random.Random(0), observation=[tool_result(text, "c", "shell")])
    turn.tool_calls = [ToolCallRecord("shell", "{}", text)]
    with RunStore(tmp_path / "store.sqlite") as store:
        run = store.begin_run("large", "")
        store.add_episode(run, "train", 1, "g", 0, Trajectory("t", ENV, turns=[turn], seconds=1.0))
    site = Site(tmp_path)
    base = f"/{site.catalog.places()[0].slug}/1/episodes/1"
    page = site.get(f"/runs{base}")
    assert len(page) < 60_000
    assert "9,994,000 characters are left out here" in page
    address = f"{base}/text/turn.0.observation.0"
    first = site.json(f"/data{address}?start=4500&end=9998500")
    assert first["text"] == text[4500:104_500] and first["next"] == 104_500
    last = site.json(f"/data{address}?start=9990000&end=9998500")
    assert last["text"] == text[9_990_000:9_998_500] and last["next"] is None
    assert site.get(f"/runs{address}") == text


def test_thousands_of_long_answers_leave_the_page_loadable(tmp_path: Path) -> None:
    texts = ["".join(chr(97 + (index + place) % 26) for index in range(7000)) for place in range(3000)]
    turn = policy_turn("ok", (), random.Random(0), observation=[tool_result(text, "c", "shell") for text in texts])
    with RunStore(tmp_path / "store.sqlite") as store:
        run = store.begin_run("many", "")
        store.add_episode(run, "train", 1, "g", 0, Trajectory("t", ENV, turns=[turn], seconds=1.0))
    site = Site(tmp_path)
    base = f"/{site.catalog.places()[0].slug}/1/episodes/1"
    page = site.get(f"/runs{base}")
    assert len(page) < 5_000_000
    links = re.findall(r'data-more="turn.0.observation.2999" data-start="(\d+)" data-end="(\d+)">([\d,]+) char', page)
    ((start, end, cut),) = links
    assert int(end) - int(start) == int(cut.replace(",", ""))
    left_out = site.json(f"/data{base}/text/turn.0.observation.2999?start={start}&end={end}")["text"]
    assert texts[2999][: int(start)] + left_out + texts[2999][int(end) :] == texts[2999] and left_out in texts[2999]
    assert f"{texts[2999][: int(start)]}<span" in page and f"</span>{texts[2999][int(end) :]}</pre>" in page


def test_a_hostile_name_is_quoted_in_links(site: Site) -> None:
    page = site.get("/runs/hostile/1")
    assert "/episodes?phase=eval%2F%3Cscript%3Ewindow.hacked" in page
    assert HOSTILE not in page
