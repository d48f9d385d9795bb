"""unload: `admit unload`: one service after the other, until its memory is back."""

from __future__ import annotations

from typing import Any

from admit_cli import render
from admit_cli.door import Door
from admit_cli.lastgood import who_acts
from admit_cli.tell import out, tell
from admitd import unloading
from admitd.core import wire


def unload(values: dict[str, Any]) -> int:
    """Unload services; the exit code: that of the first that could not be unloaded."""
    acts = who_acts(Door(values["config"]))
    names = list(dict.fromkeys(values["name"]))
    for name in names:
        acts.declared(name)  # before anything is touched
    results = []
    code = wire.OK
    for name in names:
        outcome = acts.unload(name, _silent if values["json"] else _tell, kill=values["kill"])
        text = render.unload_outcome(name, outcome, values["config"])
        results.append(render.unload_result(name, outcome, text))
        if not isinstance(outcome, unloading.Unloaded):
            _tell(text)
        elif not values["json"]:
            out(text)
        code = code or exit_code(outcome)
    if values["json"]:
        render.print_json(results[0] if len(results) == 1 else {"services": results})
    return code


def exit_code(outcome: unloading.Outcome) -> int:
    """0 gone, 75 still there, 1 could not be asked to go."""
    if isinstance(outcome, unloading.Unloaded):
        return wire.OK
    return wire.TIMED_OUT if isinstance(outcome, unloading.UnloadTimedOut) else wire.FAILED


def _tell(text: str) -> None:
    tell(f"admit: {text}")


def _silent(text: str) -> None:
    """With --json the outcome says it all."""
