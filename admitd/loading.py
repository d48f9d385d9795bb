"""loading: start an admitted service's load_cmd and follow it until the service answers, fails, or is out of time."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from admitd import actuator, hands, probe
from admitd.core import chronicle, headroom
from admitd.core.events import Event
from admitd.core.ledger import Account
from admitd.core.terms import NOTHING, RAM, Amounts, Service, State
from admitd.gate import Gate
from admitd.processes.table import CannotSee
from admitd.reservations import Busy, NotRecorded

LOOK_EVERY_S: Final = 0.25
STEADY_S: Final = 1.5
"""How long a service without a check or probe must be seen before it counts as up: a bad flag ends it within this."""
TAIL_LINES: Final = 12
_NOT_YET: Final = {
    State.HALF_LOADED: "its process is there, its check does not say loaded yet",
    State.SUSPENDED: "it is stopped (state T)",
}


@dataclass(frozen=True, slots=True)
class Progress:
    """One look while a load goes on. Amounts are bytes; `doing` is a few words for people."""

    elapsed_s: float
    state: State
    measured: Amounts
    doing: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """It is there, and answers where it has a probe."""

    took_s: float
    measured: Amounts
    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The load command failed, or what it started went away."""

    why: str
    tail: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoadTimedOut:
    """load_timeout_s went by. `seen`: what was there at the end."""

    seen: str
    state: State
    tail: tuple[str, ...]


Outcome = Loaded | LoadFailed | LoadTimedOut


def no_load_cmd(name: str) -> actuator.CannotStart:
    """Why a service without a load_cmd cannot be loaded, and what starts it."""
    return actuator.CannotStart(f"{name} has no load_cmd; start it with: admit run {name} -- CMD")


class Load:
    """One load under way: the process of its load_cmd, and the log."""

    def __init__(self, gate: Gate, service: Service, log: Path, reservation: str | None) -> None:
        if service.load_cmd is None:
            raise no_load_cmd(service.name)
        self._gate = gate
        self._service = service
        self._log = log
        self._log_from = log.stat().st_size if log.exists() else 0
        lease = gate.records.lease(reservation) if reservation else None
        try:
            self.process: subprocess.Popen[bytes] = actuator.start_load(service.load_cmd, log, lease)
        except actuator.CannotStart as problem:
            gate.record(chronicle.load_failed(service.name, str(problem)))
            raise
        finally:
            if lease is not None:
                # Ours is not needed: this process is the holder. What it started keeps its own copy.
                os.close(lease)
        self._began = time.monotonic()
        self._reservation = reservation
        self._is_handed_over = False
        self._seen_since: float | None = None
        self._was_seen = False
        self._missed = 0

    def follow(self, on_progress: Callable[[Progress], None]) -> Outcome:
        """Look until there is an outcome. Interrupt it at any time: what was started goes on by itself."""
        for outcome in self._looks(on_progress):
            if outcome is not None:
                ended = self._answered(outcome) if self._service.probe is not None else outcome
                self._gate.record(_remembered(self._service, ended))
                return ended
            time.sleep(LOOK_EVERY_S)
        raise AssertionError("the looks end only with an outcome")

    def _answered(self, up: Outcome) -> Outcome:
        """Its weights may have come in while it was probed: what it holds is read once it has answered. That it did is
        written down for the sentinel, whose own first probe may come when it is at work already."""
        if not isinstance(up, Loaded):
            return up
        hands.answered(self._gate.records.where, self._service.name)
        up = replace(up, took_s=time.monotonic() - self._began)
        try:
            account = self._gate.look().ledger.account(self._service)
        except (CannotSee, NotRecorded):
            return up
        return replace(up, measured=account.measured or up.measured)

    def tail(self) -> tuple[str, ...]:
        """The last lines that this load wrote to its log."""
        try:
            with self._log.open("rb") as log:
                size = log.seek(0, 2)
                log.seek(max(size - 16_384, self._log_from if self._log_from <= size else 0))
                lines = log.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ()
        return tuple(lines[-TAIL_LINES:])

    def _looks(self, on_progress: Callable[[Progress], None]) -> Iterator[Outcome | None]:
        while True:
            elapsed = time.monotonic() - self._began
            code = self.process.poll()  # before the look: what ended before it was started cannot appear later
            try:
                account = self._gate.look().ledger.account(self._service)
            except (CannotSee, NotRecorded) as problem:
                on_progress(Progress(elapsed, State.STOPPED, NOTHING, f"cannot look: {problem}"))
                yield self._late(elapsed, State.STOPPED, str(problem))
                continue
            outcome, doing = self._judge(account, code, elapsed)
            on_progress(Progress(elapsed, account.state, account.measured or NOTHING, doing))
            yield outcome or self._late(elapsed, account.state, doing)

    def _judge(self, account: Account, code: int | None, elapsed: float) -> tuple[Outcome | None, str]:
        real = bool(account.processes) or (account.check is not None and account.check.loaded is True)
        if not account.state.is_loaded or not real:
            self._seen_since = None
            self._missed += 1
            # One look is no snapshot, and misses who forks and goes while it is taken: two must agree.
            gone = self._was_seen and self._missed > 1
            if code == 0:
                self.hand_over()
            if code is not None and (gone or (code != 0 and not self._was_seen)):
                what = f"load_cmd ended with {actuator.exit_text(code)}"
                return LoadFailed(
                    f"{what}; {self._service.name} was there and is gone" if gone else what, self.tail()
                ), ""
            return None, "waiting for it to appear" if code is None else "load_cmd has ended, waiting for it to appear"
        if self._seen_since is None:
            self._seen_since = time.monotonic()
        self._was_seen, self._missed = True, 0
        if account.state in _NOT_YET:
            return None, _NOT_YET[account.state]
        up = Loaded(elapsed, account.measured or NOTHING, tuple(p.id.pid for p in account.processes))
        if self._service.probe is not None:
            heard = probe.ask(self._service.probe, max(1.0, self._service.load_timeout_s - elapsed))
            return (up, "answers") if heard.answered else (None, f"no answer yet: {heard.detail}")
        if account.check is not None or time.monotonic() - self._seen_since >= STEADY_S:
            return up, "loaded"
        return None, "it is there"

    def hand_over(self) -> bool:
        """Whether another program goes on to load it (launchd, Docker, LM Studio), because its command has ended well
        and nothing of it was there yet: then its room is kept also where this process ends. What can't be written down
        now is tried again at the next look."""
        if self._is_handed_over or self._was_seen or self._reservation is None or self.process.poll() != 0:
            return self._is_handed_over
        with contextlib.suppress(Busy, NotRecorded):
            self._is_handed_over = self._gate.hand_over(self._reservation)
        return self._is_handed_over

    def _late(self, elapsed: float, state: State, seen: str) -> LoadTimedOut | None:
        if elapsed < self._service.load_timeout_s:
            return None
        return LoadTimedOut(seen, state, self.tail())


def await_answer(gate: Gate, service: Service, state: State, on_progress: Callable[[Progress], None]) -> Outcome:
    """Wait until what is there already, and was seen in `state`, is loaded and answers its probe, where it has one:
    somebody else may be loading it still. Each look that finds it otherwise is told."""
    began = time.monotonic()
    measured = NOTHING
    missed = 0
    while True:
        doing = _NOT_YET.get(state, "")
        seen = doing
        if not doing and service.probe is not None:
            heard = probe.ask(service.probe, max(1.0, service.load_timeout_s - (time.monotonic() - began)))
            seen, doing = ("", "") if heard.answered else (heard.detail, f"no answer yet: {heard.detail}")
        elapsed = time.monotonic() - began
        if not doing and not missed:
            return Loaded(elapsed, NOTHING, ())
        seen, doing = seen or "it was not seen just now", doing or "it was not seen just now"
        with contextlib.suppress(CannotSee, NotRecorded):
            account = gate.look().ledger.account(service)
            missed = 0 if account.state.is_loaded else missed + 1
            state, measured = account.state, account.measured or NOTHING
        if missed > 1:
            return LoadFailed("it was there and is gone", ())
        if elapsed >= service.load_timeout_s:
            return LoadTimedOut(seen, state, ())
        on_progress(Progress(elapsed, state, measured, doing))
        time.sleep(LOOK_EVERY_S)


def _remembered(service: Service, outcome: Outcome) -> Event:
    if isinstance(outcome, Loaded):
        return chronicle.loaded(service.name, outcome.took_s, outcome.measured, outcome.pids)
    if isinstance(outcome, LoadFailed):
        return chronicle.load_failed(service.name, outcome.why)
    held = outcome.state.is_loaded
    return chronicle.load_timed_out(service.name, service.load_timeout_s, outcome.seen, holds_memory=held)


def share(progress: Progress, service: Service) -> float:
    """How much of the budget is in use, 0 to 1 and beyond, for a progress bar."""
    budget = service.budget.get(RAM, 0)
    return headroom.total([progress.measured]).get(RAM, 0) / budget if budget else 0.0
