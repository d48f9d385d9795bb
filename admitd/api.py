"""api: routes. Parse, ask, render. No `if` about memory stands here."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import Depends, FastAPI, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr
from starlette.exceptions import HTTPException

from admitd import __version__, eventstream, page, waiting
from admitd.acting import Acting, Occupied
from admitd.core import wire
from admitd.core.condition import Condition
from admitd.core.events import entry_json
from admitd.core.terms import ProcessId
from admitd.core.verdict import Refused
from admitd.eventstream import Streams, TooMany
from admitd.flight import Flight
from admitd.gate import Answer, Ask, Scene, Unknown
from admitd.journal import Journal
from admitd.processes.table import CannotSee
from admitd.reservations import NotRecorded

if TYPE_CHECKING:
    from admitd.sentinel import Sentinel

_LONGEST_WAIT_S: Final = 86_400.0
_PID_MAX: Final = 2**31 - 1
_SAID_MAX: Final = 200

_bearer = HTTPBearer(auto_error=False, description="The token of the file `token` in the user's state folder.")
_Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
_Name = Annotated[str, Path(description="A service's name.", max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
_Wanted = Annotated[str, Query(description="The service that should fit.", min_length=1, max_length=63)]
_ReservationId = Annotated[str, Path(description="A reservation's id.", pattern=r"^[0-9a-f]{16}$")]

_Since = Annotated[float | None, Query(description="Not older than this; seconds since 1970.", ge=0, le=1e11)]
_OfService = Annotated[str | None, Query(description="Only what concerns this service.", max_length=63)]
_Limit = Annotated[int, Query(description="How many at most; the last ones.", ge=1, le=1000)]
_LastEventId = Annotated[str | None, Header(description="Of a stream: go on after this id.", max_length=32)]
_LIVE: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class AdmitBody(_In):
    """A request for admission."""

    service: StrictStr = Field(min_length=1, max_length=63, description="A service that capacity.yaml declares.")
    holder_pid: StrictInt | None = Field(
        None,
        gt=0,
        le=_PID_MAX,
        description="The process that will load it; the reservation ends with it. Without one only time ends it.",
    )
    dry_run: StrictBool = Field(False, description="Answer, but reserve nothing.")
    wait_s: StrictFloat | StrictInt = Field(
        0, ge=0, le=_LONGEST_WAIT_S, description="Where it is refused: wait in the queue for so long."
    )


class LoadBody(_In):
    """Nothing to say: an empty object."""


class UnloadBody(_In):
    """How to unload."""

    kill: StrictBool = Field(False, description="What is still there after unload_timeout_s gets SIGKILL.")


class Problem(Exception):
    """An error on its way out: the body is RFC 9457's."""

    def __init__(self, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        super().__init__(body.get("detail"))
        self.body = body
        self.headers = headers or {}


def build(
    flight: Flight,
    acting: Acting,
    streams: Streams,
    token: str | None,
    config: str,
    sentinel: Sentinel | None = None,
) -> FastAPI:
    """The application. `token`: of who may act on processes; None: nobody may. `config`: the file that remedies must
    name; empty where it is the one found by default."""
    app = FastAPI(
        title="admit",
        version=__version__,
        description="Admission control for the memory of one machine. Amounts are MiB.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    _answer_problems(app)
    _asking(app, flight, config, sentinel)
    _telling_health(app, flight, sentinel)
    _metering(app, flight, streams.journal, sentinel)
    _acting(app, acting, token, config)
    _remembering(app, streams)
    page.show(app)
    _describe(app)
    return app


def _describe(app: FastAPI) -> None:
    """What comes out is described when somebody asks for it: the shapes cost time and memory, and few ever ask."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            from admitd import schemas

            app.openapi_schema = schemas.describe(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way (advanced/extending-openapi)


def _asking(app: FastAPI, flight: Flight, config: str, sentinel: Sentinel | None) -> None:
    @app.post("/admit")
    async def admit(body: AdmitBody, request: Request) -> Response:
        """Ask whether a service may load; unless it is a dry run, a 200 reserves its budget for `holder_pid`."""
        holder = None if body.holder_pid is None else await _holder(flight, body.holder_pid)
        ask = Ask(body.service, holder, body.dry_run, 0.0 if body.dry_run else body.wait_s)
        return _verdict(await waiting.ask_until(flight, ask, request), config)

    shown = _Shown(sentinel)

    @app.get("/capacity")
    async def capacity() -> Response:
        """What is charged against the pool right now, from a look that began after this request arrived."""
        return Response(shown.of(await flight.look()), media_type="application/json")

    @app.get("/history")
    async def history() -> Response:
        """How the memory went in the last hour."""
        return _json(200, wire.history([] if sentinel is None else sentinel.insight.history()))

    @app.get("/plan")
    async def plan(service: _Wanted) -> Response:
        """What would have to be unloaded for `service` to fit. Changes nothing."""
        answer, _ = await flight.ask(Ask(service, dry_run=True))
        return _json(200, wire.plan(answer.verdict, config))

    @app.delete("/reservations/{id}", status_code=204)
    async def give_back(id: _ReservationId) -> Response:
        """Give a reservation back."""
        if not await flight.give_back(id):
            raise Problem(wire.problem(404, "No such reservation", f"No reservation {id} stands; it may have ended."))
        return Response(status_code=204)


def _telling_health(app: FastAPI, flight: Flight, sentinel: Sentinel | None) -> None:
    @app.get("/healthz")
    async def healthz() -> Response:
        """200 while the process table can be seen, 503 with the reason when it cannot."""
        scene = await flight.look()
        told = None
        if sentinel is not None:
            now = sentinel.health()
            ago_s = None if now.last_round_s_ago is None else round(now.last_round_s_ago, 3)
            told = {"rounds": now.rounds, "errors": now.errors, "last_round_s_ago": ago_s, "pressure": now.pressure}
        body = {"status": "ok", "version": __version__, "processes": scene.look.count, "sentinel": told}
        return _json(200, body)


def _metering(app: FastAPI, flight: Flight, journal: Journal, sentinel: Sentinel | None) -> None:
    @app.get("/metrics")
    async def metrics() -> Response:
        """The ledger and what was counted, as Prometheus text. Where the machine cannot be seen, it says that."""
        scene = None
        with contextlib.suppress(CannotSee, NotRecorded):
            scene = await flight.look()

        def answer() -> Response:
            from admitd import metrics  # here: few ever ask, and its library takes a while

            health, known = (None, {}) if sentinel is None else (sentinel.health(), sentinel.insight.conditions())
            text = metrics.text(scene, flight.gate, journal, health, known)
            return Response(text, headers={"content-type": metrics.KIND})

        return await asyncio.to_thread(answer)


def _acting(app: FastAPI, acting: Acting, token: str | None, config: str) -> None:
    async def may_act(credentials: _Credentials) -> None:
        given = credentials.credentials if credentials is not None else ""
        if token is None or not hmac.compare_digest(given.encode(), token.encode()):
            detail = "What acts on processes needs the bearer token of the daemon's user (docs/security.md)."
            raise Problem(wire.problem(401, "Who are you?", detail), {"WWW-Authenticate": "Bearer"})

    @app.post("/services/{name}/load", dependencies=[Depends(may_act)])
    async def load(name: _Name, body: LoadBody) -> Response:
        """Load a service, through the same admission; answers when it is loaded or has failed."""
        code, said = await acting.load(name, config)
        return _json(code, said)

    @app.post("/services/{name}/unload", dependencies=[Depends(may_act)])
    async def unload(name: _Name, body: UnloadBody) -> Response:
        """Unload a service; answers when its memory is back."""
        code, said = await acting.unload(name, config, kill=body.kill)
        return _json(code, said)


def _remembering(app: FastAPI, streams: Streams) -> None:
    @app.get("/events")
    async def events(
        since: _Since = None,
        service: _OfService = None,
        limit: _Limit = 100,
        accept: Annotated[str | None, Header(include_in_schema=False)] = None,
        last_event_id: _LastEventId = None,
    ) -> Response:
        """What was done and found, the last of it, oldest first; with `Accept: text/event-stream` what comes, live."""
        if eventstream.is_wanted(accept):
            streams.check_room()
            after = eventstream.resumed(last_event_id)
            frames = streams.stream(after, since, service, limit)
            return StreamingResponse(frames, headers=_LIVE, media_type=eventstream.KIND)
        try:
            entries = await asyncio.to_thread(lambda: streams.journal.read(since=since, service=service, limit=limit))
        except OSError as problem:
            detail = f"{problem.strerror or 'Its disk fails'}."
            raise Problem(wire.problem(503, "The journal cannot be read", detail)) from problem
        return _json(200, {"events": [entry_json(entry) for entry in entries]})


async def _holder(flight: Flight, pid: int) -> ProcessId:
    # In a thread: where there is no /proc this is a run of ps.
    holder = await asyncio.to_thread(flight.gate.table.identify, pid)
    if holder is None:
        detail = f"holder_pid {pid} is no live process; name the one that will do the loading, or leave it out."
        raise Problem(wire.problem(422, "No such holder", detail))
    return holder


def _verdict(answer: Answer, config: str) -> Response:
    verdict = answer.verdict
    headers = {}
    if isinstance(verdict, Refused) and verdict.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(verdict.retry_after_s)))
    return _json(wire.status(verdict), wire.verdict(verdict, config), headers)


class _Shown:
    """The body of the last scene: all who shared one look get the same bytes, rendered once."""

    def __init__(self, sentinel: Sentinel | None) -> None:
        self._sentinel = sentinel
        self._scene: Scene | None = None
        self._body = b""

    def of(self, scene: Scene) -> bytes:
        """The body for `scene`."""
        if scene is not self._scene:
            conditions = {} if self._sentinel is None else self._sentinel.insight.conditions()
            self._scene, self._body = scene, json.dumps(_capacity(scene, conditions)).encode()
        return self._body


def _capacity(scene: Scene, conditions: Mapping[str, Condition]) -> dict[str, Any]:
    return {
        **wire.capacity(scene.ledger, scene.reading, conditions),
        "config": scene.capacity.path,
        "processes": scene.look.count,
        "scanned_at": round(scene.at, 3),
        "scan_ms": round(scene.took_s * 1000, 3),
        "version": __version__,
    }


def _json(code: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    kind = wire.PROBLEM_JSON if code >= 400 else "application/json"
    return Response(json.dumps(body), code, headers, media_type=kind)


def _problem(code: int, title: str, detail: str, headers: dict[str, str] | None = None) -> Response:
    return _json(code, wire.problem(code, title, detail), headers)


def _answer_problems(app: FastAPI) -> None:
    """Every error leaves as problem+json, whoever raised it."""

    @app.exception_handler(Problem)
    async def ours(request: Request, error: Problem) -> Response:
        return _json(error.body["status"], error.body, error.headers)

    @app.exception_handler(Unknown)
    async def unknown(request: Request, error: Unknown) -> Response:
        near = f" Did you mean {' or '.join(error.near)}?" if error.near else ""
        return _problem(404, "Not declared", f"capacity.yaml declares no service {error.service!r}.{near}")

    @app.exception_handler(Occupied)
    async def occupied(request: Request, error: Occupied) -> Response:
        detail = f"{error.service} is being loaded or unloaded at this moment; ask again when that has ended."
        return _problem(409, "Somebody is at it", detail, {"Retry-After": "1"})

    @app.exception_handler(CannotSee)
    async def unseen(request: Request, error: CannotSee) -> Response:
        return _problem(503, "The machine cannot be seen", f"{error}.", {"Retry-After": "5"})

    @app.exception_handler(NotRecorded)
    async def unrecorded(request: Request, error: NotRecorded) -> Response:
        return _problem(503, "The reservations cannot be used", f"{error}.")

    @app.exception_handler(TooMany)
    async def too_many(request: Request, error: TooMany) -> Response:
        detail = f"{eventstream.STREAMS_MAX} streams are open, and no more may be; ask again when one has ended."
        return _problem(503, "Too many streams", detail, {"Retry-After": "5"})

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        found = error.errors()[:10]
        wrong = [f"{'.'.join(str(part) for part in e['loc'])[:_SAID_MAX]}: {e['msg'][:_SAID_MAX]}" for e in found]
        code = 400 if any(e["type"] == "json_invalid" for e in found) else 422
        return _problem(code, "Malformed", "; ".join(wrong) + ".")

    @app.exception_handler(HTTPException)
    async def others(request: Request, error: HTTPException) -> Response:
        if error.status_code == 400:
            return _problem(400, "Malformed", "The body is not JSON in UTF-8.")
        detail = f"{request.method} {request.url.path[:_SAID_MAX]} is not offered here."
        return _problem(error.status_code, str(error.detail), detail, dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        detail = "A fault in admit itself; the daemon's log has the particulars. Nothing was admitted."
        return _problem(500, "Internal error", detail)
