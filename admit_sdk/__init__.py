"""admit_sdk: the rules of `admit` inside one app: a budget, guards that cannot leak, refusals that say what to do.

Nothing is imported before it is used: an app pays for what it needs, and `import admit_sdk` costs next to nothing.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from admit_sdk.citizen import Citizen as Citizen
    from admit_sdk.errors import Aborted as Aborted
    from admit_sdk.errors import DeadlinePassed as DeadlinePassed
    from admit_sdk.errors import Exhausted as Exhausted
    from admit_sdk.errors import GuardReleased as GuardReleased
    from admit_sdk.errors import MemoryExhausted as MemoryExhausted
    from admit_sdk.errors import QueueFull as QueueFull
    from admit_sdk.errors import RequiresEviction as RequiresEviction
    from admit_sdk.errors import ResourceNotAvailableError as ResourceNotAvailableError
    from admit_sdk.eviction import Candidate as Candidate
    from admit_sdk.eviction import EvictionQueue as EvictionQueue
    from admit_sdk.governor import MemoryGovernor as MemoryGovernor
    from admit_sdk.guard import AllocationGuard as AllocationGuard
    from admitd.core.governing import Pressure as Pressure

_HOMES = {
    "admit_sdk.citizen": ("Citizen",),
    "admit_sdk.errors": (
        "Aborted",
        "DeadlinePassed",
        "Exhausted",
        "GuardReleased",
        "MemoryExhausted",
        "QueueFull",
        "RequiresEviction",
        "ResourceNotAvailableError",
    ),
    "admit_sdk.eviction": ("Candidate", "EvictionQueue"),
    "admit_sdk.governor": ("MemoryGovernor",),
    "admit_sdk.guard": ("AllocationGuard",),
    "admitd.core.governing": ("Pressure",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = list(_HOME_OF)  # kept in one place, and tests compare it with what the type checker sees


def __getattr__(name: str) -> "Any":
    """The name, from the file that has it."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'admit_sdk' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
