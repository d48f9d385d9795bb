"""sizing: what a model will hold, from its shape; and what budget a peak asks for. Arithmetic, and no more.

An estimate errs on the side of too much: what is not modelled is counted as if it were not there to save anything,
and said in the notes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from admitd.core.units import MIB

MARGIN: Final = 1.15
"""A budget is the peak and this much: the next prompt is longer, and an allocator gives back less than it was given."""
BUDGET_STEP: Final = 256 * MIB
BUDGET_LEAST_STEP: Final = 16 * MIB


class Engine(StrEnum):
    """Who serves it, as the file tells: a folder of safetensors is MLX's, a GGUF llama.cpp's."""

    MLX = "mlx"
    LLAMA = "llama.cpp"


class Attention(StrEnum):
    """How scores are computed: block by block, by a fused kernel, as Metal does it; or whole, as MLX does on a CPU."""

    FUSED = "fused"
    WHOLE = "whole"


# Measured as peak footprint of a server with a model of half a MB after one answer (tests/live/test_estimate.py):
# mlx_lm.server 0.32 with its Python libraries 90 MB, llama-server 39 MB.
PROGRAM: Final[Mapping[Engine, int]] = {Engine.MLX: 92 * MIB, Engine.LLAMA: 48 * MIB}
# Tokens of a prompt that are worked on at once: mlx_lm.server --prefill-step-size, llama-server --ubatch-size.
BATCH: Final[Mapping[Engine, int]] = {Engine.MLX: 2048, Engine.LLAMA: 512}
# mlx_lm/models/cache.py, KVCache.step; llama.cpp pads its context to 256 (src/llama-context.cpp).
CACHE_STEP: Final = 256
# mlx_lm's cache grows by copying, and its server keeps that of a request that has ended for the next one; measured.
CACHES_KEPT: Final[Mapping[Engine, int]] = {Engine.MLX: 2, Engine.LLAMA: 1}
FLOAT32: Final = 4


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a model decides the memory that it takes beside its weights.

    `kv_heads`: by layer, 0 for a layer that keeps no keys. `cache_bytes`: of one number in the cache.
    """

    heads: int
    kv_heads: tuple[int, ...]
    key_dim: int
    value_dim: int
    hidden: int
    inner: int
    vocabulary: int
    cache_bytes: int
    context: int | None = None


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What a model's files say, without loading it. `types`: bytes by type of number."""

    engine: Engine
    family: str
    weights: int
    tensors: int
    types: Mapping[str, int]
    shape: Shape
    files: int = 1
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes that serving a model will hold."""

    weights: int
    cache: int
    scratch: int
    program: int
    tokens: int
    parallel: int

    @property
    def together(self) -> int:
        return self.weights + self.cache + self.scratch + self.program


def estimate(files: ModelFiles, tokens: int, parallel: int, attention: Attention = Attention.FUSED) -> Estimate:
    """What it will hold with `parallel` requests of `tokens` tokens each, prompt and answer together."""
    return Estimate(
        files.weights,
        CACHES_KEPT[files.engine] * cache(files.shape, tokens, parallel),
        scratch(files, tokens, attention),
        PROGRAM[files.engine],
        tokens,
        parallel,
    )


def cache(shape: Shape, tokens: int, parallel: int) -> int:
    """Bytes of the keys and values that attention keeps of every token: 2 * layers * kv_heads * head_dim * bytes *
    tokens (Pope et al. 2022, "Efficiently Scaling Transformer Inference", section 3.3), where keys and values may
    differ in size and layers in heads. Both engines allocate in steps of 256 tokens.
    """
    padded = -(-tokens // CACHE_STEP) * CACHE_STEP * parallel
    return sum(shape.kv_heads) * (shape.key_dim + shape.value_dim) * shape.cache_bytes * padded


def scratch(files: ModelFiles, tokens: int, attention: Attention = Attention.FUSED) -> int:
    """Bytes of what is computed in between, for one batch of a prompt.

    llama.cpp reserves for the worst batch: its logits (258 MiB for Llama 3's vocabulary of 128,256, as it prints) or
    the inner layers. MLX computes one layer at a time and keeps the freed buffers for the next: the inputs, what a
    feed-forward layer makes of them, and, where attention is not fused, the score of each token of the batch with
    each token before it, for every head.
    """
    shape = files.shape
    batch = min(tokens, BATCH[files.engine])
    if files.engine is Engine.LLAMA:
        return batch * FLOAT32 * max(shape.vocabulary + shape.hidden, 4 * shape.hidden + 2 * shape.inner)
    scores = shape.heads * tokens if attention is Attention.WHOLE else 0
    return batch * shape.cache_bytes * (6 * shape.hidden + 3 * shape.inner + scores)


def budget(peak: int) -> int:
    """The budget for a measured or estimated peak, in bytes: the peak with MARGIN, rounded up to 256 MB; what is
    smaller than that is rounded up to 16 MB."""
    wanted = peak + round(peak * (MARGIN - 1))
    step = BUDGET_STEP if wanted > BUDGET_STEP else BUDGET_LEAST_STEP
    return max(step, -(-wanted // step) * step)


RESERVED_SHARE: Final = 5
"""A fifth of the machine for the system and its user's own programs; more where they hold more now."""
RESERVED_STEP: Final = 512 * MIB
SAFETY_SHARE: Final = 16
SAFETY_MOST: Final = 4096 * MIB
DESKTOP_LEAST: Final = 8192 * MIB
"""osaurus keeps 35 % and at least 8 GB of a Mac (osaurus-ai/vmlx-swift #421): the window server and Metal wire some."""


def kept(physical: int, others: int | None, *, desktop: bool) -> tuple[int, int]:
    """What a machine of `physical` bytes keeps back: reserved, and the safety floor. `others`: bytes that everything
    but the services holds now. At least half of the machine is left for the pool."""
    safety = _stepped(min(SAFETY_MOST, physical // SAFETY_SHARE), 256 * MIB)
    wanted = max(physical // RESERVED_SHARE, round((others or 0) * MARGIN), DESKTOP_LEAST if desktop else 0)
    most = max(0, physical // 2 - safety)
    return min(_stepped(wanted, RESERVED_STEP), most // MIB * MIB), safety


def _stepped(size: int, step: int) -> int:
    return -(-size // step) * step
