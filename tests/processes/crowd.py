"""crowd: real processes for a test to look at, each ended with it. They wait on their standard input."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from admitd.core.terms import Service, Sighting
from admitd.processes.matching import Matcher
from admitd.processes.table import Look

MB = 1 << 20
DECOYS = Path(__file__).with_name("decoys")
LONGEST_S = 20.0
WAIT = "import sys; sys.stdin.read()"
"""A Python program that waits until its standard input is closed."""


def service(name: str, pattern: str | None, **fields: Any) -> Service:
    return Service(name, {"ram": 100 * MB}, process_pattern=pattern, **fields)


def matcher(**patterns: str) -> Matcher:
    """A matcher of services whose names say their patterns: matcher(mlx=r"mlx_lm\\.server")."""
    return Matcher([service(name, pattern) for name, pattern in patterns.items()])


def said_of(look: Look, pid: int) -> dict[str, str]:
    """What a look says of one process: for each service that it is, it mentions, or why it was passed over."""
    said = {s.service: "mentions" if s.mention else "is" for s in sightings_of(look, pid)}
    return said | {each.service: each.why for each in look.passed_over if each.pid == pid}


def sightings_of(look: Look, pid: int) -> list[Sighting]:
    return [sighting for sighting in look.sightings if sighting.process.id.pid == pid]


def eventually(what: str, holds: Callable[[], bool]) -> None:
    """Wait until `holds`, which is asked every few milliseconds."""
    deadline = time.monotonic() + LONGEST_S
    while not holds():
        assert time.monotonic() < deadline, f"not in {LONGEST_S:g} s: {what}"
        time.sleep(0.003)


def state_of(pid: int) -> str:
    """The state letter of /proc/PID/stat; empty once there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def line_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def open_descriptors() -> int:
    return len(descriptors())


def descriptors() -> dict[int, str]:
    """What is open in this process, and on what."""
    found = {}
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue  # the folder itself
    return found


class Crowd:
    """The processes of one test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[subprocess.Popen[bytes]] = []
        self._others: list[int] = []

    def start(self, *command: str | bytes | Path, **options: Any) -> subprocess.Popen[bytes]:
        """Start it; it has become `command` when this returns."""
        line = [part if isinstance(part, bytes) else str(part) for part in command]
        streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(line, **(streams | options))
        self._started.append(process)
        # The kernel lets go of the old command line before it shows the new one.
        eventually(
            "it shows its command line", lambda: bool(line_of(process.pid)) or state_of(process.pid) in ("Z", "")
        )
        return process

    def python(self, text: str, *arguments: str | bytes, said: bytes = b"", **options: Any) -> subprocess.Popen[bytes]:
        """Start `python -c TEXT`; where it says something, it has said so when this returns."""
        process = self.start(sys.executable, "-S", "-E", "-c", text, *arguments, **options)
        if said:
            assert heard(process) == said
        return process

    def script(self, path: str, text: str = WAIT) -> Path:
        """A Python script at `path` in the test's folder."""
        script = self.folder / path
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(text)
        return script

    def end_too(self, *pids: int) -> None:
        """End processes that one of ours has started."""
        self._others += pids

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """End one, and collect it."""
        process.kill()
        process.communicate()

    def end_all(self) -> None:
        for pid in self._others:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for process in self._started:
            if process.returncode is None:
                process.kill()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None and not pipe.closed:
                    pipe.close()
            process.wait()


def heard(process: subprocess.Popen[bytes]) -> bytes:
    """The next line that it says."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip(b"\n")


def tell(process: subprocess.Popen[bytes], line: str = "") -> None:
    """Let it go on."""
    assert process.stdin is not None
    process.stdin.write(line.encode() + b"\n")
    process.stdin.flush()


def where_proc_is_mounted(option: str, text: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program, as root, where /proc is mounted with `option`: in a namespace of its own."""
    if os.getuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare(1) to mount /proc another way")
    script = 'mount -t proc -o "$0" proc /proc || exit 77; exec "$@"'
    unshare = ["unshare", "-m", "--propagation", "private", "/bin/sh", "-c", script, option]
    root = str(Path(__file__).parents[2])
    done = subprocess.run([*unshare, sys.executable, "-c", text], capture_output=True, text=True, cwd=root, check=False)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip(f"no /proc can be mounted here: {done.stderr.strip()}")
    return done


class FakeProc:
    """A folder that looks like /proc, for what cannot be had on demand: a reused pid, an unreadable process."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(
        self, pid: int, line: bytes, started: int = 1000, state: str = "S", parent: int = 1, flags: int = 0
    ) -> None:
        folder = self.root / str(pid)
        folder.mkdir(exist_ok=True)
        (folder / "cmdline").write_bytes(line)
        fields = [state, 1, pid, pid, 0, -1, flags, *[0] * 10, 1, 0, started, *[0] * 30]
        (folder / "stat").write_bytes(f"{pid} (a) name) {' '.join(map(str, fields))}\n".encode())
        (folder / "statm").write_bytes(b"100 50 10 0 0 0 0\n")

    def remove(self, pid: int) -> None:
        folder = self.root / str(pid)
        for entry in folder.iterdir():
            entry.unlink()
        folder.rmdir()


def noting(function: Callable[..., Any], calls: list[Any]) -> Callable[..., Any]:
    """`function`, which notes the first argument of each call."""

    def noted(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments[0])
        return function(*arguments, **options)

    return noted


def nul(*argv: str) -> bytes:
    """argv as the kernel keeps it."""
    return b"".join(argument.encode() + b"\0" for argument in argv)


def pids(sightings: Iterable[Sighting]) -> list[int]:
    return [sighting.process.id.pid for sighting in sightings]
