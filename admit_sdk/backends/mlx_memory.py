"""mlx_memory: the memory that MLX keeps, within the app's budget; shared by the backends that run on MLX.

The wired limit is never raised. Raising it is what mlx_lm and mlx_vlm do around a generation of their own, and what
made Macs panic in 102 to 108 s under two concurrent streams, while nothing happened in 4.2 hours without it
(ml-explore/mlx issue 3186). So the backends here call `generate_step`, which leaves it alone, and never
`stream_generate`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, Final, TypeVar

import mlx.core as mx
from mlx.utils import tree_flatten

from admit_sdk.errors import ModelFailed
from admit_sdk.frames import without_frames
from admit_sdk.models import Model
from admitd.core.sizing import Attention

_Loaded = TypeVar("_Loaded")
CACHE_SHARE: Final = 16
"""Of the soft budget, MLX may keep one part in so many as buffers that were freed: the default is all of it."""


def keep_within(soft_bytes: int, hard_bytes: int) -> None:
    """Have MLX wait for memory at the hard limit, and keep few freed buffers. Both are guidelines to MLX: a load beyond
    them goes through, which is why the governor is asked first."""
    mx.set_memory_limit(hard_bytes)
    mx.set_cache_limit(soft_bytes // CACHE_SHARE)


def attention() -> Attention:
    """How scores are computed here."""
    return Attention.FUSED if mx.metal.is_available() else Attention.WHOLE


def weights_of(module: Any) -> int:
    """Bytes of a model's parameters; of one that was loaded lazily, what they will take."""
    parameters: Any = tree_flatten(module.parameters())
    return sum(int(each.nbytes) for _, each in parameters)


def after_request() -> None:
    """Give back what a request held: what still runs is waited for, then its buffers go."""
    mx.synchronize()
    mx.clear_cache()


def before_thread_ends() -> None:
    """As `after_request`, and this thread's streams with it: one that outlives its thread ends the interpreter with
    "terminate called without an active exception" (seen with mlx 0.32.4 in every second run)."""
    mx.synchronize()
    mx.clear_cache()
    mx.clear_streams()


def loaded_by(library: str, model: Model, load: Callable[[], _Loaded]) -> _Loaded:
    """What `load` makes. A load that fails gives back what it had, as an unload would. Raises ModelFailed, OSError."""
    try:
        return load()
    except BaseException as fault:
        without_frames(fault)
        gc.collect()
        before_thread_ends()
        if isinstance(fault, ValueError | KeyError | TypeError | RuntimeError):
            raise ModelFailed(f"{model.name} can't be loaded by {library}: {fault}") from None
        raise
