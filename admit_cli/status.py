"""status: `admit status` and `admit plan`: look, and print."""

from __future__ import annotations

import sys

from admit_cli.door import Door, NoAnswer, Strange
from admit_cli.load import check_name, trouble

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

EVERY_S = 2.0


def status(values: dict[str, Any]) -> int:
    """Print the ledger; with --watch again and again, until Ctrl-C or until nobody reads it."""
    door = Door(values["config"])
    if values["watch"]:
        return _watch(door, values["json"], values["config"])
    from admit_cli import render
    from admit_cli.tell import out

    ledger = door.capacity()
    if values["json"]:
        render.print_json(ledger)
    else:
        out(render.status(ledger, values["config"]))
    return 0


def plan(values: dict[str, Any]) -> int:
    """Print what would have to go; 0 whether it fits or not: nothing was asked for, so nothing is refused."""
    from admit_cli import render
    from admit_cli.tell import out

    check_name(values["name"])
    reply = Door(values["config"]).ask("GET", f"/plan?service={values['name']}")
    if reply.status != 200:
        raise trouble(reply)
    if values["json"]:
        render.print_json(reply.json())
    else:
        out(render.plan(reply.json()))
    return 0


def _watch(door: Door, as_json: bool, config: str | None = None) -> int:
    """Look again and again: a daemon that does not answer, or cannot see, may do so at the next look."""
    import json
    import time

    from admit_cli import render
    from admit_cli.tell import out_now, printable, tell

    screen = sys.stdout.isatty() and not as_json
    shown = problem = ""
    try:
        while True:
            before, problem = problem, ""
            try:
                ledger = door.capacity()
                shown = json.dumps(ledger, ensure_ascii=False) if as_json else render.status(ledger, config)
            except (NoAnswer, Strange) as trouble_now:
                problem = f"admit: {printable(str(trouble_now))}; it is asked again"
            if problem and not screen:
                if problem != before:
                    tell(problem)
            else:
                text = "\n".join(filter(None, (problem, shown)))  # what was seen last stays
                if not out_now(render.on_screen(text) if screen else text):
                    return 0
            time.sleep(EVERY_S)
            door = door.renewed()
    except KeyboardInterrupt:
        return 0  # that is how one ends it
