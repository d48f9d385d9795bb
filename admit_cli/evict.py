"""evict: `admit load --evict`: the plan shown, asked for, then carried out one victim at a time, looking again each
time, and after each question: only who was agreed to goes, and only who is in the way still."""

from __future__ import annotations

import sys
from typing import Any, Final

from admit_cli import render
from admit_cli.door import Door
from admit_cli.lastgood import who_acts
from admit_cli.load import admission, said
from admit_cli.tell import tell
from admit_cli.unload import exit_code
from admitd import unloading

ROUNDS_MAX: Final = 32


def make_room(door: Door, values: dict[str, Any], refused: dict[str, Any]) -> dict[str, Any] | int:
    """Unload the plan's victims and ask again; the new verdict, or the exit code where it went no further.

    Raises KeyboardInterrupt with a text that says who is gone already, and what goes on."""
    unloaded: list[str] = []
    try:
        return _make_room(door, values, refused, unloaded)
    except KeyboardInterrupt as stop:
        gone = [f"{name} is unloaded" for name in unloaded]
        raise KeyboardInterrupt("; ".join([*gone, *filter(None, map(str, stop.args))])) from None


def _make_room(
    door: Door, values: dict[str, Any], refused: dict[str, Any], unloaded: list[str]
) -> dict[str, Any] | int:
    agreed: set[str] = set()
    acts = who_acts(door)
    for _ in range(ROUNDS_MAX):
        victims = refused["victims"]
        if not victims:
            break
        if not agreed.issuperset(victims):
            tell(render.plan_to_agree(refused))
            if not values["yes"] and not _agrees():
                tell("admit: nothing was unloaded" if not agreed else "admit: nothing more was unloaded")
                return said(refused, values["json"])
            agreed.update(victims)
            if not values["yes"]:  # a plan is as old as its question: others may have come or gone meanwhile
                verdict = admission(door, refused["service"], None)
                if "reason" not in verdict:
                    return verdict
                refused = verdict
                continue
        outcome = acts.unload(victims[0], lambda text: tell(f"admit: {text}"))
        told = render.unload_outcome(victims[0], outcome, values["config"])
        tell(f"admit: {told}")
        if not isinstance(outcome, unloading.Unloaded):
            if values["json"]:
                render.print_json({**refused, "detail": told})
            return exit_code(outcome)
        unloaded.append(victims[0])
        verdict = admission(door, refused["service"], None)
        if "reason" not in verdict:
            return verdict
        refused = verdict
    return refused


def _agrees() -> bool:
    if not sys.stdin.isatty():
        tell("admit: unloading others is agreed to on a terminal, or with --yes")
        return False
    tell("Unload? [y/N] ", end="")
    return sys.stdin.readline().strip().lower() in ("y", "yes")
