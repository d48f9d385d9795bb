"""mending: what the sentinel does when a rule asks for it: wake, recover, close, evict. Each ends within a bound.

Before each act the world is looked at again. A load goes through the same admission as everyone's; a refusal is told,
and never forced. What somebody unloads on purpose meanwhile stays unloaded.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Final

from admitd import actuator, hands, loading, unloading
from admitd.core import runaway, wire
from admitd.core.acts import Close, Evict, Recover, Wake, ago, mb
from admitd.core.events import Event, Severity, brief
from admitd.core.probing import Heard, made_progress
from admitd.core.respawn import Supervisor
from admitd.core.terms import Probe, Service, State
from admitd.core.units import free_to_mb
from admitd.core.verdict import Admitted, Reason, Refused
from admitd.gate import Answer, Ask, Gate
from admitd.journal import Record
from admitd.processes.glimpse import glimpse
from admitd.processes.table import CannotSee
from admitd.reservations import NotRecorded

WOKEN_WAIT_S: Final = 0.2
LADDER_S: Final = 15.0
"""What a hung service gets between SIGTERM and SIGKILL where its unload_cmd did not help; less, where it says less."""


class Outcome(Enum):
    """What a recovery came to."""

    BACK = "it is loaded"
    NOT_BACK = "it is not"
    DROPPED = "somebody else has it in his hands now"
    ANSWERS = "nothing was done: it answers by now"
    WORKS = "nothing was done: it works by now, or is another process"


Asking = Callable[[str, Probe], Heard]
"""Sends a service its probe, and waits for what it comes to."""


class Mending:
    """Acts for the sentinel. `log_path`: where the output of a service's load_cmd goes."""

    def __init__(self, gate: Gate, log_path: Callable[[str], Path], tell: Record, config: str = "") -> None:
        self._gate = gate
        self._log_path = log_path
        self._tell = tell
        self._config = config

    def wake(self, act: Wake) -> bool:
        """SIGCONT; False where the system refuses it, so that trying again is useless."""
        gate, process = self._gate, act.process
        refused = actuator.send(process, act.claim, signal.SIGCONT, gate.table, gate.matcher(gate.capacity()))
        numbers = {"pid": process.id.pid, "stopped_for_s": round(act.stopped_for_s, 1)}
        what = f"{act.name} (process {process.id.pid}) was stopped (state T) for {ago(act.stopped_for_s)}"
        if refused is not None:
            if refused.endswith("is gone"):
                return True
            text = f"{what} and cannot be woken: {refused}."
            self._tell(Event("gave_up_waking", text, Severity.CRITICAL, act.name, None, numbers))
            return False
        give_up = time.monotonic() + WOKEN_WAIT_S
        while (now := glimpse(process.id)) is not None and now.stopped and time.monotonic() < give_up:
            time.sleep(0.005)
        if now is not None and now.stopped:
            self._tell(
                Event("stopped", f"{what}, and stays so after SIGCONT.", Severity.WARNING, act.name, None, numbers)
            )
        else:
            self._tell(Event("woken", f"{what} and was woken.", Severity.WARNING, act.name, None, numbers))
        return True

    def recover(self, act: Recover, ask: Asking, since_s: float | None = None) -> Outcome:
        """Unload, wait until the memory is back, load through admission; said at its beginning and at its end. It is
        asked once more before: what it was judged by may be an interval old, and is older after a cooldown.

        What somebody asked to unload after `since_s`, by the monotonic clock (None: from now on), is not loaded again.
        """
        name = act.service
        since_s = time.monotonic() if since_s is None else since_s
        if self._is_wanted_gone(name, since_s):
            return Outcome.DROPPED
        try:
            spared = self._spared(name, ask, since_s)
        except (CannotSee, NotRecorded) as problem:
            self._tell(Event("load_failed", f"{name} could not be recovered: {problem}.", Severity.CRITICAL, name))
            return Outcome.NOT_BACK
        if spared is not None:
            return spared
        return self._recover(act, since_s)

    def _recover(self, act: Recover, since_s: float) -> Outcome:
        name = act.service
        if self._is_wanted_gone(name, since_s):
            return Outcome.DROPPED
        text = f"{name} is hung: {act.why}. It is unloaded and loaded again (attempt {act.attempt})."
        numbers = {"attempt": act.attempt}
        self._tell(Event("recovering", text, Severity.WARNING, name, None, numbers))
        began = time.monotonic()
        try:
            ended = self._unload(name)
            if not isinstance(ended, unloading.Unloaded) and _keeper(ended) is None:
                said = f"{name} is hung and could not be unloaded: {brief(ended.why)}."
                self._tell(
                    Event("unload_failed", said, Severity.CRITICAL, name, f"admit unload {name} --kill", numbers)
                )
                return Outcome.NOT_BACK
            outcome, how = self._load(name, since_s)
        except (CannotSee, NotRecorded) as problem:
            self._tell(Event("load_failed", f"{name} could not be recovered: {problem}.", Severity.CRITICAL, name))
            return Outcome.NOT_BACK
        if outcome is Outcome.DROPPED:
            said = f"{name} is not loaded again: somebody else unloaded it, or is loading it, meanwhile."
            self._tell(Event("gave_up", said, Severity.INFO, name, None, numbers))
        if outcome is Outcome.BACK:
            took_s = time.monotonic() - began
            done = {"attempt": act.attempt, "took_s": round(took_s, 1)}
            said = f"{name} was hung and is back after {ago(took_s)}{how}."
            self._tell(Event("recovered", said, Severity.WARNING, name, None, done))
        return outcome

    def close(self, act: Close) -> None:
        """Close a runaway, if it still is one."""
        gate, name = self._gate, act.service
        scene = gate.look()
        service = scene.capacity.services.get(name)
        account = None if service is None else scene.ledger.account(service)
        if service is None or account is None or account.measured is None:
            return
        if not account.state.is_loaded or not runaway.is_over(account.measured, service.hard_limit):
            return
        why = runaway.limit_text(service, account.measured)
        numbers = {"measured_mb": mb(account.measured), "hard_limit_mb": mb(service.hard_limit), "grace_s": act.grace_s}
        said = f"{name} is being closed: {why}. It has {act.grace_s:g} s to save its work."
        self._tell(Event("runaway", said, Severity.CRITICAL, name, None, numbers))
        outcome = unloading.close(gate, name, _quiet, act.grace_s)
        if isinstance(outcome, unloading.Unloaded):
            said = f"{name} was closed: {why}. {_back(outcome)}"
            self._tell(Event("closed", said, Severity.CRITICAL, name, f"admit load {name}", numbers))
        elif (keeper := _keeper(outcome)) is not None:
            said = f"{name} was closed: {why}; and {keeper.name} started it again."
            self._tell(Event("closed", said, Severity.CRITICAL, name, _next(name, outcome), numbers))
        else:
            said = f"{name} could not be closed: {brief(outcome.why)}; {why}."
            self._tell(Event("unload_failed", said, Severity.CRITICAL, name, f"admit explain {name}", numbers))

    def evict(self, act: Evict) -> None:
        """Unload one that is idle; it is asked politely, and never killed."""
        name = act.service
        outcome = unloading.unload(self._gate, name, _quiet)
        severity = Severity.WARNING if act.kind == "evicted" else Severity.INFO
        if not isinstance(outcome, unloading.Unloaded):
            said = f"{name} should have been unloaded, because {act.why}, and could not be: {brief(outcome.why)}."
            self._tell(Event("unload_failed", said, Severity.CRITICAL, name, _next(name, outcome)))
        elif outcome.was_loaded:
            said = f"{name} was unloaded, because {act.why}. {_back(outcome)}"
            numbers = {"back_mb": mb(outcome.back), "took_s": round(outcome.took_s, 1)}
            self._tell(Event(act.kind, said.strip(), severity, name, f"admit load {name}", numbers))

    def keep_logs_short(self) -> None:
        """A server that is loaded for weeks fills its log meanwhile; where it is loaded anew, that is rotated there."""
        for name in self._gate.capacity().services:
            actuator.rotate_in_use(self._log_path(name))

    def _spared(self, name: str, ask: Asking, since_s: float) -> Outcome | None:
        """Why it need not be recovered any more; None where it must. Raises CannotSee or NotRecorded."""
        service = self._gate.capacity().services.get(name)
        if service is None:
            return None
        heard = None if service.probe is None else ask(name, service.probe)
        account = self._gate.look().ledger.account(service)
        for_s = time.monotonic() - since_s
        ages = [process.age_s for process in account.processes]
        if ages and all(age_s is not None and age_s < for_s for age_s in ages):
            text = f"{name} was to be loaded anew, and is another process by now: it is left alone."
            self._tell(Event("probe_answered" if heard and heard.answered else "busy", text, service=name))
            return Outcome.ANSWERS if heard and heard.answered else Outcome.WORKS
        if account.state is not State.LOADED or account.mention_only:
            return None
        if heard is None:
            return Outcome.ANSWERS if account.check is not None and account.check.loaded else None
        if heard.answered:
            self._tell(Event("probe_answered", f"{name} answers its probe again.", service=name))
            return Outcome.ANSWERS
        if made_progress(heard.progress_before, heard.progress_after, heard.took_s):
            text = f"{name} was to be loaded anew, and works by now: busy is not down, it is left alone."
            self._tell(Event("busy", text, service=name))
            return Outcome.WORKS
        return None

    def _unload(self, name: str) -> unloading.Outcome:
        """Its unload_cmd, where it has one; SIGTERM; SIGKILL where that does not help. A server killed at once may
        leave its wired GPU memory behind until the next reboot (macOS)."""
        service = self._gate.capacity().services.get(name)
        if service is None:
            return unloading.UnloadFailed("it is not declared any more")
        return unloading.end_hung(self._gate, name, _quiet, min(LADDER_S, service.unload_timeout_s))

    def _load(self, name: str, since_s: float) -> tuple[Outcome, str]:
        gate = self._gate
        if self._is_wanted_gone(name, since_s):
            return Outcome.DROPPED, ""
        holder = gate.table.identify(os.getpid())
        (answer,), _ = gate.decide([Ask(name, holder, arrived_s=time.monotonic())])
        if not isinstance(answer, Answer):
            return Outcome.DROPPED, ""
        verdict = answer.verdict
        if isinstance(verdict, Refused):
            return self._refused(verdict), ""
        if not isinstance(verdict, Admitted):
            return Outcome.BACK, ": its supervisor has loaded it again"
        held = verdict.reservation
        service = gate.capacity().services.get(name)
        try:
            if service is None or self._is_wanted_gone(name, since_s):
                return Outcome.DROPPED, ""
            return self._follow(service, held.id if held else None, since_s), ""
        finally:
            if held is not None:
                with contextlib.suppress(NotRecorded):
                    gate.give_back(held.id)

    def _follow(self, service: Service, reservation: str | None, since_s: float) -> Outcome:
        try:
            load = loading.Load(self._gate, service, self._log_path(service.name), reservation)
        except actuator.CannotStart:
            return Outcome.NOT_BACK  # load_failed is on record already
        outcome = load.follow(lambda _: None)
        is_back = isinstance(outcome, loading.Loaded)
        if not self._is_wanted_gone(service.name, since_s):
            return Outcome.BACK if is_back else Outcome.NOT_BACK
        if is_back:  # whoever asked while it was not visible yet was told that it is gone
            unloading.unload(self._gate, service.name, _quiet, asked=False)
        return Outcome.DROPPED

    def _is_wanted_gone(self, name: str, since_s: float) -> bool:
        return hands.look(self._gate.records.where, name).is_asked_since(since_s)

    def _refused(self, verdict: Refused) -> Outcome:
        name = verdict.service
        if verdict.reason is Reason.LOADING:
            return Outcome.DROPPED
        said = f"{name} was hung and is unloaded; loading it again was refused: {verdict.message}"
        remedy = wire.command(verdict.remedy, self._config)
        numbers = {
            "reason": verdict.reason.value,
            "budget_mb": mb(verdict.budget),
            "free_mb": free_to_mb(verdict.free.get("ram", 0)),
        }
        self._tell(Event("refused_recovery", said, Severity.CRITICAL, name, remedy, numbers))
        return Outcome.NOT_BACK


def _keeper(outcome: unloading.Outcome) -> Supervisor | None:
    """Who started it again as soon as it had gone."""
    return outcome.keeper if isinstance(outcome, unloading.UnloadTimedOut) else None


def _next(name: str, outcome: unloading.Outcome) -> str:
    """What one does about an unload that did not help."""
    keeper = _keeper(outcome)
    return (keeper and keeper.stop) or f"admit explain {name}"


def _back(outcome: unloading.Unloaded) -> str:
    if outcome.back is None:
        return outcome.note
    return f"{max(0, free_to_mb(outcome.back.get('ram', 0)))} MB more are available now."


def _quiet(text: str) -> None:
    """What an unload says while it goes on; the journal has what it came to."""
