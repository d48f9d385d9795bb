"""schemas: the shapes that go in and out over HTTP, for /openapi.json and for checking what comes in."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

_Mb = Annotated[int, Field(description="MiB")]
_LONGEST_WAIT_S: Final = 86_400.0
_PID_MAX: Final = 2**31 - 1


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


class Reservation(BaseModel):
    """Budget held for a load that was admitted and is not visible yet."""

    id: str
    service: str
    budget_mb: _Mb
    holder_pid: int | None
    expires_at: float = Field(description="Seconds since 1970.")


class Verdict(BaseModel):
    """Admitted, or loaded already."""

    verdict: Literal["admitted", "already_loaded"]
    service: str
    budget_mb: _Mb
    free_mb: _Mb
    reservation: Reservation | None
    state: str | None = None
    mention_only: bool | None = None


class ProblemBody(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str


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
    reason: str
    service: str
    budget_mb: _Mb
    free_mb: _Mb
    shortfall_mb: _Mb
    blockers: list[Blocker]
    remedy: str | None
    victims: list[str]
    queue_position: int | None = None


class Service(BaseModel):
    """One service's line in the ledger."""

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
    """How the sentinel's rounds go. `last_round_s_ago` is null before the first."""

    rounds: int
    errors: int
    last_round_s_ago: float | None


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


def _problem(description: str, model: type[BaseModel] = ProblemBody) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/problem+json": {"schema": model.model_json_schema()}},
    }


def _refusal() -> dict[str, Any]:
    # Inlined, since FastAPI only collects the models of plain JSON answers.
    schema = RefusalBody.model_json_schema()
    blocker = schema.pop("$defs")["Blocker"]
    schema["properties"]["blockers"]["items"] = blocker
    return {"description": "Refused", "content": {"application/problem+json": {"schema": schema}}}


Responses = dict[int | str, dict[str, Any]]
EVERYWHERE: Final[Responses] = {
    400: _problem("Malformed, or not exactly one Host header"),
    403: _problem("A page of another site"),
    405: _problem("Not offered"),
    414: _problem("The path is too long"),
    421: _problem("Host names another machine"),
    422: _problem("Malformed"),
    500: _problem("A fault in admit"),
}
_BODY: Final[Responses] = {
    408: _problem("The body came too slowly"),
    413: _problem("The body is too large"),
    415: _problem("The body is not application/json"),
}
_UNKNOWN: Final[Responses] = {404: _problem("Not declared")}
SEEING: Final[Responses] = {503: _problem("The machine cannot be seen")}
ADMIT: Final[Responses] = {**_BODY, **_UNKNOWN, **SEEING, 409: _refusal()}
EVENTS: Final[Responses] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
    503: _problem("The journal cannot be read, or too many streams are open"),
}
PLAN: Final[Responses] = {**_UNKNOWN, **SEEING}
GIVE_BACK: Final[Responses] = {404: _problem("No such reservation"), 408: _BODY[408], 413: _BODY[413]}
_TOKEN: Final[Responses] = {401: _problem("The token is missing or wrong")}
LOAD: Final[Responses] = {
    **ADMIT,
    **_TOKEN,
    502: _problem("The load command failed"),
    504: _problem("It was not loaded in time"),
}
UNLOAD: Final[Responses] = {
    **_BODY,
    **_UNKNOWN,
    **SEEING,
    **_TOKEN,
    409: _problem("Somebody is loading or unloading it"),
    502: _problem("It could not be asked to go"),
    504: _problem("It did not go in time"),
}
