"""crasher: dies at the first step of a download, at the second, and so on, each time in a folder of its own, and looks
what is left. `python -m tests.sdk.cache.crasher FOLDER URL SHA256`: a step is a system call that changes something."""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from admit_sdk.cache import ModelCache

STEPS = ("open", "write", "rename", "unlink", "ftruncate", "chmod", "utime", "fsync", "link", "mkdir")
CRASHED = 9


def die_at(step: int) -> None:
    """From now on, end this process at the given step, as kill -9 would: nothing is cleaned up."""
    left = itertools.count(1)

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if next(left) == step:
                os._exit(CRASHED)
            return real(*args, **options)

        return call

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))


def crash(folder: Path, url: str, sha256: str, step: int) -> bool:
    """Fetch in a process that dies at `step`; whether it died."""
    child = os.fork()
    if not child:
        code = 1
        try:
            die_at(step)
            ModelCache(folder, app="crasher").fetch(url, sha256).release()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, CRASHED), f"step {step}: exit code {code}"
    return code == CRASHED


def look(folder: Path, url: str, sha256: str) -> None:
    """What is left is right or can be gone on with, and goes."""
    path = folder / "files" / sha256
    if path.exists():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    cache = ModelCache(folder, app="looker")
    assert not any(each.in_use for each in cache.contents().files)
    assert not any(each.runs for each in cache.contents().downloads)
    with cache.fetch(url, sha256) as held:
        assert hashlib.sha256(held.path.read_bytes()).hexdigest() == sha256
    cache.collect()
    found = sorted(str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file())
    assert found == [f"files/{sha256}", f"files/{sha256}.json", "references/collected", "references/lock"], found


def main(folder: str, url: str, sha256: str) -> None:
    for step in itertools.count(1):
        where = Path(folder, str(step))
        died = crash(where, url, sha256, step)
        try:
            look(where, url, sha256)
        except BaseException:
            print("step", step)
            raise
        if not died:
            print("steps", step - 1)
            return


main(*sys.argv[1:])
