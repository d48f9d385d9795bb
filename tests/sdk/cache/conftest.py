"""A cache of one's own, a server, and apps in processes of their own; all of it ended with the test."""

from __future__ import annotations

import fcntl
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from admit_sdk.cache import ModelCache, download
from tests.sdk.cache.server import Server, serving

ROOT = Path(__file__).parents[3]
WAIT_S = 30.0
MB = 1 << 20


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for that need not be, and no proxy stands between."""
    monkeypatch.setattr(download, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(download, "LOOK_EVERY_S", 0.01)
    for name in ("http_proxy", "https_proxy", "all_proxy", "ADMIT_MODEL_CACHE", "ADMIT_MODEL_CACHE_MAX"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def where(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def cache(where: Path) -> ModelCache:
    return ModelCache(where, app="tests", max_bytes=100 * MB, spare_bytes=0)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as each:
        yield each


class App:
    """A process that fetches and holds, run by tests/sdk/cache/app.py."""

    def __init__(self, *words: object) -> None:
        pipe = subprocess.PIPE
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tests.sdk.cache.app", *map(str, words)]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environ, cwd=ROOT)
        self.pid = self.process.pid

    def hear(self, word: str) -> str:
        """The next line that begins with `word`."""
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if line.startswith(word):
                return line.strip()
        raise AssertionError(f"no {word!r}: {said} {self.process.stderr and self.process.stderr.read()}")

    def end(self) -> int:
        """Let it end by itself; its exit code."""
        self.process.communicate(timeout=WAIT_S)
        return self.process.returncode

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.communicate(timeout=WAIT_S)


@pytest.fixture
def start() -> Iterator[Callable[..., App]]:
    """Starts apps."""
    started: list[App] = []

    def one(*words: object) -> App:
        started.append(App(*words))
        return started[-1]

    try:
        yield one
    finally:
        for app in started:
            if app.process.poll() is None:
                app.kill()


@pytest.fixture
def tells_who_has_it_open(tmp_path: Path) -> None:
    """Skips where the kernel does not know of a mapping, as under overlayfs, or has no such call."""
    if sys.platform != "linux":
        pytest.skip("only Linux tells whether a file is open elsewhere")
    path = tmp_path / "mapped"
    path.write_bytes(b"x")
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    with mapped, path.open("rb") as file:
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except BlockingIOError:
            return
        except OSError as problem:
            pytest.skip(f"this file system has no leases: {problem.strerror}")
    pytest.skip("this file system does not know of mappings")


def until(true: Callable[[], object], what: str) -> None:
    """Wait until something that others do is done."""
    give_up = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < give_up, f"not within {WAIT_S:g} s: {what}"
        time.sleep(0.01)
