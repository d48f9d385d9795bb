"""What nobody has used for too long goes without anyone wanting room: at most once a day, and nobody waits for it."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from admit_sdk.cache import CacheUnusable, ModelCache, room
from admit_sdk.cache.keeper import Keeper
from tests.sdk.cache.conftest import MB, until
from tests.sdk.cache.server import Server, some_bytes
from tests.sdk.cache.test_apps import DATA, age, put


def collected(cache: ModelCache, hours_ago: float) -> None:
    """As if somebody had looked last for what is idle so long ago."""
    path = cache.folder / "references" / "collected"
    then = time.time() - hours_ago * 3_600
    os.utime(path, (then, then))


@pytest.mark.parametrize("hit", ["hold", "fetch"])
def test_what_is_idle_goes_after_a_hit_too(where: Path, server: Server, hit: str) -> None:
    """And only that: what is beyond the maximum goes when somebody wants the room."""
    cache = ModelCache(where, app="tests", max_bytes=100 * MB, spare_bytes=0)
    idle, fresh, used = (put(cache, server, some_bytes(MB, seed)) for seed in (1, 2, 3))
    age(cache, idle, 31)
    age(cache, fresh, 29)
    collected(cache, 25)
    small = ModelCache(where, app="tests", max_bytes=MB, spare_bytes=0)
    with small.hold(used) if hit == "hold" else small.fetch(server.url + "/gone", used):
        until(lambda: idle not in {each.sha256 for each in cache.contents().files}, "what is idle has gone")
        assert {each.sha256 for each in cache.contents().files} == {fresh, used}


@pytest.mark.parametrize(
    ("hours_ago", "due"),
    [
        pytest.param(23, False, id="once a day is enough"),
        pytest.param(25, True, id="a day is over"),
        pytest.param(-2, True, id="the clock was set back"),
        pytest.param(None, True, id="nobody has looked yet, or the note of it is gone"),
    ],
)
def test_when_a_hit_has_what_is_idle_looked_for(
    cache: ModelCache, server: Server, monkeypatch: pytest.MonkeyPatch, hours_ago: float | None, due: bool
) -> None:
    """Whoever has the file waits for nothing of it; and of all that come to it meanwhile one looks."""
    sha = put(cache, server, DATA)
    age(cache, put(cache, server, some_bytes(MB, 1)), 31)
    if hours_ago is None:
        (cache.folder / "references" / "collected").unlink()
    else:
        collected(cache, hours_ago)
    looks: list[tuple[room.Victim, ...]] = []
    begun, go_on = threading.Event(), threading.Event()
    collect_idle = Keeper.collect_idle

    def slowly(keeper: Keeper) -> tuple[room.Victim, ...]:
        begun.set()
        go_on.wait(30)
        looks.append(collect_idle(keeper))
        return looks[-1]

    monkeypatch.setattr(Keeper, "collect_idle", slowly)
    caches = [cache, cache, ModelCache(cache.folder, app="other")] if due else [cache]
    for each in caches:
        each.hold(sha).release()
    assert begun.wait(30 if due else 0) is due
    go_on.set()
    until(lambda: len(looks) == len(set(caches)) * due, "each cache has looked")
    assert sorted(len(gone) for gone in looks) == ([0, 1] if due else [])


def test_a_look_for_what_is_idle_that_fails_disturbs_nobody(
    cache: ModelCache, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = put(cache, server, DATA)
    collected(cache, 25)
    failed = threading.Event()

    def fail(keeper: Keeper) -> tuple[room.Victim, ...]:
        failed.set()
        raise CacheUnusable("the disk is gone")

    monkeypatch.setattr(Keeper, "collect_idle", fail)
    with cache.hold(sha) as held:
        assert failed.wait(30)
        assert held.path.read_bytes() == DATA
