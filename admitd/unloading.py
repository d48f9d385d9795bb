"""unloading: stop a service, by its own command or politely by signal, and wait until its memory is back."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from admitd import actuator, hands
from admitd.core import chronicle, headroom
from admitd.core.ledger import Account
from admitd.core.terms import NOTHING, RAM, Amounts, Reading, Service
from admitd.core.units import MIB, free_to_mb, to_mb
from admitd.gate import Gate, Scene

LOOK_EVERY_S: Final = 0.1
BACK_SHARE: Final = 0.75
BACK_WAIT_S: Final = 5.0
"""Memory comes back a moment after its process has gone: Ollama waits up to 5 s for 75 % of it (server/sched.go)."""
BACK_LEAST: Final = 64 * MIB
"""Less than this is lost in what other processes take and give meanwhile, and not waited for."""
KILL_WAIT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Unloaded:
    """It is gone. `back`: how much more memory the system has available than before; None where it would not say."""

    took_s: float
    was_loaded: bool
    back: Amounts | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class UnloadFailed:
    """It could not be asked to go."""

    why: str


@dataclass(frozen=True, slots=True)
class UnloadTimedOut:
    """It was asked to go and is still there."""

    why: str
    pids: tuple[int, ...]


Outcome = Unloaded | UnloadFailed | UnloadTimedOut
Tell = Callable[[str], None]


def unload(gate: Gate, name: str, tell: Tell, *, kill: bool = False) -> Outcome:
    """Unload one service. `kill`: what is still there after unload_timeout_s gets SIGKILL.

    Raises CannotSee or NotRecorded where nothing can be seen, and then nothing was touched.
    """
    with hands.on(gate.records.where, name):
        return _remembered(gate, name, _unload(gate, name, tell, _ask_to_go, None, kill=kill))


def close(gate: Gate, name: str, tell: Tell, grace_s: float) -> Outcome:
    """End a service by signals, whatever its unload_cmd: SIGTERM, `grace_s` for it to save its work, then SIGKILL.

    Raises CannotSee or NotRecorded where nothing can be seen, and then nothing was touched.
    """
    with hands.on(gate.records.where, name):
        return _remembered(gate, name, _unload(gate, name, tell, _ask_by_signal, grace_s, kill=True))


def _remembered(gate: Gate, name: str, outcome: Outcome) -> Outcome:
    if isinstance(outcome, Unloaded):
        hands.let_go(gate.records.where, name)
    if isinstance(outcome, UnloadFailed):
        gate.record(chronicle.unload_failed(name, outcome.why))
    elif isinstance(outcome, UnloadTimedOut):
        gate.record(chronicle.unload_failed(name, outcome.why, outcome.pids))
    elif outcome.was_loaded:
        gate.record(chronicle.unloaded(name, outcome.took_s, outcome.back))
    return outcome


def _unload(
    gate: Gate,
    name: str,
    tell: Tell,
    ask: Callable[[Gate, Account, Tell], str | None],
    grace_s: float | None,
    *,
    kill: bool,
) -> Outcome:
    began = time.monotonic()
    before = gate.look()
    account = before.ledger.account(before.capacity.services[name])
    if not account.state.is_loaded:
        note = "it is being loaded, and not visible yet" if account.reservation is not None else ""
        return Unloaded(0.0, was_loaded=False, note=note)
    asked = ask(gate, account, tell)
    if asked is not None:
        return UnloadFailed(asked)
    deadline = began + (account.service.unload_timeout_s if grace_s is None else grace_s)
    left = _wait_until_gone(gate, account.service, deadline)
    if left is not None and kill:
        tell(f"{name} is still there; SIGKILL")
        refused = _signal(gate, left, signal.SIGKILL)
        if refused:
            return UnloadFailed(refused)
        left = _wait_until_gone(gate, account.service, time.monotonic() + KILL_WAIT_S)
    if left is not None:
        pids = tuple(process.id.pid for process in left.processes)
        after = f"{name} is still there {time.monotonic() - began:.0f} s after it was asked to go"
        return UnloadTimedOut(after, pids)
    back, note = _wait_until_back(gate, before, account)
    return Unloaded(time.monotonic() - began, was_loaded=True, back=back, note=note)


def _ask_to_go(gate: Gate, account: Account, tell: Tell) -> str | None:
    """Ask once; None where it was asked, else why it could not be."""
    service = account.service
    if service.unload_cmd is not None:
        tell(f"running its unload_cmd for {service.name}")
        return _run_unload_cmd(service)
    return _ask_by_signal(gate, account, tell)


def _ask_by_signal(gate: Gate, account: Account, tell: Tell) -> str | None:
    service = account.service
    if not account.processes:
        mentions = ", ".join(f"{seen.process.id.pid} ({seen.program})" for seen in account.sightings)
        if mentions:
            return (
                f"only mentions of {service.name} were found, and a mention is never signalled: process {mentions}. "
                f"If that is the service, declare its program: (admit explain {service.name})"
            )
        return f"{service.name} has no unload_cmd and no process_pattern to find its processes by"
    tell(f"SIGTERM to {', '.join(str(process.id.pid) for process in account.processes)} ({service.name})")
    return _signal(gate, account, signal.SIGTERM)


def _signal(gate: Gate, account: Account, sig: signal.Signals) -> str | None:
    matcher = gate.matcher(gate.capacity())
    sent = 0
    refusals = []
    for process in account.processes:
        refused = actuator.send(process, account.service.name, sig, gate.table, matcher)
        if refused is None:
            sent += 1
            if process.stopped and sig != signal.SIGKILL:
                # A stopped process gets no other signal until it is continued.
                actuator.send(process, account.service.name, signal.SIGCONT, gate.table, matcher)
        elif not refused.endswith("is gone"):
            refusals.append(refused)
    return "; ".join(refusals) if refusals and not sent else None


def _run_unload_cmd(service: Service) -> str | None:
    with tempfile.TemporaryFile() as said:
        try:
            process = actuator.start_helper(service.unload_cmd or "", said)
        except actuator.CannotStart as problem:
            return f"its unload_cmd: {problem}"
        try:
            code = process.wait(timeout=service.unload_timeout_s)
        except subprocess.TimeoutExpired:
            actuator.end_session(process.pid)
            process.wait()
            return f"its unload_cmd did not end in {service.unload_timeout_s:g} s"
        if code == 0:
            return None
        said.seek(max(0, said.seek(0, 2) - 2000))
        text = said.read().decode("utf-8", "replace").strip()
        return f"its unload_cmd ended with {actuator.exit_text(code)}" + (f": {text}" if text else "")


def _wait_until_gone(gate: Gate, service: Service, deadline: float) -> Account | None:
    """None once it is gone; the account of what is left when the time is up."""
    while True:
        account = gate.look().ledger.account(service)
        if not account.state.is_loaded or (account.mention_only and not service.unload_cmd):
            return None
        if time.monotonic() >= deadline:
            return account
        time.sleep(LOOK_EVERY_S)


def _wait_until_back(gate: Gate, before: Scene, account: Account) -> tuple[Amounts | None, str]:
    """Wait until most of what it held is available again, a few seconds at most."""
    held = (account.measured or NOTHING).get(RAM, 0)
    give_up = time.monotonic() + BACK_WAIT_S
    while True:
        back = _more(before.reading, gate.look().reading)
        if back is None or held < BACK_LEAST or back.get(RAM, 0) >= BACK_SHARE * held:
            return back, ""
        if time.monotonic() >= give_up:
            note = (
                f"{free_to_mb(max(0, back.get(RAM, 0)))} MB of the {to_mb(held)} MB it held are back so far: "
                "something else took the rest, or the system has not let go of it"
            )
            return back, note
        time.sleep(LOOK_EVERY_S)


def _more(before: Reading, now: Reading) -> Amounts | None:
    if before.available is None or now.available is None:
        return None
    return headroom.less(now.available, before.available)
