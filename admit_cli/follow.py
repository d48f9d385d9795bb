"""follow: what is shown while a command waits in the queue or follows a load; on a terminal one line that changes,
elsewhere a line for each thing that is new."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from admit_cli import render
from admit_cli.door import Door
from admitd import loading, places, unloading
from admitd.actuator import CannotStart
from admitd.core import wire
from admitd.core.terms import RAM, Service
from admitd.core.units import show_duration, to_mb

INTERRUPTED: Final = 130
_QUIET_S: Final = 10.0


class Line:
    """One line of progress on stderr."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._last = ""
        self._last_at = -_QUIET_S

    def show(self, steady: str, moving: str = "") -> None:
        """Show it. `moving` changes at every look; where stderr is no terminal, only a new `steady` is worth a line."""
        if self._live:
            print(f"\r\x1b[2K{steady}{moving}", end="", file=sys.stderr, flush=True)
        elif steady != self._last or time.monotonic() - self._last_at > _QUIET_S:
            print(f"{steady}{moving}", file=sys.stderr, flush=True)
            self._last_at = time.monotonic()
        self._last = steady

    def end(self) -> None:
        """Leave the line as it is and go on below it; or take it away where nothing was shown."""
        if self._live and self._last:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
        self._last = ""


class Queue:
    """Our place in the queue, while we wait in it."""

    def __init__(self, door: Door, name: str) -> None:
        self._door = door
        self._name = name
        self._line = Line()
        self._began = time.monotonic()

    def show(self) -> None:
        """Look where we are and show it."""
        waiting = [each["holder_pid"] for each in self._door.capacity()["waiting"]]
        if os.getpid() in waiting:
            place = f"{self._name} waits, position {waiting.index(os.getpid()) + 1} of {len(waiting)}"
            self._line.show(place, f", {show_duration(time.monotonic() - self._began)} so far")


def start_and_follow(door: Door, values: dict[str, Any], verdict: dict[str, Any]) -> int:
    """Run the load_cmd of an admitted service and follow it; the exit code. The reservation is given back."""
    name, held = values["name"], verdict["reservation"]["id"]
    gate = door.inside().house.gate
    load: loading.Load | None = None
    line = Line()
    # As Ctrl-C: what is killed politely still says what it leaves behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        service = gate.capacity().services[name]
        log = Path(places.log_path(os.environ, name))
        line.show(f"{name} admitted: {render.mb(verdict['budget_mb'])} reserved", f"; log: {log}")
        load = loading.Load(gate, service, log, held)
        outcome = load.follow(_shown(line, service))
        line.end()
        return _ended(name, service, outcome, values, gate)
    except KeyboardInterrupt:
        line.end()
        _say_what_is_left(name, load)
        return INTERRUPTED
    except (CannotStart, KeyError) as problem:
        line.end()
        why = problem if isinstance(problem, CannotStart) else f"{name} is not in {gate.capacity().path}"
        print(f"admit: {why}", file=sys.stderr)
        return wire.FAILED
    finally:
        _give_back(door, held)


def _shown(line: Line, service: Service) -> Callable[[loading.Progress], None]:
    def show(progress: loading.Progress) -> None:
        held = to_mb(progress.measured.get(RAM, 0))
        budget = to_mb(service.budget.get(RAM, 0))
        share = render.bar(loading.share(progress, service), 20)
        moving = f"  {progress.elapsed_s:.0f} s  {share} {held} of {budget} MB"
        line.show(f"{service.name}: {progress.doing}", moving)

    return show


def _ended(name: str, service: Service, outcome: loading.Outcome, values: dict[str, Any], gate: Any) -> int:
    if isinstance(outcome, loading.Loaded):
        from admitd.acting import loaded

        result = loaded(name, "loaded", outcome)
        if values["json"]:
            render.print_json({"verdict": "admitted", **result})
        else:
            print(render.loaded(result, to_mb(service.budget.get(RAM, 0))))
        return wire.OK
    if isinstance(outcome, loading.LoadFailed):
        print(f"admit: {name} failed to load: {outcome.why}", file=sys.stderr)
        code, word, why = wire.FAILED, "failed", outcome.why
    else:
        bound = show_duration(service.load_timeout_s)
        why = f"not loaded within {bound}: {outcome.seen}"
        print(f"admit: {name} was {why}", file=sys.stderr)
        code, word = wire.TIMED_OUT, "timed_out"
        if outcome.state.is_loaded and not values["cleanup"]:
            print(f"  what is there of it holds memory; end it: admit unload {name}", file=sys.stderr)
    for each in outcome.tail:
        print(f"  | {each}", file=sys.stderr)
    if values["cleanup"] and isinstance(outcome, loading.LoadTimedOut):
        cleaned = unloading.unload(gate, name, lambda text: print(f"admit: {text}", file=sys.stderr))
        print(f"admit: {render.unload_outcome(name, cleaned)}", file=sys.stderr)
    if values["json"]:
        render.print_json({"verdict": "admitted", "outcome": word, "service": name, "detail": why})
    return code


def _say_what_is_left(name: str, load: loading.Load | None) -> None:
    """After Ctrl-C: nothing is reserved any more; what was started goes on."""
    if load is None or load.process.poll() is not None:
        print(f"admit: interrupted; nothing is reserved for {name}, nothing of it was left running", file=sys.stderr)
        return
    print(
        f"admit: interrupted; nothing is reserved for {name} any more. Left running: process {load.process.pid} "
        f"(its load_cmd) and what it started; end it: admit unload {name}, or kill {load.process.pid}",
        file=sys.stderr,
    )


def _give_back(door: Door, held: str) -> None:
    try:
        door.ask("DELETE", f"/reservations/{held}")
    except Exception as problem:
        print(
            f"admit: ignoring that the reservation could not be given back ({problem}): it ends with this process",
            file=sys.stderr,
        )
