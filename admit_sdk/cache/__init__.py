"""cache: a folder of model files that apps share: found by content, held while used, kept within bounds."""

from __future__ import annotations

from admit_sdk.cache.errors import (
    BadName,
    CacheError,
    CacheUnusable,
    DownloadFailed,
    InUse,
    NoHub,
    NoRoom,
    NotCached,
    Stopped,
    TooLarge,
    WrongContent,
)
from admit_sdk.cache.modelcache import HeldFolder, ModelCache
from admit_sdk.cache.references import Held
from admit_sdk.cache.terms import CachedFile, Contents, Leftover, Progress, Reference, Source, State

__all__ = [
    "BadName",
    "CacheError",
    "CacheUnusable",
    "CachedFile",
    "Contents",
    "DownloadFailed",
    "Held",
    "HeldFolder",
    "InUse",
    "Leftover",
    "ModelCache",
    "NoHub",
    "NoRoom",
    "NotCached",
    "Progress",
    "Reference",
    "Source",
    "State",
    "Stopped",
    "TooLarge",
    "WrongContent",
]
