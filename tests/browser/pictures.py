"""Makes the pictures of docs/dashboard.md, of a real daemon and real processes: python -m tests.browser.pictures"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, expect

from tests.browser import chromium
from tests.browser.chromium import Dashboard
from tests.daemons import ROOT, Daemon, flagged, free_port, prepared, service

FOLDER = ROOT / "docs" / "images"
HOST = "hosts:\n  attic: {ram_physical_mb: 24576, ram_reserved_mb: 8192, ram_safety_mb: 2048}\nservices:\n"
SENTINEL = "sentinel: {stopped_interval_s: 1, probe_interval_s: 5}\n"
WATCHED_S = 12


def server(name: str, holds_mb: int, budget_mb: int, **keys: object) -> str:
    """A service that is a stand-in for a model server, and really holds that much."""
    port = free_port()
    keys = {
        "process_pattern": rf"stand_in\.py --port {port}\b",
        "load_cmd": f"exec {ROOT}/scripts/gear/stand_in.py --port {port} --mb {holds_mb}",
        "probe": {"url": f"http://127.0.0.1:{port}/v1/completions", "startup_grace_s": 1},
        **keys,
    }
    return service(name, budget_mb, **keys)


def services(folder: Path) -> str:
    return (
        server("qwen-coder", 640, 6000, priority=80)
        + server("llama-chat", 380, 3500, priority=50, exclusive_with=["flux"])
        + server("whisper", 150, 1500, priority=20)
        + server("flux", 700, 8000, priority=90)
        + flagged("win11-vm", folder, 2048, priority=100, pinned=True, evictable=False)
    )


def a_while_goes_by(daemon: Daemon, shown: Dashboard) -> None:
    """Loads and unloads, so that there is something to see."""
    for name, verb in (
        ("win11-vm", "load"),
        ("qwen-coder", "load"),
        ("whisper", "load"),
        ("whisper", "unload"),
        ("llama-chat", "load"),
        ("whisper", "load"),
    ):
        assert daemon.act(f"/services/{name}/{verb}", timeout_s=90).status == 200
        shown.page.wait_for_timeout(WATCHED_S * 1000)


def ask_for_flux(shown: Dashboard) -> None:
    shown.button("flux").click()
    expect(shown.card("flux")).to_contain_text("is refused")
    shown.page.wait_for_timeout(500)


def keep(shown: Dashboard, name: str, *, whole: bool) -> None:
    made = Path(tempfile.gettempdir(), f"{name}-{time.monotonic_ns()}.png")
    shown.page.mouse.move(0, 0)
    shown.page.screenshot(path=made, full_page=whole)
    with Image.open(made) as picture:
        picture.save(FOLDER / f"{name}.webp", quality=82, method=6)
    made.unlink()


def look(browser: Browser, daemon: Daemon, **options: object) -> Dashboard:
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})  # type: ignore[arg-type]
    return Dashboard(context.new_page(), daemon).open()


def take(browser: Browser, daemon: Daemon) -> None:
    light = look(browser, daemon, color_scheme="light")
    a_while_goes_by(daemon, light)
    keep(light, "dashboard-light", whole=True)
    ask_for_flux(light)
    keep(light, "dashboard-refusal", whole=False)
    light.card("flux").get_by_role("button", name="Make room").click()
    keep(light, "dashboard-plan", whole=False)
    dark = look(browser, daemon, color_scheme="dark")
    ask_for_flux(dark)
    keep(dark, "dashboard-dark", whole=True)
    phone = look(browser, daemon, color_scheme="dark", viewport={"width": 390, "height": 1000}, device_scale_factor=1.5)
    keep(phone, "dashboard-phone", whole=False)
    for name in ("qwen-coder", "llama-chat", "whisper"):
        daemon.act(f"/services/{name}/unload", timeout_s=90)
    daemon.stop()
    expect(phone.page.locator("#banner")).to_contain_text("The daemon is gone")
    keep(phone, "dashboard-gone", whole=False)


def main() -> int:
    path = chromium.find()
    if path is None:
        print("there is no Chromium here (apt-get install chromium)", file=sys.stderr)
        return 1
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="a") as home:
        folder = Path(home, "attic")
        daemon = prepared(folder, "", Path(home))
        daemon.write(HOST + services(folder) + SENTINEL)
        driver, browser = chromium.launch(path)
        try:
            take(browser, daemon.start())
        finally:
            browser.close()
            driver.stop()
            if daemon.process is not None and daemon.process.poll() is None:
                daemon.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
