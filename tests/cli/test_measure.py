"""`admit measure`: the peak of a service or a command, the budget that it asks for, and that put into capacity.yaml."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from admit_cli.ownyaml import load as _load
from admitd import budgetfile
from admitd.core.terms import RAM, ProcessId
from admitd.core.units import MIB
from admitd.measuring import Measuring
from admitd.problem import ConfigError
from tests.ownhome import WAIT_S, Home

HOLDS_MB = 200
HOLD = f"""#!{sys.executable} -S
import sys
held = bytearray({HOLDS_MB} << 20)
held[::4096] = b"x" * len(held[::4096])
print("holds", flush=True)
sys.stdin.read()
"""

FILE = """# my machine
hosts:
  box: {{ram_physical_mb: 16384, ram_reserved_mb: 4096, ram_safety_mb: 2048}}   # all of it
live_veto: off

services:
  other: {{ram_budget_mb: 64, process_pattern: no-such-server}}
  hog:
    # guessed, long ago
    ram_budget_mb: 100      # MB
    process_pattern: '{program}'
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    program = tmp_path / f"hog-{os.getpid()}"
    program.write_text(HOLD)
    program.chmod(0o755)
    home.write(FILE.format(program=program.name))
    return home


@contextmanager
def hog(home: Home) -> Iterator[subprocess.Popen[str]]:
    """A process of the service, once it holds its memory."""
    program = home.folder / f"hog-{os.getpid()}"
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        yield process
        process.communicate("")


def measured(home: Home, *words: str) -> Any:
    code, out, err = home.admit("measure", "--json", *words)
    assert code == 0, err
    return json.loads(out)


def test_a_service_is_watched(home: Home) -> None:
    with hog(home):
        said = measured(home, "hog", "--for", "1s")
    assert HOLDS_MB <= said["peak_mb"] < HOLDS_MB + 60
    assert (said["service"], said["declared_mb"], said["processes"], said["written"]) == ("hog", 100, 1, None)
    assert 1.14 * said["peak_mb"] <= said["ram_budget_mb"] <= 1.15 * said["peak_mb"] + 17
    assert said["kernel_peak_mb"] >= said["last_mb"] - 1
    assert said["looks"] > 1
    assert "hardly worked" in said["notes"][0]


def test_what_an_idle_service_holds_is_not_written_below_its_budget(home: Home) -> None:
    home.write(home.config.read_text().replace("ram_budget_mb: 100", "ram_budget_mb: 9000"))
    before = home.config.read_bytes()
    with hog(home):
        code, out, err = home.admit("measure", "hog", "--for", "1s", "--write")
        assert code == 1
        assert "hog held 2" in out
        assert "its budget stays 9000 MB" in err
        assert home.config.read_bytes() == before
        command = err.partition("if you know better: admit ")[2].split()
        code, _, err = home.admit(*command)
        assert code == 0, err
    assert b"ram_budget_mb: 9000" not in home.config.read_bytes()


def test_it_says_it_for_people_and_writes_it(home: Home) -> None:
    """One number changes, and nothing else: not a comment, not a space, not the mode."""
    before = home.config.read_bytes()
    home.config.chmod(0o640)
    with hog(home):
        code, out, err = home.admit("measure", "hog", "--for", "1s", "--write")
    assert code == 0, err
    lines = out.splitlines()
    budget = next(line for line in lines if line.startswith("ram_budget_mb: ")).split()[1]
    assert lines[0].startswith("hog held 2")
    assert "; capacity.yaml said 100" in out
    assert lines[-1] == f"written to {home.config}:10"
    assert home.config.read_bytes() == before.replace(b"100      # MB", f"{budget}      # MB".encode())
    assert home.config.stat().st_mode & 0o777 == 0o640
    assert home.admit("config", "check")[0] == 0
    assert [each.name for each in home.folder.iterdir() if each.name.startswith(".capacity")] == []


def test_a_service_that_is_not_there_is_said_so(home: Home) -> None:
    code, out, err = home.admit("measure", "hog", "--for", "300ms", "--write")
    assert (code, out) == (1, "")
    assert err == "admit: no process of hog was seen; load it first (admit load hog), or see why: admit explain hog\n"


def test_a_command_is_started_and_watched_with_its_children(home: Home) -> None:
    program = home.folder / f"hog-{os.getpid()}"
    said = measured(home, "--for", "2s", "--", "/bin/sh", "-c", f"sleep 60 | {program}; true")
    assert HOLDS_MB <= said["peak_mb"] < HOLDS_MB + 60
    assert said["command"] == "/bin/sh"
    assert said["processes"] == 3


def test_a_command_is_watched_to_its_end(home: Home) -> None:
    text = "import time; x = bytearray(b'x' * (64 << 20)); time.sleep(2); print('fine')"  # long enough to be looked at
    said = measured(home, "--", sys.executable, "-c", text)
    assert said["command"] == sys.executable


@pytest.mark.parametrize(("ends_with", "said"), [("exit 3", "exit 3"), ("kill -9 $$", "killed by SIGKILL")])
def test_a_command_that_fails_is_reported_and_fails(home: Home, ends_with: str, said: str) -> None:
    line = f"read wait; {ends_with}"
    process = home.start("measure", "--for", "5s", "--", "/bin/sh", "-c", line)
    err = process.communicate(timeout=WAIT_S)[1]
    assert process.returncode == 1
    assert err.endswith((f"admit: /bin/sh ended with {said}\n", "ended before it could be looked at\n")), err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 64, "name one service, or a command"),
        (["hog", "--", "true"], 64, "name one service, or a command"),
        (["--write", "--", "true"], 64, "--write needs the name of a service"),
        (["nobody"], 66, "declares no service 'nobody'"),
        (["--", "/no/such/command"], 1, "cannot be run: No such file"),
        (["hog", "--for", "soon"], 64, "is not a duration"),
    ],
)
def test_what_makes_no_sense_is_said_so(home: Home, words: list[str], code: int, said: str) -> None:
    ended, out, err = home.admit("measure", *words)
    assert (ended, out) == (code, "")
    assert said in err


def test_ctrl_c_ends_the_watch_and_reports(home: Home) -> None:
    """What was watched goes on."""
    with hog(home) as process:
        code, out = pressed(home, "hog", "--for", "10m")
        assert process.poll() is None
    assert code == 0
    assert "ram_budget_mb: " in out


def test_ctrl_c_ends_a_command_that_was_started_here(home: Home) -> None:
    """And what that started; Ctrl-C goes to `admit` alone here, as no terminal stands behind it."""
    told = home.folder / "told"
    line = f"trap '' INT; {home.folder}/hog-{os.getpid()} < /dev/zero & echo $! > {told}; wait"
    code, out = pressed(home, "--", "/bin/sh", "-c", line)
    assert code == 0
    assert "/bin/sh held" in out
    with suppress(psutil.NoSuchProcess):
        left = psutil.Process(int(told.read_text()))
        assert left.status() == psutil.STATUS_ZOMBIE, "whoever adopts it may not have noticed yet"


def pressed(home: Home, *words: str) -> tuple[int, str]:
    """`admit measure` until it has seen something, then Ctrl-C: its exit code and what it printed."""
    ours, theirs = pty.openpty()  # a terminal shows what is seen, so that we know when to press
    line = [sys.executable, "-c", "from admit_cli.main import main; main()", "measure", *words]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=theirs, text=True, env=home.environ) as watching:
        os.close(theirs)
        shown = b""
        while b"MB at most" not in shown:
            shown += os.read(ours, 4096)
        watching.send_signal(signal.SIGINT)
        out = watching.communicate(timeout=WAIT_S)[0]
    os.close(ours)
    return watching.returncode, out


class FakeMemory:
    """Memory that the test sets."""

    held: int | None = None
    most: int | None = None
    of_group: int | None = None

    def footprint(self, processes: Sequence[ProcessId], enough: int) -> int | None:
        assert enough == 0, "a figure up to `enough` may be a guess"
        return self.held

    def peak(self, process: ProcessId) -> int | None:
        return self.most

    def group_peak(self, processes: Sequence[ProcessId]) -> int | None:
        return self.of_group


class FakeTimes:
    def __init__(self) -> None:
        self.told: dict[ProcessId, float] | None = {}

    def of(self, processes: object, without: object = ()) -> dict[ProcessId, float] | None:
        return self.told


SERVER, CHILD = ProcessId(10, 1), ProcessId(11, 2)


def test_the_kernel_misses_no_peak_between_two_looks() -> None:
    memory, times = FakeMemory(), FakeTimes()
    watching = Measuring(lambda: [SERVER], memory, times)
    times.told = {SERVER: 1.0}
    for now, memory.held, memory.most in ((0.0, 5 * MIB, 9 * MIB), (0.25, 4 * MIB, 9 * MIB)):
        watching.look(now)
    seen = watching.seen
    assert (seen.peak, seen.last, seen.kernel_peak, seen.most) == (5 * MIB, 4 * MIB, 9 * MIB, 9 * MIB)


def test_peaks_of_several_processes_are_not_added_up() -> None:
    """They need not have come at the same time."""
    memory, times = FakeMemory(), FakeTimes()
    memory.held, memory.most, times.told = 5 * MIB, 9 * MIB, {SERVER: 1.0, CHILD: 1.0}
    watching = Measuring(lambda: [SERVER], memory, times)
    watching.look(0.0)
    assert (watching.seen.kernel_peak, watching.seen.most) == (None, 5 * MIB)


def test_work_is_what_was_taken_while_it_was_watched() -> None:
    memory, times = FakeMemory(), FakeTimes()
    memory.held = MIB
    watching = Measuring(lambda: [SERVER], memory, times)
    for now, times.told in ((0.0, {SERVER: 50.0}), (10.0, {SERVER: 50.05}), (20.0, {SERVER: 50.1, CHILD: 1.0})):
        watching.look(now)
    assert watching.seen.cpu_s == pytest.approx(0.1)
    assert watching.seen.was_idle
    times.told = {SERVER: 53.0}
    watching.look(30.0)
    assert not watching.seen.was_idle


def test_what_cannot_be_read_is_counted() -> None:
    memory, times = FakeMemory(), FakeTimes()
    times.told = None
    watching = Measuring(lambda: [SERVER], memory, times)
    assert watching.look(0.0) is None
    assert (watching.seen.looks, watching.seen.unreadable, watching.seen.cpu_s) == (0, 1, None)


HEAD = "hosts:\n  box: {ram_physical_mb: 16384, ram_reserved_mb: 4096, ram_safety_mb: 2048}\n"


def put(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "services:\n  x: {process_pattern: a, ram_budget_mb: OLD}  # flow\n",
        HEAD + "services:\r\n  'x':\r\n    ram_budget_mb:   OLD  \r\n    process_pattern: ä☃😀\r\n# end",
        "# 😀\n" + HEAD + "services:\n  y: {ram_budget_mb: OLD0, process_pattern: b}\n"
        "  x:\n    process_pattern: a\n    ram_budget_mb: OLD",
        HEAD + "services:\n  y: &y {ram_budget_mb: 7, process_pattern: b}\n  x: {<<: *y, ram_budget_mb: OLD}\n",
    ],
)
def test_only_the_number_changes(tmp_path: Path, text: str) -> None:
    old = text.replace("OLD0", "1000").replace("OLD", "100")
    path = put(tmp_path / "capacity.yaml", old)
    budgetfile.write(path, "x", 512, _load)
    assert path.read_bytes() == text.replace("OLD0", "1000").replace("OLD", "512").encode()
    assert _load(path).services["x"].budget[RAM] == 512 * MIB


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "services:\n  y: &y {ram_budget_mb: 100, process_pattern: b}\n  x: {<<: *y, process_pattern: a}\n",
        HEAD + "services:\n  y: {ram_budget_mb: &b 100, process_pattern: b}\n"
        "  x: {ram_budget_mb: *b, process_pattern: a}\n",
        HEAD + "services:\n  x: {ram_budget_mb: &b 100, process_pattern: a}\n"
        "  y: {ram_budget_mb: *b, process_pattern: b}\n",
        HEAD + "services:\n  x: &x {ram_budget_mb: 100, process_pattern: a}\n  y: {<<: *x, process_pattern: b}\n",
    ],
)
def test_a_number_that_others_share_is_left_to_a_person(tmp_path: Path, text: str) -> None:
    path = put(tmp_path / "capacity.yaml", text)
    with pytest.raises(budgetfile.ByHand, match="by hand: "):
        budgetfile.write(path, "x", 512, _load)
    assert path.read_text() == text
    assert sorted(os.listdir(tmp_path)) == ["capacity.yaml"]


def test_a_budget_that_the_pool_does_not_hold_is_not_written(tmp_path: Path) -> None:
    text = HEAD + "services:\n  x: {ram_budget_mb: 100, process_pattern: a}\n"
    path = put(tmp_path / "capacity.yaml", text)
    with pytest.raises(ConfigError) as caught:
        budgetfile.write(path, "x", 16_384, _load)
    assert str(path) in str(caught.value)
    assert path.read_text() == text
    assert sorted(os.listdir(tmp_path)) == ["capacity.yaml"]


def test_a_file_that_is_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "dotfiles").mkdir()
    text = HEAD + "services:\n  x: {ram_budget_mb: 100, process_pattern: a}\n"
    real = put(tmp_path / "dotfiles" / "capacity.yaml", text)
    link = tmp_path / "capacity.yaml"
    link.symlink_to(real)
    budgetfile.write(link, "x", 512, _load)
    assert link.is_symlink()
    assert "512" in real.read_text()


def test_an_edit_meanwhile_is_not_lost(tmp_path: Path) -> None:
    text = HEAD + "services:\n  x: {ram_budget_mb: 100, process_pattern: a}\n"
    path = put(tmp_path / "capacity.yaml", text)
    loads = threading.Semaphore(1)

    def load(found: Path) -> Any:
        if not loads.acquire(blocking=False):
            path.write_text(text + "# mine\n")
        return _load(found)

    with pytest.raises(budgetfile.ByHand, match="edited meanwhile"):
        budgetfile.write(path, "x", 512, load)
    assert path.read_text() == text + "# mine\n"
