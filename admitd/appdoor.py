"""appdoor: the routes for apps that govern their own memory: parse, ask, render; the rules are in apps.py."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import FastAPI, Path, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from admitd.api import Problem
from admitd.apps import AppGate, Declared, Kept
from admitd.core import wire
from admitd.core.units import from_mb, to_mb
from admitd.core.verdict import Refused
from admitd.reservations import Busy

_Name = Annotated[str, Path(description="The app's name.", max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
_PID_MAX = 2**31 - 1
_MOST_MB = 2**30


class AppBody(BaseModel):
    """What an app asks to be kept for it, in place of what was kept before."""

    model_config = ConfigDict(extra="forbid")

    pid: StrictInt = Field(gt=0, le=_PID_MAX, description="Its process; what is kept ends with it.")
    budget_mb: StrictInt = Field(ge=0, le=_MOST_MB, description="What it means to stay under; 0 gives it back.")
    held_mb: StrictInt = Field(0, ge=0, le=_MOST_MB, description="What it holds now, by its own count.")


def offer(app: FastAPI, gate: AppGate, config: str) -> None:
    """Add the routes. `config`: the file that remedies must name; empty where it is the one found by default."""

    @app.post("/apps/{name}")
    async def keep(name: _Name, body: AppBody) -> Response:
        """Keep a budget for an app, as for a service; 409 where it does not fit, or where capacity.yaml declares the
        app and another process has its budget. Then what was kept stands."""
        process = await asyncio.to_thread(gate.table.identify, body.pid)
        if process is None:
            raise Problem(wire.problem(422, "No such app", f"pid {body.pid} is no live process."))
        try:
            kept = await asyncio.to_thread(gate.keep, name, process, from_mb(body.budget_mb), from_mb(body.held_mb))
        except Declared as declared:
            detail = (
                f"{declared.name} is declared with {to_mb(declared.budget)} MB and asks for {body.budget_mb} MB; "
                f"raise its ram_budget_mb in capacity.yaml."
            )
            raise Problem(wire.problem(409, "It is declared with less", detail)) from declared
        except Busy as busy:
            raise Problem(wire.problem(503, "No decision could be made", f"{busy}."), {"Retry-After": "5"}) from busy
        if isinstance(kept, Refused):
            return JSONResponse(wire.verdict(kept, config), 409, media_type=wire.PROBLEM_JSON)
        return JSONResponse(_shown(kept))

    @app.get("/apps")
    async def apps() -> Response:
        """The apps that something is kept for."""
        found = await asyncio.to_thread(gate.apps)
        return JSONResponse({"apps": [_shown(each) for each in found]})


def _shown(kept: Kept) -> dict[str, Any]:
    return {
        "name": kept.name,
        "pid": kept.process.pid,
        "budget_mb": to_mb(kept.budget),
        "held_mb": None if kept.held is None else to_mb(kept.held),
        "measured_mb": None if kept.measured is None else to_mb(kept.measured),
    }
