"""A full cache and a full disk: downloads pause, what may go goes, and what has come is kept."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from admit_sdk.cache import (
    CacheUnusable,
    DownloadFailed,
    ModelCache,
    NoRoom,
    Progress,
    Source,
    State,
    TooLarge,
    download,
    folder,
)
from tests.sdk.cache.conftest import MB, ROOT, App, until
from tests.sdk.cache.server import Manners, Server, sha256, some_bytes

DATA = some_bytes(4 * MB)
SHA = sha256(DATA)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of eight MB."""
    at = tmp_path / "disk"
    at.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "admit-test", str(at)]
    can = sys.platform == "linux" and mount and umount
    if not can or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        yield at
    finally:
        subprocess.run([umount or "umount", "-l", str(at)], check=True)


def test_a_download_pauses_until_there_is_room(where: Path, server: Server) -> None:
    cache = ModelCache(where, app="tests", max_bytes=6 * MB, spare_bytes=0)
    other = some_bytes(4 * MB, 1)
    held = cache.fetch(server.put("/other.gguf", other), sha256(other))
    told: list[Progress] = []
    done: list[bytes] = []

    def fetch() -> None:
        url = server.put("/model.gguf", DATA)
        with cache.fetch(url, SHA, size_bytes=len(DATA), on_progress=told.append) as mine:
            done.append(mine.path.read_bytes())

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    until(lambda: len([each for each in told if each.state is State.PAUSED]) > 3, "it pauses")
    assert not done
    assert len(server.asked) == 1  # for the other one: no server is kept waiting by a pause
    assert held.path.read_bytes() == other
    (why,) = {each.why for each in told if each.state is State.PAUSED}
    pid = os.getpid()
    assert why == (
        f"2.0 MiB are missing within the cache's 6.0 MiB, and other.gguf (4.0 MiB) is used by tests (pid {pid})"
    )
    held.release()
    thread.join(30)
    assert done == [DATA]
    assert [each.name for each in cache.contents().files] == ["model.gguf"]


def test_a_pause_that_is_too_long_ends_with_the_numbers(where: Path, server: Server) -> None:
    cache = ModelCache(where, app="tests", max_bytes=6 * MB, spare_bytes=0)
    other = some_bytes(4 * MB, 1)
    with (
        cache.fetch(server.put("/other.gguf", other), sha256(other)),
        pytest.raises(NoRoom, match=r"no room for model.gguf \(4.0 MiB\) within 0 s: .* admit cache status") as told,
    ):
        cache.fetch(server.put("/model.gguf", DATA), SHA, wait_s=0)
    assert (told.value.needed_bytes, told.value.max_bytes) == (4 * MB, 6 * MB)


def test_what_can_never_fit_is_refused_at_once_and_costs_nobody_anything(where: Path, server: Server) -> None:
    cache = ModelCache(where, app="tests", max_bytes=3 * MB, spare_bytes=0)
    small = some_bytes(MB, 1)
    cache.fetch(server.put("/small", small), sha256(small)).release()
    with pytest.raises(TooLarge, match=r"has 4.0 MiB, and the cache may hold 3.0 MiB in all"):
        cache.fetch(server.put("/model.gguf", DATA), SHA)
    contents = cache.contents()
    assert [each.name for each in contents.files] == ["small"]
    assert not contents.downloads


@pytest.mark.parametrize("size", [4 * MB, 4 * MB + 1])
def test_what_is_too_large_names_a_maximum_that_would_do(
    where: Path, server: Server, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    data = some_bytes(size, 3)
    url = server.put("/model.gguf", data)
    monkeypatch.setenv("ADMIT_MODEL_CACHE_MAX", "3MiB")
    with pytest.raises(TooLarge) as told:
        ModelCache(where, app="tests", spare_bytes=0).fetch(url, sha256(data))
    name, _, enough = str(told.value).rpartition(" ")[2].partition("=")
    monkeypatch.setenv(name, enough)
    ModelCache(where, app="tests", spare_bytes=0).fetch(url, sha256(data), wait_s=0).release()


def test_what_is_too_large_for_a_maximum_of_the_app_names_no_setting_that_is_never_read(
    where: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADMIT_MODEL_CACHE_MAX", "50GiB")
    cache = ModelCache(where, app="tests", max_bytes=3 * MB, spare_bytes=0)
    with pytest.raises(TooLarge) as told:
        cache.fetch(server.put("/model.gguf", DATA), SHA)
    assert str(told.value).endswith(f"max_bytes={4 * MB} (4MiB) or more where the app makes its ModelCache")
    assert "ADMIT_MODEL_CACHE_MAX" not in str(told.value)


def shards(server: Server, *, declared: bool) -> dict[str, Source]:
    """A model of three files, 2 MB each."""
    made = {f"shard{number}": some_bytes(2 * MB, number) for number in range(3)}
    return {
        name: Source(server.put(f"/{name}", data), sha256(data), len(data) if declared else None)
        for name, data in made.items()
    }


@pytest.mark.parametrize("declared", [True, False])
def test_a_model_that_only_fits_file_by_file_is_refused_and_not_waited_for(
    where: Path, server: Server, tmp_path: Path, declared: bool
) -> None:
    """The files that are there already are held by this very call: no waiting would make room."""
    cache = ModelCache(where, app="tests", max_bytes=5 * MB, spare_bytes=0)
    files = shards(server, declared=declared)
    said = r"has 2.0 MiB and the other files of its model 4.0 MiB, and the cache may hold 5.0 MiB in all"
    with pytest.raises(TooLarge, match=said) as told:
        cache.fetch_folder(files, tmp_path / "model")
    assert (told.value.needed_bytes, told.value.max_bytes) == (6 * MB, 5 * MB)
    assert len(server.asked) == (0 if declared else 3), "what is known beforehand costs no download"
    assert not any(each.in_use for each in cache.contents().files)


@pytest.mark.parametrize("declared", [True, False])
def test_a_model_that_just_fits_comes_and_one_that_is_there_is_not_refused(
    where: Path, server: Server, tmp_path: Path, declared: bool
) -> None:
    files = shards(server, declared=declared)
    files["shard0 again"] = files["shard0"]  # there once
    for max_mb in (6, 1):
        cache = ModelCache(where, app="tests", max_bytes=max_mb * MB, spare_bytes=0)
        with cache.fetch_folder(files, tmp_path / "model", wait_s=0) as model:
            assert len({each.sha256 for each in model.files}) == 3
    assert len(server.asked) == 3


def test_two_downloads_are_not_promised_the_same_room(where: Path, server: Server, start: Callable[..., App]) -> None:
    server.next = [Manners(waits_after=MB)]
    first = start(where, "fetch", server.put("/first", DATA), SHA)
    assert server.waits.wait(30)
    other = some_bytes(4 * MB, 1)
    cache = ModelCache(where, app="tests", max_bytes=6 * MB, spare_bytes=0)
    with pytest.raises(NoRoom, match="1 more are being downloaded"):
        cache.fetch(server.put("/second", other), sha256(other), wait_s=0)
    server.go_on.set()
    first.hear("held")


def test_free_disk_is_looked_at_beside_the_maximum(small_disk: Path, server: Server) -> None:
    cache = ModelCache(small_disk / "models", app="tests", max_bytes=100 * MB, spare_bytes=2 * MB)
    other = some_bytes(4 * MB, 1)
    held = cache.fetch(server.put("/other.gguf", other), sha256(other))
    with pytest.raises(NoRoom, match="are missing on the disk"):
        cache.fetch(server.put("/model.gguf", DATA), SHA, wait_s=0)
    held.release()
    with cache.fetch(server.put("/model.gguf", DATA), SHA) as mine:
        assert mine.path.read_bytes() == DATA
    assert [each.name for each in cache.contents().files] == ["model.gguf"]


def test_a_disk_that_others_fill_in_the_middle(small_disk: Path, server: Server) -> None:
    cache = ModelCache(small_disk / "models", app="tests", max_bytes=100 * MB, spare_bytes=0)
    server.next = [Manners(waits_after=MB)]
    url = server.put("/model.gguf", DATA)
    told: list[Progress] = []
    done: list[bytes] = []

    def fetch() -> None:
        with cache.fetch(url, SHA, on_progress=told.append) as mine:
            done.append(mine.path.read_bytes())

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    part = small_disk / "models" / "downloads" / f"{SHA}.part"
    until(lambda: part.exists() and part.stat().st_size == MB, "a MB has come")
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as others, pytest.raises(OSError, match="No space left"):
        while True:
            others.write(bytes(MB))
    server.go_on.set()
    until(lambda: any(each.state is State.PAUSED for each in told), "it pauses")
    assert not (small_disk / "models" / "files" / SHA).exists()
    paused = next(each for each in told if each.state is State.PAUSED)
    assert paused.done_bytes >= MB
    filler.unlink()
    thread.join(60)
    assert done == [DATA]
    assert server.ranges[1] is not None


@pytest.mark.parametrize("fails_after", [0, 1, MB - 1, 2 * MB])
def test_no_space_left_at_any_byte(
    cache: ModelCache, server: Server, monkeypatch: pytest.MonkeyPatch, fails_after: int
) -> None:
    """The one seam through which all is written, wherever no small disk can be mounted."""
    written = 0
    failed = []

    def write(fd: int, data: bytes) -> None:
        nonlocal written
        room = fails_after - written
        if not failed and len(data) > room:
            failed.append(1)
            os.write(fd, data[:room])
            raise OSError(errno.ENOSPC, "No space left on device")
        written += len(data)
        real(fd, data)

    real = folder.write_all
    monkeypatch.setattr(download, "write_all", write)
    with cache.fetch(server.put("/model.gguf", DATA), SHA) as held:
        assert held.path.read_bytes() == DATA
    assert failed
    assert server.ranges == [None, f"bytes={fails_after}-" if fails_after else None]


def test_a_disk_that_takes_no_byte_at_all_ends_the_wait(
    cache: ModelCache, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quota may say no where the disk has room."""

    def write(fd: int, data: bytes) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(download, "write_all", write)
    with pytest.raises(NoRoom, match=r"within 0\.1 s: the disk is full"):
        cache.fetch(server.put("/model.gguf", DATA), SHA, wait_s=0.1)


def test_a_note_for_which_there_is_no_space_is_done_without(
    cache: ModelCache, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = folder.write_note

    def write(path: Path, note: dict[str, Any]) -> None:
        if path.parent.name == "files":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, note)

    monkeypatch.setattr(folder, "write_note", write)
    with cache.fetch(server.put("/model.gguf", DATA), SHA) as held:
        assert held.path.read_bytes() == DATA
    assert cache.contents().files[0].name == SHA[:12]


def test_a_limit_on_the_size_of_files_keeps_what_has_come(server: Server, where: Path) -> None:
    url = server.put("/model.gguf", DATA)
    program = (
        "import resource, sys\n"
        "from admit_sdk.cache import DownloadFailed, ModelCache\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    ModelCache(sys.argv[1]).fetch(sys.argv[2], sys.argv[3])\n"
        "except DownloadFailed as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", program, str(where), url, SHA]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=True)
    assert "File too large; 1.0 MiB are kept, and the next attempt goes on from there" in done.stdout
    with ModelCache(where, app="tests").fetch(url, SHA) as held:
        assert held.path.read_bytes() == DATA
    assert server.ranges[-1] == f"bytes={MB}-"


def test_another_error_of_the_disk_is_told_as_it_is(
    cache: ModelCache, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(fd: int, data: bytes) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(download, "write_all", write)
    with pytest.raises(DownloadFailed, match=r"cannot be written: Input/output error"):
        cache.fetch(server.put("/model.gguf", DATA), SHA)


def test_what_cannot_be_brought_to_the_disk_is_not_served(
    cache: ModelCache, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.put("/model.gguf", DATA)

    def sync(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(download, "to_disk", sync)
        with pytest.raises(DownloadFailed, match="could not be brought to the disk: Input/output error"):
            cache.fetch(url, SHA)
    assert cache.contents().files == cache.contents().downloads == ()
    with cache.fetch(url, SHA) as held:
        assert held.path.read_bytes() == DATA


def test_an_error_of_the_callers_own_comes_back_as_it_is(cache: ModelCache, server: Server) -> None:
    def tell(progress: Progress) -> None:
        raise BrokenPipeError(errno.EPIPE, "nobody reads this")

    with pytest.raises(BrokenPipeError, match="nobody reads this"):
        cache.fetch(server.put("/model.gguf", DATA), SHA, on_progress=tell)
    assert not any(each.runs for each in cache.contents().downloads)


def test_nothing_goes_for_a_file_that_is_not_to_be_had(where: Path, server: Server) -> None:
    cache = ModelCache(where, app="tests", max_bytes=6 * MB, spare_bytes=0)
    other = some_bytes(4 * MB, 1)
    cache.fetch(server.put("/other.gguf", other), sha256(other)).release()
    path = where / "files" / sha256(other)
    long_ago = path.stat().st_mtime - 40 * 86_400
    os.utime(path, (long_ago, long_ago))
    with pytest.raises(DownloadFailed, match="404"):
        cache.fetch(server.url + "/gone", SHA, size_bytes=len(DATA))
    assert [each.name for each in cache.contents().files] == ["other.gguf"]
    cache.fetch(server.put("/model.gguf", DATA), SHA, size_bytes=len(DATA)).release()
    assert [each.name for each in cache.contents().files] == ["model.gguf"]


def test_a_folder_that_was_there_stays_open_to_look_into(where: Path) -> None:
    where.mkdir(mode=0o755)
    where.chmod(0o755)
    ModelCache(where).contents()
    assert where.stat().st_mode & 0o777 == 0o755
    assert (where / "files").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_may_write_to_is_refused(where: Path) -> None:
    where.mkdir(mode=0o777)
    where.chmod(0o777)
    with pytest.raises(CacheUnusable, match=r"others may write to .*ADMIT_MODEL_CACHE"):
        ModelCache(where).contents()


def test_a_file_where_the_folder_should_be(where: Path) -> None:
    where.write_text("x")
    with pytest.raises(CacheUnusable, match="cannot be made: File exists"):
        ModelCache(where).contents()


@pytest.mark.parametrize("text", ["much", "-1", "10%"])
def test_a_maximum_that_is_no_amount(monkeypatch: pytest.MonkeyPatch, where: Path, text: str) -> None:
    monkeypatch.setenv("ADMIT_MODEL_CACHE_MAX", text)
    with pytest.raises(CacheUnusable, match=r"ADMIT_MODEL_CACHE_MAX: .* is not an amount"):
        ModelCache(where)


def test_the_settings_of_the_environment(monkeypatch: pytest.MonkeyPatch, where: Path) -> None:
    monkeypatch.setenv("ADMIT_MODEL_CACHE", str(where))
    monkeypatch.setenv("ADMIT_MODEL_CACHE_MAX", "12GiB")
    cache = ModelCache()
    assert cache.folder == where
    assert cache.contents().max_bytes == 12 << 30
    monkeypatch.delenv("ADMIT_MODEL_CACHE_MAX")
    contents = ModelCache().contents()
    assert contents.max_bytes == contents.free_bytes // 4
    monkeypatch.setenv("ADMIT_MODEL_CACHE", "models")
    with pytest.raises(CacheUnusable, match="depends on the working folder"):
        ModelCache()
