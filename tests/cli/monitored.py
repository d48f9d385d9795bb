"""monitored: the monitor over data that stay the same, and what its screen shows, as text."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from textual.pilot import Pilot

from admit_cli.monitor.rows import Order
from admit_cli.monitor.screen import Monitor
from admit_cli.monitor.source import Done, Seen
from admitd.core.events import Entry, Event, Severity
from tests.cli.test_render import LEDGER, service

PATIENCE_S = 30.0
SERVICES = [
    service("chat", "loaded", 4100, ram_budget_mb=4000, measured_mb=4100, priority=100, pids=[4711, 4712]),
    service("coder", ram_budget_mb=5000, exclusive_with=["night-job"]),
    service("images", "reserved", 2000, ram_budget_mb=2000),
    service("night-job", "suspended", 1500, ram_budget_mb=1500, measured_mb=900, priority=-5, pids=[99]),
    service("vision", "half_loaded", 800, ram_budget_mb=800, measured_mb=12, pids=[1], matched_by="process_pattern"),
    service("a-name-that-is-much-too-long-for-one-column-of-a-terminal", pinned=True, charged_mb=100),
]
FULL = {
    **LEDGER,
    "charged_mb": 8500,
    "free_mb": 1500,
    "services": SERVICES,
    "undeclared": [{"label": "process 77", "charged_mb": 100, "why": "its command line could not be read in time"}],
    "reservations": [{"id": "1", "service": "images", "budget_mb": 2000, "holder_pid": 321, "expires_at": 0}],
    "waiting": [{"service": "coder", "priority": 0, "holder_pid": 322}],
    "warnings": ["chat holds more than its budget: it is charged what it holds (admit status)"],
    "pressure": {"level": "warn", "why": "12% of memory available"},
    "version": "9.9.9",
}
FITS = {"service": "coder", "fits": True, "detail": "coder fits: 9000 MB are free.", "victims": [], "remedy": None}
IN_THE_WAY = {
    "service": "coder",
    "fits": False,
    "detail": "coder needs 5000 MB and 1500 MB of the 10000 MB pool are free: 3500 MB short.",
    "victims": ["night-job", "images"],
    "remedy": "admit unload night-job images",
}


def entry(number: int, kind: str, text: str, severity: Severity = Severity.INFO) -> Entry:
    return Entry(number, 1_000_000.0 + number, "boot", 0.0, Event(kind, text, severity))


EVENTS = [
    entry(1, "daemon_started", "the daemon was started (admit 9.9.9, port 2189)"),
    entry(2, "admitted", "chat was admitted: 4000 MB reserved, 10000 of 10000 MB were free"),
    entry(3, "loaded", "chat is loaded after 12.3 s and holds 3900 MB"),
    entry(4, "over_budget", "chat holds 4100 MB, which is 100 MB above its budget", Severity.WARNING),
    entry(5, "runaway", "an \x1b[31mescape\x07, [bold]markup[/bold] and <b>", Severity.CRITICAL),
]


@dataclass
class Fixed:
    """Shows what it is told to show, and remembers which commands were run."""

    ledger: dict[str, Any] = field(default_factory=lambda: FULL)
    seen: Seen | None = None
    entries: list[Entry] = field(default_factory=lambda: list(EVENTS))
    planned: dict[str, Any] = field(default_factory=lambda: FITS)
    done: Done = field(default_factory=lambda: Done(0, "coder is loaded after 1.0 s"))
    ran: list[tuple[tuple[str, ...], ...]] = field(default_factory=list)
    looks: int = 0
    goes_on: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.goes_on.set()

    def look(self) -> Seen:
        self.goes_on.wait(PATIENCE_S)
        self.looks += 1
        return self.seen or Seen(self.ledger, at=time.time())

    def events(self) -> list[Entry]:
        given, self.entries = self.entries, []
        return given

    def plan(self, name: str) -> dict[str, Any]:
        return self.planned

    def run(self, *commands: tuple[str, ...]) -> Done:
        self.ran.append(commands)
        return self.done


def shown(app: Monitor) -> str:
    """The screen as text, dialogs over it included."""
    width, height = app.size
    console = Console(
        width=width,
        height=height,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        record=True,
        legacy_windows=False,
        safe_box=False,
    )
    console.print(app.screen._compositor.render_update(full=True, screen_stack=app._background_screens))
    return "\n".join(line.rstrip() for line in console.export_text().splitlines()) + "\n"


class Watcher:
    """A monitor that runs, and one who looks at it and presses keys."""

    def __init__(self, app: Monitor, pilot: Pilot[None]) -> None:
        self.app = app
        self._pilot = pilot

    async def press(self, *keys: str) -> None:
        await self._pilot.press(*keys)

    async def until(self, true: Callable[[], Any]) -> None:
        """Wait for something that a thread brings about."""
        give_up = time.monotonic() + PATIENCE_S
        while not true():
            assert time.monotonic() < give_up, shown(self.app)
            await self._pilot.pause(0.02)
        await self._pilot.pause()

    async def sees(self, text: str) -> str:
        """The screen, once it has `text` on it."""
        await self.until(lambda: text in shown(self.app))
        return shown(self.app)

    async def sees_no(self, text: str) -> str:
        """The screen, once it no longer has `text` on it."""
        await self.until(lambda: text not in shown(self.app))
        return shown(self.app)


def watch(
    source: Fixed,
    what: Callable[[Watcher], Awaitable[None]],
    size: tuple[int, int] = (80, 24),
    order: Order | None = None,
    wanted: str = "",
) -> Monitor:
    """Run a monitor over `source` while `what` looks at it."""
    app = Monitor(source, source.seen or Seen(source.ledger, at=time.time()), order, wanted)

    async def run() -> None:
        async with app.run_test(size=size, notifications=True) as pilot:
            watcher = Watcher(app, pilot)
            await watcher.until(lambda: source.looks or not source.goes_on.is_set())
            await what(watcher)

    asyncio.run(run())
    return app
