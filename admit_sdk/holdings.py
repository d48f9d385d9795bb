"""holdings: what this process really holds, told apart as far as the system tells: its heap, mapped weights, the GPU's.

What counts against an app's budget is its heap, with the caches and buffers of its models in it, and the pages of its
models' own files; not the pages of other files that it maps, of its database say: the system takes those back whenever
it wants to.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from admitd.memory.darwin import DarwinMemory

FRESH_SHARE: Final = 0.01
"""A reading of what is mapped stands until reading it takes at most this share of the time: 5 to 17 ms a GiB each."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """Bytes. None: this system does not tell.

    `heap`: anonymous and swapped pages. `mapped`: pages of the models' files that are in memory and mapped here.
    `mapped_share`: the same, where a page that several processes map counts in each with its part only. `gpu`: what
    MLX has from Metal, which is in `heap`, too. `resident`: for diagnosis; it has every mapped file in it. macOS does
    not tell `mapped`, and there the `heap` is the footprint, which has no clean page of any file in it.
    """

    heap: int
    mapped: int | None = None
    mapped_share: int | None = None
    gpu: int | None = None
    resident: int | None = None

    @property
    def counted(self) -> int:
        """What counts against the budget: a file that several apps map is there once, and each counts its part."""
        return self.heap + (self.mapped_share or 0)


def measure(files: Iterable[Path] = ()) -> Holdings:
    """What this process holds now; `files` are those of its models, or folders of them. Raises OSError."""
    gpu = _metal()
    if sys.platform == "darwin":
        from admitd.memory.darwin import DarwinMemory
        from admitd.processes.darwin import load

        return _from_rusage(DarwinMemory(load()), gpu)
    paths = _real_paths(files)
    return _from_smaps(paths, gpu) if paths else _from_status(gpu)


class Measuring:
    """Measures again and again, and reads what is mapped only as often as that is cheap. For any thread."""

    def __init__(self) -> None:
        self._known: tuple[tuple[Path, ...], Holdings, float] = ((), Holdings(0), 0.0)

    def measure(self, files: Iterable[Path]) -> Holdings:
        """As `measure`; what is mapped may be some seconds old where the files are those of then. Raises OSError."""
        now = tuple(files)
        before, held, fresh_until_s = self._known
        began_s = time.monotonic()
        if now and now == before and began_s < fresh_until_s:
            return replace(measure(), mapped=held.mapped, mapped_share=held.mapped_share)
        held = measure(now)
        took_s = time.monotonic() - began_s
        self._known = (now, held, began_s + took_s + took_s / FRESH_SHARE)
        return held


def _from_rusage(memory: DarwinMemory, gpu: int | None) -> Holdings:
    """The ledger alone: residence has every page of a database that is mapped, too."""
    found = memory.rusage(os.getpid())
    if found is None:
        raise OSError("the system does not tell what this process holds")
    return Holdings(found.footprint, gpu=gpu, resident=found.resident)


def _from_status(gpu: int | None) -> Holdings:
    """/proc/self/status (proc(5)): 0.1 ms, where a pass over the map takes 20 and more."""
    amounts = {b"RssAnon": 0, b"VmSwap": 0, b"VmRSS": 0}
    with open("/proc/self/status", "rb") as file:
        for line in file:
            label, _, rest = line.partition(b":")
            if label in amounts:
                amounts[label] = _kib(rest)
    return Holdings(amounts[b"RssAnon"] + amounts[b"VmSwap"], 0, 0, gpu, amounts[b"VmRSS"])


def _from_smaps(paths: tuple[bytes, ...], gpu: int | None) -> Holdings:
    """One pass over /proc/self/smaps (proc(5)): a line that names a mapping, then lines of amounts."""
    resident = heap = mapped = share = ours = 0
    with open("/proc/self/smaps", "rb") as file:
        for line in file:
            label, _, rest = line.partition(b":")
            if label == b"Rss":
                amount = _kib(rest)
                resident += amount
                mapped += amount * ours
            elif label == b"Pss":
                share += _kib(rest) * ours
            elif label in (b"Anonymous", b"Swap"):
                amount = _kib(rest)
                heap += amount
                if label == b"Anonymous" and ours:  # a page of a file that was written to is the process's own
                    mapped -= amount
                    share -= amount
            elif b"-" in label.partition(b" ")[0]:
                name = line.split(None, 5)[5:]
                ours = int(bool(name) and _is_below(name[0].rstrip(b"\n"), paths))
    return Holdings(heap, mapped, max(0, share), gpu, resident)


def _real_paths(files: Iterable[Path]) -> tuple[bytes, ...]:
    """Where these files, and all below these folders, really lie, each with a "/" behind it.

    The system names a mapped file by that, and in caches of models, Hugging Face's and our own, the names in a model's
    folder are links to files elsewhere.
    """
    ahead = [os.path.realpath(os.fsencode(path)) for path in files]
    found: dict[bytes, None] = {}
    while ahead:
        path = ahead.pop()
        if path in found:
            continue
        found[path] = None
        for at, folders, names in os.walk(path):
            links = filter(os.path.islink, (os.path.join(at, name) for name in (*folders, *names)))
            # One that leads to a folder around it would take in what is not this model's.
            ahead += [real for real in map(os.path.realpath, links) if not _is_below(at, (_ended(real),))]
    return tuple(map(_ended, found))


def _ended(path: bytes) -> bytes:
    return path.rstrip(b"/") + b"/"


def _kib(rest: bytes) -> int:
    return int(rest.split()[0]) * 1024


def _is_below(name: bytes, paths: tuple[bytes, ...]) -> bool:
    """Whether it is one of these or lies below one; `paths` as `_real_paths` gives them."""
    return (name + b"/").startswith(paths)


def _metal() -> int | None:
    """What MLX has from Metal; None where there is no Metal, or no MLX in this process yet."""
    if "mlx.core" not in sys.modules:
        return None
    import mlx.core as mx

    return int(mx.get_active_memory() + mx.get_cache_memory()) if mx.metal.is_available() else None


def give_back_freed() -> None:
    """Have the allocator return to the system what was freed. glibc keeps it (malloc_trim(3)); others do not."""
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
