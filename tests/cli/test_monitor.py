"""`admit top` over data that stay the same: its screens, letter by letter; its keys; and that it never waits."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from textual.events import Key

from admit_cli.door import BadSetting
from admit_cli.monitor import offers, rows
from admit_cli.monitor.dialogs import Dialog
from admit_cli.monitor.rows import Order
from admit_cli.monitor.screen import Monitor
from admit_cli.monitor.source import Done, Seen
from tests.cli.monitored import EVENTS, FITS, FULL, IN_THE_WAY, SERVICES, Fixed, Watcher, entry, watch
from tests.cli.test_render import LEDGER, WATCHED, service

SCREENS = Path(__file__).parents[1] / "recorded" / "top"
SIZES = {"80x24": (80, 24), "140x40": (140, 40)}


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def compare(name: str, screen: str) -> None:
    """With what was looked at and found good; ADMIT_RECORD=1 writes it anew, to be looked at again."""
    path = SCREENS / f"{name}.txt"
    if os.environ.get("ADMIT_RECORD"):
        path.write_text(screen, encoding="utf-8")
    assert screen == path.read_text(encoding="utf-8")


# What it looks like


@pytest.mark.parametrize("size", SIZES)
def test_all_there_is_on_one_screen(size: str) -> None:
    async def look(watcher: Watcher) -> None:
        compare(f"full-{size}", await watcher.sees("runaway"))

    watch(Fixed(), look, SIZES[size])


@pytest.mark.parametrize("size", SIZES)
def test_a_load_that_does_not_fit_shows_the_plan(size: str) -> None:
    async def look(watcher: Watcher) -> None:
        await watcher.sees("runaway")
        await watcher.press("down", "l")
        compare(f"plan-{size}", await watcher.sees("Load coder?"))

    watch(Fixed(planned=IN_THE_WAY), look, SIZES[size])


@pytest.mark.parametrize("size", SIZES)
def test_an_empty_machine_without_a_daemon(size: str) -> None:
    async def look(watcher: Watcher) -> None:
        compare(f"empty-{size}", await watcher.sees("There is no daemon"))

    ledger = {**LEDGER, "version": "9.9.9", "live_veto": False}
    watch(Fixed(seen=Seen(ledger, "no daemon listens", at=time.time() + 1000), entries=[]), look, SIZES[size])


@pytest.mark.parametrize("size", SIZES)
def test_what_answers_nobody_is_not_called_loaded(size: str) -> None:
    async def look(watcher: Watcher) -> None:
        compare(f"watched-{size}", await watcher.sees("runaway"))

    watch(Fixed({**FULL, "services": WATCHED, "warnings": [], "waiting": [], "undeclared": []}), look, SIZES[size])


def test_over_commitment_is_plain() -> None:
    async def look(watcher: Watcher) -> None:
        screen = await watcher.sees("OVER-COMMITTED by 500 MB")
        assert screen.splitlines()[1].endswith(">")

    watch(Fixed({**FULL, "free_mb": -500, "charged_mb": 10_500}), look)


def test_hostile_text_stays_text() -> None:
    name = "[red]name[/red]"
    warning = "[link=x]warned[/link] \x1b[2J\x1b[31m"
    services = [service(name, "loaded", 10, pids=[1])]

    async def look(watcher: Watcher) -> None:
        screen = await watcher.sees("[bold]markup[/bold] and <b>")
        assert name in screen and "[link=x]warned[/link]" in screen
        assert "\x1b" not in screen and "\x07" not in screen
        await watcher.press("u")
        assert f"Unload {name}?" in await watcher.sees("Its unload_cmd is run")

    watch(Fixed({**FULL, "services": services, "warnings": [warning]}), look)


@pytest.mark.parametrize("size", [(20, 8), (40, 12), (80, 5), (300, 100)])
def test_it_lives_in_any_terminal(size: tuple[int, int]) -> None:
    async def look(watcher: Watcher) -> None:
        await watcher.sees("box:")
        await watcher.press("down", "u", "escape", "s", "t", "slash", "x", "escape")

    watch(Fixed(), look, size)


# What is shown of the services


def names(order: Order, wanted: str = "") -> list[str]:
    return [each["name"].split("-")[0] for each in rows.chosen(SERVICES, order, wanted)]


def test_the_worst_comes_first_and_is_found_by_what_is_shown_and_by_its_state() -> None:
    worst = [each["name"] for each in rows.chosen(WATCHED, Order("state"), "")]
    assert worst == ["chat", "coder", "other", "vision", "images", "words", "night"]
    assert [each["name"] for each in rows.chosen(WATCHED, Order(), "hung")] == ["chat"]
    assert [each["name"] for each in rows.chosen(WATCHED, Order(), "loaded c")] == ["chat", "coder"]


@pytest.mark.parametrize(
    ("by", "first"),
    [
        ("file", ["chat", "coder", "images", "night", "vision", "a"]),
        ("name", ["a", "chat", "coder", "images", "night", "vision"]),
        ("state", ["night", "vision", "chat", "images", "coder", "a"]),
        ("budget", ["a", "coder", "chat", "images", "night", "vision"]),
        ("holds", ["chat", "night", "vision", "coder", "images", "a"]),
        ("charged", ["chat", "images", "night", "vision", "a", "coder"]),
        ("prio", ["chat", "coder", "images", "vision", "a", "night"]),
    ],
)
def test_every_order_and_the_other_way_round(by: str, first: list[str]) -> None:
    assert names(Order(by)) == first
    turned = names(Order(by).turn())
    assert turned[0] == first[-1] or by in ("state", "holds", "prio"), "ties stay as the file has them"
    assert sorted(turned) == sorted(first)
    assert Order(by).turn().turn() == Order(by)


def test_every_order_is_met_once_on_the_way_round() -> None:
    order, met = Order(), []
    for _ in rows.ORDERS:
        met.append(order.by)
        order = order.next()
    assert met == list(rows.ORDERS) and order == Order()


@pytest.mark.parametrize(
    ("wanted", "found"),
    [("", 6), ("CHAT", 1), ("half loaded", 1), ("stopped", 2), ("o stopped", 2), ("nobody", 0), ("[", 0), ("  ", 6)],
)
def test_a_filter_is_part_of_a_name_or_a_state(wanted: str, found: int) -> None:
    assert len(names(Order(), wanted)) == found


def test_an_order_that_is_no_column_is_wrong_usage() -> None:
    with pytest.raises(BadSetting, match="write one of file, name, state"):
        rows.order_named("colour")


def test_keys_sort_turn_and_filter() -> None:
    def listed(screen: str) -> list[str]:
        lines = screen.splitlines()
        start = next(number for number, line in enumerate(lines) if "SERVICE" in line)
        return [line.split()[0] for line in lines[start + 1 :] if line.startswith(" ") and len(line.split()) > 4]

    async def look(watcher: Watcher) -> None:
        await watcher.press("s")
        assert listed(await watcher.sees("▲SERVICE"))[0].startswith("a-")
        await watcher.press("t")
        assert listed(await watcher.sees("▼SERVICE"))[0] == "vision"
        await watcher.press("slash", *"loaded")
        assert listed(await watcher.sees_no("night-job  suspended")) == ["vision", "chat"]
        await watcher.press("enter", "q")
        await watcher.until(lambda: watcher.app.return_code == 0)  # q is a key again, and quits

    watch(Fixed({**FULL, "waiting": [], "undeclared": [], "reservations": [], "warnings": []}), look, (100, 30))


def test_what_is_typed_at_once_after_the_slash_is_for_the_filter() -> None:
    source = Fixed()

    async def look(watcher: Watcher) -> None:
        for key in ("slash", *"sule"):
            watcher.app.post_message(Key(key, key if len(key) == 1 else "/"))
        await watcher.sees("filter: sule")
        assert "SERVICE" in await watcher.sees_no("Unload")
        await watcher.press("escape")
        await watcher.press("u")
        await watcher.sees("Unload chat?")
        await watcher.press("slash")
        await watcher.sees("Unload chat?")

    watch(source, look)


def test_home_and_end_are_the_first_and_the_last() -> None:
    async def look(watcher: Watcher) -> None:
        await watcher.press("end")
        assert watcher.app._table.chosen == SERVICES[-1]["name"]
        await watcher.press("home")
        assert watcher.app._table.chosen == "chat"

    watch(Fixed(), look)


def test_what_changes_is_shown_and_the_rest_stays_where_it_is() -> None:
    source = Fixed()

    async def look(watcher: Watcher) -> None:
        await watcher.press("down", "down")
        for change in ({"measured_mb": 3999}, {"state": "suspended"}, {"name": "chat-2"}, {"pids": [987_654]}):
            services = [{**source.ledger["services"][0], **change}, *SERVICES[1:]]
            source.ledger = {**FULL, "services": services}
            await watcher.press("r")
            (value,) = change.values()
            await watcher.sees(str(value[0] if isinstance(value, list) else value))
            assert watcher.app._table.chosen == "images"

    watch(source, look)


def test_what_was_chosen_stays_chosen_when_the_order_changes() -> None:
    async def look(watcher: Watcher) -> None:
        await watcher.press("down", "down")
        assert watcher.app._table.chosen == "images"
        await watcher.press("s", "t")
        assert watcher.app._table.chosen == "images"
        await watcher.press("r")
        assert watcher.app._table.chosen == "images"

    watch(Fixed(), look)


# What is done


def test_nothing_is_done_without_a_yes() -> None:
    source = Fixed()

    async def look(watcher: Watcher) -> None:
        await watcher.press("down")
        for keys in (("u", "escape"), ("u", "n"), ("u", "q"), ("u", "enter"), ("l", "enter"), ("l", "x", "escape")):
            await watcher.press(keys[0])
            await watcher.sees("oad coder?")
            await watcher.press(*keys[1:])
            await watcher.sees_no("oad coder?")

    watch(source, look)
    assert source.ran == []


def test_a_load_that_fits_is_asked_for_and_run() -> None:
    source = Fixed()

    async def look(watcher: Watcher) -> None:
        await watcher.press("down", "l")
        assert "coder fits: 9000 MB are free." in await watcher.sees("Load coder?")
        await watcher.press("y")
        await watcher.sees("coder is loaded after 1.0 s")

    watch(source, look)
    assert source.ran == [(("load", "coder"),)]


def test_victims_are_unloaded_by_name_and_nobody_else() -> None:
    source = Fixed(planned=IN_THE_WAY)

    async def look(watcher: Watcher) -> None:
        await watcher.press("down", "l")
        await watcher.sees("Load coder?")
        await watcher.press("y", "y", "escape")
        await watcher.until(lambda: source.ran)

    watch(source, look)
    assert source.ran == [(("unload", "night-job", "images"), ("load", "coder"))]


def test_a_refusal_is_shown_with_its_remedy_and_what_may_be_done() -> None:
    refusal = "admit: coder is refused (no-headroom): 3500 MB short.\n  make room:  admit unload night-job images"
    source = Fixed(done=Done(2, refusal))

    async def look(watcher: Watcher) -> None:
        await watcher.press("down", "l")
        await watcher.sees("Load coder?")
        source.planned = IN_THE_WAY
        await watcher.press("y")
        screen = await watcher.sees("admit load coder: refused")
        assert "make room:  admit unload night-job images" in screen
        assert "Unload night-job images, then load" in screen

    watch(source, look)


def test_what_would_not_end_may_be_killed_after_a_second_question() -> None:
    source = Fixed(done=Done(75, "chat is still there"))

    async def look(watcher: Watcher) -> None:
        await watcher.press("u")
        await watcher.sees("Unload chat?")
        await watcher.press("y")
        await watcher.sees("admit unload chat: not in time")
        await watcher.press("k")
        await watcher.sees("admit unload chat --kill: not in time")

    watch(source, look)
    assert source.ran == [(("unload", "chat"),), (("unload", "chat", "--kill"),)]


def test_a_question_is_answered_once_however_fast_the_keys_come() -> None:
    source = Fixed()

    async def look(watcher: Watcher) -> None:
        await watcher.press("u")
        await watcher.sees("Unload chat?")
        asked = watcher.app.screen
        assert isinstance(asked, Dialog)
        for key in ("y", "y", "n"):
            asked.on_key(Key(key, None))
        await watcher.until(lambda: source.ran)
        await watcher.sees_no("Unload chat?")

    watch(source, look)
    assert source.ran == [(("unload", "chat"),)]


def test_no_answer_has_a_key_of_the_monitors_own() -> None:
    keys = {key for binding in Monitor.BINDINGS for key in str(getattr(binding, "key", "")).split(",")}
    coder = SERVICES[1]
    waits = {**IN_THE_WAY, "victims": [], "remedy": "admit load coder --wait 10m"}
    made = [offers.load(coder, plan) for plan in (FITS, IN_THE_WAY, waits)]
    made += [offers.unload(coder), offers.after((("unload", "coder"),), 75, "", None)]
    assert all(offer.answers and not keys & offer.answers.keys() for offer in made)


def test_what_is_loaded_is_not_loaded_again() -> None:
    async def look(watcher: Watcher) -> None:
        await watcher.press("l")
        assert "Load it" not in await watcher.sees("chat is loaded already")

    watch(Fixed(planned={**FITS, "detail": "chat is loaded already."}), look)


def test_a_filter_from_the_command_line_is_shown() -> None:
    async def look(watcher: Watcher) -> None:
        screen = await watcher.sees("filter: half")
        assert " coder " not in screen and "half" in screen
        await watcher.press("escape")
        await watcher.sees(" coder ")

    watch(Fixed({**FULL, "waiting": []}), look, wanted="half")


def test_explain_shows_what_the_command_says() -> None:
    source = Fixed(done=Done(0, "chat: loaded\n  4711  mlx_lm.server: is it"))

    async def look(watcher: Watcher) -> None:
        await watcher.press("enter")
        assert "mlx_lm.server: is it" in await watcher.sees("admit explain chat")

    watch(source, look)
    assert source.ran == [(("explain", "chat"),)]


def test_a_plan_that_cannot_be_had_is_told() -> None:
    class Broken(Fixed):
        def plan(self, name: str) -> dict[str, Any]:
            raise BadSetting("the daemon answered 500")

    async def look(watcher: Watcher) -> None:
        await watcher.press("l")
        assert "the daemon answered 500" in await watcher.sees("It cannot be done")

    watch(Broken(), look)


def test_where_only_time_helps_waiting_is_offered() -> None:
    plan = {**IN_THE_WAY, "victims": [], "remedy": "admit load coder --wait 10m"}
    assert offers.load(SERVICES[1], plan).answers["w"][1] == (("load", "coder", "--wait", "10m"),)
    nothing = offers.load(SERVICES[1], {**plan, "remedy": None})
    assert nothing.answers == {} and nothing.title == "coder cannot be loaded now"


# Who is asked, and that nobody waits for him


def test_a_daemon_that_goes_is_told_and_one_that_comes_back_too() -> None:
    source = Fixed()

    async def look(watcher: Watcher) -> None:
        await watcher.sees("daemon 9.9.9")
        source.seen = Seen(FULL, "no daemon listens", at=1_000_000.0)
        await watcher.press("r")
        screen = await watcher.sees("The daemon is gone since 13:46:40")
        assert "no daemon" in screen.splitlines()[0] and "admit daemon status" in screen
        source.seen = Seen(None, "no daemon listens", "the process table cannot be seen", 1_000_009.0)
        await watcher.press("r")
        screen = await watcher.sees("Nothing can be seen since 13:46:40: the process table cannot be seen")
        assert "what was seen at 13:46:40" in screen and "chat" in screen
        source.seen = None
        await watcher.press("r")
        assert "gone since" not in await watcher.sees("The daemon answers again.")

    watch(source, look)


def test_keys_work_while_a_look_waits_and_quitting_waits_for_nobody() -> None:
    source = Fixed(seen=Seen(FULL, at=time.time() - 60))
    source.goes_on.clear()

    async def look(watcher: Watcher) -> None:
        assert "seen 6" in (await watcher.sees("s ago")).splitlines()[0]
        await watcher.press("slash", *"vision", "enter")
        await watcher.sees_no("coder      stopped")
        assert source.looks == 0

    app = watch(source, look)
    assert app._ended.is_set() and source.looks == 0
    source.goes_on.set()


def test_new_events_come_by_themselves() -> None:
    source = Fixed()

    async def look(watcher: Watcher) -> None:
        await watcher.sees("runaway")
        source.entries = [entry(10 + number, "woken", f"the {number}th") for number in range(300)]
        await watcher.sees("the 299th")
        assert len(watcher.app._entries) < 150
        assert EVENTS[0] not in watcher.app._entries

    watch(source, look)
