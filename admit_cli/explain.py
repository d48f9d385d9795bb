"""explain: `admit explain`: which processes match a service and why, and what its check said."""

from __future__ import annotations

import os
from typing import Any, Final

from admit_cli import render
from admit_cli.door import Door
from admit_cli.tell import out, printable
from admitd.core.terms import Sighting
from admitd.gate import Scene

SHOWN: Final = 200


def explain(values: dict[str, Any]) -> int:
    """Print what one look shows of one service; the exit code."""
    inside = Door(values["config"]).inside()
    service = inside.declared(values["name"])
    scene = inside.house.gate.look()
    account = scene.ledger.account(service)
    explained = {
        "service": service.name,
        "state": account.state.value,
        "process_pattern": service.process_pattern,
        "program": service.program,
        "matches": [_match(seen, scene) for seen in account.sightings],
        "passed_over": [
            {"pid": each.pid, "program": each.program, "why": each.why, "command": _line(each.pid, scene)}
            for each in scene.look.passed_over
            if each.service == service.name
        ],
        "check": None
        if account.check is None
        else {"command": service.loaded_check_cmd, "loaded": account.check.loaded, "said": account.check.detail},
        "processes": scene.look.count,
    }
    if values["json"]:
        render.print_json(explained)
    else:
        out(render.explained(explained, values["config"]))
    return 0


def _match(seen: Sighting, scene: Scene) -> dict[str, Any]:
    process = seen.process
    return {
        "pid": process.id.pid,
        "program": seen.program,
        "mention": seen.mention,
        "stopped": process.stopped,
        "uid": process.uid,
        "command": _line(process.id.pid, scene, process.uid),
    }


def _line(pid: int, scene: Scene, uid: int | None = None) -> str | None:
    """The command line; None for another user's process: arguments can hold secrets, and root is not asked to tell."""
    if uid is not None and uid != os.getuid():
        return None
    text = scene.look.lines.get(pid, b"").rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
    shown = printable(text)
    return shown if len(shown) <= SHOWN else shown[: SHOWN - 3] + "..."
