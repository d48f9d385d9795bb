"""safetensors: a Hugging Face or MLX folder: the headers of its safetensors files and its config.json.

Format: https://huggingface.co/docs/safetensors: 8 bytes, little-endian: the length of a JSON header; then the header:
by tensor its dtype, shape and data_offsets; then the data.
"""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeGuard

from admitd.core.sizing import Engine, ModelFiles, Shape
from admitd.modelfiles.bounded import LAYERS_MAX, BadFile, opened, whole

HEADER_MAX: Final = 32 << 20
CONFIG_MAX: Final = 4 << 20
FILES_MAX: Final = 2_000
BITS: Final[Mapping[str, int]] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64,
    "U64": 64,
}  # fmt: skip
WIDE: Final = frozenset({"F32", "F64"})
"""Types of which a cache takes four bytes; halves take two."""


def read(folder: Path) -> ModelFiles:
    """What the folder says. Raises BadFile, OSError."""
    config = _json(folder / "config.json", CONFIG_MAX)
    files = _files(folder)
    types: Counter[str] = Counter()
    tensors = 0
    floats: Counter[str] = Counter()
    for each in files:
        for dtype, size in _tensors(each):
            types[dtype] += size
            tensors += 1
            if dtype in ("F16", "BF16", *WIDE):
                floats[dtype] += 1
    # The numbers that norms and scales are kept in are those that a layer computes with, and caches.
    dtype = max(floats, key=lambda name: floats[name], default="F16")
    shape, notes = _shape(config, folder, 4 if dtype in WIDE else 2)
    family = config.get("model_type")
    return ModelFiles(
        Engine.MLX,
        family[:60] if isinstance(family, str) and family.isprintable() else "unknown",
        types.total(),
        tensors,
        dict(types),
        shape,
        len(files),
        notes,
    )


def _files(folder: Path) -> list[Path]:
    """The safetensors files that make up the model. An index decides where there is one: a folder may hold the same
    weights twice."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        found = sorted(folder.glob("*.safetensors"))[: FILES_MAX + 1]
        if not found:
            raise BadFile(f"{folder} has no safetensors files")
        if len(found) > FILES_MAX:
            raise BadFile(f"{folder} has more than {FILES_MAX} safetensors files")
        return found
    mapped = _json(index, HEADER_MAX).get("weight_map")
    if not isinstance(mapped, dict) or not mapped or not all(isinstance(name, str) for name in mapped.values()):
        raise BadFile(f"{index} has no weight_map that names files")
    names = sorted(set(mapped.values()))
    if len(names) > FILES_MAX:
        raise BadFile(f"{index} names more than {FILES_MAX} files")
    for name in names:
        if not name.isprintable() or Path(name).name != name or not name.endswith(".safetensors"):
            raise BadFile(f"{index} names {name[:60]!r}, which is no safetensors file of this folder")
        if not (folder / name).exists():
            raise BadFile(f"{folder / name} is missing, and {index.name} names it: is the download complete?")
    return [folder / name for name in names]


def _tensors(path: Path) -> list[tuple[str, int]]:
    """The type and the bytes of each tensor of one file."""
    with opened(path) as (file, size):
        start = file.read(8)
        if len(start) < 8:
            raise BadFile(f"{path} has {size} bytes: it is not a safetensors file")
        (length,) = struct.unpack("<Q", start)
        if length > min(HEADER_MAX, size - 8):
            raise BadFile(f"{path} claims a header of {length} bytes: it is cut short, or no safetensors file")
        header = _parsed(file.read(length), path)
    room = size - 8 - length
    found = sorted(_tensor(each, name, path) for name, each in header.items() if name != "__metadata__")
    end = 0
    for begin, finish, _ in found:
        if begin < end:
            raise BadFile(f"{path}: its header has tensors that overlap")
        end = finish
    if end > room:
        raise BadFile(f"{path} is cut short: its header tells of {end} bytes of data, and {room} are there")
    return [(dtype, finish - begin) for begin, finish, dtype in found]


def _tensor(tensor: object, name: str, path: Path) -> tuple[int, int, str]:
    """Where one tensor begins and ends, and its type. A type that came after this was written is believed in what it
    takes."""
    if isinstance(tensor, dict):
        dtype, shape, offsets = tensor.get("dtype"), tensor.get("shape"), tensor.get("data_offsets")
        if isinstance(dtype, str) and dtype.isprintable() and _are_sizes(shape, 16) and _are_sizes(offsets, 2):
            begin, finish = (*offsets, 0, 0)[:2]
            takes = -(-BITS[dtype] * math.prod(shape) // 8) if dtype in BITS else finish - begin
            if begin <= finish and takes == finish - begin:
                return begin, finish, dtype[:20]
    raise BadFile(f"{path}: what its header says of {name[:60]!r} makes no sense")


def _are_sizes(found: object, most: int) -> TypeGuard[list[int]]:
    """Whether it is a list of numbers that count something."""
    return isinstance(found, list) and len(found) <= most and all(type(each) is int and each >= 0 for each in found)


def _json(path: Path, most: int) -> dict[str, Any]:
    with opened(path) as (file, size):
        if size > most:
            raise BadFile(f"{path} has {size} bytes; at most {most} are read")
        return _parsed(file.read(most), path)


def _parsed(text: bytes, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise BadFile(f"{path} holds no JSON where there should be some") from None
    if not isinstance(found, dict):
        raise BadFile(f"{path} holds no JSON object")
    return found


def _shape(config: Mapping[str, Any], folder: Path, cache_bytes: int) -> tuple[Shape, tuple[str, ...]]:
    """The shape, and what of it is not modelled. A model that also sees has its words in text_config."""
    text = config.get("text_config")
    merged = {**config, **text} if isinstance(text, dict) else dict(config)

    def number(*names: str) -> int | None:
        found = next((merged[name] for name in names if merged.get(name) is not None), None)
        return None if found is None else whole(found, f"{folder / 'config.json'}: {names[0]}")

    def needed(*names: str) -> int:
        found = number(*names)
        if found is None:
            raise BadFile(f"{folder / 'config.json'} does not say {names[0]}: nothing can be said of its cache")
        return found

    layers = needed("num_hidden_layers", "n_layer", "n_layers")
    if layers > LAYERS_MAX:
        raise BadFile(f"{folder / 'config.json'}: num_hidden_layers is {layers}")
    hidden, heads = needed("hidden_size", "n_embd", "d_model"), needed("num_attention_heads", "n_head")
    kv_heads = number("num_key_value_heads") or heads
    head = number("head_dim") or max(1, hidden // heads)
    notes = list(_notes(merged))
    key, value = head, head
    if number("kv_lora_rank") is not None:
        kv_heads = heads
        key, value = (
            (number("qk_nope_head_dim") or head) + (number("qk_rope_head_dim") or 0),
            number("v_head_dim") or head,
        )
    keeping = _keeping(merged, layers)
    if keeping < layers:
        notes.append(f"{layers - keeping} of {layers} layers keep a state of fixed size, which is not counted")
    shape = Shape(
        heads,
        (kv_heads,) * keeping + (0,) * (layers - keeping),
        key,
        value,
        hidden,
        number("intermediate_size", "moe_intermediate_size", "n_inner", "ffn_hidden_size") or 4 * hidden,
        number("vocab_size") or 0,
        cache_bytes,
        number("max_position_embeddings", "n_positions", "max_sequence_length"),
    )
    return shape, tuple(notes)


def _keeping(config: Mapping[str, Any], layers: int) -> int:
    """How many layers keep the keys of every token; linear attention (Qwen3-Next, Kimi Linear) keeps a fixed state."""
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == layers:
        return sum(kind not in ("linear_attention", "mamba", "recurrent", "conv") for kind in kinds)
    interval = config.get("full_attention_interval")
    return layers // interval if isinstance(interval, int) and 1 < interval <= layers else layers


def _notes(config: Mapping[str, Any]) -> Iterable[str]:
    window = config.get("sliding_window")
    if isinstance(window, int) and window > 0 and config.get("use_sliding_window", True) is not False:
        yield f"a sliding window of {window} tokens is not modelled: every layer is counted with the whole context"
    if config.get("kv_lora_rank") is not None:
        yield "multi-head latent attention is not modelled: the cache is counted as if keys and values were kept whole"
    if any(isinstance(key, str) and key.startswith(("ssm_", "mamba_")) for key in config):
        yield "state-space layers are not modelled: every layer is counted as attention"
    if config.get("vision_config") is not None or config.get("audio_config") is not None:
        yield "images and sound take memory of their own while they are read, which is not counted"
