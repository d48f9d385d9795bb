"""unloading: stop a service, by its own command or politely by signal, and wait until its memory is back."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from admitd import actuator, hands, supervisors
from admitd.core import chronicle, headroom, respawn
from admitd.core.ledger import Account
from admitd.core.respawn import Supervisor
from admitd.core.terms import NOTHING, RAM, Amounts, Process, ProcessId, Reading, Reservation, Service
from admitd.core.units import MIB, free_to_mb, to_mb
from admitd.gate import Gate, Scene
from admitd.processes.table import CannotSee
from admitd.reservations import NotRecorded

LOOK_EVERY_S: Final = 0.1
BACK_SHARE: Final = 0.75
BACK_WAIT_S: Final = 5.0
"""Memory comes back a moment after its process has gone: Ollama waits up to 5 s for 75 % of it (server/sched.go)."""
BACK_TOLD: Final = 0.5
"""Less than this after all that is worth a word; between the two the kernel is only late to count what it got back."""
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
    """It was asked to go and is still there. `keeper`: who started it again, where all that is there now (`pids`, the
    first started first) came after it was asked; None where it is what was asked."""

    why: str
    pids: tuple[int, ...]
    keeper: Supervisor | None = None


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while a service was being unloaded; the text says how far that had come, and what goes on."""


Outcome = Unloaded | UnloadFailed | UnloadTimedOut
Tell = Callable[[str], None]


def unload(gate: Gate, name: str, tell: Tell, *, kill: bool = False, asked: bool = True) -> Outcome:
    """Unload one service. `kill`: what is still there after unload_timeout_s gets SIGKILL; at once where its
    unload_cmd failed. `asked`: it is to stay unloaded; false where it is to be loaded again.

    Raises CannotSee or NotRecorded where nothing can be seen, and then nothing was touched.
    """
    with hands.on(gate.records.where, name, asked=asked):
        return _remembered(gate, name, _unload(gate, name, tell, kill=kill, calls_off=asked))


def close(gate: Gate, name: str, tell: Tell, grace_s: float, *, asked: bool = True) -> Outcome:
    """End a service by signals, whatever its unload_cmd: SIGTERM, `grace_s` for it to save its work, then SIGKILL.

    Raises CannotSee or NotRecorded where nothing can be seen, and then nothing was touched.
    """
    with hands.on(gate.records.where, name, asked=asked):
        return _remembered(gate, name, _unload(gate, name, tell, kill=True, grace_s=grace_s))


def end_hung(gate: Gate, name: str, tell: Tell, ladder_s: float) -> Outcome:
    """Unload one that is hung, to load it again: where its unload_cmd does not help, SIGTERM, `ladder_s` to go, and
    SIGKILL. That its supervisor starts it again is what is wanted, and remembered as no failure.

    Raises CannotSee or NotRecorded where nothing can be seen, and then nothing was touched.
    """
    with hands.on(gate.records.where, name, asked=False):
        before = gate.look()
        account = before.ledger.account(before.capacity.services[name])
        if not account.state.is_loaded:
            return Unloaded(0.0, was_loaded=False)
        outcome = _Unload(gate, before, account, tell, None, ladder_s).run(kill=True)
        is_back = isinstance(outcome, UnloadTimedOut) and outcome.keeper is not None
        return outcome if is_back else _remembered(gate, name, outcome)


def _remembered(gate: Gate, name: str, outcome: Outcome) -> Outcome:
    if isinstance(outcome, Unloaded):
        hands.let_go(gate.records.where, name)
    if isinstance(outcome, UnloadFailed):
        gate.record(chronicle.unload_failed(name, outcome.why))
    elif isinstance(outcome, UnloadTimedOut) and outcome.keeper is not None:
        back = respawn.Back(name, 0.0, outcome.pids[0])
        gate.record(respawn.event(back, outcome.keeper).event)
    elif isinstance(outcome, UnloadTimedOut):
        gate.record(chronicle.unload_failed(name, outcome.why, outcome.pids))
    elif outcome.was_loaded:
        gate.record(chronicle.unloaded(name, outcome.took_s, outcome.back))
    return outcome


def _unload(
    gate: Gate, name: str, tell: Tell, *, kill: bool, grace_s: float | None = None, calls_off: bool = False
) -> Outcome:
    before = gate.look()
    account = before.ledger.account(before.capacity.services[name])
    if calls_off and account.reservation is not None and account.reservation.handed_over:
        return _call_off(gate, account.service, account.reservation, tell)
    if not account.state.is_loaded:
        note = "it is being loaded, and not visible yet" if account.reservation is not None else ""
        return Unloaded(0.0, was_loaded=False, note=note)
    return _Unload(gate, before, account, tell, grace_s).run(kill)


def _call_off(gate: Gate, service: Service, held: Reservation, tell: Tell) -> Outcome:
    """Unload what its load_cmd has left to another program, and is not visible yet."""
    if service.unload_cmd is None:
        until = time.strftime("%H:%M:%S", time.localtime(held.expires_at))
        return UnloadFailed(
            f"its load_cmd has left it to another program, it is not visible yet, and no unload_cmd would call that "
            f"off; {to_mb(held.budget.get(RAM, 0))} MB stay reserved for it until {until}, or until it is there"
        )
    began = time.monotonic()
    tell(f"running the unload_cmd of {service.name}")
    problem = _run_unload_cmd(service)
    if problem is not None:
        return problem
    gate.give_back(held.id)
    note = "it was not visible yet; what was reserved for it is given back"
    return Unloaded(time.monotonic() - began, was_loaded=False, note=note)


def clean_up(gate: Gate, name: str, tell: Tell) -> Outcome:
    """Unload what a load left behind; its unload_cmd runs even where nothing of it can be seen."""
    scene = gate.look()
    account = scene.ledger.account(scene.capacity.services[name])
    if account.state.is_loaded or account.service.unload_cmd is None:
        return unload(gate, name, tell)
    began = time.monotonic()
    tell(f"running the unload_cmd of {name}")
    problem = _run_unload_cmd(account.service)
    return problem or Unloaded(time.monotonic() - began, was_loaded=False, note="its unload_cmd was run")


class _Unload:
    """One unload under way. With a `grace_s` it is by signals alone, and that is the time it has to go. With a
    `ladder_s` signals follow where its unload_cmd does not help.

    Only who was there when it was asked to go is ever signalled: what its supervisor starts in its place is in order.
    """

    def __init__(
        self,
        gate: Gate,
        before: Scene,
        account: Account,
        tell: Tell,
        grace_s: float | None,
        ladder_s: float | None = None,
    ) -> None:
        self._gate = gate
        self._before = before
        self._account = account
        self._service = account.service
        self._tell = tell
        self._grace_s = grace_s
        self._ladder_s = ladder_s
        self._asked = frozenset(process.id for process in account.processes)
        self._began = time.monotonic()
        self._so_far = ""

    def run(self, kill: bool) -> Outcome:
        """Unload it. Raises Interrupted."""
        try:
            return self._run(kill)
        except Interrupted:
            raise
        except KeyboardInterrupt:
            raise Interrupted(self._so_far) from None

    def _run(self, kill: bool) -> Outcome:
        left: Account | None = self._account
        problem = self._ask_to_go()
        if problem is None:
            patience_s = self._service.unload_timeout_s if self._grace_s is None else self._grace_s
            left = self._wait_until_gone(self._began + patience_s)
        elif not kill or not self._account.processes:
            return problem
        else:
            self._tell(problem.why)
        if self._ladder_s is not None and self._service.unload_cmd is not None and self._who_was_asked(left):
            why = problem.why if problem is not None else f"{self._service.name} is still there after its unload_cmd"
            self._gate.record(chronicle.unload_failed(self._service.name, why))
            left, refused = self._insist(left, signal.SIGTERM, self._ladder_s)
            if refused is not None:
                return UnloadFailed(f"{why}; {refused}")
        if kill and self._who_was_asked(left):
            self._tell(f"{self._service.name} is still there; SIGKILL")
            left, refused = self._insist(left, signal.SIGKILL, KILL_WAIT_S)
            if refused is not None:
                return UnloadFailed(refused)
        if left is not None:
            return self._still_there(left)
        self._so_far = f"{self._service.name} is unloaded"
        back, note = _wait_until_back(self._gate, self._before, self._account)
        return Unloaded(time.monotonic() - self._began, was_loaded=True, back=back, note=note)

    def _who_was_asked(self, left: Account | None) -> tuple[Process, ...]:
        """Who of those that are left was asked to go; the others are somebody's new ones."""
        return () if left is None else tuple(process for process in left.processes if process.id in self._asked)

    def _insist(
        self, left: Account | None, sig: signal.Signals, patience_s: float
    ) -> tuple[Account | None, str | None]:
        """Signal who was asked to go and did not. What is left then, and why nobody could be signalled."""
        refused = self._signal(self._who_was_asked(left), sig)
        if refused is not None:
            return left, refused
        return self._wait_until_gone(time.monotonic() + patience_s), None

    def _wait_until_gone(self, deadline: float) -> Account | None:
        return _wait_until_gone(self._gate, self._account, deadline, self._asked)

    def _ask_to_go(self) -> UnloadFailed | UnloadTimedOut | None:
        """Ask once; None where it was asked, else why it could not be."""
        service, processes = self._service, self._account.processes
        if service.unload_cmd is not None and self._grace_s is None:
            self._so_far = f"the unload_cmd of {service.name} was started, and {service.name} may be there still"
            self._tell(f"running the unload_cmd of {service.name}")
            return _run_unload_cmd(service, tuple(process.id.pid for process in processes))
        if not processes:
            return UnloadFailed(_why_nobody_is_signalled(self._account))
        pids = ", ".join(str(process.id.pid) for process in processes)
        self._so_far = f"{service.name} (process {pids}) was sent SIGTERM, and may be there still"
        self._tell(f"SIGTERM to {pids} ({service.name})")
        refused = self._signal(processes, signal.SIGTERM)
        return None if refused is None else UnloadFailed(refused)

    def _still_there(self, left: Account) -> UnloadTimedOut:
        name = self._service.name
        processes = sorted(left.processes, key=lambda process: (process.id.started, process.id.pid))
        pids = tuple(process.id.pid for process in processes)
        if _is_replaced(left, self._asked):
            # The first of them: what that started in its turn has it for a parent, and it keeps nothing running.
            keeper = supervisors.of(pids[0])
            return UnloadTimedOut(f"{name} went, and {keeper.name} started it again", pids, keeper)
        why = f"{name} is still there {time.monotonic() - self._began:.0f} s after it was asked to go"
        if left.mention_only:
            why += f": {_that_is_a_mention(left)}"
        elif not pids:
            why += ": its loaded_check_cmd still says that it is loaded"
        return UnloadTimedOut(why, pids)

    def _signal(self, processes: tuple[Process, ...], sig: signal.Signals) -> str | None:
        """Signal each of these processes; why none could be, or None."""
        gate = self._gate
        matcher = gate.matcher(gate.capacity())
        sent = 0
        refusals = []
        for process in processes:
            refused = actuator.send(process, self._service.name, sig, gate.table, matcher)
            if refused is None:
                sent += 1
                if process.stopped and sig != signal.SIGKILL:
                    # A stopped process gets no other signal until it is continued.
                    actuator.send(process, self._service.name, signal.SIGCONT, gate.table, matcher)
            elif not refused.endswith("is gone"):
                refusals.append(refused)
        if sent:
            for refused in refusals:
                self._tell(refused)
        return "; ".join(refusals) if refusals and not sent else None


def _why_nobody_is_signalled(account: Account) -> str:
    if account.sightings:
        return _that_is_a_mention(account)
    return f"{account.service.name} has no unload_cmd, and no process of its own was found that could be signalled"


def _that_is_a_mention(account: Account) -> str:
    name = account.service.name
    mentions = ", ".join(f"{seen.process.id.pid} ({seen.program})" for seen in account.sightings)
    return (
        f"only mentions of {name} were found, and a mention is never signalled: process {mentions}. If that is the "
        f"service, declare its program: (admit explain {name})"
    )


def _run_unload_cmd(service: Service, pids: tuple[int, ...] = ()) -> UnloadFailed | UnloadTimedOut | None:
    """None where it ended well. `pids`: what is there of the service, for the report. Raises Interrupted: the command
    goes on then."""
    with tempfile.TemporaryFile() as said:
        try:
            process = actuator.start_helper(service.unload_cmd or "", said)
        except actuator.CannotStart as problem:
            return UnloadFailed(f"its unload_cmd: {problem}")
        try:
            code = process.wait(timeout=service.unload_timeout_s)
        except subprocess.TimeoutExpired:
            actuator.end_session(process.pid)
            process.wait()
            why = f"the unload_cmd of {service.name} did not end in {service.unload_timeout_s:g} s, and was ended"
            return UnloadTimedOut(why, pids)
        except KeyboardInterrupt:
            goes_on = f"the unload_cmd of {service.name} (process {process.pid}) goes on; end it: kill -TERM"
            raise Interrupted(f"{goes_on} -{process.pid}") from None
        if code == 0:
            return None
        said.seek(max(0, said.seek(0, 2) - 2000))
        text = said.read().decode("utf-8", "replace").strip()
        return UnloadFailed(f"its unload_cmd ended with {actuator.exit_text(code)}" + (f": {text}" if text else ""))


def _is_replaced(account: Account, asked: frozenset[ProcessId]) -> bool:
    """Whether those who were asked to go went, and what is there came after them."""
    left = {process.id for process in account.processes}
    return bool(left and asked) and left.isdisjoint(asked)


def _wait_until_gone(gate: Gate, before: Account, deadline: float, asked: frozenset[ProcessId]) -> Account | None:
    """None once it is gone; the account of what is left when the time is up, or what is there in place of `asked`.

    What merely mentions it is no reason to wait, unless nothing else was there `before`: then that may be what its
    unload_cmd ends.

    Two looks must agree, one LOOK_EVERY_S after the other: one look is no snapshot, and misses who forks and goes while
    it is taken; and what a supervisor starts again at once is not there for the moment that a fork and an exec take.

    Raises CannotSee or NotRecorded where nothing could be seen to the end.
    """
    missed = replaced = 0
    while True:
        is_late = time.monotonic() >= deadline
        try:
            account = gate.look().ledger.account(before.service)
        except (CannotSee, NotRecorded):
            if is_late:
                raise
        else:
            if not account.state.is_loaded or (account.mention_only and not before.mention_only):
                missed += 1
                if missed == 2:
                    return None
            else:
                missed = 0
                replaced = replaced + 1 if _is_replaced(account, asked) else 0
                if is_late or replaced == 2:
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
            if back.get(RAM, 0) >= BACK_TOLD * held:
                return back, ""
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
