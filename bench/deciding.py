"""deciding: what a look and a decision cost, beside the fastest readers in C, ps and psutil, on the same processes."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from bench.crowd import crowd
from bench.measuring import Plan, Resident, Results, Skipped, figures, resident, take_turns
from bench.native import build
from bench.world import LOADED, World, python, world

READERS: Final = {"C kept": "kept", "C cmdline": "opened", "C stat + cmdline": "stat"}
DEAR: Final = {"ps": "ps", "ps, three columns": "ps-short", "ps, parsed and matched": "ps-look", "psutil": "psutil"}
OURS: Final = {"look": "look", "look + match + sum": "scene", "decision": "decide", "reserve + give back": "reserve"}


def measure(plan: Plan) -> Results:
    """By size of the crowd: seconds of each competitor, with 10 services, and of a decision with more."""
    out: Results = {"crowds": []}
    for total in plan.crowds:
        with crowd(total) as processes:
            out["crowds"].append({"wanted": total, "processes": processes, **_one_crowd(plan, total)})
    return out


def _one_crowd(plan: Plan, total: int) -> Results:
    with ExitStack() as stack:
        worlds = {count: stack.enter_context(world(count)) for count in plan.services}
        first = worlds[plan.services[0]]
        residents: dict[str, Resident] = {}

        def enter(name: str, command: list[str], home: World) -> None:
            residents[name] = stack.enter_context(resident(command, home.environ))

        for name, how in READERS.items():
            enter(name, [str(build("readers")), how], first)
        for name, way in OURS.items():
            enter(name, python("-m", "bench.looker", way), first)
        for count in plan.services[1:]:
            enter(_with(count), python("-m", "bench.looker", "decide"), worlds[count])
        skipped = {}
        for name, way in DEAR.items():
            if way == "psutil" and importlib.util.find_spec("psutil") is None:
                skipped[name] = "psutil is not installed"
            elif way != "psutil" and not os.access("/bin/ps", os.X_OK):
                skipped[name] = "there is no /bin/ps"
            else:
                enter(name, python("-m", "bench.looker", way), first)
                try:
                    residents[name].once()
                except Skipped as why:
                    del residents[name]
                    skipped[name] = str(why)
        turns: dict[str, Callable[[], float]] = {name: one.once for name, one in residents.items()}
        enough = min(plan.turns, max(plan.turns // 4, plan.turns * plan.main_crowd // total))
        seconds = take_turns(turns, enough, frozenset(DEAR), plan.dear_every)
        _check_answers(residents)
        return {"ways": {name: figures(each) for name, each in seconds.items()}, "skipped": skipped}


def _with(services: int) -> str:
    return f"decision, {services} services"


def _check_answers(residents: dict[str, Resident]) -> None:
    """What is fast but wrong is no competitor: all must have seen the crowd, and ours the services in it."""
    seen = {name: int(one.last[1]) for name, one in residents.items()}
    most = max(seen.values())
    wrong = {name: count for name, count in seen.items() if count < most * 0.9}
    if wrong:
        raise Skipped(f"{wrong} processes were seen where others saw {most}")
    for name, one in residents.items():
        if name.startswith("decision") and int(one.last[2]) < LOADED:
            raise Skipped(f"{name} found {one.last[2]} of the {LOADED} services that are loaded")
