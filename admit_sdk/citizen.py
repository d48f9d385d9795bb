"""citizen: one app among the others of this machine: it says what it means to hold, and asks before it holds more.

Where a daemon listens, it keeps the app's soft budget for it, as it would for a service, and the governor grants no
more than what was kept. Where none does, runtime-state.json tells the apps of each other, and nothing is refused.

What the app needs beside its models, the governor's `reserved`, is told with the rest: nobody else can have it. Amounts
in here are the governor's own, without it: it is added to what is told, and taken off what is answered.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final

from admit_sdk import door, statefile
from admit_sdk.governor import MemoryGovernor
from admit_sdk.rounds import Rounds
from admit_sdk.told import warn
from admitd.core import governing
from admitd.core.governing import App
from admitd.core.terms import NAME, RAM
from admitd.core.units import from_mb, to_mb
from admitd.processes.glimpse import identify

if TYPE_CHECKING:
    from admitd.memory import Memory

EVERY_S: Final = 5.0
"""How often it looks whether there is news to tell: another amount held, or a daemon that came or went."""
RENEW_S: Final = 600.0
"""How often the daemon is asked anew though nothing has changed: it may be another one by now."""
AGAIN_S: Final = 1.0
"""How soon it is asked again for what was denied."""
STEP_BYTES: Final = 256 << 20
"""Growth is asked for in steps, so that a KV cache that grows does not ask at each token; what is held is told so."""


class Citizen:
    """Registers the app of one governor until it is closed, or the process ends."""

    def __init__(
        self,
        governor: MemoryGovernor,
        *,
        environ: Mapping[str, str] | None = None,
        path: Path | None = None,
        memory: Memory | None = None,
    ) -> None:
        """Nothing is told before `start`. Raises ValueError where the governor's name is none that others can read."""
        if not NAME.match(governor.name):
            raise ValueError(f"{governor.name!r} is not an app's name: letters, digits, '.', '_', '-', at most 63")
        self._governor = governor
        self._environ = os.environ if environ is None else environ
        self._path = path or statefile.default_path(self._environ)
        self._memory = memory
        self._lock = threading.Lock()
        self._one_turn = threading.Lock()
        self._closed = False
        self._told_held = 0
        self._wanted = governor.soft_bytes
        self._kept: int | None = None
        self._kept_for: int | None = None
        """What was asked for when it was kept; the daemon counts in whole MB, and may keep more."""
        self._asked_s = float("-inf")
        self._denied: int | None = None
        self._told = ""
        self._entered: App | None = None
        self._rounds = Rounds(f"admit-citizen-{governor.name}", self, _turn)
        self.warning: str | None = None
        """Where the budgets of all running apps are more than the machine has for them: who they are, with figures."""
        self.daemon: door.Told = door.NoDaemon("it was not asked yet")
        """What the daemon said last."""

    def start(self) -> str | None:
        """Look who else runs, ask for the soft budget, and go on telling; returns the warning, if there is one.

        Takes as long as a daemon takes to answer, at most some seconds. Refuses nothing and never raises for others.
        """
        self.turn()
        if self.warning:
            warn(self.warning)
        self._rounds.start()
        return self.warning

    def close(self) -> None:
        """Take the entry out and give the budget back. The governor goes by its own limit alone from then on."""
        self._closed = True
        self._rounds.stop()
        with self._one_turn:  # one that is under way ends first, and none comes after it
            self._leave()

    def _leave(self) -> None:
        self._governor.ask_before_growing(self._governor.whole_bytes, None)
        if self._kept is not None:  # whatever was answered since: what was kept stands, though more was refused
            door.ask(self._environ, self._governor.name, 0, 0)
        if self._entered is not None:
            try:
                statefile.remove(self._path, self._entered)
            except statefile.NotWritten as problem:
                warn(f"the entry of {self._governor.name} stays until this process ends: {problem}")

    def __enter__(self) -> Citizen:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def turn(self) -> float:
        """Tell what is new and ask for what is wanted; returns seconds until the next time."""
        with self._one_turn:
            if not self._closed:
                self._look_round()
        return EVERY_S

    def _look_round(self) -> None:
        held = self._governor.allocated_bytes
        with self._lock:
            # What somebody asked for and did not get counts once; what is held counts as long as it is.
            wanted = max(self._governor.soft_bytes, self._wanted, held)
            self._wanted = 0
        # Who was denied may allocate nothing, but asks on: others reckon with what it takes as soon as there is room.
        budget = max(self._ask(wanted, held), self._governor.soft_bytes)
        self._enter(budget, held)

    def _ask(self, wanted: int, held: int) -> int:
        """Ask the daemon, where there is something to ask; returns what may be allocated."""
        now_s = time.monotonic()
        budget = self._governor.soft_bytes
        if wanted > budget:
            budget = min(self._governor.whole_bytes, -(-wanted // STEP_BYTES) * STEP_BYTES)
        is_news = abs(held - self._told_held) >= STEP_BYTES
        patience_s = RENEW_S if budget == self._kept_for and not is_news else AGAIN_S
        if budget in (self._kept_for, self._denied) and now_s - self._asked_s < patience_s:
            return self._kept or 0
        if self._kept is not None and budget < self._kept and budget != self._kept_for:
            # First nothing more is granted, and then it is given back: never the other way round.
            self._governor.set_ceiling(budget)
            held = self._governor.allocated_bytes
            if held > budget:  # somebody took it in between
                self._governor.set_ceiling(self._kept)
                return self._kept
        self._asked_s, self._told_held = now_s, held
        reserved = self._governor.reserved_bytes
        told = door.ask(self._environ, self._governor.name, budget + reserved, held + reserved)
        self.daemon = told
        self._denied = budget if isinstance(told, door.Denied) else None
        if isinstance(told, door.Granted):
            self._kept, self._kept_for, self._told = max(0, told.budget - reserved), budget, ""
            self._governor.ask_before_growing(self._kept, self.more)
        elif isinstance(told, door.Denied):
            # What was kept before stands; where nothing was, there is nothing that may be allocated.
            self._told = f"{told.why} {f'run: {told.remedy}' if told.remedy else ''}".strip()
            self._governor.ask_before_growing(self._kept or 0, self.more)
            return self._kept or 0
        elif told.listens and self._kept is not None:
            # It is there and gives no answer: what it kept stands, and nothing more is taken.
            self._told = told.why
            self._governor.set_ceiling(self._kept)
            return self._kept
        else:
            self._kept = self._kept_for = None
            self._governor.ask_before_growing(self._governor.whole_bytes, None)
        return budget

    def more(self, wanted_bytes: int) -> str:
        """For the governor, which is refusing somebody: have it asked for at once, by the other thread."""
        with self._lock:
            self._wanted = max(self._wanted, wanted_bytes)
        self._rounds.ring()
        said = self._told or "this machine's daemon is being asked"
        return f"{said}; wait for its answer (wait_allocate)"

    def _enter(self, budget: int, held: int) -> None:
        me = identify(os.getpid())
        if me is None:
            return
        reserved = self._governor.reserved_bytes
        # In whole MB, as they stand in the file: else what is read there always looks like news.
        amounts = [{RAM: from_mb(to_mb(each + reserved))} for each in (budget, held)]
        app = App(me, self._governor.name, *amounts)
        if app == self._entered and app in statefile.read(self._path):
            return
        try:
            running = statefile.write(self._path, app)
        except statefile.NotWritten as problem:
            if self._entered is not None or not self.warning:
                self.warning = f"other apps do not see this one: {problem}"
            return
        self._entered = app
        self.warning = governing.crowded(running, {RAM: self._physical()})

    def _physical(self) -> int:
        if self._memory is None:
            from admitd.memory import for_this_system

            self._memory = for_this_system()
        try:
            return self._memory.physical()
        except OSError:
            return 1 << 62  # it would not say: then nothing can be said about it


def _turn(citizen: Citizen) -> float:
    return citizen.turn()
