"""fromcommand: what a load_cmd says of its service, where it starts an engine that is known: match, budget, probe."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from admitd import discovery, drafting
from admitd.core.terms import Command, Service
from admitd.core.units import to_mb
from admitd.discovery import Eyes
from admitd.doctor.commandline import engine_of


@dataclass(frozen=True, slots=True)
class Told:
    """Keys of capacity.yaml, in its order; and where the budget is from."""

    engine: str
    keys: dict[str, Any]
    why: str


def told(command: Command, eyes: Eyes, declared: Collection[Service]) -> Told | None:
    """What can be told of what `command` starts, beside what is declared; None where it is no engine that is known.
    Raises CannotSee."""
    draft = engine_of(command, eyes.environ)
    if draft is None:
        return None
    sized = discovery.sized(draft, eyes)
    keys: dict[str, Any] = {} if sized.budget is None else {"ram_budget_mb": to_mb(sized.budget)}
    if sized.way is None:
        return None
    keys["process_pattern"] = sized.way.pattern
    if sized.way.program is not None:
        keys["program"] = sized.way.program
    if draft.engine == "mlx-lm" and (others := drafting.mlx_servers(declared)):
        keys["exclusive_with"] = others  # as `admit init` has it: each takes most of what Metal may wire
    return Told(draft.title, {**keys, **draft.keys}, sized.why)
