"""What the dashboard shows of a daemon: the pool, the services, events, and that the daemon is gone."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Route, expect

from tests.browser.chromium import Show, figure
from tests.daemons import CAPACITY, Daemon, end_naps, flagged, nap, running, service, sleeper, until

QUICK = "sentinel: {stopped_interval_s: 0.5}\n"
HOSTILE = "<img src=x onerror=\"document.title='pwned'\"><b>bold</b>"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("seen")
    services = (
        sleeper("chat", 31, 4000, priority=50)
        + sleeper("coder", 32, 3000, exclusive_with=["chat"])
        + sleeper("machine", 33, 2000, pinned=True, evictable=False)
        + flagged("lamp", folder, 500)
        + service("byhand", 100, loaded_check_cmd="false")
        + QUICK
    )
    with running(folder, services) as up:
        up.act("/services/chat/load")
        yield up


def test_the_pool_is_one_bar_of_all_its_parts(daemon: Daemon, show: Show) -> None:
    shown = show(daemon)
    ledger = daemon.capacity()
    expect(shown.page.locator("#free")).to_have_text("4,240 MB free")
    expect(shown.page.locator("#of-pool")).to_contain_text("10,240 MB")
    kinds = shown.page.locator("#bar .part").evaluate_all("parts => parts.map(part => part.dataset.kind)")
    assert kinds == ["kept", "floor", "service", "promise", "free"]
    widths = shown.page.locator("#bar .part").evaluate_all("parts => parts.map(part => parseFloat(part.style.width))")
    assert abs(sum(widths) - 100) < 0.01
    said = shown.page.locator("#bar").get_attribute("aria-label") or ""
    for part in ("reserved for the system 4,096 MB", "safety 2,048 MB", "chat 4,000 MB", "machine, pinned 2,000 MB"):
        assert part in said
    legend = shown.page.locator("#legend li").all_inner_texts()
    assert sum(map(figure, legend)) == ledger["ram_physical_mb"]


def test_a_row_says_all_that_is_known_of_a_service(daemon: Daemon, show: Show) -> None:
    until(lambda: (daemon.capacity()["services"][0]["condition"] or {}).get("peak_mb"), 30.0)
    shown = show(daemon)
    shown.shows("chat", "loaded")
    shown.shows("coder", "stopped")
    assert shown.cell("chat", "Declared").inner_text() == "4,000"
    assert figure(shown.cell("chat", "Measured").inner_text()) >= 1
    assert figure(shown.cell("chat", "Peak").inner_text()) >= figure(shown.cell("chat", "Measured").inner_text())
    assert shown.cell("chat", "Priority").inner_text() == "50"
    assert shown.cell("chat", "Processes").inner_text() == "1"
    expect(shown.cell("chat", "Activity")).to_have_text(re.compile("unknown|idle|working"))
    expect(shown.cell("chat", "Age")).to_contain_text(" s")
    expect(shown.button("chat")).to_have_text("Unload")
    expect(shown.button("lamp")).to_have_text("Load")
    expect(shown.button("byhand")).to_have_text("No load_cmd")
    opener = shown.row("coder").get_by_role("button", name="coder", exact=True)
    assert opener.get_attribute("aria-expanded") == "false"
    opener.press("Enter")
    assert opener.get_attribute("aria-expanded") == "true"
    expect(shown.page.locator("tr.details:visible")).to_contain_text("Never beside")
    expect(shown.page.locator("tr.details:visible")).to_contain_text("chat")


def test_what_happens_is_shown_as_it_happens(daemon: Daemon, show: Show) -> None:
    shown = show(daemon)
    expect(shown.page.locator("#events li").last).to_contain_text("the daemon was started")
    daemon.act("/services/lamp/load")
    shown.shows("lamp", "loaded")
    newest = shown.page.locator('#events li[data-kind="loaded"]').first
    expect(newest).to_contain_text("lamp is loaded")
    daemon.act("/services/lamp/unload")
    expect(shown.page.locator("#events li").first).to_contain_text("lamp was unloaded")
    shown.shows("lamp", "stopped")


def test_reservations_and_who_waits_are_shown(daemon: Daemon, show: Show) -> None:
    shown = show(daemon)
    with subprocess.Popen(["sleep", "600"]) as holder:
        daemon.ask("POST", "/admit", {"service": "lamp", "holder_pid": holder.pid})
        try:
            shown.shows("lamp", "reserved")
            expect(shown.page.locator("#promises")).to_contain_text(f"Reserved: lamp, 500 MB for process {holder.pid}")
            expect(shown.button("lamp")).to_have_attribute("aria-disabled", "true")
        finally:
            holder.kill()
    shown.shows("lamp", "stopped")


def test_memory_and_pressure_are_drawn_and_told_in_words(daemon: Daemon, show: Show) -> None:
    until(lambda: daemon.ask("GET", "/history").json()["samples"], 30.0)
    shown = show(daemon)
    expect(shown.page.locator("#memory-chart canvas")).to_be_visible()
    expect(shown.page.locator("#pressure-chart canvas")).to_be_visible()
    drawn = "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(part => part)"
    assert shown.page.locator("#memory-chart canvas").evaluate(drawn)
    expect(shown.page.locator("#curves")).to_contain_text("charged 6,000 MB")
    expect(shown.page.locator("#course")).to_contain_text(re.compile("Watching since|In the last"))


def test_over_commitment_is_seen(tmp_path: Path, show: Show) -> None:
    """Two that were started without asking, and are more together than the pool."""
    services = sleeper("one", 41, 6000) + sleeper("two", 42, 6000)
    with running(tmp_path / "over", services) as up, ExitStack() as ends:
        for number in (41, 42):
            ends.callback(subprocess.Popen(nap(number).split()).wait)
        ends.callback(end_naps)
        shown = show(up)
        expect(shown.page.locator("#free")).to_have_text("Over-committed by 1,760 MB")
        expect(shown.page.locator("#bar .beyond")).to_be_visible()
        assert "over-committed" in shown.page.title()
        assert "Over-committed by 1,760 MB" in (shown.page.locator("#bar").get_attribute("aria-label") or "")
        assert not shown.unfit()


def test_a_daemon_that_goes_is_said_to_be_gone_and_comes_back_by_itself(tmp_path: Path, show: Show) -> None:
    with running(tmp_path / "gone", sleeper("chat", 43)) as up:
        shown = show(up)
        up.stop()
        banner = shown.page.get_by_role("alert").filter(has_text="The daemon is gone")
        expect(banner).to_be_visible()
        expect(banner).to_contain_text(f"ADMIT_PORT={up.port} admit daemon status")
        expect(shown.page.locator("#link")).to_have_text("not live")
        expect(shown.button("chat")).to_have_attribute("aria-disabled", "true")
        assert not shown.unfit()
        up.start()
        expect(banner).to_have_count(0)
        expect(shown.button("chat")).to_have_attribute("aria-disabled", "false")
        assert up.act("/services/chat/load").status == 200
        shown.shows("chat", "loaded")
        expect(shown.page.locator("#events li", has_text="chat is loaded")).to_be_visible()


def test_a_journal_that_began_anew_is_shown(tmp_path: Path, show: Show) -> None:
    folder = tmp_path / "anew"
    with running(folder, flagged("lamp", folder, 100)) as up:
        for verb in ("load", "unload"):
            assert up.act(f"/services/lamp/{verb}").status == 200
        shown = show(up)
        expect(shown.page.locator("#events li", has_text="lamp was unloaded")).to_be_visible()
        up.stop()
        for file in up.places.glob("journal.jsonl*"):
            file.unlink()
        up.start()
        expect(shown.page.locator("#events li", has_text="the daemon was started")).to_have_count(2)


def test_a_daemon_that_cannot_see_says_why_and_one_of_another_version_is_told(daemon: Daemon, show: Show) -> None:
    shown = show(daemon)
    ledger = daemon.capacity()
    blind = {"title": "The machine cannot be seen", "status": 503, "detail": "/proc says no."}
    shown.page.route("**/capacity", lambda route: route.fulfill(status=503, json=blind))
    expect(shown.page.locator("#banner")).to_contain_text("The daemon cannot say what is loaded. /proc says no.")
    expect(shown.button("lamp")).to_have_attribute("aria-disabled", "true")
    shown.page.unroute("**/capacity")
    shown.page.route("**/capacity", lambda route: route.fulfill(json={**ledger, "version": "99.0"}))
    expect(shown.page.locator("#banner .banner")).to_have_count(0)
    expect(shown.page.locator("#renewed")).to_contain_text("admit is 99.0 now")
    with shown.page.expect_navigation():
        shown.page.get_by_role("button", name="Reload").click()


def test_a_capacity_file_that_changes_is_followed(tmp_path: Path, show: Show) -> None:
    with running(tmp_path / "edited", sleeper("chat", 44)) as up:
        shown = show(up)
        up.write(CAPACITY + sleeper("chat", 44) + sleeper("poet", 45, 700))
        shown.shows("poet", "stopped")
        up.write(CAPACITY + "  {}\n")
        expect(shown.page.locator("#no-services")).to_contain_text("declares no services")


def test_text_of_others_stays_text(daemon: Daemon, show: Show) -> None:
    """Names are bounded by capacity.yaml; all else that a daemon ever sends may be made to look like HTML."""
    ledger = daemon.capacity()

    def spoil(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: each if name in ("state", "level") else spoil(each) for name, each in value.items()}
        if isinstance(value, list):
            return [spoil(each) for each in value]
        return f"{HOSTILE}{value}" if isinstance(value, str) else value

    spoiled = {**spoil(ledger), "warnings": [HOSTILE]}
    spoiled["undeclared"] = [{"label": HOSTILE, "charged_mb": 9, "why": HOSTILE}]
    spoiled["reservations"] = [{"service": HOSTILE, "budget_mb": 1, "holder_pid": None, "expires_at": 0}]
    shown = show(daemon, opened=False)

    def answer(route: Route) -> None:
        route.fulfill(json=spoiled)

    def events(route: Route) -> None:
        event = {"id": 1, "at": 1.0, "kind": HOSTILE, "severity": HOSTILE, "service": HOSTILE, "text": HOSTILE}
        body = f"id: 1\ndata: {json.dumps({**event, 'next': HOSTILE})}\n\n"
        route.fulfill(content_type="text/event-stream", body=body)

    shown.page.route("**/capacity", answer)
    shown.page.route("**/events?*", events)
    shown.open()
    expect(shown.page.locator("#events li")).to_contain_text(HOSTILE)
    expect(shown.page.locator("#warnings li")).to_have_text(HOSTILE)
    expect(shown.page.locator("tbody th").first).to_contain_text(HOSTILE)
    assert shown.page.locator("img, b").count() == 0
    assert "pwned" not in (shown.page.title().split(HOSTILE)[0])


def test_markup_made_by_a_script_is_refused_by_the_browser(daemon: Daemon, show: Show) -> None:
    """Should the page ever be wrong: trusted types stop text from becoming markup, the policy stops what it holds."""
    shown = show(daemon)
    tried = "() => { try { document.body.innerHTML = '<b>x</b>' } catch (refused) { return refused.name } }"
    assert shown.page.evaluate(tried) == "TypeError"
    shown.faults.clear()
