"""Hugging Face's own cache, filled by its own library: counted right, and deleted by that library alone."""

from __future__ import annotations

import mmap
import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from admit_sdk.cache import InUse, NoHub, NotCached, huggingface
from admit_sdk.cache.huggingface import HubContents, HubRepo
from tests.sdk.cache.hub import age, download
from tests.sdk.cache.server import Server, serving, some_bytes

pytest.importorskip("huggingface_hub")
CONFIG, WEIGHTS = b"{}", some_bytes(100_000)
FILES = {"config.json": CONFIG, "model.safetensors": WEIGHTS}
MONTH_S = 30 * 86_400.0


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with one repository, as the library has made it."""
    folder = tmp_path_factory.mktemp("hf") / "hub"
    with serving() as server:
        download(server, folder, "org/name", FILES)
    return folder


@pytest.fixture
def hub(tmp_path: Path, downloaded: Path) -> Path:
    """The same for one test alone."""
    return Path(shutil.copytree(downloaded, tmp_path / "hub", symlinks=True))


def copy_of(repo: Path, name: str) -> Path:
    """The same revisions under another repository's name, as a fork has."""
    return Path(shutil.copytree(repo, repo.with_name(name), symlinks=True))


def test_what_is_there_is_counted(hub: Path) -> None:
    copy_of(hub / "models--org--name", "models--org--fork")
    (hub / "models--org--fork" / "blobs" / "abc.incomplete").write_bytes(bytes(500))
    (hub / "models--broken").mkdir()
    found = huggingface.contents(hub)
    assert [(each.id, each.size_bytes, each.opened) for each in found.repos] == [
        ("model/org/fork", 100_002, False),
        ("model/org/name", 100_002, False),
    ]
    assert (found.size_bytes, found.unfinished_bytes) == (200_004, 500)
    assert len(found.warnings) == 1


def test_where_there_is_no_cache_nothing_is_counted(tmp_path: Path) -> None:
    assert huggingface.contents(tmp_path / "hub") == HubContents(tmp_path / "hub", (), 0, 0)
    with pytest.raises(NotCached, match="no repository org/name is in"):
        huggingface.evict(tmp_path / "hub", "org/name")


@pytest.mark.parametrize("name", ["model/org/name", "org/name"])
def test_a_repository_goes_and_its_fork_stays(hub: Path, name: str) -> None:
    """Both have the same revision: the library looks for it by its hash alone."""
    copy_of(hub / "models--org--name", "models--org--fork")
    assert huggingface.evict(hub, name) == 100_002
    assert [each.id for each in huggingface.contents(hub).repos] == ["model/org/fork"]
    fork = hub / "models--org--fork" / "snapshots" / ("c" * 40) / "model.safetensors"
    assert fork.read_bytes() == WEIGHTS


def test_all_revisions_of_a_repository_go(hub: Path, server: Server) -> None:
    download(server, hub, "org/name", {"config.json": b"{ }"}, "d" * 40)
    assert huggingface.contents(hub).repos[0].size_bytes == 100_005
    assert huggingface.evict(hub, "org/name") == 100_005
    assert huggingface.contents(hub).repos == ()
    assert not (hub / "models--org--name").exists()


def test_a_name_of_two_repositories_is_not_guessed_at(hub: Path) -> None:
    copy_of(hub / "models--org--name", "datasets--org--name")
    with pytest.raises(NotCached, match="may be each of dataset/org/name, model/org/name"):
        huggingface.evict(hub, "org/name")
    huggingface.evict(hub, "dataset/org/name")
    assert [each.id for each in huggingface.contents(hub).repos] == ["model/org/name"]


@pytest.mark.usefixtures("tells_who_has_it_open")
def test_a_repository_that_is_mapped_stays(hub: Path) -> None:
    weights = hub / "models--org--name" / "snapshots" / ("c" * 40) / "model.safetensors"
    with weights.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    try:
        age(hub / "models--org--name", 40)
        found = huggingface.contents(hub)
        assert found.repos[0].opened
        assert found.idle(time.time(), MONTH_S) == ()
        with pytest.raises(InUse, match="model/org/name stays: a process has it open"):
            huggingface.evict(hub, "org/name")
    finally:
        mapped.close()
    assert [each.id for each in huggingface.contents(hub).idle(time.time(), MONTH_S)] == ["model/org/name"]
    huggingface.evict(hub, "org/name")


@pytest.mark.usefixtures("tells_who_has_it_open")
def test_a_repository_that_is_being_downloaded_stays(hub: Path) -> None:
    with (hub / "models--org--name" / "blobs" / "abc.incomplete").open("wb"), pytest.raises(InUse):
        huggingface.evict(hub, "org/name")


def test_on_a_mac_nothing_counts_as_idle(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """APFS would tell the day of the download, also of what is read every day."""
    age(hub / "models--org--name", 400)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert huggingface.contents(hub).idle(time.time(), MONTH_S) == ()


def test_where_reading_is_not_noted_nothing_counts_as_idle(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    age(hub / "models--org--name", 400)
    assert len(huggingface.contents(hub).idle(time.time(), MONTH_S)) == 1
    flags = os.statvfs(hub).f_flag
    monkeypatch.setattr(huggingface, "_NOATIME", flags & -flags or 1)
    if not flags:
        pytest.skip("this file system has no flags at all")
    found = huggingface.contents(hub)
    assert found.repos[0].used_at is None
    assert found.idle(time.time(), MONTH_S) == ()


def test_the_idle_ones_come_oldest_first() -> None:
    def repo(name: str, used_at: float | None, opened: bool = False) -> HubRepo:
        return HubRepo(name, Path(name), 1, used_at, opened)

    repos = (repo("a", 50.0), repo("b", 10.0), repo("c", None), repo("d", 1.0, True), repo("e", 95.0))
    assert [each.id for each in HubContents(Path(), repos, 5, 0).idle(100.0, 10.0)] == ["b", "a"]


def test_without_the_library_it_says_how_to_get_it(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(NoHub, match=r"install it: .* 'huggingface-hub>=1'"):
        huggingface.contents(hub)
