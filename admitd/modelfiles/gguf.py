"""gguf: a GGUF file's own header: metadata and tensor infos; no value is read that is not needed.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. Its tokenizer makes
a header of some MB, which is passed over string by string.
"""

from __future__ import annotations

import math
import re
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from admitd.core.sizing import Engine, ModelFiles, Shape
from admitd.modelfiles.bounded import LAYERS_MAX, BadFile, opened, whole

KEYS_MAX: Final = 65_536
TENSORS_MAX: Final = 200_000
ITEMS_MAX: Final = 4_000_000
"""Items of all arrays together; a vocabulary of 262,144 with scores, types and merges has a million."""
KEPT_MAX: Final = 4_096
TEXT_MAX: Final = 1 << 20
PARTS_MAX: Final = 1_000

_SIZES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_FORMATS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT: Final = 8
_ARRAY: Final = 9
# ggml.h, enum ggml_type, and ggml.c, type_traits: numbers in a block, bytes of a block.
TYPES: Final[Mapping[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36),
}  # fmt: skip
_PART: Final = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf\Z", re.IGNORECASE)
CACHE_BYTES: Final = 2
"""llama-server keeps keys and values as F16, whatever the weights are (--cache-type-k, --cache-type-v)."""


@dataclass(slots=True)
class _Header:
    """One file's header. `lengths` holds how long arrays are that are too long to keep."""

    values: dict[str, Any] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    types: Counter[str] = field(default_factory=Counter)
    tensors: int = 0


def part_of(path: Path) -> int | None:
    """Which part of a split model a file is, by its name; None for a whole one."""
    found = _PART.match(path.name)
    return int(found[2]) if found else None


def read(path: Path) -> ModelFiles:
    """What the file says, with all its parts where the model is split. Raises BadFile, OSError."""
    parts = [_header(each) for each in _parts(path)]
    first = parts[0]
    types: Counter[str] = Counter()
    for part in parts:
        types.update(part.types)
    family = str(first.values.get("general.architecture", ""))[:60]
    if not family.isprintable() or not family:
        raise BadFile(f"{path} does not say its architecture: nothing can be said of its cache")
    shape, notes = _shape(first, family, path)
    tensors = sum(part.tensors for part in parts)
    return ModelFiles(Engine.LLAMA, family, types.total(), tensors, dict(types), shape, len(parts), notes)


def _parts(path: Path) -> list[Path]:
    found = _PART.match(path.name)
    if found is None:
        return [path]
    count = int(found[3])
    if not 0 < count <= PARTS_MAX:
        raise BadFile(f"{path} says that it is one of {count} parts")
    parts = [path.with_name(f"{found[1]}-{number:05}-of-{found[3]}.gguf") for number in range(1, count + 1)]
    missing = [part.name for part in parts if not part.exists()]
    if missing:
        raise BadFile(f"{path.parent / missing[0]} is missing: is the download complete?")
    return parts


def _header(path: Path) -> _Header:
    with opened(path) as (file, size):
        try:
            return _Reader(file, size, path).header()
        except struct.error:
            raise BadFile(f"{path} is cut short: its header ends after {size} bytes") from None


class _Reader:
    """Reads one header, front to back, and never past the file's end."""

    def __init__(self, file: IO[bytes], size: int, path: Path) -> None:
        self._file = file
        self._size = size
        self._path = path
        self._items = 0

    def header(self) -> _Header:
        if self._file.read(4) != b"GGUF":
            raise BadFile(f"{self._path} is not a GGUF file")
        (version,) = self._unpack("<I")
        if version not in (2, 3):
            raise BadFile(f"{self._path} is GGUF of version {version}; versions 2 and 3 are read, little-endian")
        tensors, keys = self._unpack("<QQ")
        if tensors > TENSORS_MAX or keys > KEYS_MAX:
            raise BadFile(f"{self._path} claims {tensors} tensors and {keys} keys: it is damaged")
        header = _Header(tensors=tensors)
        for _ in range(keys):
            self._pair(header)
        self._infos(header, tensors)
        return header

    def _pair(self, header: _Header) -> None:
        key = self._text()
        (kind,) = self._unpack("<I")
        if kind == _TEXT:
            header.values[key] = self._text()
        elif kind == _ARRAY:
            (of,) = self._unpack("<I")
            (length,) = self._unpack("<Q")
            header.lengths[key] = length
            self._count(length)
            if of == _TEXT:
                for _ in range(length):
                    self._skip(*self._unpack("<Q"))
            elif of not in _SIZES:
                raise self._damaged(f"an array of type {of} under {key[:60]!r}")
            elif length <= KEPT_MAX:
                header.values[key] = list(self._unpack(f"<{length}{_FORMATS[of]}"))
            else:
                self._skip(length * _SIZES[of])
        elif kind in _FORMATS:
            (header.values[key],) = self._unpack(f"<{_FORMATS[kind]}")
        else:
            raise self._damaged(f"a value of type {kind} under {key[:60]!r}")

    def _infos(self, header: _Header, tensors: int) -> None:
        """Tensor infos. Each tensor begins where the one before ended, aligned; a type that came after this was
        written is taken to reach to the next one."""
        found: list[tuple[int, int, int]] = []
        for _ in range(tensors):
            name = self._text()
            (dimensions,) = self._unpack("<I")
            if dimensions > 8:
                raise self._damaged(f"a tensor of {dimensions} dimensions, {name[:60]!r}")
            count = math.prod(self._unpack(f"<{dimensions}Q"))
            kind, offset = self._unpack("<IQ")
            found.append((offset, kind, count))
        alignment = header.values.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
            raise self._damaged(f"an alignment of {alignment!r}")
        room = self._size - -(-self._file.tell() // alignment) * alignment
        found.sort()
        for (offset, kind, count), (following, *_) in zip(found, [*found[1:], (max(room, 0), 0, 0)], strict=True):
            name, block, size = TYPES.get(kind, (f"type {kind}", 0, 0))
            takes = -(-count // block) * size if block else max(0, following - offset)
            if offset + takes > room:
                raise BadFile(
                    f"{self._path} is cut short: its header tells of {offset + takes} bytes of data and more, "
                    f"and {max(room, 0)} are there"
                )
            if offset + takes > following:
                raise self._damaged("tensors that overlap")
            header.types[name] += takes

    def _text(self) -> str:
        (length,) = self._unpack("<Q")
        if length > TEXT_MAX:
            raise self._damaged(f"a text of {length} bytes")
        return self._exactly(length).decode("utf-8", "replace")

    def _unpack(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(form, self._file.read(struct.calcsize(form)))

    def _exactly(self, length: int) -> bytes:
        text = self._file.read(length)
        if len(text) < length:
            raise struct.error
        return text

    def _skip(self, length: int) -> None:
        if length <= 512:  # mostly a token: reading is quicker than seeking, which gives up the buffer
            self._exactly(length)
        elif length > self._size - self._file.tell():
            raise struct.error
        else:
            self._file.seek(length, 1)

    def _count(self, items: int) -> None:
        self._items += items
        if self._items > ITEMS_MAX:
            raise self._damaged(f"arrays of more than {ITEMS_MAX} items")

    def _damaged(self, what: str) -> BadFile:
        return BadFile(f"{self._path} is damaged: its header holds {what}")


def _shape(header: _Header, family: str, path: Path) -> tuple[Shape, tuple[str, ...]]:
    values = header.values

    def number(key: str) -> int | None:
        found = values.get(f"{family}.{key}")
        return None if found is None else whole(found, f"{path}: {family}.{key}")

    layers, hidden, heads = (
        number("block_count"),
        number("embedding_length"),
        values.get(f"{family}.attention.head_count"),
    )
    if layers is None or hidden is None or heads is None or layers > LAYERS_MAX:
        raise BadFile(f"{path} does not say block_count, embedding_length and head_count of {family!r}")
    by_layer = _by_layer(heads, layers, f"{path}: head_count")
    kv_heads = _by_layer(values.get(f"{family}.attention.head_count_kv", heads), layers, f"{path}: head_count_kv")
    head = max(1, hidden // max(1, *by_layer))
    key, value = number("attention.key_length") or head, number("attention.value_length") or head
    notes = []
    window = values.get(f"{family}.attention.sliding_window")
    if window:
        notes.append(f"a sliding window of {window} tokens is not modelled: every layer counts the whole context")
    if number("attention.kv_lora_rank") is not None:
        notes.append("multi-head latent attention is not modelled: keys and values are counted as if kept whole")
    if any(each.startswith(f"{family}.ssm.") for each in values):
        notes.append("state-space layers are not modelled: every layer is counted as attention")
    inner = values.get(f"{family}.feed_forward_length")
    inner = max(_by_layer(inner, layers, f"{path}: feed_forward_length")) if inner is not None else 4 * hidden
    vocabulary = number("vocab_size") or header.lengths.get("tokenizer.ggml.tokens", 0)
    shape = Shape(max(by_layer), kv_heads, key, value, hidden, inner, vocabulary, CACHE_BYTES, number("context_length"))
    return shape, tuple(notes)


def _by_layer(value: object, layers: int, what: str) -> tuple[int, ...]:
    """One number for all layers, or one for each; 0 is a layer without."""
    if not isinstance(value, list):
        return (whole(value, what),) * layers
    if len(value) != layers:
        raise BadFile(f"{what} has {len(value)} entries for {layers} layers")
    return tuple(0 if each == 0 else whole(each, what) for each in value)
