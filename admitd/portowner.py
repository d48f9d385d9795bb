"""portowner: who listens on a port of this machine, and whether it can be had."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from admitd import actuator

ANSWER_S: Final = 5.0


def why_not(port: int) -> str | None:
    """Why 127.0.0.1:`port` cannot be had; None where it can."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as inet:
        inet.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the daemon and systemd have it
        try:
            inet.bind(("127.0.0.1", port))
            inet.listen(1)  # two may bind, and only one may listen
        except OSError as problem:
            if problem.errno == errno.EADDRINUSE:
                return taken(port, *(of(port) or ()))
            return f"127.0.0.1:{port} cannot be had: {problem.strerror}"
    return None


def taken(port: int, pid: int | None = None, program: str | None = None) -> str:
    """The sentence for a port on which somebody else listens."""
    who = f"process {pid} ({program})" if pid else "a program of another user"
    return f"127.0.0.1:{port} is taken by {who}, which is no admit daemon"


def of(port: int) -> tuple[int, str] | None:
    """Who listens on it: process and program; None where that is another user's affair."""
    if sys.platform == "darwin":
        return owner_in(_printed(("/usr/sbin/lsof", "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc")))
    wanted = {f"socket:[{inode}]" for inode in _inodes(port)}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(os.readlink(each) in wanted for each in (entry / "fd").iterdir()):
                return int(entry.name), (entry / "comm").read_text(errors="replace").strip()
    return None


def owner_in(printed: str) -> tuple[int, str] | None:
    """The first process in what `lsof -Fpc` prints: a line p1234, and one with c and its name."""
    pid = next((line[1:] for line in printed.splitlines() if line.startswith("p") and line[1:].isdigit()), None)
    name = next((line[1:] for line in printed.splitlines() if line.startswith("c")), "?")
    return None if pid is None else (int(pid), name)


def _inodes(port: int) -> Iterable[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text(encoding="ascii", errors="replace").splitlines()[1:]:
                fields = line.split()
                if len(fields) > 9 and fields[3] == "0A" and fields[1].endswith(f":{port:04X}"):
                    yield fields[9]


def _printed(command: tuple[str, ...]) -> str:
    try:
        process = actuator.start_helper(command, subprocess.PIPE)
    except actuator.CannotStart:
        return ""
    try:
        return process.communicate(timeout=ANSWER_S)[0].decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        actuator.end_session(process.pid)
        process.communicate()
        return ""
