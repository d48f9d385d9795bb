"""stalling: how much a process that holds its memory map locked delays a decision, and whether it is still charged."""

from __future__ import annotations

import os
import statistics
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from bench.crowd import crowd
from bench.measuring import Plan, Resident, Results, Skipped, figures, resident
from bench.native import build
from bench.world import LOADED, python, world

HELD_MS: Final = 300
BETWEEN_S: Final = 0.15
_AT: Final = LOADED  # the service that the stalled process is: the first of which the crowd has none


def measure(plan: Plan) -> Results:
    """Decisions one after the other, with a process that stalls beside them and without."""
    with ExitStack() as stack:
        home = stack.enter_context(world(10))
        stack.enter_context(crowd(plan.main_crowd))
        looker = stack.enter_context(resident(python("-m", "bench.looker", "decide"), home.environ))
        without = [looker.once() for _ in range(plan.turns)][1:]
        staller, way = _staller(stack)
        looker.once()
        if int(looker.last[2]) != LOADED + 1:
            raise Skipped(f"{looker.last[2]} services were charged where {LOADED + 1} are loaded")
        decisions, stalls, dropped = _beside(plan, looker, staller)
    usual = statistics.median(without)
    worst = [max(0.0, _slowest(decisions, stall) - usual) for stall in stalls]
    return {
        "way": way,
        "held": figures([stall.took for stall in stalls]),
        "without": figures(without),
        "beside": figures([decision.took for decision in decisions]),
        "delay": figures(worst),
        "dropped": dropped,
        "decisions": len(decisions),
    }


def _staller(stack: ExitStack) -> tuple[Resident, str]:
    """A process whose command line is a service's, and that has 1 GiB in use, mapped several times over."""
    environ = {**os.environ, "STALLING_MS": str(HELD_MS)}
    command = ["mlx_lm.server", "--model", f"models/model-{_AT:04d}", "--port", "8090"]
    staller = Resident(command, environ, executable=str(build("stalling")))
    stack.callback(staller.end)
    words = staller.hear()
    return staller, words[1]


@dataclass(frozen=True, slots=True)
class _Span:
    """When something began, and the seconds it took."""

    began: float
    took: float


def _slowest(decisions: list[_Span], stall: _Span) -> float:
    """The slowest decision that was under way during a stall."""
    ended = stall.began + stall.took
    return max((d.took for d in decisions if d.began < ended and d.began + d.took > stall.began), default=0.0)


def _beside(plan: Plan, looker: Resident, staller: Resident) -> tuple[list[_Span], list[_Span], int]:
    """The decisions, the stalls, and how many decisions did not charge the process that stalls."""
    stalls: list[_Span] = []
    over = threading.Event()

    def stall() -> None:
        try:
            for _ in range(plan.stalls):
                time.sleep(BETWEEN_S)
                began = time.perf_counter()
                staller.send()
                stalls.append(_Span(began, int(staller.hear()[1]) / 1e9))
        finally:
            over.set()

    thread = threading.Thread(target=stall, daemon=True)
    thread.start()
    decisions: list[_Span] = []
    dropped = 0
    while not over.is_set():
        began = time.perf_counter()
        decisions.append(_Span(began, looker.once()))
        dropped += int(looker.last[2]) < LOADED + 1
    thread.join()
    if len(stalls) < plan.stalls:
        raise Skipped("the process that stalls has ended")
    return decisions, stalls, dropped
