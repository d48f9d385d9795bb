"""load: `admit load` and `admit run`: admission first, and only then the command."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal itself is made of enums
import os
import sys

from admit_cli.door import Door, NoService, Reply, Strange
from admitd import places

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OK, FAILED, REFUSED, TIMED_OUT = 0, 1, 2, 75
PATIENCE_S = 30.0
NAME_MAX = 63
WAITS = "5m"
"""What the remedy of waiting says elsewhere (core/admission.py, which takes long to import)."""


def load(values: dict[str, Any]) -> int:
    """Load one service; the exit code."""
    _end_politely()
    _give_the_environment_as_it_came()
    door = Door(values["config"])
    name, as_json = values["name"], values["json"]
    try:
        # Before others are unloaded for it, or it waits its turn: neither would be of any use.
        in_vain = _in_vain(door, name) if values["evict"] or values["wait"] else None
        # With --evict room is made first; the queue is for what that could not bring about.
        verdict = admission(door, name, values["wait"] if in_vain is None and not values["evict"] else None)
        if "reason" in verdict and in_vain is not None:
            raise in_vain
        if values["evict"] and verdict.get("victims"):
            from admit_cli.evict import make_room

            made = make_room(door, values, verdict)
            if isinstance(made, int):
                return made
            verdict = made
        if values["evict"] and values["wait"] and "reason" in verdict:
            verdict = admission(door, name, values["wait"])
    except KeyboardInterrupt as stop:
        return _interrupted(name, as_json, str(stop))
    if verdict["verdict"] == "admitted":
        from admit_cli.follow import start_and_follow

        return start_and_follow(door, values, verdict)
    is_coming = verdict.get("has_probe") or verdict.get("state") == "half_loaded"  # a daemon of before knows no probes
    if is_coming and not verdict["mention_only"] and verdict["state"] != "suspended":
        from admit_cli.follow import await_answer

        return await_answer(door, values, verdict)
    return said(_with_pids(door, verdict), as_json, waited=bool(values["wait"]))


def _with_pids(door: Door, verdict: dict[str, Any]) -> dict[str, Any]:
    """Of what is stopped, its processes too: one of the commands that wake it names them."""
    if verdict.get("state") != "suspended":
        return verdict
    found = [each["pids"] for each in door.capacity()["services"] if each["name"] == verdict["service"]]
    return {**verdict, "pids": found[0]} if found else verdict


def _in_vain(door: Door, name: str) -> Exception | None:
    """Why it could not be started once it were admitted; None where nothing is known to prevent it."""
    from admit_cli.lastgood import who_acts

    check_name(name)
    if not who_acts(door).has_load_cmd(name):
        from admitd.loading import no_load_cmd

        return no_load_cmd(name)
    try:
        places.make_user_folder(os.environ)
    except places.UnsafePlace as problem:
        return problem
    return None


def run(values: dict[str, Any]) -> int:
    """Become the command, once it is admitted; returns only where it was not."""
    _end_politely()
    _give_the_environment_as_it_came()
    door = Door(values["config"])
    try:
        verdict = admission(door, values["name"], values["wait"])
    except KeyboardInterrupt:
        return _interrupted(values["name"], values["json"])
    if verdict["verdict"] != "admitted":
        return said(_with_pids(door, _for_run(verdict, values)), values["json"], waited=bool(values["wait"]))
    from admitd.actuator import CannotStart, become

    sys.stdout.flush()
    try:
        become(values["cmd"])
    except CannotStart:
        door.ask("DELETE", f"/reservations/{verdict['reservation']['id']}")
        raise
    raise AssertionError("exec returns only by raising")


def admission(door: Door, name: str, wait_s: float | None) -> dict[str, Any]:
    """The verdict on loading `name`, as the application words it; reserved for this process where it is admitted."""
    check_name(name)
    body = f'{{"service": "{name}", "holder_pid": {os.getpid()}, "wait_s": {wait_s or 0.0}}}'
    queue = None
    if wait_s:
        from admit_cli.follow import Queue

        queue = Queue(door, name)
    try:
        reply = door.ask(
            "POST",
            "/admit",
            body.encode(),
            patience_s=PATIENCE_S + (wait_s or 0.0),
            on_tick=queue.show if queue else None,
        )
    finally:
        if queue is not None:
            queue.end()
    if reply.status in (200, 409):
        verdict: dict[str, Any] = reply.json()
        return verdict
    raise trouble(reply)


def check_name(name: str) -> None:
    """Raises NoService for what no service can be called, and what would not go into a request as it is."""
    plain = name.replace(".", "").replace("-", "").replace("_", "")
    if not (name.isascii() and plain.isalnum() and name[0].isalnum() and len(name) <= NAME_MAX):
        raise NoService(f"capacity.yaml declares no service {name!r}: letters, digits and . _ - make a name.")


def trouble(reply: Reply) -> Exception:
    """The exception that says what an answer that is no verdict means."""
    try:
        detail = reply.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return Strange(f"the daemon answered {reply.status}")
    return NoService(detail) if reply.status == 404 else Strange(detail)


def said(verdict: dict[str, Any], as_json: bool, *, waited: bool = False) -> int:
    """Print a verdict that ends the command; the exit code. `waited`: it came at the end of a wait, where it is one
    that may change with time."""
    from admit_cli import render
    from admit_cli.tell import out, tell

    if as_json:
        render.print_json(verdict)
    if "reason" in verdict:
        tell(render.refusal(verdict))
        # Still refused when its time was up: not a no, but not yet. What never fits does not wait.
        return TIMED_OUT if waited and verdict["reason"] != "too-large" else REFUSED
    if verdict["mention_only"] or verdict["state"] != "loaded":
        tell(render.oddly_loaded(verdict))
    elif not as_json:
        out(f"{verdict['service']} is loaded already")
    # What is merely mentioned may not be there at all, and what is stopped answers nobody: whoever goes on after a 0
    # would rely on nothing.
    return FAILED if verdict["mention_only"] or verdict["state"] == "suspended" else OK


def _for_run(verdict: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Where time alone helps, the remedy is to wait with `admit run`, whether a load_cmd is declared or none."""
    if verdict.get("reason") in (None, "unseen", "busy") or "retry_after_s" not in verdict:
        return verdict
    import shlex

    named = ["--config", values["config"]] if values["config"] else []
    words = ["admit", *named, "run", verdict["service"], "--wait", WAITS, "--", *values["cmd"]]
    return {**verdict, "remedy": shlex.join(words)}


def _end_politely() -> None:
    """SIGTERM ends a load as Ctrl-C does, with a word on what it leaves behind. What was ignored stays ignored."""
    if _signal.getsignal(_signal.SIGTERM) != _signal.SIG_IGN:
        _signal.signal(_signal.SIGTERM, _signal.default_int_handler)


def _give_the_environment_as_it_came() -> None:
    """Python adds LC_CTYPE where no locale is set (PEP 538), as under cron: what is started here would inherit it.

    Only Linux tells whether it came from outside; elsewhere it stays."""
    if os.environ.get("LC_CTYPE") not in ("C.UTF-8", "C.utf8", "UTF-8"):
        return
    try:
        with open("/proc/self/environ", "rb") as came:
            if b"\0LC_CTYPE=" not in b"\0" + came.read():
                del os.environ["LC_CTYPE"]
    except OSError:
        return


def _interrupted(name: str, as_json: bool, more: str = "") -> int:
    """`more`: what became of others."""
    from admit_cli.errors import interrupted

    said = f"interrupted; nothing is reserved for {name}, and nothing was started"
    return interrupted(f"{said}; {more}" if more else said, as_json=as_json)
