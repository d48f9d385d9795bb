"""What an app may take, what it holds, and what happens when that is more; and whether it runs on its battery."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from admit_sdk import holdings, profiles
from admit_sdk.overrun import Overrun, SaveAndStop
from admit_sdk.pool import ModelPool
from admit_sdk.power import on_battery
from admit_sdk.profiles import GIB, HIGH, LOW, MID, Profile, profile_for
from admitd.core.units import MIB
from admitd.memory.darwin import DarwinMemory
from tests.test_memory_darwin import Libc, process

ROOT = Path(__file__).parents[2]
linux = pytest.mark.skipif(sys.platform == "darwin", reason="reads /proc")


@pytest.mark.parametrize(("profile", "system", "soft", "hard"), [(LOW, 8, 4, 5), (MID, 16, 8, 10), (HIGH, 32, 20, 24)])
def test_the_profiles(profile: Profile, system: int, soft: int, hard: int) -> None:
    assert (profile.system_bytes, profile.soft_bytes, profile.hard_bytes) == (system * GIB, soft * GIB, hard * GIB)


@pytest.mark.parametrize(
    ("physical", "name"),
    [
        (4 * GIB, "low"),
        (8 * GIB, "low"),
        (14 * GIB, "low"),
        (int(15.3 * GIB), "mid"),
        (24 * GIB, "mid"),
        (31 * GIB, "high"),
        (512 * GIB, "high"),
    ],
)
def test_a_machine_gets_the_largest_that_is_for_it(physical: int, name: str) -> None:
    assert profile_for(physical).name == name


def test_this_machine_has_one() -> None:
    assert profiles.profile_for_this_system() in profiles.PROFILES


def test_an_apps_own_numbers() -> None:
    mine = Profile.of("6GiB", 7 * GIB)
    assert (mine.soft_bytes, mine.hard_bytes) == (6 * GIB, 7 * GIB)


@pytest.mark.parametrize(("soft", "hard"), [(0, 1), ("2GiB", "1GiB"), (-1, 5)])
def test_numbers_that_make_no_sense(soft: int | str, hard: int | str) -> None:
    with pytest.raises(ValueError, match="the soft one is more than nothing, and at most the hard one"):
        Profile.of(soft, hard)


# Holdings.


@linux
def test_the_heap_counts_and_the_pages_of_other_files_do_not(tmp_path: Path) -> None:
    """A database that maps its file holds nothing by that."""
    import mmap

    path = tmp_path / "database"
    path.write_bytes(b"x" * (64 * MIB))
    before = holdings.measure()
    heap = bytearray(64 * MIB)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[:: mmap.PAGESIZE]) > 0
        as_other, as_model = holdings.measure(), holdings.measure([tmp_path])
    assert 45 * MIB < as_other.counted - before.counted < 105 * MIB
    assert as_other.resident is not None and before.resident is not None
    assert as_other.resident - before.resident > 120 * MIB
    assert as_model.mapped is not None and as_model.mapped >= 64 * MIB
    assert 109 * MIB < as_model.counted - before.counted < 169 * MIB
    assert len(heap) > 0


@linux
@pytest.mark.parametrize("layout", ["each file", "the folder", "a folder in it", "a link to a link", "the file"])
def test_weights_behind_links_count_as_the_models(tmp_path: Path, layout: str) -> None:
    """In caches of models the names in a model's folder are links; the system tells where the file really lies."""
    import mmap

    model, blobs = tmp_path / "snapshot", tmp_path / "blobs"
    blobs.mkdir()
    real = blobs / "c0ffee"
    real.write_bytes(b"x" * (8 * MIB))
    name = model / "weights"
    if layout == "the folder":
        model.symlink_to(blobs)
        name = model / "c0ffee"
    else:
        model.mkdir()
        (model / "around").symlink_to(tmp_path)  # what lies there is not the model's
    if layout == "a folder in it":
        (model / "onnx").symlink_to(blobs)
        name = model / "onnx" / "c0ffee"
    elif layout == "a link to a link":
        (tmp_path / "between").symlink_to(real)
        name.symlink_to(tmp_path / "between")
    elif layout in ("each file", "the file"):
        name.symlink_to(real)
    other = tmp_path / "database"
    other.write_bytes(b"x" * (8 * MIB))
    with (
        name.open("rb") as file,
        other.open("rb") as data,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        mmap.mmap(data.fileno(), 0, access=mmap.ACCESS_READ) as aside,
    ):
        assert sum(mapped[:: mmap.PAGESIZE]) == sum(aside[:: mmap.PAGESIZE])
        assert holdings.measure([name if layout == "the file" else model]).mapped == 8 * MIB


@pytest.mark.parametrize(("footprint", "resident"), [(2 * GIB, 30 * GIB), (10 * GIB, 3 * GIB)])
def test_on_macos_the_footprint_counts_and_mapped_files_do_not(footprint: int, resident: int) -> None:
    """A database of 28 GiB that is mapped is in residence alone."""
    libc = Libc()
    process(libc, os.getpid(), footprint / GIB, resident / GIB)
    held = holdings._from_rusage(DarwinMemory(libc), None)
    assert (held.counted, held.heap, held.resident, held.mapped) == (footprint, footprint, resident, None)


@pytest.mark.parametrize("reason", [errno.ESRCH, errno.EPERM])
def test_a_mac_that_does_not_tell_is_an_error(reason: int) -> None:
    libc = Libc()
    libc.rusages[os.getpid()] = reason
    with pytest.raises(OSError, match=r"the system does not tell|proc_pid_rusage"):
        holdings._from_rusage(DarwinMemory(libc), None)


@linux
def test_what_is_mapped_is_read_only_as_often_as_that_is_cheap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[tuple[bytes, ...]] = []
    real = holdings._from_smaps
    monkeypatch.setattr(holdings, "_from_smaps", lambda paths, gpu: reads.append(paths) or real(paths, gpu))
    monkeypatch.setattr(holdings, "FRESH_SHARE", 1e-9)
    measuring = holdings.Measuring()
    for _ in range(5):
        assert measuring.measure([tmp_path]).heap > 0
    assert len(reads) == 1
    measuring.measure([tmp_path, tmp_path / "another"])
    assert len(reads) == 2
    assert measuring.measure([]).mapped == 0
    assert len(reads) == 2


SHARER = """
import json, sys
from pathlib import Path
from admit_sdk.governor import MemoryGovernor
from admit_sdk.models import Model
from admit_sdk.pool import ModelPool
from admit_sdk.requests import Capability, TextEmbedding

model = Model("m", Path(sys.argv[1]), Capability.TEXT_EMBEDDING, map_weights=True)
with ModelPool(MemoryGovernor("2GiB", watch=False), [model]) as pool:
    pool.ask("m", TextEmbedding(("a cat sat",)))
    print("loaded", flush=True)
    sys.stdin.readline()
    held = pool.holdings()
    print(json.dumps([held.heap, held.mapped, held.mapped_share, held.resident]), flush=True)
    sys.stdin.readline()  # its mapping lasts until the other has looked, too
"""


@linux
def test_weights_that_two_apps_map_are_there_once(tmp_path: Path) -> None:
    """Each maps the whole file, and each counts its half; nobody holds a copy."""
    pytest.importorskip("onnxruntime")
    making: Any = pytest.importorskip("tests.sdk.making")
    folder = making.text_embedder(tmp_path / "m", vocabulary=50_000, hidden=256, beside=True)
    data = (folder / "model.onnx_data").stat().st_size
    apps = [
        subprocess.Popen(
            [sys.executable, "-c", SHARER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for _ in range(2)
    ]
    try:
        for app in apps:
            assert app.stdout is not None and app.stdout.readline() == "loaded\n"
        said = []
        for app in apps:
            assert app.stdin is not None and app.stdout is not None
            app.stdin.write("\n")
            app.stdin.flush()
            said.append(json.loads(app.stdout.readline()))
    finally:
        for app in apps:
            app.communicate(timeout=60)
    pages = [mapped for _, mapped, _, _ in said]
    assert min(pages) > 0
    # onnxruntime touches the rows it needs; what both map, each counts half of.
    for heap, mapped, share, resident in said:
        assert share <= mapped * 0.75
        assert heap < data, "the weights are no copy"
        assert resident > mapped


# Beyond the hard limit.


def test_one_beyond_its_hard_limit_saves_and_stops_once(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []
    asked = SaveAndStop(save=lambda overrun: done.append(str(overrun)), stop=lambda: done.append("stop"))
    looks = [asked.look(held * MIB, 100 * MIB) for held in (50, 101, 50, 101, 101, 101, 101)]
    assert looks == [False, False, False, False, True, False, False]
    assert done[1:] == ["stop"]
    assert "this app holds 101 MB, beyond its hard limit of 100 MB" in done[0]
    assert "has to save and stop" in caplog.text


def test_one_that_does_not_stop_is_asked_again_while_it_is_beyond() -> None:
    done: list[str] = []
    asked = SaveAndStop(save=lambda _: done.append("save"), stop=lambda: done.append("stop"), again_s=0)
    looks = [asked.look(held * MIB, 100 * MIB) for held in (101, 101, 101, 101, 50, 50, 101, 101)]
    assert looks == [False, True, False, False, False, False, False, True]
    assert done == ["save", "stop", "stop", "stop", "save", "stop"]


def test_one_that_cannot_be_stopped_is_told_and_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    def stop() -> None:
        done.append("stop")
        raise RuntimeError("no window is open")

    asked = SaveAndStop(stop=stop, again_s=0)
    assert [asked.look(200, 100) for _ in range(3)] == [False, True, False]
    assert done == ["stop", "stop"]
    assert "no window is open" in caplog.text


def test_where_a_daemon_watches_it_is_left_to_that() -> None:
    done: list[str] = []
    asked = SaveAndStop(stop=lambda: done.append("stop"), watched=lambda: True)
    assert not any(asked.look(200, 100) for _ in range(5))
    assert not done


def test_saving_that_takes_too_long_or_fails_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []
    never = threading.Event()

    def fail(_: Overrun) -> None:
        raise OSError("the disk is full")

    for save in (lambda _: never.wait(30) and None, fail):
        asked = SaveAndStop(save=save, stop=lambda: done.append("stop"), save_s=0.05)
        assert [asked.look(200, 100) for _ in range(2)] == [False, True]
    never.set()
    assert done == ["stop", "stop"]
    assert "the disk is full" in caplog.text


STOPS = """
import sys, time
from admit_sdk.governor import MemoryGovernor
from admit_sdk.overrun import SaveAndStop
from admit_sdk.pool import ModelPool

hoard = bytearray(120 << 20)
governor = MemoryGovernor("100MiB", watch=False)
with ModelPool(governor, [], overrun=SaveAndStop(save=lambda _: print("saved", flush=True))):
    print("runs", flush=True)
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        print("stopped")
"""


def test_an_app_beyond_its_hard_limit_ends_by_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STOPS], capture_output=True, text=True, check=False, timeout=100, cwd=ROOT
    )
    assert done.stdout.split() == ["runs", "saved", "stopped"], done.stderr
    assert done.returncode == 0


SWALLOWS = """
import sys, time
from admit_sdk.governor import MemoryGovernor
from admit_sdk.overrun import SaveAndStop
from admit_sdk.pool import ModelPool

hoard = bytearray(120 << 20)
governor = MemoryGovernor("100MiB", watch=False)
with ModelPool(governor, [], overrun=SaveAndStop(save=lambda _: print("saved", flush=True), again_s=0)):
    print("runs", flush=True)
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            print("swallowed", flush=True)
"""


def test_an_app_that_takes_ctrl_c_for_something_else_ends_all_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWS], capture_output=True, text=True, check=False, timeout=100, cwd=ROOT
    )
    assert done.stdout.split() == ["runs", "saved", "swallowed", "swallowed"], done.stderr
    assert done.returncode == -signal.SIGTERM


def test_an_app_in_the_background_of_a_script_ends_though_it_hears_no_ctrl_c() -> None:
    """A shell without job control has what it starts with & ignore SIGINT."""
    line = '"$0" -c "$1" & wait $!; echo "ended with $?"'
    done = subprocess.run(
        ["sh", "-c", line, sys.executable, STOPS], capture_output=True, text=True, check=False, timeout=100, cwd=ROOT
    )
    assert done.stdout.splitlines() == ["runs", "saved", f"ended with {128 + signal.SIGTERM}"], done.stderr


def test_a_pool_of_a_profile_stops_its_app_unless_that_says_otherwise() -> None:
    profile = Profile.of("60GiB", "64GiB")
    with ModelPool.with_profile(profile, []) as pool:
        assert pool._overrun == SaveAndStop()
    mine = SaveAndStop(save=lambda _: None)
    for overrun in (mine, None):
        with ModelPool.with_profile(profile, [], overrun=overrun) as pool:
            assert pool._overrun is overrun


def test_a_profile_that_the_apps_own_heap_exceeds_is_refused_with_numbers() -> None:
    with pytest.raises(ValueError, match=r"holds \d+ MB before any model is loaded, and its hard limit is 5 MB"):
        ModelPool.with_profile(Profile.of("5MiB", "5MiB"), [])


# Power.


@pytest.fixture
def supplies(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path


@linux
@pytest.mark.parametrize(
    ("what", "supply", "battery"),
    [
        ("a desktop", {}, False),
        ("a laptop on its battery", {"BAT0": ("Battery", "", "Discharging"), "AC": ("Mains", "0", "")}, True),
        ("a laptop on mains", {"BAT0": ("Battery", "", "Charging"), "AC": ("Mains", "1", "")}, False),
        ("one that is full", {"BAT0": ("Battery", "", "Full"), "AC": ("Mains", "1", "")}, False),
        ("one on USB", {"BAT0": ("Battery", "", "Discharging"), "UCSI": ("USB", "1", "")}, False),
        ("a mouse only", {"hid": ("Battery", "", "Discharging", "Device")}, False),
    ],
)
def test_whether_it_runs_on_its_battery(
    supplies: Path, what: str, supply: dict[str, tuple[str, ...]], battery: bool
) -> None:
    for name, words in supply.items():
        (supplies / name).mkdir()
        for file, word in zip(("type", "online", "status", "scope"), words, strict=False):
            if word:
                (supplies / name / file).write_text(f"{word}\n")
    assert on_battery(supplies) is battery


def test_a_system_that_does_not_say_is_not_on_its_battery(tmp_path: Path) -> None:
    logging.getLogger("admit_sdk")
    assert on_battery(tmp_path / "nowhere") is False
