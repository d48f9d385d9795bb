"""room: what a course runs in: its own process ids, and a /proc/meminfo that shows the group's size as the machine's.

So whoever judges by the machine's memory (`admit`'s live veto, earlyoom) judges by the group's, and whoever looks for
processes to kill finds those of the soak only. When the room ends, the kernel ends everything in it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from bench.measuring import Skipped
from bench.soak.group import Group

MEMINFO: Final = Path("/proc/meminfo")
EVERY_S: Final = 0.02
_UNSHARE: Final = ("--fork", "--pid", "--mount", "--mount-proc", "--kill-child")
_FIRST: Final = '"$@"; exit $?'
"""A shell stays in front as process 1: it takes in those whose parent has ended, so that none stays a zombie."""


def check() -> None:
    """Raises Skipped, with the reason, where no such room can be had."""
    if shutil.which("unshare") is None:
        raise Skipped("there is no `unshare` here (Debian's util-linux)")
    inside = "mount --bind /proc/version /proc/meminfo && readlink /proc/self/ns/pid"
    done = subprocess.run(["unshare", *_UNSHARE, "sh", "-c", inside], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise Skipped(f"no namespaces can be made here: {said}")
    if done.stdout.strip() == pids():
        raise Skipped("`unshare --pid` makes no process ids of its own here")


def command(inside: Sequence[str]) -> list[str]:
    """How a command is run in a room of its own."""
    return ["unshare", *_UNSHARE, "sh", "-c", _FIRST, "sh", *inside]


def pids() -> str:
    """The name of the pid namespace that this process is in."""
    return os.readlink("/proc/self/ns/pid")


def check_inside(outside: str) -> None:
    """Raises Skipped where this is no room: earlyoom would see, and end, the processes of the whole machine."""
    if pids() == outside or os.readlink("/proc/self") != str(os.getpid()):
        raise Skipped("these are not process ids of their own")


@contextlib.contextmanager
def meminfo(group: Group, folder: Path) -> Iterator[None]:
    """In here, /proc/meminfo shows the group's memory, 50 times a second. Only ever called inside a room."""
    shown = folder / "meminfo"
    shown.write_bytes(_text(group))
    subprocess.run(["mount", "--bind", str(shown), str(MEMINFO)], check=True)
    over = threading.Event()

    def keep() -> None:
        fd = os.open(shown, os.O_WRONLY)
        while not over.wait(EVERY_S):
            os.pwrite(fd, _text(group), 0)
        os.close(fd)

    keeper = threading.Thread(target=keep, name="meminfo")
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()


def _text(group: Group) -> bytes:
    """Always as long, so that whoever reads while it is written never reads a torn line."""
    held = group.held()
    free = max(0, group.limit - held.used)
    amounts = {
        "MemTotal": group.limit,
        "MemFree": free,
        "MemAvailable": min(group.limit, free + held.inactive),
        "Buffers": 0,
        "Cached": held.inactive,
        "SwapCached": 0,
        "AnonPages": held.anonymous,
        "Shmem": 0,
        "SwapTotal": 0,
        "SwapFree": 0,
    }
    return "".join(f"{name + ':':<15} {amount // 1024:>8} kB\n" for name, amount in amounts.items()).encode()
