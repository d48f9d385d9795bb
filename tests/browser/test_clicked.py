"""Loading and unloading by a click: asked first, with the token, refused with the remedy, room made by a plan."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests import daemons
from tests.browser.chromium import Show
from tests.daemons import Daemon, flagged, running, service, sleeper, until


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("clicked")
    services = (
        sleeper("chat", 51, 6000)
        + sleeper("coder", 52, 6000, priority=10)
        + sleeper("small", 53, 3000)
        + service("broken", 100, loaded_check_cmd="false", load_cmd="echo '<b>no such weights</b>'; exit 3")
        + service(
            "late",
            100,
            loaded_check_cmd=f"test -e {folder}/late.flag && sleep 1; false",
            load_cmd="true",
            load_timeout_s=1,
        )
        + "".join(
            sleeper(f"slow{number}", 55 + number, 100, loaded_check_cmd=["test", "-e", str(folder / "go.flag")])
            for number in range(4)
        )
        + flagged("stubborn", folder, 100, unload_cmd="true", unload_timeout_s=1)
    )
    with running(folder, services) as up:
        yield up


@pytest.fixture(autouse=True)
def nothing_loaded(daemon: Daemon) -> Iterator[None]:
    yield
    daemons.end_naps()
    for flag in daemon.folder.glob("*.flag"):
        flag.unlink()
    until(lambda: daemon.capacity()["charged_mb"] == 0)


def test_a_load_by_keyboard_alone_with_the_token_once(daemon: Daemon, show: Show) -> None:
    shown = show(daemon)
    button, keyboard = shown.button("chat"), shown.page.keyboard
    button.focus()
    keyboard.press("Enter")
    yes = shown.page.get_by_role("button", name="Load", exact=True)
    expect(yes).to_be_focused()
    assert "6,000 MB are reserved for it, of 10,240 MB" in shown.page.locator("#agree").inner_text()
    keyboard.press("Enter")
    expect(shown.page.get_by_role("textbox", name="Token")).to_be_focused()
    expect(shown.page.locator("#token-command")).to_contain_text("/.local/state}/admit/token")
    expect(shown.page.locator("#token-note")).to_contain_text("session storage until you close this tab")
    keyboard.type(daemon.token)
    keyboard.press("Enter")
    shown.shows("chat", "loaded")
    expect(shown.card("chat")).to_contain_text("chat is loaded")
    expect(button).to_be_focused()
    expect(button).to_have_text("Unload")
    expect(shown.page.locator("#polite")).to_contain_text("chat is loaded")

    keyboard.press("Enter")
    no = shown.page.locator("#agree").get_by_role("button", name="Cancel")
    expect(no).to_be_focused()
    keyboard.press("Escape")
    expect(shown.page.locator("#agree")).to_be_hidden()
    expect(button).to_have_text("Unload")
    keyboard.press("Enter")
    shown.agree("Unload")
    shown.shows("chat", "stopped")
    expect(shown.card("chat")).to_contain_text("chat is unloaded")
    assert shown.page.evaluate("sessionStorage.getItem('admit-token')") == daemon.token
    assert shown.page.evaluate("localStorage.length + document.cookie.length") == 0


def test_a_wrong_token_is_said_to_be_wrong_and_forgotten(daemon: Daemon, show: Show) -> None:
    shown = show(daemon)
    shown.button("chat").click()
    shown.agree("Load")
    shown.give_token("two words")
    expect(shown.page.locator("#token-wrong")).to_contain_text("one word")
    shown.give_token("wrong")
    expect(shown.page.locator("#token-wrong")).to_contain_text("does not know this token")
    assert daemon.state("chat") == "stopped"
    shown.page.locator("#token-no").click()
    expect(shown.button("chat")).to_have_text("Load")
    assert shown.page.evaluate("sessionStorage.getItem('admit-token')") is None


def test_what_is_not_agreed_to_is_not_done(daemon: Daemon, show: Show) -> None:
    shown = show(daemon)
    shown.button("chat").click()
    expect(shown.page.locator("#agree")).to_be_visible()
    shown.page.keyboard.press("Escape")
    expect(shown.button("chat")).to_have_text("Load")
    assert not [url for url in shown.asked if "/services/" in url]


def test_one_yes_agrees_to_one_thing(daemon: Daemon, show: Show) -> None:
    """What is asked of late comes up while it is asked of chat: it waits for its turn."""
    (daemon.folder / "late.flag").touch()
    daemon.act("/services/chat/load")
    shown = show(daemon)
    shown.shows("chat", "loaded")
    dialog = shown.page.locator("#agree")
    with shown.page.expect_response("**/admit") as said:
        shown.button("late").click()
        shown.button("chat").click()
    assert said.value.finished() is None
    expect(dialog).to_contain_text("Unload chat?")
    shown.page.keyboard.press("Escape")
    expect(dialog).to_contain_text("Load late?")
    expect(shown.button("chat")).to_have_text("Unload")
    shown.agree("Load")
    shown.give_token()
    expect(shown.card("late")).to_contain_text("late was not loaded")
    assert daemon.state("chat") == "loaded"
    assert not [url for url in shown.asked if url.endswith("/unload")]


def test_a_refusal_has_its_remedy_to_copy_and_room_is_made_by_the_plan(daemon: Daemon, show: Show) -> None:
    daemon.act("/services/chat/load")
    shown = show(daemon, permissions=["clipboard-read", "clipboard-write"])
    shown.shows("chat", "loaded")
    shown.button("coder").click()
    card = shown.card("coder")
    expect(card).to_contain_text("coder is refused: It does not fit")
    expect(card).to_contain_text("short by 1,760 MB")
    expect(shown.page.locator("#urgent")).to_contain_text("coder is refused")
    card.get_by_role("button", name="Copy: admit unload chat").last.click()
    assert shown.page.evaluate("navigator.clipboard.readText()") == "admit unload chat"
    assert not shown.unfit()

    card.get_by_role("button", name="Make room and load coder…").click()
    plan = shown.page.locator("#agree")
    expect(plan.locator(".victims li")).to_contain_text(["chat 6,000 MB"])
    assert not shown.unfit()
    assert daemon.state("chat") == "loaded", "nothing is done before it is agreed to"
    shown.agree("Unload and load")
    shown.give_token()
    shown.shows("chat", "stopped")
    shown.shows("coder", "loaded")
    expect(shown.card("coder")).to_contain_text("coder is loaded")
    expect(shown.card("coder").get_by_role("heading")).to_be_focused()
    expect(shown.button("chat")).to_have_text("Load")
    expect(shown.button("coder")).to_have_text("Unload")


def test_where_the_plan_has_changed_nothing_more_is_done(daemon: Daemon, show: Show) -> None:
    """Agreed to unload chat; meanwhile small came, and would have to go instead."""
    daemon.act("/services/chat/load")
    shown = show(daemon)
    shown.button("coder").click()
    shown.card("coder").get_by_role("button", name="Make room and load coder…").click()
    daemon.act("/services/chat/unload")
    for name in ("small", "chat"):
        assert daemon.act(f"/services/{name}/load").status == 200
    shown.page.route("**/admit", lambda route: route.fulfill(status=409, json=_another_plan(daemon)))
    shown.agree("Unload and load")
    expect(shown.card("coder")).to_contain_text("admit unload small")
    assert (daemon.state("chat"), daemon.state("small"), daemon.state("coder")) == ("loaded", "loaded", "stopped")


def _another_plan(daemon: Daemon) -> dict[str, object]:
    refused: dict[str, object] = daemon.ask("POST", "/admit", {"service": "coder", "dry_run": True}).json()
    return {**refused, "victims": ["small"], "remedy": "admit unload small"}


def test_where_nothing_helps_no_room_is_offered(daemon: Daemon, show: Show) -> None:
    daemon.act("/services/coder/load")
    shown = show(daemon)
    shown.button("chat").click()
    card = shown.card("chat")
    expect(card).to_contain_text("No unloading that is allowed would make it fit")
    expect(card.get_by_role("button", name="Make room")).to_have_count(0)
    card.get_by_role("button", name="Dismiss").click()
    expect(card).to_have_count(0)
    expect(shown.page.locator("#answers-part")).to_be_hidden()


def test_a_load_that_fails_shows_the_end_of_its_log_as_text(daemon: Daemon, show: Show) -> None:
    shown = show(daemon)
    shown.button("broken").click()
    shown.agree("Load")
    shown.give_token()
    expect(shown.card("broken")).to_contain_text("broken was not loaded")
    expect(shown.card("broken").locator("pre")).to_contain_text("<b>no such weights</b>")


def test_what_does_not_go_can_be_ended_for_certain(daemon: Daemon, show: Show) -> None:
    daemon.act("/services/stubborn/load")
    shown = show(daemon)
    shown.shows("stubborn", "loaded")
    shown.button("stubborn").click()
    shown.agree("Unload")
    shown.give_token()
    card = shown.card("stubborn")
    expect(card).to_contain_text("stubborn was not unloaded")
    card.get_by_role("button", name="End stubborn for certain…").click()
    expect(shown.page.locator("#agree")).to_contain_text("SIGKILL")
    shown.agree("Kill")
    expect(card).to_contain_text("stubborn was not unloaded")
    expect(shown.button("stubborn")).to_have_text("Unload")


def test_many_loads_leave_connections_for_the_looks_and_an_unload(daemon: Daemon, show: Show) -> None:
    """Chromium has six for one place, and a load keeps one for as long as it takes."""
    (daemon.folder / "stubborn.flag").touch()
    shown = show(daemon)
    shown.shows("stubborn", "loaded")
    for number in range(4):
        shown.button(f"slow{number}").click()
        shown.agree("Load")
        if number == 0:
            shown.give_token()
    waiting = shown.page.get_by_role("button", name="Waits for others…")
    expect(waiting).to_have_count(1)
    shown.button("stubborn").click()
    shown.agree("Unload")
    expect(shown.card("stubborn")).to_contain_text("stubborn was not unloaded")
    with shown.page.expect_response("**/capacity") as looked:
        pass
    assert looked.value.status == 200
    expect(shown.page.locator("#banner")).to_be_empty()
    assert len([url for url in shown.asked if url.endswith("/load")]) == 3
    (daemon.folder / "go.flag").touch()
    for number in range(4):
        shown.shows(f"slow{number}", "loaded")
    expect(waiting).to_have_count(0)


def test_a_daemon_that_goes_in_the_midst_of_a_load_is_said(tmp_path: Path, show: Show) -> None:
    never = sleeper("never", 54, 100, loaded_check_cmd="false", load_timeout_s=60)
    with running(tmp_path / "midst", never) as up:
        shown = show(up)
        shown.button("never").click()
        shown.agree("Load")
        shown.give_token()
        until(daemons.naps, 30.0)
        up.stop(signal.SIGKILL)
        expect(shown.card("never")).to_contain_text("The daemon was gone before it answered")
        expect(shown.page.locator("#banner")).to_contain_text("The daemon is gone")
