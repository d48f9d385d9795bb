"""changing: a process that becomes another thing between two looks: the next look must say so."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from admitd.core.terms import RAM, Service
from admitd.processes.linux import LinuxTable
from admitd.processes.matching import Matcher
from bench.measuring import Plan, Resident, Results, Skipped, resident, wait_until
from bench.native import build

_SERVICE: Final = "mlx_lm.server --model models/bench-changing"
_OTHER: Final = "/usr/bin/quite-another-thing --with=arguments-of-some-length"
ROUNDS: Final = 5

Change = Callable[["_Watch", ExitStack], bool]


class _Watch:
    """One table that keeps its descriptors, as the daemon's does."""

    def __init__(self) -> None:
        self.table = LinuxTable(keep=10_000)
        self.matcher = Matcher([Service("x", {RAM: 1}, process_pattern=r"mlx_lm\.server .*bench-changing")])

    def sees(self, pid: int) -> bool:
        look = self.table.look(self.matcher)
        return any(seen.process.id.pid == pid for seen in look.sightings)


def measure(plan: Plan) -> Results:
    """For each way to change: whether the next look was right, every time."""
    if not os.path.isdir("/proc/self"):
        raise Skipped("there is no /proc here")
    out: Results = {"ways": {}}
    for name, change in WAYS.items():
        watch = _Watch()
        right = 0
        try:
            for _ in range(2 if plan.quick else ROUNDS):
                with ExitStack() as stack:
                    right += change(watch, stack)
            out["ways"][name] = {"right": right, "of": 2 if plan.quick else ROUNDS}
        except Skipped as why:
            out["ways"][name] = {"skipped": str(why)}
        finally:
            watch.table.close()
    return out


def _changer(stack: ExitStack, line: str, becomes: str) -> Resident:
    environ = {**os.environ, "CHANGER_TEXT": becomes}
    one = Resident(line.split(), {"PATH": "/nowhere", **environ}, executable=str(build("changer")))
    stack.callback(one.end)
    one.hear()
    return one


def _by_letter(letter: str, line: str, becomes: str, after: bool) -> Change:
    def change(watch: _Watch, stack: ExitStack) -> bool:
        one = _changer(stack, line, becomes)
        before = watch.sees(one.pid)
        one.send(letter)
        one.hear()
        return before == (line == _SERVICE) and watch.sees(one.pid) is after

    return change


def _reused_pid(watch: _Watch, stack: ExitStack) -> bool:
    sitter, changer = str(build("sitter")), str(build("changer"))
    one = Resident(_SERVICE.split(), executable=sitter)
    pid = one.pid
    _has_become(pid, _SERVICE)
    seen = watch.sees(pid)
    one.process.kill()
    one.end()
    heir = stack.enter_context(resident([changer, "--as", str(pid), sitter, *_OTHER.split()]))
    if heir.hear()[0] == "denied":
        raise Skipped("a pid can't be chosen here (clone3 with set_tid needs CAP_CHECKPOINT_RESTORE)")
    _has_become(pid, _OTHER)
    right = seen and not watch.sees(pid)
    heir.end()
    again = stack.enter_context(resident([changer, "--as", str(pid), sitter, *_SERVICE.split()]))
    if again.hear()[0] == "denied":
        return False
    _has_become(pid, _SERVICE)
    return right and watch.sees(pid)


def _has_become(pid: int, line: str) -> None:
    """Wait for the end of its exec: in the middle of one the kernel shows no command line at all."""
    path = Path(f"/proc/{pid}/cmdline")
    wait_until("an exec", lambda: path.read_bytes().rstrip(b"\0").replace(b"\0", b" ") == line.encode())


WAYS: Final[dict[str, Change]] = {
    "exec into a service": _by_letter("e", _OTHER, _SERVICE, after=True),
    "exec out of a service": _by_letter("e", _SERVICE, _OTHER, after=False),
    "arguments overwritten in place": _by_letter("o", _OTHER, _SERVICE, after=True),
    "a title set over the environment": _by_letter("t", _OTHER, _SERVICE + " " + "x" * 100, after=True),
    "its first thread exits, another lives": _by_letter("d", _SERVICE, _SERVICE, after=True),
    "its pid is another's": _reused_pid,
}
