"""models: what an app declares of a model: where it lies, what it is for, and how it may be loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from admit_sdk.requests import Capability, whole_number
from admitd.core.units import to_mb

CONTEXT: Final = 4096
"""Tokens of a prompt and its answer together, where nothing else is said."""
QUEUE: Final = 64
WORKERS_MAX: Final = 16


@dataclass(frozen=True, slots=True)
class Model:
    """A model of an app. Raises ValueError for what makes no sense.

    `eager`: loaded when the pool opens, and evicted last. `workers`: at most so many copies at once. `context`: tokens
    of a prompt and its answer together; memory for their cache is kept from the start. `smaller`: the name of a
    declared model that can stand in for this one. `size_bytes`: what it takes, instead of what its files say.
    `map_weights`: read weights from their file only as they are used, and share them with other processes where the
    backend can. `backend`: the name of one in admit_sdk/backends, where the capability alone does not decide.
    """

    name: str
    path: Path
    capability: Capability
    eager: bool = False
    workers: int = 1
    context: int = CONTEXT
    smaller: str | None = None
    size_bytes: int | None = None
    map_weights: bool = False
    backend: str | None = None
    queue_limit: int = QUEUE

    def __post_init__(self) -> None:
        if not self.name or not self.name.isprintable() or len(self.name) > 100:
            raise ValueError(f"{self.name[:100]!r} is no name of a model: 1 to 100 printable characters")
        for name, value, most in (
            ("workers", self.workers, WORKERS_MAX),
            ("context", self.context, 1 << 24),
            ("queue_limit", self.queue_limit, 1 << 20),
        ):
            whole_number(value, f"{self.name}: {name}", 1, most)
        if self.size_bytes is not None:
            whole_number(self.size_bytes, f"{self.name}: size_bytes", 1, 1 << 60)
        if self.smaller == self.name:
            raise ValueError(f"{self.name} can't be its own smaller variant")


@dataclass(frozen=True, slots=True)
class Need:
    """What a model will hold, in bytes: its weights, and beside them one request, or for a moment the load."""

    weights: int
    working: int
    loading: int = 0

    @property
    def together(self) -> int:
        """The most that it will hold at once."""
        return self.weights + max(self.working, self.loading)


def catalogue(models: Iterable[Model]) -> Mapping[str, Model]:
    """The models by name. Raises ValueError for two of one name, and for a smaller variant that can't stand in."""
    found: dict[str, Model] = {}
    for model in models:
        if model.name in found:
            raise ValueError(f"{model.name} is declared twice")
        found[model.name] = model
    for model in found.values():
        _check_smaller(model, found)
    return found


def _check_smaller(model: Model, all_of_them: Mapping[str, Model]) -> None:
    seen = {model.name}
    each = model
    while each.smaller is not None:
        smaller = all_of_them.get(each.smaller)
        if smaller is None:
            raise ValueError(f"{each.name} names {each.smaller} as its smaller variant, and no model is called that")
        if smaller.capability is not each.capability:
            raise ValueError(
                f"{smaller.name} is for {smaller.capability}, and can't stand in for {each.name}: {each.capability}"
            )
        if smaller.name in seen:
            raise ValueError(f"{', '.join(sorted(seen))}: each is named as the smaller variant of another")
        seen.add(smaller.name)
        each = smaller


def too_large(model: Model, need: Need, soft_bytes: int) -> str:
    """The sentence for a model that no eviction would make fit."""
    return (
        f"{model.name} needs {to_mb(need.together)} MB ({to_mb(need.weights)} MB of it for weights), and "
        f"the app's soft budget is {to_mb(soft_bytes)} MB in all"
    )
