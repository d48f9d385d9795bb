"""`admit cache`: what is there and who uses it, what goes, and what stays; Hugging Face's cache beside it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from admit_sdk.cache import ModelCache
from tests.cli.conftest import Desk
from tests.sdk.cache.hub import age as age_repo
from tests.sdk.cache.hub import download
from tests.sdk.cache.server import Manners, Server, serving, sha256, some_bytes

MIB = 1 << 20
FIRST, SECOND = some_bytes(2 * MIB, 1), some_bytes(MIB, 2)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as each:
        yield each


@pytest.fixture
def cache(desk: Desk) -> ModelCache:
    """The cache of the desk's user, where `admit` looks for it."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        desk.env.pop(name, None)
    desk.env["ADMIT_MODEL_CACHE_MAX"] = "10MiB"
    named = desk.home / "Library" / "Caches" if sys.platform == "darwin" else desk.home / ".cache"
    return ModelCache(named / "admit" / "models", app="chat", max_bytes=10 * MIB, spare_bytes=0)


@pytest.fixture
def hub(desk: Desk, cache: ModelCache, server: Server) -> Path:
    """Hugging Face's cache of the same user, with one repository."""
    return download(server, desk.home / ".cache" / "huggingface" / "hub", "org/name", {"config.json": b"{}"})


def fill(cache: ModelCache, server: Server) -> None:
    cache.fetch(server.put("/first.gguf", FIRST), sha256(FIRST)).release()
    cache.fetch(server.put("/second.gguf", SECOND), sha256(SECOND)).release()


def age(cache: ModelCache, data: bytes, days: float) -> None:
    path = cache.folder / "files" / sha256(data)
    then = path.stat().st_mtime - days * 86_400
    os.utime(path, (then, then))


def test_a_cache_that_is_empty(desk: Desk, cache: ModelCache) -> None:
    said = desk.admit("cache", "status").must(0).out
    assert f"{cache.folder}".replace(str(desk.home), "~") in said
    assert ": 0 B of at most 10.0 MiB; " in said
    assert "Hugging Face" not in said
    assert desk.admit("cache", "gc").must(0).out == "nothing has to go\n"


def test_status_shows_sizes_and_who_uses_what(desk: Desk, cache: ModelCache, server: Server) -> None:
    fill(cache, server)
    age(cache, SECOND, 40)
    with cache.hold(sha256(FIRST)):
        said = desk.admit("cache", "status").must(0).out.splitlines()
        told = desk.admit("cache", "status", "--json").must(0).json
    assert ": 3.0 MiB of at most 10.0 MiB; " in said[0]
    assert said[2] == f"first.gguf   {sha256(FIRST)[:12]}     2.0 MiB  by chat (pid {os.getpid()})"
    assert said[3] == f"second.gguf  {sha256(SECOND)[:12]}     1.0 MiB  40 days ago"
    assert said[4] == "1.0 MiB have been idle for more than 30 days: admit cache gc"
    assert (told["held_bytes"], told["max_bytes"], told["idle_bytes"]) == (3 * MIB, 10 * MIB, MIB)
    assert [each["references"][0]["app"] for each in told["files"] if each["references"]] == ["chat"]
    assert told["hub"] is told["hub_problem"] is None


def test_status_shows_what_is_left_of_a_download(desk: Desk, cache: ModelCache, server: Server) -> None:
    server.next = [Manners(ends_after=MIB), Manners(status=404)]
    with pytest.raises(Exception, match="404"):
        cache.fetch(server.put("/first.gguf", FIRST), sha256(FIRST))
    said = desk.admit("cache", "status").must(0).out
    assert f"first.gguf  {sha256(FIRST)[:12]}  1.0 MiB of 2.0 MiB: broke off, within the hour" in said
    assert desk.admit("cache", "evict", "first.gguf").must(0).out == "gone: first.gguf  1.0 MiB\n"
    assert desk.admit("cache", "status", "--json").must(0).json["downloads"] == []


def test_gc_takes_what_is_idle_and_leaves_what_is_used(desk: Desk, cache: ModelCache, server: Server) -> None:
    fill(cache, server)
    with cache.hold(sha256(FIRST)):
        age(cache, FIRST, 40)
        age(cache, SECOND, 40)
        dry = desk.admit("cache", "gc", "--dry-run").must(0).out
        assert dry == "would go: second.gguf  1.0 MiB, 40 days ago\n1.0 MiB would come free\n"
        assert len(cache.contents().files) == 2
        told = desk.admit("cache", "gc", "--json").must(0).json
    assert told["gone"] == [{"sha256": sha256(SECOND), "name": "second.gguf", "size_bytes": MIB}]
    assert [each.name for each in cache.contents().files] == ["first.gguf"]


def test_gc_brings_the_cache_below_its_maximum(desk: Desk, cache: ModelCache, server: Server) -> None:
    fill(cache, server)
    age(cache, FIRST, 2)
    done = desk.admit("cache", "gc", env={"ADMIT_MODEL_CACHE_MAX": "1500KiB"}).must(0)
    assert done.out == "gone: first.gguf  2.0 MiB, 2 days ago\n2.0 MiB came free\n"


def test_evict_by_name_and_by_hash(desk: Desk, cache: ModelCache, server: Server) -> None:
    fill(cache, server)
    done = desk.admit("cache", "evict", "first.gguf", sha256(SECOND)[:8].upper()).must(0)
    assert done.out == f"gone: first.gguf  2.0 MiB\ngone: {sha256(SECOND)[:8].upper()}  1.0 MiB\n"
    assert cache.contents().files == ()


def test_evict_leaves_what_is_in_use_and_says_by_whom(desk: Desk, cache: ModelCache, server: Server) -> None:
    fill(cache, server)
    with cache.hold(sha256(FIRST)):
        done = desk.admit("cache", "evict", "first.gguf", "second.gguf").must(1)
    assert f"first.gguf stays, it is used by chat (pid {os.getpid()}); end that first" in done.err
    assert done.out == "gone: second.gguf  1.0 MiB\n"


@pytest.mark.parametrize("name", ["fff", "../../x", "\x1b[2J"])
def test_evict_of_what_is_not_there_takes_nothing(desk: Desk, cache: ModelCache, server: Server, name: str) -> None:
    fill(cache, server)
    done = desk.admit("cache", "evict", name).must(66)
    assert "see what is: admit cache status" in done.err
    assert "\x1b" not in done.err
    assert len(cache.contents().files) == 2


def test_a_name_that_two_files_have_is_not_guessed_at(desk: Desk, cache: ModelCache, server: Server) -> None:
    cache.fetch(server.put("/a/model.gguf", FIRST), sha256(FIRST)).release()
    cache.fetch(server.put("/b/model.gguf", SECOND), sha256(SECOND)).release()
    done = desk.admit("cache", "evict", "model.gguf").must(66)
    assert f"{sha256(FIRST)[:12]}" in done.err
    assert "name one of them: admit cache evict " in done.err


def test_a_folder_that_cannot_be_used(desk: Desk, cache: ModelCache) -> None:
    done = desk.admit("cache", "status", "--json", env={"ADMIT_MODEL_CACHE": "models"}).must(78)
    assert done.json["title"] == "The model cache cannot be used"
    assert "write the whole path" in done.err


def test_the_hub_is_counted_apart_and_goes_by_name(desk: Desk, hub: Path) -> None:
    said = desk.admit("cache", "status").must(0).out
    assert "Hugging Face's cache, ~/.cache/huggingface/hub: 2 B in 1 repositories" in said
    assert "model/org/name         2 B  within the hour" in said
    assert desk.admit("cache", "evict", "org/name").must(0).out == "gone: org/name  2 B\n"
    assert not hub.exists()


def test_gc_of_the_hub_asks_first(desk: Desk, hub: Path) -> None:
    assert "nothing in Hugging Face's cache is idle" in desk.admit("cache", "gc", "--hub").must(0).out
    age_repo(hub, 40)
    desk.admit("cache", "gc").must(0)
    assert "agreed to on a terminal, or with --yes" in desk.admit("cache", "gc", "--hub").must(0).err
    shown = desk.terminal("cache", "gc", "--hub", answer="n\n", when="Delete?").out
    assert "model/org/name  2 B, 40 days ago" in shown
    assert hub.exists()
    told = desk.admit("cache", "gc", "--hub", "--dry-run", "--json").must(0).json
    assert told["hub_gone"] == [{"id": "model/org/name", "size_bytes": 2}]
    assert hub.exists()
    assert "gone: model/org/name" in desk.admit("cache", "gc", "--hub", "--yes").must(0).out
    assert not hub.exists()
