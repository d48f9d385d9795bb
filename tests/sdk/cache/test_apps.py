"""Several processes at once: racing, killed in the middle, holding, mapping. Nothing is lost or served by halves."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from admit_sdk.cache import CachedFile, Held, InUse, ModelCache, NotCached, room
from admit_sdk.cache.opened import is_opened
from tests.sdk.cache.conftest import MB, ROOT, App, until
from tests.sdk.cache.server import Manners, Server, sha256, some_bytes

DATA = some_bytes(4 * MB)
SHA = sha256(DATA)
Start = Callable[..., App]

knowing = pytest.mark.usefixtures("tells_who_has_it_open")


def put(cache: ModelCache, server: Server, data: bytes) -> str:
    """In the cache, held by nobody; its hash."""
    with cache.fetch(server.put(f"/{sha256(data)[:8]}", data), sha256(data)) as held:
        return held.sha256


def age(cache: ModelCache, sha: str, days: float) -> None:
    """As if it had been used last so long ago."""
    path = cache.folder / "files" / sha
    then = path.stat().st_mtime - days * 86_400
    os.utime(path, (then, then))


def test_two_processes_that_want_one_file_download_it_once(
    cache: ModelCache, server: Server, start: Start, where: Path
) -> None:
    url = server.put("/model.gguf", DATA)
    server.next = [Manners(waits_after=MB)]
    apps = [start(where, "fetch", url, SHA)]
    assert server.waits.wait(30)
    apps.append(start(where, "fetch", url, SHA))
    apps[1].hear("waiting")
    server.go_on.set()
    paths = {app.hear("held") for app in apps}
    assert len(paths) == 1
    assert (where / "files" / SHA).read_bytes() == DATA
    assert len(server.asked) == 1
    (file,) = cache.contents().files
    assert sorted(each.pid for each in file.references) == sorted(app.pid for app in apps)
    assert [app.end() for app in apps] == [0, 0]
    assert not cache.contents().files[0].in_use


def test_many_processes_at_once_without_any_order(server: Server, start: Start, where: Path) -> None:
    url = server.put("/model.gguf", DATA)
    apps = [start(where, "fetch", url, SHA) for _ in range(6)]
    for app in apps:
        app.hear("held")
    assert (where / "files" / SHA).read_bytes() == DATA
    assert len(server.asked) == 1


def test_threads_of_one_process_download_it_once(cache: ModelCache, server: Server) -> None:
    url = server.put("/model.gguf", DATA)
    held: list[Held] = []
    threads = [threading.Thread(target=lambda: held.append(cache.fetch(url, SHA)), daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(held) == 8
    assert len(server.asked) == 1
    assert not list((cache.folder / "downloads").iterdir())
    for each in held:
        each.release()


def test_killed_in_the_middle_the_next_one_goes_on(
    cache: ModelCache, server: Server, start: Start, where: Path
) -> None:
    url = server.put("/model.gguf", DATA)
    server.next = [Manners(waits_after=2 * MB)]
    first = start(where, "fetch", url, SHA)
    assert server.waits.wait(30)
    part = where / "downloads" / f"{SHA}.part"
    until(lambda: part.exists() and part.stat().st_size == 2 * MB, "two MB were written")
    (running,) = cache.contents().downloads
    assert (running.runs, running.counted_bytes) == (True, 4 * MB)
    with pytest.raises(NotCached):
        cache.hold(SHA)
    first.kill()
    (left,) = cache.contents().downloads
    assert (left.runs, left.counted_bytes) == (False, 2 * MB)
    second = start(where, "fetch", url, SHA)
    second.hear("held")
    assert (where / "files" / SHA).read_bytes() == DATA
    assert server.ranges == [None, f"bytes={2 * MB}-"]


def test_whoever_waits_takes_over_from_the_one_who_is_killed(server: Server, start: Start, where: Path) -> None:
    url = server.put("/model.gguf", DATA)
    server.next = [Manners(waits_after=MB)]
    first = start(where, "fetch", url, SHA)
    assert server.waits.wait(30)
    second = start(where, "fetch", url, SHA)
    second.hear("waiting")
    first.kill()
    second.hear("held")
    assert (where / "files" / SHA).read_bytes() == DATA


def test_killed_again_and_again_nothing_half_is_ever_served(server: Server, start: Start, where: Path) -> None:
    data = some_bytes(400_000, seed=7)
    url, sha = server.put("/small", data), sha256(data)
    part = where / "downloads" / f"{sha}.part"
    come = 0
    for pieces in range(1, 5):
        come += pieces * 20_000
        server.next = [Manners(piece=20_000, waits_after=pieces * 20_000)]
        app = start(where, "fetch", url, sha)
        until(lambda come=come: part.exists() and part.stat().st_size == come, f"{come} bytes have come")
        app.kill()
        assert not (where / "files" / sha).exists()
    with ModelCache(where, app="tests").fetch(url, sha) as held:
        assert held.path.read_bytes() == data
    assert server.ranges == [None, *(f"bytes={each}-" for each in (20_000, 60_000, 120_000, 200_000))]


def test_a_crash_at_every_single_step_loses_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    data = some_bytes(200_000, seed=9)
    command = [sys.executable, "-m", "tests.sdk.cache.crasher", tmp_path, server.put("/small", data), sha256(data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = int(done.stdout.split()[-1])
    assert steps > 30


def test_an_app_that_is_killed_holds_nothing_any_more(
    cache: ModelCache, server: Server, start: Start, where: Path
) -> None:
    sha = put(cache, server, DATA)
    age(cache, sha, 40)
    app = start(where, "hold", sha)
    app.hear("held")
    age(cache, sha, 40)
    (file,) = cache.contents().files
    assert [(each.app, each.pid) for each in file.references] == [("other-app", app.pid)]
    assert cache.collect() == ()
    with pytest.raises(InUse, match=f"used by other-app \\(pid {app.pid}\\); end that first"):
        cache.evict(sha)
    app.kill()
    assert not cache.contents().files[0].in_use
    # It was used until just now, as far as anyone can know: its thirty days begin here.
    assert cache.collect() == ()
    assert [each.sha256 for each in cache.evict(sha)] == [sha]
    with pytest.raises(NotCached):
        cache.hold(sha)


@knowing
def test_a_file_that_is_mapped_without_a_reference_stays(
    cache: ModelCache, server: Server, start: Start, where: Path
) -> None:
    sha = put(cache, server, DATA)
    app = start(where, "map", where / "files" / sha)
    app.hear("mapped")
    age(cache, sha, 40)
    assert cache.contents().files[0].opened
    assert cache.collect() == ()
    with pytest.raises(InUse, match="a process that has it open"):
        cache.evict(sha)
    assert app.end() == 0
    assert [each.sha256 for each in cache.collect()] == [sha]


def test_a_file_that_goes_while_it_is_mapped_stays_readable(
    cache: ModelCache, server: Server, start: Start, where: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left where no system call tells who has a file open."""
    sha = put(cache, server, DATA)
    monkeypatch.setattr(sys, "platform", "darwin")
    app = start(where, "map", where / "files" / sha)
    app.hear("mapped")
    assert [each.sha256 for each in cache.evict(sha)] == [sha]
    out, _ = app.process.communicate(timeout=30)
    assert out.strip() == f"last {DATA[-1]}"


@knowing
def test_asking_whether_a_file_is_open_disturbs_nobody_who_opens_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    over = threading.Event()
    opened = []

    def open_and_close() -> None:
        while not over.is_set():
            path.read_bytes()
            opened.append(1)

    thread = threading.Thread(target=open_and_close, daemon=True)
    thread.start()
    answers = {is_opened(path) for _ in range(3_000)}
    until(lambda: len(opened) > 100, "it was opened")
    over.set()
    thread.join(30)
    assert answers <= {True, False}
    assert not is_opened(path)


@knowing
def test_what_comes_into_use_between_the_plan_and_the_act_stays(
    cache: ModelCache, server: Server, where: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = put(cache, server, DATA)
    age(cache, sha, 40)
    plan = room.collect
    with contextlib.ExitStack() as opened:

        def plan_and_open(*words: Any) -> tuple[room.Victim, ...]:
            planned = plan(*words)
            opened.enter_context((where / "files" / sha).open("rb"))
            return planned

        monkeypatch.setattr(room, "collect", plan_and_open)
        assert cache.collect() == ()
    assert [each.sha256 for each in cache.contents().files] == [sha]


def test_apps_that_fetch_hold_and_crowd_each_other_out(server: Server, start: Start, where: Path) -> None:
    """Five files, room for three, five processes; one of them is killed wherever it happens to be."""
    files = [some_bytes(MB, seed) for seed in range(5)]
    words = [word for data in files for word in (server.put(f"/{sha256(data)[:8]}", data), sha256(data))]
    apps = [start(where, "churn", seed, *words) for seed in range(5)]
    for app in apps:
        app.hear("turn")
    apps.pop().kill()
    for app in apps:
        app.hear("done")
        assert app.end() == 0
    contents = ModelCache(where, app="tests", max_bytes=3 * MB, spare_bytes=0).contents()
    assert contents.held_bytes <= 3 * MB
    assert not any(each.in_use for each in contents.files)
    for file in contents.files:
        assert sha256((where / "files" / file.sha256).read_bytes()) == file.sha256


def test_what_is_idle_goes_with_the_next_download(cache: ModelCache, server: Server) -> None:
    idle, fresh = put(cache, server, some_bytes(MB, 1)), put(cache, server, some_bytes(MB, 2))
    age(cache, idle, 31)
    age(cache, fresh, 29)
    new = put(cache, server, DATA)
    assert {each.sha256 for each in cache.contents().files} == {fresh, new}


def test_room_is_made_by_what_was_used_longest_ago(where: Path, server: Server) -> None:
    cache = ModelCache(where, app="tests", max_bytes=10 * MB, spare_bytes=0)
    first, second, third = (put(cache, server, some_bytes(3 * MB, seed)) for seed in (1, 2, 3))
    for days, sha in ((3, second), (2, first), (1, third)):
        age(cache, sha, days)
    with cache.hold(first):
        put(cache, server, some_bytes(3 * MB, 4))
        assert second not in {each.sha256 for each in cache.contents().files}
        age(cache, first, 5)
        put(cache, server, some_bytes(4 * MB, 5))
        stay = {each.sha256 for each in cache.contents().files}
        assert first in stay
        assert third not in stay


def test_what_a_crash_left_about_is_swept(cache: ModelCache, server: Server, where: Path) -> None:
    sha = put(cache, server, DATA)
    stray = [
        where / "files" / ".0123",
        where / "files" / f"{'a' * 64}.json",
        where / "downloads" / f"{'b' * 64}.lock",
        where / "references" / f"{sha}~gone~1~{'0' * 16}",
    ]
    for path in stray:
        path.write_text("{")
    others = where / "files" / "README"
    others.write_text("not ours")
    assert cache.collect() == ()
    assert not any(path.exists() for path in stray)
    assert others.exists()
    assert [each.sha256 for each in cache.contents().files if isinstance(each, CachedFile)] == [sha]


@pytest.mark.parametrize(
    "note", ["", "{", "[]", '{"name": 5, "origin": "a\\u001b", "size_bytes": 4194304}', "[" * 9000]
)
def test_a_damaged_note_costs_a_name_and_nothing_else(
    cache: ModelCache, server: Server, where: Path, note: str
) -> None:
    sha = put(cache, server, DATA)
    (where / "files" / f"{sha}.json").write_text(note)
    (file,) = cache.contents().files
    assert (file.name, file.origin, file.size_bytes) == (sha[:12], "", len(DATA))
    with cache.hold(sha) as held:
        assert held.path.read_bytes() == DATA
