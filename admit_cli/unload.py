"""unload: `admit unload`: one service after the other, until its memory is back."""

from __future__ import annotations

import sys
from typing import Any

from admit_cli import render
from admit_cli.door import Door, NoService
from admitd import unloading
from admitd.core import wire


def unload(values: dict[str, Any]) -> int:
    """Unload services; the exit code: that of the first that could not be unloaded."""
    gate = Door(values["config"]).inside().house.gate
    services = gate.capacity().services
    for name in values["name"]:
        if name not in services:
            raise NoService(f"{gate.capacity().path} declares no service {name!r}.")
    results = []
    code = wire.OK
    for name in values["name"]:
        tell = _tell if not values["json"] else _silent
        outcome = unloading.unload(gate, name, tell, kill=values["kill"])
        text = render.unload_outcome(name, outcome)
        results.append(render.unload_result(name, outcome))
        if not values["json"]:
            print(
                text if isinstance(outcome, unloading.Unloaded) else f"admit: {text}",
                file=sys.stdout if isinstance(outcome, unloading.Unloaded) else sys.stderr,
            )
        code = code or _code(outcome)
    if values["json"]:
        render.print_json(results[0] if len(results) == 1 else {"services": results})
    return code


def _code(outcome: unloading.Outcome) -> int:
    if isinstance(outcome, unloading.Unloaded):
        return wire.OK
    return wire.TIMED_OUT if isinstance(outcome, unloading.UnloadTimedOut) else wire.FAILED


def _tell(text: str) -> None:
    print(f"admit: {text}", file=sys.stderr)


def _silent(text: str) -> None:
    """With --json the outcome says it all."""
