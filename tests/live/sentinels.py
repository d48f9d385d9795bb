"""A sentinel at work in a test: a capacity.yaml with short intervals, real processes, and everything that it told."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

from admitd import app, hands
from admitd.activity import ActivityWatch
from admitd.core.events import Event
from admitd.gate import Scene
from admitd.mending import Mending
from admitd.sentinel import Sentinel, Watch
from admitd.vitals import Vitals
from tests.live.servers import GEAR, Servers, wait_until

STAND_IN = GEAR / "stand_in.py"


class Doing:
    """What one service does: `busy` as the test says, else by its processor time."""

    def __init__(self, busy: bool | None, last_active_s: float | None) -> None:
        self.busy = busy
        self.last_active_s = last_active_s
        self.detail = "as the test says"


class SaidWatch:
    """Busy as the test says, and progress by processor time, in ticks of 10 ms."""

    def __init__(self, busy: bool | None) -> None:
        self._busy = busy
        self._pids: dict[str, list[int]] = {}

    def look(self, scene: Scene, now: float) -> Mapping[str, Doing]:
        self._pids = {name: [p.id.pid for p in a.processes] for name, a in scene.ledger.accounts.items()}
        return {name: Doing(self._busy, None) for name in self._pids}

    def progress(self, service: str) -> int | None:
        ticks = 0
        for pid in self._pids.get(service, []):
            try:
                times = psutil.Process(pid).cpu_times()
            except psutil.Error:
                continue
            ticks += round((times.user + times.system) * 100)
        return ticks

    @contextlib.contextmanager
    def own_probe(self, service: str) -> Iterator[None]:
        yield


class Guard:
    """One sentinel over one capacity.yaml, in this process; `events` is all that it and those it used wrote down."""

    def __init__(
        self,
        folder: Path,
        servers: Servers,
        services: Mapping[str, Any],
        settings: Mapping[str, Any],
        *,
        watch: Watch | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self.servers = servers
        self.events: list[Event] = []
        self.watch = watch or ActivityWatch()
        self.file = folder / "capacity.yaml"
        self.write(services, settings)
        self.environ = {
            **servers.env,
            "HOME": str(folder),
            "XDG_STATE_HOME": str(folder / "state"),
            "ADMIT_STATE_DIR": str(folder / "reservations"),
        }
        self.house = app.furnish(self.environ, str(self.file))
        self.gate = self.house.gate
        self.gate.record = self._keep
        mending = Mending(self.gate, lambda name: folder / f"{name}.log", self._keep)
        self.sentinel = Sentinel(self.gate, self.watch, mending, self._keep, Vitals(folder / "alive"), clock=clock)

    def _keep(self, event: Event) -> None:
        self.events.append(event)

    def write(self, services: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        content = {
            "hosts": {"here": {"ram_physical_mb": 65_536, "ram_reserved_mb": 1, "ram_safety_mb": 1}},
            "services": dict(services),
            "sentinel": {"stopped_interval_s": 0.5, "probe_interval_s": 0.3, **settings},
            "live_veto": "off",
        }
        self.file.write_text(yaml.safe_dump(content))
        self.file.chmod(0o600)

    def __enter__(self) -> Guard:
        self.sentinel.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self.sentinel.stop()
        named = [t.name for t in threading.enumerate() if t.name == "admit-sentinel"]
        assert not named or problem[0] is not None, "its thread lives on"

    def kinds(self, service: str | None = None) -> list[str]:
        return [each.kind for each in self.events if service is None or each.service == service]

    def wait_for(self, kind: str, within_s: float = 60, times: int = 1) -> Event:
        def there() -> list[Event]:
            found = [each for each in self.events if each.kind == kind]
            return found if len(found) >= times else []

        found: list[Event] = wait_until(there, within_s, lambda: f"{kind}; there was: {[e.text for e in self.events]}")
        return found[-1]

    def rounds(self, more: int = 3) -> None:
        """Let `more` whole rounds go by."""
        until = self.sentinel.health().rounds + more
        wait_until(lambda: self.sentinel.health().rounds >= until, 60, lambda: f"{more} rounds")

    def rests(self) -> bool:
        """Whether no round has come for longer than the short intervals of these tests."""
        before = self.sentinel.health().rounds
        time.sleep(1)
        return self.sentinel.health().rounds == before

    def pids(self, service: str) -> list[int]:
        found = self.gate.look().ledger.account(self.gate.capacity().services[service])
        return [process.id.pid for process in found.processes]

    def unloaded_by_hand(self, service: str) -> None:
        with hands.on(self.gate.records.where, service):
            hands.let_go(self.gate.records.where, service)


def stand_in(port: int, *options: str, **fields: Any) -> dict[str, Any]:
    """A service that is a stand-in: how it is seen, loaded and probed."""
    command = " ".join([str(STAND_IN), "--port", str(port), *options])
    return {
        "ram_budget_mb": 200,
        "process_pattern": rf"stand_in\.py --port {port}\b",
        "load_cmd": command,
        "load_timeout_s": 10,
        "unload_timeout_s": 2,
        "probe": {"url": f"http://127.0.0.1:{port}/v1/completions", "timeout_s": 0.5, "startup_grace_s": 0.1},
        **fields,
    }


def start_stand_in(servers: Servers, port: int, *options: str, **popen: Any) -> Any:
    """Start it as a user would, and wait until it listens."""
    process = servers.start(STAND_IN, "--port", str(port), *options, **popen)
    wait_until(lambda: listens(port), 20, servers.log(process))
    return process


def become(port: int, mode: str) -> None:
    """Have the stand-in on `port` misbehave from now on."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/become/{mode}", timeout=5) as answer:
        assert answer.status == 200


def hits(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/hits", timeout=5) as answer:
        return int(answer.read())


def listens(port: int) -> bool:
    """Whether anything answers there."""
    try:
        hits(port)
    except OSError:
        return False
    return True


def state(pid: int) -> str:
    """The state of a process, as psutil calls it."""
    return str(psutil.Process(pid).status())


def environment(monkeypatch: Any, servers: Servers) -> None:
    """What this process starts carries the mark of the test, so that it is ended with the test."""
    for name, value in servers.env.items():
        if os.environ.get(name) != value:
            monkeypatch.setenv(name, value)


MakeGuard = Callable[..., Guard]


SLEEPER = "#!{}\nimport time\nprint('up', flush=True)\ntime.sleep(600)\n"


def sleeper(servers: Servers, folder: Path, name: str) -> subprocess.Popen[bytes]:
    """A program of that name, which does nothing."""
    program = folder / name
    program.write_text(SLEEPER.format(sys.executable))
    program.chmod(0o700)
    process = servers.start(program)
    wait_until(lambda: "up" in servers.log(process))
    return process
