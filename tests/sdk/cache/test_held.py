"""Holding a file: given back once, whoever asks, and when it is merely forgotten."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from admit_sdk.cache import BadName, CachedFile, ModelCache, NotCached, Reference
from tests.sdk.cache.conftest import ROOT
from tests.sdk.cache.server import Server, sha256, some_bytes

DATA = some_bytes(10_000)
SHA = sha256(DATA)


@pytest.fixture
def filled(cache: ModelCache, server: Server) -> ModelCache:
    cache.fetch(server.put("/model.gguf", DATA), SHA).release()
    return cache


def users(cache: ModelCache) -> int:
    return len(cache.contents().files[0].references)


def test_what_is_held_twice_is_given_back_twice(filled: ModelCache) -> None:
    first, second = filled.hold(SHA), filled.hold("sha256:" + SHA)
    assert users(filled) == 2
    first.release()
    first.release()
    assert users(filled) == 1
    second.release()
    assert users(filled) == 0
    assert "released" in repr(second)


def test_who_uses_it_is_said_in_words() -> None:
    def used(*references: Reference, opened: bool = False) -> str:
        return CachedFile("a", "a", "", 1, 0.0, references, opened).users

    one, other = Reference("chat", 1, 0.0), Reference("notes", 2, 0.0)
    assert used() == ""
    assert used(opened=True) == "a process that has it open"
    assert used(one, other, other) == "notes (pid 2, 2 times), chat (pid 1)"
    crowd = [Reference("app", pid, 0.0) for pid in range(1, 10)]
    assert used(*crowd) == "app (pid 1), app (pid 2), app (pid 3), 6 more"


def test_an_exception_gives_it_back(filled: ModelCache) -> None:
    with pytest.raises(RuntimeError), filled.hold(SHA):
        raise RuntimeError
    assert users(filled) == 0


def test_a_hundred_threads_give_one_back_once(filled: ModelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    held = filled.hold(SHA)
    closed: list[int] = []
    close = os.close
    monkeypatch.setattr(os, "close", lambda fd: (closed.append(fd), close(fd)))
    threads = [threading.Thread(target=held.release) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(closed) == 1
    assert users(filled) == 0


def test_what_is_forgotten_is_given_back_with_a_warning(filled: ModelCache) -> None:
    held = filled.hold(SHA)
    with pytest.warns(ResourceWarning, match="was never released"):
        del held
        gc.collect()
    assert users(filled) == 0


def test_a_child_that_ends_gives_nothing_of_its_parent_back(filled: ModelCache) -> None:
    program = (
        "import os, sys\n"
        "from admit_sdk.cache import ModelCache\n"
        "cache = ModelCache(sys.argv[1])\n"
        "with cache.hold(sys.argv[2]) as held:\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        held.release()\n"
        "        os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
        "    print(len(cache.contents().files[0].references))\n"
    )
    command = [sys.executable, "-W", "error", "-c", program, str(filled.folder), SHA]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=True)
    assert done.stdout == "1\n"


def test_the_folder_may_vanish_while_something_is_held(filled: ModelCache) -> None:
    held = filled.hold(SHA)
    os.rename(filled.folder, filled.folder.with_name("elsewhere"))
    held.release()
    with pytest.raises(NotCached):
        filled.hold(SHA)


@pytest.mark.parametrize("app", ["", "../x", "a/b", "a~b", "-x", "x" * 64, "a\n"])
def test_an_app_has_a_plain_name(where: Path, app: str) -> None:
    with pytest.raises(BadName, match="is no name of an app"):
        ModelCache(where, app=app)


@pytest.mark.parametrize("argv", [["/opt/My App (2)/run.py"], [""], ["-c"], [], ["/x/" + "y" * 200]])
def test_any_program_has_a_name(where: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    ModelCache(where)


def test_importing_it_loads_neither_http_nor_the_hub() -> None:
    """Holding a file that is there already needs neither."""
    program = "import sys, admit_sdk\nprint('admit_sdk.cache' in sys.modules)\nimport admit_sdk.cache\n"
    program += (
        "print([m for m in ('http', 'ssl', 'huggingface_hub', 'fastapi', 'yaml', 'pydantic') if m in sys.modules])"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=True)
    assert done.stdout == "False\n[]\n"
