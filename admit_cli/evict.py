"""evict: `admit load --evict`: the plan shown, asked for, then carried out one victim at a time, looking again each
time."""

from __future__ import annotations

import sys
from typing import Any, Final

from admit_cli import render
from admit_cli.door import Door
from admit_cli.load import admission
from admitd import unloading

ROUNDS_MAX: Final = 32


def make_room(door: Door, refused: dict[str, Any], *, yes: bool, as_json: bool) -> dict[str, Any] | None:
    """Unload the plan's victims and ask again; the new verdict, or None where that could not be done (and was told)."""
    name = refused["service"]
    agreed: set[str] = set()
    gate = door.inside().house.gate
    for _ in range(ROUNDS_MAX):
        victims = refused["victims"]
        if not victims:
            return refused
        if not agreed.issuperset(victims):
            print(render.plan_to_agree(refused), file=sys.stderr)
            if not yes and not _agrees():
                print("admit: nothing was unloaded", file=sys.stderr)
                return refused
            agreed.update(victims)
        outcome = unloading.unload(gate, victims[0], lambda text: print(f"admit: {text}", file=sys.stderr))
        print(f"admit: {render.unload_outcome(victims[0], outcome)}", file=sys.stderr)
        if not isinstance(outcome, unloading.Unloaded):
            if as_json:
                render.print_json({**refused, "detail": render.unload_outcome(victims[0], outcome)})
            return None
        verdict = admission(door, name, None)
        if "reason" not in verdict:
            return verdict
        refused = verdict
    return refused


def _agrees() -> bool:
    if not sys.stdin.isatty():
        print("admit: unloading others is asked for on a terminal, or agreed to with --yes", file=sys.stderr)
        return False
    print("Unload? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
