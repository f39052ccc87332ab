"""The viewer in a real browser: no errors, and every key, link, filter, chart and colour does what it says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agentrl.messages import tool_result
from agentrl.store import RunStore
from agentrl.trajectory import Trajectory
from tests.viewer.browsing import Visit, launched, served
from tests.viewer.synthetic import ENV, episode, make_evaluation, training_metrics

if TYPE_CHECKING:
    from playwright.sync_api import Route

pytestmark = pytest.mark.browser
RUN = "/runs/first/1"
HOSTILE = "/runs/hostile/1"


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with launched() as running:
        yield running


@pytest.fixture(scope="module")
def base(stores: Path) -> Iterator[str]:
    with served(stores) as address:
        yield address


@pytest.fixture
def visit(browser, base: str) -> Iterator[Visit]:
    tab = Visit(browser, base).open()
    yield tab
    tab.close()


@pytest.fixture(scope="module")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training run really leaves behind, three steps of the smallest recipe."""
    from agentrl.config import load_config
    from agentrl.trainer import train

    out = tmp_path_factory.mktemp("real")
    overrides = ["steps=3", "eval.episodes=10", "warm_start.steps=40", "name=real"]
    config = load_config(recipe="tiny", overrides=overrides, out=str(out))
    with ThreadPoolExecutor(1) as thread:  # this one has the browser's event loop
        thread.submit(train, config).result()
    return out


def test_every_page_of_a_real_run_loads_without_a_complaint(browser, real_run: Path) -> None:
    with RunStore(real_run / "real" / "store.sqlite") as store:
        paid = (
            (played.id, [value for turn in played.advantages or () for value in turn]) for played in store.episodes(1)
        )
        trained = next(number for number, values in paid if any(values))
    with served(real_run) as address:
        for scheme in ("light", "dark"):
            tab = Visit(browser, address).open(color_scheme=scheme)
            run = "/runs/real/1"
            tab.to("/").wait_for_selector(".state.finished")
            tab.to(run).wait_for_selector(".chart .line")
            tab.to(f"{run}/configuration")
            tab.to(f"{run}/episodes?phase=train&sort=reward&down=1").click("tbody a[data-row]")
            tab.page.wait_for_selector(".turn")
            tab.page.check("input[value=probability]")
            tab.page.wait_for_selector("#turn-1 [data-sampled] .t")
            assert "<tool_call>" in tab.page.locator("#turn-1 [data-sampled]").inner_text()
            assert tab.page.locator(".tokens .id").count() == 0
            tab.to(f"{run}/episodes/{trained}?tokens=advantage").wait_for_selector("[data-sampled] .t")
            assert tab.page.locator("[data-sampled] .t[class*=' p'], [data-sampled] .t[class*=' m']").count() > 0
            assert tab.page.locator(".margin dt:has-text('Advantage')").count() > 0
            tab.close()


@pytest.mark.parametrize(
    "path",
    [
        "/",
        HOSTILE,
        f"{HOSTILE}/episodes",
        f"{HOSTILE}/episodes/1",
        f"{HOSTILE}/episodes/1?tokens=probability",
        f"{HOSTILE}/configuration",
        "/compare?run=hostile:1&run=first:1",
    ],
)
def test_hostile_text_runs_nothing(visit: Visit, path: str) -> None:
    page = visit.to(path)
    page.wait_for_timeout(400)
    for details in page.locator("details").all():
        details.evaluate("node => { node.open = true; }")
    page.wait_for_timeout(300)
    assert page.evaluate("window.hacked") is None
    assert page.locator("main img, main script, main iframe").count() == 0


def test_filters_change_the_address_and_the_table(visit: Visit) -> None:
    page = visit.to(f"{RUN}/episodes")
    assert page.locator("tbody tr").count() == 24
    page.select_option("select[name=correct]", "no")
    page.wait_for_url("**correct=no")
    assert set(page.locator("tbody .verdict").all_inner_texts()) == {"wrong"}
    page.fill("input[name=q]", "train:1")
    page.press("input[name=q]", "Enter")
    page.wait_for_url("**q=train%3A1**")
    assert set(page.locator("tbody a[data-row]").all_inner_texts()) == {"train:1"}
    page.click(".chip >> text=task contains")
    page.wait_for_url(lambda url: "q=" not in url)
    page.go_back()
    assert page.input_value("input[name=q]") == "train:1"
    page.check("input[name=errors]")
    page.wait_for_url("**errors=1**")
    assert page.locator("tbody tr").count() == 3
    page.evaluate("document.querySelector('form').addEventListener('submit', (event) => event.preventDefault())")
    page.click("button:has-text('Filter')")
    assert page.locator("form.filters :disabled").count() == 0  # a page that is kept for going back can be used again


def test_heads_sort(visit: Visit) -> None:
    page = visit.to(f"{RUN}/episodes")
    page.click("thead a:has-text('Tokens')")
    page.wait_for_selector("th[aria-sort=descending] >> text=Tokens")
    assert "sort=tokens" in visit.address() and "down=1" in visit.address()
    page.click("thead a:has-text('Tokens')")
    page.wait_for_selector("th[aria-sort=ascending] >> text=Tokens")


def test_pages_turn_by_click_and_by_arrow(browser, tmp_path: Path) -> None:
    make_evaluation(tmp_path / "many", tasks=20, samples=3)
    with served(tmp_path / "many") as address:
        tab = Visit(browser, address).open()
        page = tab.to("/runs/many/1/episodes?size=25")
        page.click(".pager a[rel=next]")
        page.wait_for_url("**page=2&**")
        page.wait_for_selector("html[data-ready]")
        page.keyboard.press("ArrowRight")
        page.wait_for_url("**page=3&**")
        assert page.locator("tbody tr").count() == 10
        page.wait_for_selector("html[data-ready]")
        page.keyboard.press("ArrowLeft")
        page.wait_for_url("**page=2&**")
        tab.close()


def test_the_keyboard_goes_from_the_list_to_a_turn_and_back(visit: Visit) -> None:
    page = visit.to("/")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "q"
    page.keyboard.type("first")
    page.keyboard.press("Enter")
    page.wait_for_url("**q=first**")
    page.wait_for_selector("html[data-ready]")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{RUN}")
    visit.to(f"{RUN}/episodes?correct=yes")
    for key in "jjk":
        page.keyboard.press(key)
    assert page.evaluate("[...document.querySelectorAll('[data-row]')].indexOf(document.activeElement)") == 0
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector(".turn")
    page.wait_for_selector("html[data-ready]")
    here = page.url
    page.keyboard.press("ArrowRight")
    page.wait_for_url(lambda url: url != here)
    page.wait_for_selector("html[data-ready]")
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(here)
    page.wait_for_selector("html[data-ready]")
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.textContent") == "Turn 2"
    page.keyboard.press("t")
    assert "tokens=advantage" in visit.address()
    page.keyboard.press("?")
    assert page.locator("dialog.help").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("u")
    page.wait_for_url("**/episodes?correct=yes")


def test_keys_are_letters_in_a_field(visit: Visit) -> None:
    page = visit.to(f"{RUN}/episodes")
    page.focus("input[name=q]")
    page.keyboard.type("jd?u/")
    assert page.input_value("input[name=q]") == "jd?u/"
    assert page.url.endswith("/episodes")


def test_runs_are_chosen_and_compared(visit: Visit) -> None:
    page = visit.to("/")
    assert page.locator("[data-compare]").is_disabled()
    page.check("input[value='first:1']")
    page.check("input[value='second:1']")
    assert "chosen=" in visit.address()
    page.reload()
    page.wait_for_selector("text=Compare 2 runs")
    page.keyboard.press("c")
    page.wait_for_url("**/compare?**")
    page.wait_for_selector(".chart .line")
    reward = page.locator(".chart[data-metric=reward]")
    assert reward.locator(".line").count() == 2
    page.uncheck(".legend li:nth-child(2) input")
    assert reward.locator(".line").count() == 1 and "hide=" in visit.address()


def test_charts_answer_to_hover_keys_smoothing_and_log_scale(visit: Visit) -> None:
    page = visit.to(RUN)
    loss = page.locator(".chart[data-metric=loss]")
    loss.locator(".line").wait_for(state="attached")
    before = loss.locator(".line").get_attribute("d")
    loss.locator(".plot").hover(position={"x": 150, "y": 60})
    assert "step" in loss.locator(".readout").inner_text()
    loss.locator(".plot").focus()
    page.keyboard.press("Home")
    assert "step 1" in loss.locator(".readout").inner_text()
    page.keyboard.press("ArrowRight")
    assert "step 2" in loss.locator(".readout").inner_text()
    page.locator("input[name=smooth]").fill("0.5")
    assert loss.locator(".raw").count() == 1
    page.check("input[name=log]")
    assert loss.locator(".line").get_attribute("d") != before
    page.fill("[data-filter-input]", "mismatch")
    page.wait_for_selector(".chart[data-metric='mismatch/kl'] .line", state="attached")
    assert page.locator(".chart:visible").count() == 1
    address = visit.address()
    assert "smooth=0.5" in address and "log=1" in address and "metric=mismatch" in address
    visit.to(address)
    page.wait_for_selector(".chart[data-metric='mismatch/kl'] .raw", state="attached")
    assert page.is_checked("input[name=log]")


def test_a_chart_becomes_large_and_groups_open(visit: Visit) -> None:
    page = visit.to(RUN)
    page.click(".chart[data-metric=reward] h3 button")
    assert page.locator(".chart.large").get_attribute("data-metric") == "reward"
    page.click("summary:has-text('seconds')")
    page.wait_for_selector(".chart[data-metric='seconds/rollout'] .line", state="attached")
    visit.to(visit.address())
    page.wait_for_selector(".chart[data-metric='seconds/rollout'] .line", state="attached")
    assert page.locator(".chart.large").count() == 1


def test_tokens_are_coloured_and_explained(visit: Visit) -> None:
    page = visit.to(f"{RUN}/episodes/1?tokens=advantage")
    page.wait_for_selector("#turn-1 [data-sampled] .t")
    classes = page.eval_on_selector_all("#turn-1 [data-sampled] .t", "spans => spans.map(span => span.className)")
    assert all(name.strip().startswith("t p") for name in classes)  # this member's advantages are positive
    page.locator("#turn-1 [data-sampled] .t").first.hover()
    said = page.locator("#tooltip").inner_text()
    assert "advantage" in said and "log-probability" in said and '"I"' in said
    page.locator("#turn-1 [data-sampled]").focus()
    for key in ("Home", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    page.wait_for_function("() => document.querySelector('#tooltip').textContent.includes('\"a\"')")  # I, space, a
    page.check("input[value=probability]")
    classes = page.eval_on_selector_all("#turn-1 [data-sampled] .t", "spans => spans.map(span => span.className)")
    assert not any(" p" in name for name in classes) and any(" r" in name for name in classes)
    page.check("input[value=text]")
    assert page.locator("#turn-1 [data-text]").is_visible()
    assert "tokens=" not in visit.address()


def test_colours_that_were_chosen_before_the_scripts_ran_are_shown(visit: Visit) -> None:
    held: list[Route] = []
    visit.page.route("**/static/tokens.js", lambda route: held.append(route))
    visit.page.goto(f"{visit.base}{RUN}/episodes/1")
    visit.page.check("input[value=probability]")
    visit.page.wait_for_timeout(300)
    for route in held:
        route.continue_()
    visit.page.wait_for_selector("#turn-1 [data-sampled] .t")
    assert "tokens=probability" in visit.address()


def test_the_text_stands_until_the_tokens_are_there(visit: Visit) -> None:
    held: list[Route] = []
    visit.page.route("**/tokens/*", lambda route: held.append(route))
    page = visit.to(f"{RUN}/episodes/1?tokens=advantage")
    page.wait_for_timeout(300)
    assert held and page.locator("#turn-1 [data-text]").is_visible()
    page.check("input[value=probability]")
    page.wait_for_timeout(100)
    assert page.locator("#turn-1 [data-text]").is_visible()
    for route in held:
        route.continue_()
    page.wait_for_selector("#turn-1 [data-sampled] .t[class*=' r']")
    assert page.locator("#turn-1 [data-text]").is_hidden()


def test_the_next_episode_has_the_same_colours(visit: Visit) -> None:
    page = visit.to(f"{RUN}/episodes/1?phase=train")
    page.keyboard.press("t")
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**/episodes/2?**")
    page.wait_for_selector("[data-sampled] .t")
    assert "tokens=advantage" in visit.address() and "phase=train" in visit.address()


def test_a_run_is_followed_while_it_is_written(browser, tmp_path: Path) -> None:
    with RunStore(tmp_path / "store.sqlite") as store:
        run = store.begin_run("live", "name: live\nsteps: 30\n")
        store.log(run, "train", 1, training_metrics(1, 30))
        store.log(run, "train", 2, training_metrics(2, 30))
        with served(tmp_path) as address:
            tab = Visit(browser, address).open()
            slug = tmp_path.name
            page = tab.to(f"/runs/{slug}/1")
            page.wait_for_selector("text=2 / 30 steps")
            table = Visit(browser, address).open()
            table.to(f"/runs/{slug}/1/episodes").wait_for_selector("text=No episode yet")

            def write() -> None:
                with RunStore(tmp_path / "store.sqlite") as other:
                    for step in range(3, 31):
                        other.log(run, "train", step, training_metrics(step, 30))
                        other.add_episode(run, "train", step, "g", 0, episode(step, 0))

            writer = threading.Thread(target=write)
            writer.start()
            page.wait_for_selector("text=30 / 30 steps")
            page.wait_for_function("() => document.querySelector('.chart[data-metric=lr] b').textContent === '0'")
            table.page.wait_for_selector("text=28 episodes")
            assert table.page.locator("tbody tr").count() == 28
            writer.join()
            tab.close()
            table.close()


def test_pages_that_were_empty_fill_by_themselves(browser, tmp_path: Path) -> None:
    with RunStore(tmp_path / "store.sqlite") as store, served(tmp_path) as address:
        listed, shown = Visit(browser, address).open(), Visit(browser, address).open()
        listed.to("/").wait_for_selector("text=No run yet")
        run = store.begin_run("live", "name: live\nsteps: 30\n")
        store.log(run, "train", 1, training_metrics(1, 30))
        shown.to(f"/runs/{tmp_path.name}/1")
        assert shown.page.locator("#tiles").is_hidden() and shown.page.locator("#evaluations").is_hidden()
        store.log(run, "eval/trained", 30, {"accuracy": 0.5})
        shown.page.wait_for_selector(".tile:has-text('50.0 %')")
        assert shown.page.locator("#evaluations").is_visible()
        listed.page.wait_for_selector("[data-compare]", timeout=30_000)  # with the scripts of a page that has runs
        listed.page.focus("input[name=run]")
        store.begin_run("later", "")
        listed.page.wait_for_selector("text=2 runs", timeout=30_000)
        assert listed.page.evaluate("document.activeElement.value") == f"{tmp_path.name}:1"
        listed.close()
        shown.close()


def test_curves_of_a_run_that_was_resumed_are_the_new_ones(browser, tmp_path: Path) -> None:
    rewards = "async () => { await window.run.refresh(); return window.run.phases.train.metrics.reward; }"
    with RunStore(tmp_path / "store.sqlite") as store, served(tmp_path) as address:
        run = store.begin_run("r", "")
        store.log(run, "train", 1, {"reward": 1.0})
        tab = Visit(browser, address).open()
        tab.to("/").evaluate(
            "async (key) => { window.run = new (await import('/static/series.js')).Run(key); }", f"{tmp_path.name}:1"
        )
        assert tab.page.evaluate(rewards) == [[1, 1]]
        store.log(run, "train", 1, {"late": 1.0})
        for step in (2, 3):
            store.log(run, "train", step, {"reward": float(step)})
        assert tab.page.evaluate(rewards) == [[1, 1], [2, 2], [3, 3]]
        assert tab.page.evaluate("window.run.phases.train.metrics.late") == [[1, 1]]
        store.discard_after(run, 1, ["train"])
        for step in (2, 3, 4):
            store.log(run, "train", step, {"reward": step + 0.5})
        assert tab.page.evaluate(rewards) == [[1, 1], [2, 2.5], [3, 3.5], [4, 4.5]]
        assert tab.page.evaluate("async () => window.run.refresh()") is False  # nothing is new
        tab.close()


def test_a_run_that_cannot_be_read_does_not_stop_the_others(browser, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with RunStore(tmp_path / name / "store.sqlite") as store:
            store.log(store.begin_run(name, ""), "train", 1, {"reward": 1.0})
    with served(tmp_path) as address, RunStore(tmp_path / "a" / "store.sqlite") as store:
        tab = Visit(browser, address).open()
        page = tab.to("/compare?run=a:1&run=b:1")
        page.wait_for_selector(".chart[data-metric=reward] .mark", state="attached")
        page.route("**/data/b/**", lambda route: route.fulfill(status=503, json={"error": "locked"}))
        store.log(1, "train", 2, {"reward": 2.0})
        page.wait_for_selector(".chart[data-metric=reward] .line", state="attached")
        assert set(tab.complaints) == {
            "Failed to load resource: the server responded with a status of 503 (Service Unavailable)"
        }
        tab.complaints.clear()
        page.unroute_all()
        tab.close()


def test_an_episode_without_the_wanted_colours_still_has_the_others(visit: Visit) -> None:
    page = visit.to("/runs/hostile/1/episodes/1?tokens=advantage")
    assert page.is_disabled("input[value=advantage]") and page.is_checked("input[value=text]")
    assert "tokens=advantage" in (page.get_attribute(".pager a", "href") or "")  # the next one may have them
    page.check("input[value=probability]")
    page.wait_for_selector("#turn-1 [data-sampled] .t")


def test_numbers_and_answers_are_not_cut_off(browser, tmp_path: Path) -> None:
    with RunStore(tmp_path / "store.sqlite") as store, served(tmp_path) as address:
        run = store.begin_run("r", "")
        for step in (1, 2):
            store.log(run, "train", step, {"lr": 1e-5, "reward": -123456.0 * step})
        played = episode(0, 0)
        played.info["answer"] = "SELECT DISTINCT products.category FROM items JOIN products USING (product_identifier)"
        store.add_episode(run, "eval/reasoning", 0, "00000", 0, played)
        tab = Visit(browser, address).open(viewport={"width": 1280, "height": 720})
        page = tab.to(f"/runs/{tmp_path.name}/1")
        for metric in ("lr", "reward"):
            page.wait_for_selector(f".chart[data-metric={metric}] .line", state="attached")
        left = "texts => Math.min(...texts.map(text => text.getBBox().x))"
        assert page.eval_on_selector_all(".plot text.y", left) >= 0
        page = tab.to(f"/runs/{tmp_path.name}/1/episodes")
        assert page.eval_on_selector(".scroll", "box => box.scrollWidth <= box.clientWidth")
        tab.close()


def test_dark_and_light_follow_the_browser_and_the_toggle(browser, base: str) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    light, dark = (Visit(browser, base).open(color_scheme=scheme) for scheme in ("light", "dark"))
    white, black = light.to("/").evaluate(paper), dark.to("/").evaluate(paper)
    assert white != black
    light.page.keyboard.press("d")
    assert light.page.evaluate(paper) == black
    light.to(RUN)
    assert light.page.evaluate(paper) == black  # kept for the next page
    light.page.click("[data-theme-toggle]")
    assert light.page.evaluate(paper) == white
    light.close()
    dark.close()


def test_paper_is_white_and_without_controls(browser, base: str) -> None:
    tab = Visit(browser, base).open(color_scheme="dark")
    page = tab.to(f"{RUN}/episodes/1")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator(".turn .message").first.is_visible()
    for hidden in (".tools", ".pager", "[data-modes] fieldset"):
        assert not page.locator(hidden).first.is_visible()
    assert len(page.pdf()) > 10_000
    tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "path", ["/", RUN, f"{RUN}/episodes", f"{RUN}/episodes/6?tokens=advantage", f"{RUN}/configuration"]
)
def test_every_text_stands_out_from_its_ground(browser, base: str, scheme: str, path: str) -> None:
    """WCAG 2.2, 1.4.3: a contrast of 4.5 to 1, 3 to 1 for large text; disabled controls are exempt."""
    tab = Visit(browser, base).open(color_scheme=scheme)
    page = tab.to(path)
    page.wait_for_timeout(500)
    faint = page.evaluate((Path(__file__).parent / "contrast.js").read_text())
    assert faint == []
    tab.close()


def test_fields_and_buttons_have_names(visit: Visit) -> None:
    unnamed = """() => [...document.querySelectorAll('input, select, button, a[href]')].filter((node) =>
        node.type !== 'hidden' && !(node.textContent.trim() || node.getAttribute('aria-label') || node.labels?.length)
    ).map((node) => node.outerHTML)"""
    for path in ("/", RUN, f"{RUN}/episodes", f"{RUN}/episodes/1", "/compare?run=first:1&run=second:1"):
        page = visit.to(path)
        page.wait_for_timeout(300)
        assert page.evaluate(unnamed) == []
        assert page.locator("h1").count() == 1
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")  # nothing hangs out of the window


def test_long_text_is_loaded_piece_by_piece(browser, tmp_path: Path) -> None:
    played = episode(0, 0)
    played.turns[0].observation = [tool_result("begin " + "x" * 250_000 + " middle " + "y" * 60_000 + " end", "call_0")]
    with RunStore(tmp_path / "store.sqlite") as store:
        store.add_episode(store.begin_run("long", ""), "train", 1, "g", 0, played)
    with served(tmp_path) as address:
        tab = Visit(browser, address).open()
        page = tab.to(f"/runs/{tmp_path.name}/1/episodes/1")
        assert "middle" not in page.locator(".message.tool pre").inner_text()
        for _ in range(4):
            link = page.locator("a[data-more]")
            start = link.get_attribute("data-start")
            link.click()
            page.wait_for_function("s => document.querySelector('a[data-more]')?.dataset.start !== s", arg=start)
        assert page.locator("a[data-more]").count() == 0
        assert page.locator(".message.tool pre").inner_text() == played.turns[0].observation[0].text
        tab.close()


def test_many_tokens_come_in_pieces(browser, tmp_path: Path) -> None:
    played = episode(0, 0)
    played.turns[0].sampled_ids = [7] * 7000
    played.turns[0].logprobs = [-0.5] * 7000
    record = Trajectory("t", ENV, opening=played.opening, turns=played.turns, seconds=9.0)
    with RunStore(tmp_path / "store.sqlite") as store:
        store.add_episode(store.begin_run("long", ""), "train", 1, "g", 0, record)
    with served(tmp_path) as address:
        tab = Visit(browser, address).open()
        page = tab.to(f"/runs/{tmp_path.name}/1/episodes/1?tokens=probability")
        page.click("text=4,000 more tokens")
        page.click("text=1,000 more tokens")
        page.wait_for_function("() => document.querySelectorAll('#turn-1 [data-sampled] .t').length === 7000")
        tab.close()


def test_the_numbers_of_a_chart(visit: Visit) -> None:
    """Scales, ticks and smoothing, against the formulas."""
    page = visit.to("/")
    found = page.evaluate("""async () => {
        const s = await import("/static/scale.js");
        const line = [[0, 1], [1, 2], [2, 4]];
        return {
            ticks: s.ticks(0.1, 0.95, 4), whole: s.ticks(0, 100, 5), flat: s.ticks(3, 3, 4),
            logs: s.logTicks(0.002, 300, 9), smooth: s.smooth(line, 0.5).map((point) => point[1]),
            bounds: s.bounds([0, 10], false), flatBounds: s.bounds([5, 5], false), none: s.bounds([-1, 0], true),
            middle: s.scale(1, 100, 0, 10, true)(10), nearest: [-5, 0.4, 1.6, 9].map((x) => s.nearest(line, x)),
            short: [0, 1234, 1e-7, -0.25, -2e-9, 123456789, null, NaN].map(s.short),
        };
    }""")
    assert found["ticks"] == [0.25, 0.5, 0.75] and found["whole"] == [0, 20, 40, 60, 80, 100] and found["flat"] == [3]
    assert found["logs"] == [0.01, 0.1, 1, 10, 100]
    weights = [[1], [1 / 3, 2 / 3], [1 / 7, 2 / 7, 4 / 7]]  # of the values so far, each twice as much as the one before
    wanted = [sum(weight * value for weight, value in zip(row, (1, 2, 4), strict=False)) for row in weights]
    assert found["smooth"] == pytest.approx(wanted)
    assert found["bounds"] == pytest.approx([0, 10.6]) and found["flatBounds"] == pytest.approx([4.5, 5.5])
    assert found["none"] is None and found["middle"] == pytest.approx(5) and found["nearest"] == [0, 0, 2, 2]
    assert found["short"] == ["0", "1,234", "1e\u22127", "\u22120.25", "\u22122e\u22129", "1.23e8", "\u2013", "\u2013"]
