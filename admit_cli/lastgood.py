"""lastgood: who loads and unloads: this process; or, where capacity.yaml is broken, the daemon, which goes on by the
last good one."""

from __future__ import annotations

import difflib
import json
import os
import time
from typing import Any, Final

from admit_cli import render
from admit_cli.door import Door, NoService, Reply
from admit_cli.inside import Inside
from admit_cli.load import said, trouble
from admit_cli.tell import out, printable, tell
from admitd import places, unloading
from admitd.capacity import ConfigError, NotFound
from admitd.core import wire
from admitd.core.terms import RAM
from admitd.core.units import MIB

BROKEN: Final = (ConfigError, NotFound)
"""What reading the file raises where it cannot be used."""
_ASK_AGAIN_S: Final = 0.5


def who_acts(door: Door) -> Inside | LastGood:
    """Who loads and unloads. Raises one of BROKEN where the file is, and no daemon listens that goes by it."""
    try:
        return door.inside()
    except BROKEN as broken:
        return stand_in(door, broken)


def stand_in(door: Door, broken: Exception) -> LastGood:
    """The daemon, in the place of this process. Raises `broken` where none listens that goes by that file."""
    if not door.has_daemon():
        raise broken
    if not door.told_broken:
        door.told_broken = True
        tell(f"admit: {broken}")
        tell("admit: until that is mended, the daemon goes by the last good one, and does what is asked")
    return LastGood(door)


class LastGood:
    """The daemon, asked to act."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def has_load_cmd(self, name: str) -> bool:
        """Whether a service can be loaded. Raises NoService."""
        return bool(self.declared(name).get("loadable", True))

    def declared(self, name: str) -> dict[str, Any]:
        """The service of that name, as the ledger has it. Raises NoService, with names that look alike."""
        services = {each["name"]: each for each in self._door.capacity()["services"]}
        if name not in services:
            near = difflib.get_close_matches(name[:100], list(services), n=3)
            did_you_mean = f" Did you mean {' or '.join(near)}?" if near else ""
            raise NoService(f"the last good capacity.yaml declares no service {name!r}.{did_you_mean}")
        found: dict[str, Any] = services[name]
        return found

    def unload(self, name: str, say: unloading.Tell, *, kill: bool = False) -> unloading.Outcome:
        """Have it unload one service."""
        reply = self._act(name, "unload", {"kill": kill})
        body = reply.json()
        if reply.status == 200:
            back = None if body["back_mb"] is None else {RAM: body["back_mb"] * MIB}
            return unloading.Unloaded(body["took_s"], body["outcome"] == "unloaded", back, body["note"])
        if reply.status == 502:
            return unloading.UnloadFailed(_detail(body))
        if reply.status in (409, 504):
            return unloading.UnloadTimedOut(_detail(body), ())
        raise trouble(reply)

    def load(self, values: dict[str, Any], verdict: dict[str, Any]) -> int:
        """Have it load what was to be loaded here; the exit code. `verdict`: what the daemon said to that. What was
        admitted then may be refused now, as others came between: with --wait it is asked again until that is over."""
        name, as_json = values["name"], values["json"]
        give_up = time.monotonic() + (values["wait"] or 0.0)
        while True:
            reply = self._act(name, "load", {})
            body = reply.json()
            is_refused = reply.status == 409 and "reason" in body
            if not is_refused or body["reason"] == "too-large" or time.monotonic() >= give_up:
                break
            time.sleep(_ASK_AGAIN_S)
        if is_refused:
            return said(body, as_json, waited=bool(values["wait"]))
        if reply.status in (409, 502, 504):
            return self._not_loaded(values, reply.status, body)
        if reply.status != 200:
            raise trouble(reply)
        is_news = body["outcome"] == "loaded"
        if as_json:
            render.print_json({"verdict": "admitted" if is_news else "already_loaded", **body})
        else:
            out(render.loaded(body, verdict["budget_mb"]) if is_news else f"{name} is loaded already")
        return wire.OK

    def _not_loaded(self, values: dict[str, Any], status: int, body: dict[str, Any]) -> int:
        name, tail = values["name"], body.get("log", [])
        why = f"{name} failed to load: {_detail(body)}" if status == 502 else _detail(body)
        tell(f"admit: {printable(why)}")
        for each in tail:
            tell(f"  | {printable(each)}")
        word = "failed" if status == 502 else "timed_out"
        # What was there before is somebody else's, and --cleanup is for what this load left behind.
        is_mine = body.get("outcome") != "already_loaded"
        told = {"verdict": "admitted" if is_mine else "already_loaded", "outcome": word, "service": name, "detail": why}
        if is_mine:
            told["log"] = places.log_path(os.environ, name)
        if status == 504:
            ends = f"end it: {render.again(values['config'], 'unload', name)}"
            goes_on = f"its load_cmd goes on under the daemon; {ends}" if is_mine else ends
            told["left"] = self._clean_up(values) if is_mine and values["cleanup"] else goes_on
            tell(f"  {told['left']}")
        if values["json"]:
            render.print_json({**told, "tail": tail})
        return wire.FAILED if status == 502 else wire.TIMED_OUT

    def _clean_up(self, values: dict[str, Any]) -> str:
        name = values["name"]
        outcome = self.unload(name, lambda _: None)
        if isinstance(outcome, unloading.Unloaded) and not outcome.was_loaded:
            return f"not all is cleaned up: nothing of {name} can be seen, and its load_cmd may go on under the daemon"
        how = "cleaned up" if isinstance(outcome, unloading.Unloaded) else "not all is cleaned up"
        return f"{how}: {render.unload_outcome(name, outcome, values['config'])}"

    def _act(self, name: str, verb: str, body: dict[str, Any]) -> Reply:
        try:
            return self._door.act(f"/services/{name}/{verb}", json.dumps(body).encode())
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"the daemon goes on to {verb} {name}") from None


def _detail(body: dict[str, Any]) -> str:
    return str(body["detail"]).removesuffix(".")
