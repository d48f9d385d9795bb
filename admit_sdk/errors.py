"""errors: what an app is told when memory is not to be had; every refusal carries its numbers and what to do next.

Amounts are bytes, and MB in a message means MiB, as everywhere in `admit`. `reason` is one of the stable words of
admitd/core/verdict.py, the same that a daemon's refusal carries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from admitd.core.units import free_to_mb, to_mb
from admitd.core.verdict import Reason

if TYPE_CHECKING:
    from admit_sdk.eviction import Candidate


class ResourceNotAvailableError(Exception):
    """`required` of `resource` was asked for and `available` is there; `suggestion` says what would help."""

    def __init__(
        self,
        resource: str,
        required: int,
        available: int,
        suggestion: str,
        *,
        reason: Reason = Reason.NO_HEADROOM,
        what: str = "",
    ) -> None:
        """`what`: who asked for it, for the message."""
        available = max(0, available)
        super().__init__(
            f"{what or 'this'} needs {to_mb(required)} MB of {resource}, and {free_to_mb(available)} MB are free"
            + (f": {suggestion}" if suggestion else "")
        )
        self.resource = resource
        self.required = required
        self.available = available
        self.suggestion = suggestion
        self.reason = reason
        self.what = what


class Exhausted(ResourceNotAvailableError):
    """It does not fit, and nothing that may be evicted now would make it fit."""

    def __init__(
        self,
        requested: int,
        available: int,
        suggestion: str = "",
        *,
        resource: str = "memory",
        reason: Reason = Reason.NO_HEADROOM,
        what: str = "",
    ) -> None:
        super().__init__(resource, requested, available, suggestion, reason=reason, what=what)

    @property
    def requested(self) -> int:
        return self.required


class RequiresEviction(ResourceNotAvailableError):
    """It does not fit, and evicting `candidates`, in this order, would make it fit."""

    def __init__(
        self,
        requested: int,
        available: int,
        candidates: Sequence[Candidate],
        *,
        resource: str = "memory",
        what: str = "",
    ) -> None:
        names = ", ".join(candidate.name for candidate in candidates)
        super().__init__(resource, requested, available, f"evict {names} first, in this order", what=what)
        self.candidates = tuple(candidates)

    @property
    def requested(self) -> int:
        return self.required


class MemoryExhausted(ResourceNotAvailableError):
    """Not even one worker of a model fits."""


class QueueFull(Exception):
    """A bounded queue holds `limit` requests already, and takes no more."""

    def __init__(self, name: str, limit: int) -> None:
        super().__init__(f"{limit} requests wait for {name} already; ask again when one of them has been answered")
        self.name = name
        self.limit = limit


class Aborted(Exception):
    """The request was cancelled before it was answered; what it held is given back."""


class DeadlinePassed(Exception):
    """The request's own deadline came before its answer."""


class ModelFailed(Exception):
    """A model could not be loaded, or broke while it answered; the text names it and says why."""


class GuardReleased(RuntimeError):
    """A guard was used after it had been released: there is nothing left that it could resize or hand over."""
