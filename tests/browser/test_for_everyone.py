"""For everyone: axe-core finds nothing serious, in light and dark, and no phone needs to be scrolled sideways."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.browser.chromium import Dashboard, Show
from tests.daemons import Daemon, flagged, running, service, sleeper

PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "has_touch": True}
NARROW = {"viewport": {"width": 320, "height": 640}}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("everyone")
    services = (
        sleeper("chat", 61, 6000)
        + sleeper("a-name-as-long-as-a-name-may-be-that-nobody-should-ever-give-01", 62, 6000)
        + sleeper("machine", 63, 2000, pinned=True, evictable=False)
        + flagged("lamp", folder, 500)
        + service("half", 100, loaded_check_cmd="false")
    )
    with running(folder, services) as up:
        for name in ("chat", "lamp"):
            assert up.act(f"/services/{name}/load").status == 200
        yield up


def fill(shown: Dashboard) -> None:
    """With a row unfolded, and a refusal."""
    shown.row("chat").locator("button.name").click()
    long_name = shown.page.locator("tr[data-service^=a-name]")
    long_name.locator("td.act button").click()
    expect(shown.page.locator(".card")).to_contain_text("is refused")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(daemon: Daemon, show: Show, scheme: str) -> None:
    shown = show(daemon, color_scheme=scheme)
    fill(shown)
    expect(shown.page.locator("#events li").first).to_be_visible()
    assert not shown.unfit()
    shown.button("chat").click()
    expect(shown.page.locator("#agree")).to_be_visible()
    assert not shown.unfit()
    shown.agree("Unload")
    expect(shown.page.locator("#ask-token")).to_be_visible()
    assert not shown.unfit()


@pytest.mark.parametrize("options", [PHONE, NARROW], ids=["phone", "320 px"])
def test_nothing_is_wider_than_the_screen(daemon: Daemon, show: Show, options: dict[str, object]) -> None:
    shown = show(daemon, **options)
    fill(shown)
    expect(shown.page.locator("#memory-chart canvas")).to_be_visible()
    wide = "() => document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth"
    assert shown.page.evaluate(wide) == 0
    expect(shown.button("chat")).to_be_visible()
    assert not shown.unfit()


def test_the_two_palettes_differ_and_a_change_is_followed(daemon: Daemon, show: Show) -> None:
    shown = show(daemon, color_scheme="light")
    ground = "() => getComputedStyle(document.documentElement).backgroundColor"
    light = shown.page.evaluate(ground)
    shown.page.emulate_media(color_scheme="dark")
    assert shown.page.evaluate(ground) != light
    expect(shown.page.locator("#memory-chart canvas")).to_have_count(1)


def test_without_motion_nothing_moves(daemon: Daemon, show: Show) -> None:
    still = show(daemon, reduced_motion="reduce")
    moves = "() => getComputedStyle(document.querySelector('.part')).transitionDuration"
    assert still.page.evaluate(moves) == "0s"
    assert show(daemon, reduced_motion="no-preference").page.evaluate(moves) != "0s"


def test_every_control_is_reached_by_tab_and_shows_where_it_is(daemon: Daemon, show: Show) -> None:
    shown = show(daemon)
    seen = []
    at = "() => { const at = document.activeElement; return at === document.body ? null : "
    at += "[at.getAttribute('aria-label') || at.textContent.trim(), getComputedStyle(at).outlineStyle] }"
    while len(seen) < 40:
        shown.page.keyboard.press("Tab")
        found = shown.page.evaluate(at)
        if found is None:
            break
        seen.append(found[0])
        assert found[1] != "none", f"{found[0]} does not show that it has the focus"
    assert seen[0] == "Skip to the services"
    assert {"chat", "Unload chat", "lamp", "Unload lamp", "No load_cmd half"} <= set(seen)


def test_a_page_that_nobody_sees_asks_for_nothing(daemon: Daemon, show: Show) -> None:
    """Chromium keeps six connections for one place: six forgotten tabs must not be in the way of a seventh."""
    shown = show(daemon, opened=False)
    shown.page.clock.install()
    shown.open()
    hide = "hidden => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true }); "
    hide += "document.dispatchEvent(new Event('visibilitychange')); }"
    with shown.page.expect_event("requestfailed", lambda request: "/events" in request.url):
        shown.page.evaluate(hide, True)
    shown.page.wait_for_load_state("networkidle")
    before = len(shown.asked)
    shown.page.clock.run_for(20_000)
    shown.page.wait_for_load_state("networkidle")
    assert shown.asked[before:] == []
    with shown.page.expect_request("**/events?*"):
        shown.page.evaluate(hide, False)
