"""schemas: the shapes that go out over HTTP, for /openapi.json; imported when somebody asks for that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from admitd.core import wire
from admitd.core.verdict import Reason

_Mb = Annotated[int, Field(description="MiB")]
_REF: Final = "#/components/schemas/{model}"


class Reservation(BaseModel):
    """Budget held for a load that was admitted and is not visible yet."""

    id: str
    service: str
    budget_mb: _Mb
    holder_pid: int | None
    expires_at: float = Field(description="Seconds since 1970.")


class VerdictBody(BaseModel):
    """Admitted, or loaded already."""

    verdict: Literal["admitted", "already_loaded"]
    service: str
    budget_mb: _Mb
    free_mb: int = Field(
        description="MiB. Admitted: what was free to it, without its own charge. Loaded: what is free now."
    )
    reservation: Reservation | None
    state: str | None = None
    mention_only: bool | None = None
    has_probe: bool | None = Field(None, description="Loaded already: whether it answers was not asked.")


class ProblemBody(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str


class App(BaseModel):
    """What is kept for an app that governs its own memory."""

    name: str
    pid: int
    budget_mb: _Mb
    held_mb: int | None = Field(description="MiB, as it last said itself.")
    measured_mb: int | None = Field(description="MiB, as the system shows it.")


class Apps(BaseModel):
    """All of them."""

    apps: list[App]


class FailedLoadBody(ProblemBody):
    """It could not be loaded."""

    log: list[str] = Field(description="The last lines of its log.")


class StuckBody(ProblemBody):
    """It did not go."""

    pids: list[int]


class Blocker(BaseModel):
    """Someone whose charge or exclusion stands in the way."""

    service: str
    state: str
    charged_mb: _Mb
    why: str
    remedy: str | None


class RefusalBody(ProblemBody):
    """Not this one, not now: why, and the command that makes room."""

    verdict: Literal["refused"]
    reason: Reason
    service: str
    budget_mb: _Mb
    free_mb: _Mb
    shortfall_mb: _Mb
    blockers: list[Blocker]
    remedy: str | None
    victims: list[str]
    queue_position: int | None = None
    retry_after_s: float | None = Field(None, description="As the Retry-After header: only where time alone helps.")


class Condition(BaseModel):
    """What the sentinel knows of a service, as of its last round."""

    busy: bool | None = Field(description="Whether it works; null: unknown, which counts as busy.")
    active_s_ago: float | None = Field(
        description="Since it was last seen working, or seen to start; null: neither was seen."
    )
    activity: str
    probe: Literal["unasked", "answers", "busy", "silent", "recovering", "left_alone"] | None
    probe_failures: int
    half_loaded: str | None = Field(description="Why it counts as half loaded though its process is there.")
    peak_mb: int | None = Field(description="MiB; the most that was measured since it started.")


class Service(BaseModel):
    """One service's line in the ledger. `condition` is null where nobody watches it."""

    name: str
    state: Literal["stopped", "reserved", "loaded", "half_loaded", "suspended"]
    ram_budget_mb: _Mb
    charged_mb: _Mb
    measured_mb: int | None
    priority: int
    pids: list[int]
    mentioned_by: list[int]
    matched_by: str | None
    exclusive_with: list[str]
    pinned: bool
    evictable: bool
    loadable: bool = Field(description="Whether it has a load_cmd.")
    age_s: float | None = Field(description="Since its oldest process started.")
    condition: Condition | None


class Undeclared(BaseModel):
    """A charge that belongs to no service of this file."""

    label: str
    charged_mb: _Mb
    why: str


class Waiting(BaseModel):
    """Someone in the queue."""

    service: str
    priority: int
    holder_pid: int | None


class Pressure(BaseModel):
    """What the system itself says."""

    level: str | None
    available_mb: int | None
    why: str


class Capacity(BaseModel):
    """The ledger."""

    host: str
    ram_physical_mb: _Mb
    ram_reserved_mb: _Mb
    ram_safety_mb: _Mb
    pool_mb: _Mb
    charged_mb: _Mb
    free_mb: int = Field(description="MiB; negative when over-committed.")
    services: list[Service]
    undeclared: list[Undeclared]
    reservations: list[Reservation]
    waiting: list[Waiting]
    pressure: Pressure
    live_veto: bool
    warnings: list[str]
    config: str
    processes: int
    scanned_at: float
    scan_ms: float
    version: str


class Sample(BaseModel):
    """The machine's memory at one moment."""

    at: float = Field(description="Seconds since 1970.")
    charged_mb: _Mb
    free_mb: int = Field(description="MiB; negative when over-committed.")
    measured_mb: int = Field(description="MiB; what the services really held.")
    available_mb: int | None
    level: str | None


class History(BaseModel):
    """The last hour, a sample in ten seconds; empty where no daemon answers, but the command line itself."""

    samples: list[Sample]


class Plan(BaseModel):
    """What would have to go."""

    service: str
    fits: bool
    reason: str | None
    detail: str
    budget_mb: _Mb
    free_mb: int
    shortfall_mb: _Mb
    victims: list[str]
    remedy: str | None


class SentinelHealth(BaseModel):
    """How the sentinel's rounds go. `last_round_s_ago` is null before the first. `pressure`: how it is noticed."""

    rounds: int
    errors: int
    last_round_s_ago: float | None
    pressure: str


class Health(BaseModel):
    """The daemon can see. `sentinel` is null where no daemon answers, but the command line itself."""

    status: Literal["ok"]
    version: str
    processes: int
    sentinel: SentinelHealth | None


class Loaded(BaseModel):
    """A load that came to its end."""

    outcome: Literal["loaded", "already_loaded"]
    service: str
    took_s: float
    measured_mb: int | None
    pids: list[int]


class Unloaded(BaseModel):
    """An unload that came to its end."""

    outcome: Literal["unloaded", "not_loaded"]
    service: str
    took_s: float
    back_mb: int | None
    note: str


class RememberedEvent(BaseModel):
    """What was done or found, as it was written down."""

    id: int = Field(description="Grows from event to event.")
    at: float = Field(description="Seconds since 1970, by the wall clock of then.")
    boot: str = Field(description="Which boot of the machine it was.")
    since_boot_s: float
    pid: int
    version: str
    kind: str = Field(description="A stable word: admitted, loaded, woken, recovered, ...")
    severity: Literal["info", "warning", "critical"]
    service: str | None
    text: str
    next: str | None = Field(description="The next command, where there is one.")
    numbers: dict[str, int | float | str | bool | None] = Field(description="What it was decided on.")


class Events(BaseModel):
    """Oldest first."""

    events: list[RememberedEvent]


_Said = tuple[str, tuple[type[BaseModel], ...]]
_Answers = Mapping[int, _Said]


def _bad(description: str, *more: type[BaseModel]) -> _Said:
    return description, more or (ProblemBody,)


EVERYWHERE: Final[_Answers] = {
    400: _bad("Malformed, or not exactly one Host header"),
    403: _bad("A page of another site"),
    408: _bad("It came too slowly"),
    413: _bad("It is too large"),
    414: _bad("The path is too long"),
    421: _bad("Host names another machine"),
    431: _bad("The headers are too large"),
    500: _bad("A fault in admit"),
    503: _bad("The machine cannot be seen, the daemon is being stopped, or it has too many connections"),
}
_BODY: Final[_Answers] = {415: _bad("The body is not application/json"), 422: _bad("Malformed")}
_UNKNOWN: Final[_Answers] = {404: _bad("Not declared")}
_REFUSED: Final[_Answers] = {409: ("Refused", (RefusalBody,))}
_TOKEN: Final[_Answers] = {401: _bad("The token is missing or wrong")}

ANSWERS: Final[Mapping[tuple[str, str], _Answers]] = {
    ("post", "/admit"): {
        200: ("Admitted, or loaded already", (VerdictBody,)),
        **_BODY,
        422: _bad("Malformed, or holder_pid is no live process"),
        **_UNKNOWN,
        **_REFUSED,
    },
    ("post", "/apps/{name}"): {
        200: ("It is kept", (App,)),
        **_BODY,
        422: _bad("Malformed, or pid is no live process"),
        409: ("Refused", (RefusalBody, ProblemBody)),
    },
    ("get", "/apps"): {200: ("Those that something is kept for", (Apps,))},
    ("get", "/capacity"): {200: ("The ledger", (Capacity,))},
    ("get", "/history"): {200: ("How the memory went, oldest first", (History,))},
    ("get", "/plan"): {200: ("What would have to go", (Plan,)), 422: _bad("Malformed"), **_UNKNOWN},
    ("delete", "/reservations/{id}"): {
        204: ("Given back", ()),
        404: _bad("No such reservation"),
        422: _bad("Malformed"),
    },
    ("get", "/events"): {200: ("Oldest first; or, when asked for, a live stream", (Events,)), 422: _bad("Malformed")},
    ("get", "/metrics"): {200: ("Prometheus text", ())},
    ("get", "/healthz"): {200: ("The process table can be seen", (Health,))},
    ("post", "/services/{name}/load"): {
        200: ("It is loaded", (Loaded,)),
        **_BODY,
        **_UNKNOWN,
        **_TOKEN,
        409: ("Refused, or somebody is at it", (RefusalBody, ProblemBody)),
        502: ("It could not be loaded", (FailedLoadBody,)),
        504: ("It was not loaded in time", (FailedLoadBody,)),
    },
    ("post", "/services/{name}/unload"): {
        200: ("It is gone", (Unloaded,)),
        **_BODY,
        **_UNKNOWN,
        **_TOKEN,
        409: _bad("Somebody is at it"),
        502: _bad("It could not be asked to go"),
        504: ("It did not go in time", (StuckBody,)),
    },
}
"""What each route answers; EVERYWHERE beside it."""


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of `app`."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    shapes = document["components"]["schemas"]
    for ours in ("HTTPValidationError", "ValidationError"):
        shapes.pop(ours, None)
    models: set[type[BaseModel]] = {ProblemBody}
    models.update(model for answers in ANSWERS.values() for _, found in answers.values() for model in found)
    _, made = models_json_schema([(model, "serialization") for model in models], ref_template=_REF)
    shapes.update(made["$defs"])
    for (method, path), answers in ANSWERS.items():
        if path not in document["paths"]:
            continue  # an application that was made without the routes for apps
        everything = sorted({**EVERYWHERE, **answers}.items())
        document["paths"][path][method]["responses"] = {str(code): _answer(code, *said) for code, said in everything}
    live = document["paths"]["/events"]["get"]["responses"]["200"]["content"]
    live["text/event-stream"] = {"schema": {"type": "string"}}
    metrics = document["paths"]["/metrics"]["get"]["responses"]["200"]
    metrics["content"] = {"text/plain": {"schema": {"type": "string"}}}
    return document


def _answer(code: int, description: str, models: tuple[type[BaseModel], ...]) -> dict[str, Any]:
    if not models:
        return {"description": description}
    refs = [{"$ref": _REF.format(model=model.__name__)} for model in models]
    schema = refs[0] if len(refs) == 1 else {"anyOf": refs}
    kind = wire.PROBLEM_JSON if code >= 400 else "application/json"
    return {"description": description, "content": {kind: {"schema": schema}}}
