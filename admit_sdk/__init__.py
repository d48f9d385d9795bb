"""admit_sdk: the rules of `admit` inside one app: a budget, guards that cannot leak, refusals that say what to do.

Nothing is imported before it is used: an app pays for what it needs, and `import admit_sdk` costs next to nothing.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from admit_sdk.buffers import BufferPool as BufferPool
    from admit_sdk.buffers import HostBuffer as HostBuffer
    from admit_sdk.citizen import Citizen as Citizen
    from admit_sdk.errors import Aborted as Aborted
    from admit_sdk.errors import DeadlinePassed as DeadlinePassed
    from admit_sdk.errors import Exhausted as Exhausted
    from admit_sdk.errors import GuardReleased as GuardReleased
    from admit_sdk.errors import MemoryExhausted as MemoryExhausted
    from admit_sdk.errors import ModelFailed as ModelFailed
    from admit_sdk.errors import QueueFull as QueueFull
    from admit_sdk.errors import RequiresEviction as RequiresEviction
    from admit_sdk.errors import ResourceNotAvailableError as ResourceNotAvailableError
    from admit_sdk.eviction import Candidate as Candidate
    from admit_sdk.eviction import EvictionQueue as EvictionQueue
    from admit_sdk.governor import MemoryGovernor as MemoryGovernor
    from admit_sdk.guard import AllocationGuard as AllocationGuard
    from admit_sdk.jobs import Stream as Stream
    from admit_sdk.jobs import Ticket as Ticket
    from admit_sdk.models import Model as Model
    from admit_sdk.overrun import SaveAndStop as SaveAndStop
    from admit_sdk.pool import ModelPool as ModelPool
    from admit_sdk.power import on_battery as on_battery
    from admit_sdk.profiles import Profile as Profile
    from admit_sdk.profiles import profile_for_this_system as profile_for_this_system
    from admit_sdk.requests import Capability as Capability
    from admit_sdk.requests import ImageEmbedding as ImageEmbedding
    from admit_sdk.requests import Message as Message
    from admit_sdk.requests import TextEmbedding as TextEmbedding
    from admit_sdk.requests import TextToImage as TextToImage
    from admit_sdk.requests import TextToText as TextToText
    from admit_sdk.requests import Vision as Vision
    from admitd.core.governing import Pressure as Pressure

_HOMES = {
    "admit_sdk.buffers": ("BufferPool", "HostBuffer"),
    "admit_sdk.citizen": ("Citizen",),
    "admit_sdk.errors": (
        "Aborted",
        "DeadlinePassed",
        "Exhausted",
        "GuardReleased",
        "MemoryExhausted",
        "ModelFailed",
        "QueueFull",
        "RequiresEviction",
        "ResourceNotAvailableError",
    ),
    "admit_sdk.eviction": ("Candidate", "EvictionQueue"),
    "admit_sdk.governor": ("MemoryGovernor",),
    "admit_sdk.guard": ("AllocationGuard",),
    "admit_sdk.jobs": ("Stream", "Ticket"),
    "admit_sdk.models": ("Model",),
    "admit_sdk.overrun": ("SaveAndStop",),
    "admit_sdk.pool": ("ModelPool",),
    "admit_sdk.power": ("on_battery",),
    "admit_sdk.profiles": ("Profile", "profile_for_this_system"),
    "admit_sdk.requests": (
        "Capability",
        "ImageEmbedding",
        "Message",
        "TextEmbedding",
        "TextToImage",
        "TextToText",
        "Vision",
    ),
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
