"""status: `admit status` and `admit plan`: look, and print."""

from __future__ import annotations

import sys

from admit_cli.door import Door
from admit_cli.load import trouble

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

EVERY_S = 2.0


def status(values: dict[str, Any]) -> int:
    """Print the ledger; with --watch again and again."""
    door = Door(values["config"])
    if not values["watch"]:
        _show(door.capacity(), values["json"])
        return 0
    import time

    while True:
        ledger = door.capacity()
        if sys.stdout.isatty() and not values["json"]:
            print("\x1b[2J\x1b[H", end="")
        _show(ledger, values["json"])
        sys.stdout.flush()
        time.sleep(EVERY_S)


def plan(values: dict[str, Any]) -> int:
    """Print what would have to go; 0 whether it fits or not: nothing was asked for, so nothing is refused."""
    from urllib.parse import quote

    from admit_cli import render

    reply = Door(values["config"]).ask("GET", f"/plan?service={quote(values['name'])}")
    if reply.status != 200:
        raise trouble(reply)
    if values["json"]:
        render.print_json(reply.json())
    else:
        print(render.plan(reply.json()))
    return 0


def _show(ledger: dict[str, Any], as_json: bool) -> None:
    from admit_cli import render

    if as_json:
        render.print_json(ledger)
    else:
        print(render.status(ledger))
