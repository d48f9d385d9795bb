"""shape: which keys capacity.yaml has, of which type, with which default and help. The JSON Schema is made from it.

What one key says about another (a service and its pool, a name and who bears it) is not here but in meaning.py.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from admitd import patterns, values
from admitd.core.terms import OnPressure

NAME_PATTERN: Final = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"

Text = Annotated[str, Field(min_length=1), BeforeValidator(values.text)]
MaybeText = Annotated[str | None, BeforeValidator(values.maybe_text)]
Pattern = Annotated[
    str | None,
    BeforeValidator(values.maybe_pattern),
    WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1, "maxLength": patterns.LONGEST}, {"type": "null"}]}),
]
Command = Annotated[
    str | list[str] | None,
    BeforeValidator(values.command),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "items": {"type": "string"}, "minItems": 1},
                {"type": "null"},
            ]
        }
    ),
]
Budget = Annotated[int, Field(ge=1, le=values.MOST_MB), BeforeValidator(values.budget_mb)]
_MAYBE_MB: Final = {"anyOf": [{"type": "integer", "minimum": 1, "maximum": values.MOST_MB}, {"type": "null"}]}
Physical = Annotated[int | None, BeforeValidator(values.physical_mb), WithJsonSchema(_MAYBE_MB)]
Limit = Annotated[int | None, BeforeValidator(values.limit_mb), WithJsonSchema(_MAYBE_MB)]
Kept = Annotated[int, Field(ge=0, le=values.MOST_MB), BeforeValidator(values.kept_mb)]
Seconds = Annotated[float, Field(gt=0, le=values.LONGEST_S), BeforeValidator(values.seconds)]
MaybeSeconds = Annotated[
    float | None,
    BeforeValidator(values.maybe_seconds),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": values.LONGEST_S}, {"type": "null"}]}
    ),
]
Interval = Annotated[float, Field(ge=0.1, le=values.LONGEST_S), BeforeValidator(values.interval_s)]
Priority = Annotated[
    int, Field(ge=-values.LARGEST_PRIORITY, le=values.LARGEST_PRIORITY), BeforeValidator(values.priority)
]
Count = Annotated[int, Field(ge=1, le=1000), BeforeValidator(values.count)]
Version = Annotated[int, Field(ge=1, le=values.NEWEST), BeforeValidator(values.version)]
Status = Annotated[int, Field(ge=100, le=599), BeforeValidator(values.status)]
Switch = Annotated[bool, BeforeValidator(values.switch)]
OnOff = Annotated[
    bool,
    BeforeValidator(values.on_off),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"enum": ["on", "off", "yes", "no", "true", "false"]}]}),
]
Names = Annotated[list[Text], BeforeValidator(values.names)]
Method = Annotated[str | None, BeforeValidator(values.method), WithJsonSchema({"enum": [*values.METHODS, None]})]
Url = Annotated[str, Field(pattern="^https?://[^ ]+$"), BeforeValidator(values.url)]
OnPressureWord = Annotated[
    str, BeforeValidator(values.on_pressure), WithJsonSchema({"enum": [each.value for each in OnPressure]})
]
NotifyUrl = Annotated[str, Field(pattern="^[A-Za-z][A-Za-z0-9+.-]*://"), BeforeValidator(values.notify_url)]
Body = Annotated[Any, BeforeValidator(values.body)]


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    what: ClassVar[str] = ""


class ProbeShape(_Shape, title="probe"):
    """A real request that shows that inference works. It must answer with expect_status."""

    what = "a probe"
    url: Url = Field(description="Where the request goes.", examples=["http://127.0.0.1:8080/v1/chat/completions"])
    method: Method = Field(
        default=None, description="HTTP method. Default: POST with a body, GET without.", examples=["POST"]
    )
    body: Body = Field(
        default=None,
        alias="json",
        description="JSON request body. Default for /v1/chat/completions and /v1/completions: one token.",
        examples=[{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}],
    )
    expect_status: Status = Field(default=200, description="The HTTP status that means: it works.", examples=[200])
    timeout_s: Seconds = Field(
        default=30.0, description="Seconds to wait for the answer. A busy server is slow, not dead.", examples=[30]
    )
    startup_grace_s: Seconds = Field(
        default=120.0,
        description="Seconds after the start of a process in which failures do not count.",
        examples=[120],
    )


class ServiceShape(_Shape, title="service"):
    """A memory-heavy program: a model server, a virtual machine, an image generator."""

    what = "a service"
    ram_budget_mb: Budget = Field(
        description="What the service holds at its worst, in MiB, measured at peak and rounded up.", examples=[45000]
    )
    priority: Priority = Field(default=0, description="Higher wins.", examples=[100])
    exclusive_with: Names = Field(
        default=[], description="Services that never run beside this one. Symmetric.", examples=[["other-service"]]
    )
    process_pattern: Pattern = Field(
        default=None,
        description="RE2 regular expression, searched in the command line of every process. A match means loaded.",
        examples=[r"mlx_lm[. ]server .*Qwen3\.6-35B"],
    )
    program: MaybeText = Field(
        default=None,
        description="Name that argv[0] or the script of its interpreter must have for a match to count.",
        examples=["mlx_lm.server"],
    )
    loaded_check_cmd: Command = Field(
        default=None,
        description="Command that exits 0 within 2 seconds while the service is loaded.",
        examples=["lms ps | grep -q coder-14b"],
    )
    load_cmd: Command = Field(
        default=None,
        description="Command that loads it. A string is run by /bin/sh -c, a list as it is.",
        examples=["mlx_lm.server --model mlx-community/Qwen3.6-35B-A3B-4bit --port 8080"],
    )
    unload_cmd: Command = Field(
        default=None,
        description="Command that unloads it. Default: SIGTERM to the matched processes.",
        examples=["lms unload coder-14b"],
    )
    load_timeout_s: Seconds = Field(
        default=300.0, description="Seconds until a load that is not visible yet has failed.", examples=[300]
    )
    unload_timeout_s: Seconds = Field(
        default=60.0, description="Seconds to wait until its memory is back after an unload.", examples=[60]
    )
    pinned: Switch = Field(
        default=False, description="Whether its budget stays committed while it is not loaded.", examples=[True]
    )
    evictable: Switch = Field(
        default=True, description="Whether it may be unloaded to make room for another service.", examples=[False]
    )
    probe: ProbeShape | None = Field(
        default=None,
        description="Request that shows that inference works.",
        examples=[{"url": "http://127.0.0.1:8080/v1/chat/completions"}],
    )
    hard_limit_mb: Limit = Field(
        default=None,
        description="Above this it is closed: SIGTERM, time to save, then the end. Default: no limit.",
        examples=[50000],
    )
    recover: Switch = Field(
        default=True,
        description="Whether the sentinel unloads and loads it again when it no longer answers.",
        examples=[False],
    )
    idle_unload_s: MaybeSeconds = Field(
        default=None, description="Unload it after so many seconds without activity. Default: never.", examples=[1800]
    )
    eager: Switch = Field(
        default=False,
        description="Whether it should stay loaded: of equals, it is the last to go under pressure.",
        examples=[True],
    )


class HostShape(_Shape, title="host"):
    """The memory of one machine, in MiB. The pool is physical minus reserved minus safety."""

    what = "a host"
    ram_physical_mb: Physical = Field(
        default=None, description="Physical memory. Default: detected on this machine.", examples=[65536]
    )
    ram_reserved_mb: Kept = Field(
        description="Memory kept for the OS, the window server and the user's own apps.", examples=[12288]
    )
    ram_safety_mb: Kept = Field(description="Floor that is never admitted into.", examples=[4096])


class SentinelShape(_Shape, title="sentinel"):
    """What the sentinel watches, and how often."""

    what = "the sentinel"
    safelist: Names = Field(
        default=[],
        description="Service names, or RE2 patterns of command lines, that must keep running.",
        examples=[["qemu", "WindowServer"]],
    )
    stopped_interval_s: Interval = Field(
        default=10.0, description="Seconds between two looks for stopped processes.", examples=[10]
    )
    probe_interval_s: Interval = Field(
        default=60.0, description="Seconds between two probes of a service.", examples=[60]
    )
    probe_failures: Count = Field(
        default=3, description="Failures in a row after which a service counts as hung.", examples=[3]
    )
    recoveries_per_hour: Count = Field(
        default=3,
        description="Recoveries of one service in an hour, after which it gives up and says so.",
        examples=[3],
    )
    save_grace_s: Seconds = Field(
        default=5.0, description="Seconds that a runaway has to save its work after SIGTERM.", examples=[5]
    )
    on_pressure: OnPressureWord = Field(
        default="tell",
        description="Under critical pressure that lasts: tell which service to unload, or evict it.",
        examples=["evict"],
    )
    notify: Annotated[list[NotifyUrl], BeforeValidator(values.names)] = Field(
        default=[],
        description="Where people are told: URLs of Apprise, the extra `notify`, and desktop://.",
        examples=[["ntfy://ntfy.sh/my-topic"]],
    )
    notify_command: Command = Field(
        default=None,
        description="Command that tells people; it gets the text in ADMIT_EVENT_TEXT.",
        examples=[["notify-send", "admit"]],
    )


class FileShape(_Shape, title="capacity.yaml"):
    """Which services this machine may load, and how much memory each of them needs."""

    what = "capacity.yaml"
    host: MaybeText = Field(
        default=None,
        description="Entry of hosts that describes this machine. Default: the one named like it, or the only one.",
        examples=["manoir"],
    )
    hosts: dict[str, HostShape] = Field(
        description="Machines by name.",
        examples=[{"manoir": {"ram_physical_mb": 65536, "ram_reserved_mb": 12288, "ram_safety_mb": 4096}}],
        json_schema_extra={"minProperties": 1, "propertyNames": {"pattern": NAME_PATTERN}},
    )
    services: dict[str, ServiceShape] = Field(
        description="Services by name.",
        examples=[{"qwen": {"ram_budget_mb": 45000, "process_pattern": "mlx_lm[. ]server .*Qwen"}}],
        json_schema_extra={"propertyNames": {"pattern": NAME_PATTERN}},
    )
    sentinel: SentinelShape = Field(
        default=SentinelShape(),
        description="The thread that keeps looking after the services.",
        examples=[{"safelist": ["qemu"]}],
    )
    live_veto: OnOff = Field(
        default=True,
        description="Whether live memory and pressure may refuse what the ledger would admit.",
        examples=["on"],
    )
    version: Version = Field(
        default=1, description="Version of this file's format. Without it: 1, the only one so far.", examples=[1]
    )


_INSIDE: Final[dict[str, type[_Shape]]] = {"hosts": HostShape, "services": ServiceShape}


def shape_at(keys: tuple[str | int, ...]) -> type[_Shape] | None:
    """Which mapping with fixed keys stands at `keys`."""
    if not keys:
        return FileShape
    if keys == ("sentinel",):
        return SentinelShape
    if len(keys) == 2 and keys[0] in _INSIDE:
        return _INSIDE[str(keys[0])]
    return ProbeShape if len(keys) == 3 and keys[0] == "services" and keys[2] == "probe" else None


def keys_of(shape: type[_Shape]) -> dict[str, Any]:
    """The keys of a mapping as they are written in the file, each with one example of its value."""
    return {field.alias or name: (field.examples or [None])[0] for name, field in shape.model_fields.items()}
