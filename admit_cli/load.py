"""load: `admit load` and `admit run`: admission first, and only then the command."""

from __future__ import annotations

import os
import sys

from admit_cli.door import Door, NoService, Reply, Strange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OK, FAILED, REFUSED, TIMED_OUT, INTERRUPTED = 0, 1, 2, 75, 130
PATIENCE_S = 30.0


def load(values: dict[str, Any]) -> int:
    """Load one service; the exit code."""
    door = Door(values["config"])
    verdict = admission(door, values["name"], values["wait"])
    if "reason" in verdict and values["evict"] and verdict["victims"]:
        from admit_cli.evict import make_room

        after = make_room(door, verdict, yes=values["yes"], as_json=values["json"])
        if after is None:
            return FAILED
        verdict = after
    if verdict.get("verdict") == "admitted":
        from admit_cli.follow import start_and_follow

        return start_and_follow(door, values, verdict)
    return said(verdict, waited=values["wait"] is not None, as_json=values["json"])


def run(values: dict[str, Any]) -> int:
    """Become the command, once it is admitted; returns only where it was not."""
    door = Door(values["config"])
    verdict = admission(door, values["name"], values["wait"])
    if verdict.get("verdict") != "admitted":
        return said(verdict, waited=values["wait"] is not None, as_json=False)
    from admitd.actuator import CannotStart, become

    sys.stdout.flush()
    sys.stderr.flush()
    try:
        become(values["cmd"])
    except CannotStart:
        door.ask("DELETE", f"/reservations/{verdict['reservation']['id']}")
        raise
    raise AssertionError("exec returns only by raising")


def admission(door: Door, name: str, wait_s: float | None) -> dict[str, Any]:
    """The verdict on loading `name`, as the application words it; reserved for this process where it is admitted."""
    body = f'{{"service": {_quoted(name)}, "holder_pid": {os.getpid()}, "wait_s": {wait_s or 0.0}}}'
    show = None
    if wait_s:
        from admit_cli.follow import Queue

        show = Queue(door, name).show
    reply = door.ask("POST", "/admit", body.encode(), patience_s=PATIENCE_S + (wait_s or 0.0), on_tick=show)
    return checked(reply)


def checked(reply: Reply) -> dict[str, Any]:
    """The body of a verdict. Raises NoService or Strange for any other answer."""
    if reply.status in (200, 409):
        body: dict[str, Any] = reply.json()
        return body
    raise trouble(reply)


def trouble(reply: Reply) -> Exception:
    """The exception that says what an answer that is no verdict means."""
    try:
        detail = reply.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return Strange(f"the daemon answered {reply.status}")
    return NoService(detail) if reply.status == 404 else Strange(detail)


def said(verdict: dict[str, Any], *, waited: bool, as_json: bool) -> int:
    """Print a verdict that ends the command; the exit code."""
    from admit_cli import render

    if as_json:
        render.print_json(verdict)
    if "reason" not in verdict:
        if not as_json:
            print(render.already_loaded(verdict))
        return OK
    print(render.refusal(verdict), file=sys.stderr)
    # Refused after all the waiting that was asked for: not a no, but not yet.
    return TIMED_OUT if waited and verdict["reason"] != "too-large" else REFUSED


def _quoted(name: str) -> str:
    if name.isascii() and name.replace(".", "").replace("-", "").replace("_", "").isalnum():
        return f'"{name}"'
    import json

    return json.dumps(name)
