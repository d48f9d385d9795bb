"""Linux memory: what the machine has left and what processes hold, on the real /proc and on made-up ones."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from admitd.core.terms import Level, ProcessId
from admitd.memory import for_this_system, shared
from admitd.memory.linux import LinuxMemory
from admitd.memory.shared import SharedPages

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MIB = 1 << 20
PLENTY = 1 << 50
SLACK = 24 * MIB  # an interpreter of its own

STAY = "print('ready', flush=True); sys.stdin.read()"
ANONYMOUS = f"import sys; held = b'x' * ({{}} * {MIB}); {STAY}"
MAPPED = "\n".join(
    (
        "import mmap, sys",
        "file = open(sys.argv[1], 'r+b'); held = mmap.mmap(file.fileno(), 0)",
        "sum(held[at] for at in range(0, len(held), 4096))",
        STAY,
    )
)
FORKED = "\n".join(
    (
        "import os, sys",
        f"held = b'x' * (64 * {MIB})",
        "children = []",
        "for _ in range(3):",
        "    child = os.fork()",
        "    if not child: os.read(0, 1); os._exit(0)",
        "    children.append(child)",
        "print(*children, flush=True); sys.stdin.read()",
    )
)
LEADERLESS = "\n".join(
    (
        "import ctypes, os, sys, threading",
        "leader = threading.main_thread()",
        "def stay():",
        f"    held = b'x' * (64 * {MIB})",
        "    while open('/proc/self/stat').read().rsplit(')')[1].split()[0] != 'Z': os.sched_yield()",
        f"    {STAY}",
        "threading.Thread(target=stay).start()",
        "ctypes.CDLL(None).pthread_exit(None)",
    )
)


def identity(pid: int) -> ProcessId:
    return ProcessId(pid, int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]))


@contextmanager
def running(script: str, *arguments: str) -> Iterator[tuple[ProcessId, str]]:
    """A process of ours that has said its first line; it ends when its standard input does."""
    command = [sys.executable, "-I", "-S", "-c", script, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield identity(process.pid), process.stdout.readline()
        finally:
            process.kill()


@pytest.fixture
def patient() -> LinuxMemory:
    """Waits for PSS as long as it takes, so that a busy machine changes no result."""
    return LinuxMemory(shared=SharedPages(patience_s=30))


class TestFootprintOfRealProcesses:
    def test_anonymous_memory_counts(self) -> None:
        with running(ANONYMOUS.format(128)) as (process, _):
            held = LinuxMemory().footprint([process], PLENTY)
        assert held is not None
        assert 128 * MIB <= held <= 128 * MIB + SLACK

    def test_separate_processes_add_up_and_each_costs_its_own(self, patient: LinuxMemory) -> None:
        with running(ANONYMOUS.format(64)) as (one, _), running(ANONYMOUS.format(96)) as (other, _):
            quick = patient.footprint([one, other], PLENTY)
            exact = patient.footprint([one, other], 1)
        assert quick is not None and exact is not None
        assert 160 * MIB <= exact <= quick + SLACK <= 160 * MIB + 3 * SLACK

    def test_a_shared_file_counts_once(self, tmp_path: Path, patient: LinuxMemory) -> None:
        weights = tmp_path / "weights"
        weights.write_bytes(b"w" * (96 * MIB))
        with ExitStack() as all_of_them:
            processes = [all_of_them.enter_context(running(MAPPED, str(weights)))[0] for _ in range(3)]
            quick = patient.footprint(processes, PLENTY)
            exact = patient.footprint(processes, 1)
        assert quick is not None and exact is not None
        assert 96 * MIB <= quick <= 96 * MIB + 3 * SLACK
        assert 96 * MIB <= exact <= 96 * MIB + 3 * SLACK

    def test_different_files_count_each_once_the_sum_is_beyond_the_budget(
        self, tmp_path: Path, patient: LinuxMemory
    ) -> None:
        with ExitStack() as all_of_them:
            processes = []
            for name in ("one", "other"):
                (tmp_path / name).write_bytes(b"w" * (64 * MIB))
                processes.append(all_of_them.enter_context(running(MAPPED, str(tmp_path / name)))[0])
            held = patient.footprint(processes, 100 * MIB)
        assert held is not None
        assert 128 * MIB <= held <= 128 * MIB + 2 * SLACK

    def test_shared_memory_counts_once(self) -> None:
        with tempfile.NamedTemporaryFile(dir="/dev/shm") as segment, ExitStack() as all_of_them:
            segment.truncate(64 * MIB)
            for at in range(64):
                os.pwrite(segment.fileno(), b"s" * MIB, at * MIB)
            processes = [all_of_them.enter_context(running(MAPPED, segment.name))[0] for _ in range(3)]
            held = LinuxMemory().footprint(processes, PLENTY)
        assert held is not None
        assert 64 * MIB <= held <= 64 * MIB + 3 * SLACK

    def test_forked_children_are_not_charged_for_their_parents_pages(self, patient: LinuxMemory) -> None:
        with running(FORKED) as (parent, line):
            family = [parent, *(identity(int(pid)) for pid in line.split())]
            quick = patient.footprint(family, PLENTY)
            exact = patient.footprint(family, 128 * MIB)
        assert quick is not None and exact is not None
        assert quick >= 4 * 64 * MIB, "without a second look each child shows the parent's pages as its own"
        assert 64 * MIB <= exact <= 64 * MIB + 2 * SLACK

    def test_a_process_whose_leading_thread_has_exited_still_holds_its_memory(self, patient: LinuxMemory) -> None:
        with running(LEADERLESS) as (process, _), running(ANONYMOUS.format(1)) as (other, _):
            assert "VmRSS" not in Path(f"/proc/{process.pid}/status").read_text()
            quick = patient.footprint([process], PLENTY)
            exact = patient.footprint([process, other], 1)
        assert quick is not None and exact is not None
        assert 64 * MIB <= quick <= 64 * MIB + SLACK
        assert 64 * MIB <= exact <= 64 * MIB + 2 * SLACK

    def test_a_process_that_is_gone_contributes_nothing(self) -> None:
        with running(ANONYMOUS.format(32)) as (gone, _):
            pass
        with running(ANONYMOUS.format(32)) as (here, _):
            held = LinuxMemory().footprint([gone, here], PLENTY)
        assert held is not None
        assert 32 * MIB <= held <= 32 * MIB + SLACK

    def test_nothing_left_is_zero_and_not_unreadable(self) -> None:
        with running(ANONYMOUS.format(1)) as (gone, _):
            pass
        assert LinuxMemory().footprint([gone], 0) == 0
        assert LinuxMemory().footprint([], 0) == 0

    def test_a_zombie_contributes_nothing(self) -> None:
        child = os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ)
        process = identity(child)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        try:
            assert LinuxMemory().footprint([process], 0) == 0
        finally:
            os.waitpid(child, 0)

    def test_a_pid_that_belongs_to_another_by_now_contributes_nothing_beyond_the_budget(self) -> None:
        with running(ANONYMOUS.format(32)) as (process, _):
            before = ProcessId(process.pid, process.started - 1)
            assert LinuxMemory().footprint([before], 1) == 0

    @pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become nobody")
    def test_what_another_user_shares_is_unreadable_and_what_it_holds_alone_is_not(self) -> None:
        with running(ANONYMOUS.format(32)) as (one, _), running(ANONYMOUS.format(32)) as (other, _):
            asking = "\n".join(
                (
                    "import os, sys",
                    f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})",
                    "from admitd.core.terms import ProcessId",
                    "from admitd.memory.linux import LinuxMemory",
                    "from admitd.memory.shared import SharedPages",
                    "os.setgroups([]); os.setgid(65534); os.setuid(65534)",
                    f"both = [ProcessId({one.pid}, {one.started}), ProcessId({other.pid}, {other.started})]",
                    "memory = LinuxMemory(shared=SharedPages(patience_s=30))",
                    "asked = ((both, 50 << 20), (both, 1), (both[:1], 1), (both, 1 << 50))",
                    "print(*(memory.footprint(*each) for each in asked))",
                )
            )
            told = subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True, check=True)
        together, least, alone, small = told.stdout.split()
        assert together == "None"
        assert 32 * MIB <= int(least) < 64 * MIB, "what one holds alone is beyond it already"
        assert int(alone) >= 32 * MIB
        assert int(small) >= 64 * MIB


@pytest.fixture
def proc(tmp_path: Path) -> Callable[..., list[ProcessId]]:
    """Writes a made-up /proc: processes by their amounts in MiB."""

    def write(*processes: dict[str, int]) -> list[ProcessId]:
        made = []
        for pid, amounts in enumerate(processes, start=100):
            folder = tmp_path / str(pid)
            folder.mkdir()
            lines = {"VmRSS": 1, "RssAnon": 0, "RssFile": 0, "RssShmem": 0, "VmSwap": 0, "HugetlbPages": 0}
            lines |= {name: amounts[name] for name in amounts.keys() & lines.keys()}
            text = "".join(f"{name}:\t{mib * 1024:8} kB\n" for name, mib in lines.items())
            (folder / "status").write_text(f"Name:\tserver\nThreads:\t1\n{text}")
            (folder / "stat").write_text(f"{pid} (a) b) S 1 {'0 ' * 17}{pid * 7} 0 0\n")
            if "Pss" in amounts:
                (folder / "smaps_rollup").write_text(
                    f"0-f ---p 0 00:00 0 [rollup]\nRss: 9 kB\nPss: {amounts['Pss'] * 1024} kB\n"
                    f"Pss_Anon: 9 kB\nSwap: 9 kB\nSwapPss: {amounts.get('SwapPss', 0) * 1024} kB\n"
                )
            made.append(ProcessId(pid, pid * 7))
        return made

    return write


def footprint_in(root: Path, processes: list[ProcessId], enough_mib: int) -> float | None:
    held = LinuxMemory(str(root), shared=SharedPages(patience_s=30)).footprint(processes, enough_mib * MIB)
    return None if held is None else held / MIB


class TestFootprintByItsRules:
    @pytest.mark.parametrize(
        ("processes", "enough", "held", "why"),
        [
            ([{"RssAnon": 10, "VmSwap": 5}], 99, 15, "what is swapped out comes back when it is used"),
            ([{"RssAnon": 10, "RssFile": 5, "RssShmem": 3}], 99, 18, "all that one process maps"),
            ([{"HugetlbPages": 40, "RssAnon": 1}], 99, 41, "a virtual machine on huge pages, which are in no RSS"),
            ([{"RssAnon": 10, "RssFile": 30}, {"RssAnon": 7, "RssFile": 20}], 99, 47, "the larger file share, once"),
            ([{"RssShmem": 30}, {"RssShmem": 30}], 99, 30, "shared memory once"),
            ([{"RssAnon": 10, "Pss": 3}], 5, 10, "one process shares with no one: no PSS"),
            ([{"RssAnon": 10, "Pss": 6}, {"RssAnon": 10, "Pss": 5}], 15, 11, "beyond the budget: PSS"),
            ([{"RssAnon": 10, "Pss": 6}, {"RssAnon": 10, "Pss": 5}], 20, 20, "not beyond it: no PSS"),
            ([{"RssFile": 10, "Pss": 9}, {"RssFile": 10, "Pss": 9}], 15, 18, "two files may be two: PSS"),
            ([{"RssAnon": 10, "Pss": 5, "SwapPss": 2}, {"RssAnon": 10, "Pss": 5}], 15, 12, "swap by share, too"),
            ([{"RssAnon": 9, "Pss": 9, "HugetlbPages": 8}, {"RssAnon": 9, "Pss": 9}], 9, 26, "huge pages beside PSS"),
            ([{"RssAnon": 10, "Pss": 6}, {"RssAnon": 10}], 15, 6, "one has gone before its PSS was read"),
        ],
    )
    def test_rules(
        self,
        tmp_path: Path,
        proc: Callable[..., list[ProcessId]],
        processes: list[dict[str, int]],
        enough: int,
        held: float,
        why: str,
    ) -> None:
        assert footprint_in(tmp_path, proc(*processes), enough) == held, why

    def test_a_status_longer_than_one_read_is_read_to_its_end(
        self, tmp_path: Path, proc: Callable[..., list[ProcessId]]
    ) -> None:
        processes = proc({"RssAnon": 10})
        status = tmp_path / "100" / "status"
        status.write_text(f"Groups:\t{' '.join(map(str, range(60000)))}\n{status.read_text()}")
        assert footprint_in(tmp_path, processes, 99) == 10

    def test_an_unreadable_status_is_unreadable(self, tmp_path: Path, proc: Callable[..., list[ProcessId]]) -> None:
        processes = proc({"RssAnon": 10}, {"RssAnon": 10})
        status = tmp_path / "101" / "status"
        status.unlink()
        status.mkdir()  # opens, and can't be read: EISDIR, for root as well
        assert footprint_in(tmp_path, processes, 99) is None

    def test_an_unreadable_map_is_unreadable(self, tmp_path: Path, proc: Callable[..., list[ProcessId]]) -> None:
        processes = proc({"RssAnon": 10, "Pss": 5}, {"RssAnon": 10})
        (tmp_path / "101" / "smaps_rollup").mkdir()
        assert footprint_in(tmp_path, processes, 15) is None


class Slow:
    """A folder whose smaps_rollup is a pipe: reading it waits until `answer`."""

    def __init__(self, root: Path) -> None:
        self.process = ProcessId(100, 700)
        self.folders = {self.process: str(root)}
        self._pipe = root / "smaps_rollup"
        os.mkfifo(self._pipe)

    def answer(self, mib: int) -> None:
        self._pipe.write_text(f"Pss: {mib * 1024} kB\n")


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "admit-pss"]


def settle() -> None:
    for thread in readers():
        thread.join(30)


class TestTheDearReading:
    def test_one_that_hangs_delays_one_look_a_little_and_the_next_not_at_all(self, tmp_path: Path) -> None:
        slow, pages = Slow(tmp_path), SharedPages()
        began = time.monotonic()
        assert pages.held_by(slow.folders, 20 * MIB) is None
        first = time.monotonic()
        for _ in range(20):
            assert pages.held_by(slow.folders, 20 * MIB) is None
        after = time.monotonic()
        assert len(readers()) == 1, "one thread a set, however often it is asked"
        slow.answer(7)
        settle()
        assert first - began >= shared.PATIENCE_S
        assert after - first < 20 * shared.PATIENCE_S / 2, "none of the twenty waited"

    def test_what_comes_late_is_there_for_the_next_look(self, tmp_path: Path) -> None:
        slow, pages = Slow(tmp_path), SharedPages(patience_s=0)
        assert pages.held_by(slow.folders, 20 * MIB) is None
        slow.answer(7)
        settle()
        assert pages.held_by(slow.folders, 20 * MIB) == 7 * MIB

    def test_what_grew_since_is_added_and_never_more_than_all_of_it(self, tmp_path: Path) -> None:
        (tmp_path / "smaps_rollup").write_text(f"Pss: {7 * 1024} kB\n")
        folders, pages = {ProcessId(100, 700): str(tmp_path)}, SharedPages(patience_s=30)
        assert pages.held_by(folders, 20 * MIB) == 7 * MIB
        assert pages.held_by(folders, 25 * MIB) == 12 * MIB
        assert pages.held_by(folders, 18 * MIB) == 7 * MIB
        assert pages.held_by(folders, 3 * MIB) == 3 * MIB

    def test_another_set_of_processes_is_another_reading(self, tmp_path: Path) -> None:
        (tmp_path / "smaps_rollup").write_text(f"Pss: {7 * 1024} kB\n")
        folder, pages = str(tmp_path), SharedPages(patience_s=30)
        assert pages.held_by({ProcessId(100, 700): folder}, 20 * MIB) == 7 * MIB
        assert pages.held_by({ProcessId(100, 700): folder, ProcessId(101, 707): folder}, 20 * MIB) == 14 * MIB
        assert pages.held_by({ProcessId(100, 701): folder}, 20 * MIB) == 7 * MIB

    def test_an_old_result_stands_in_for_a_late_one_and_is_replaced(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shared, "FRESH_S", 0.0)
        monkeypatch.setattr(shared, "SHARE", 1e9)
        slow, pages = Slow(tmp_path), SharedPages(patience_s=0)
        assert pages.held_by(slow.folders, 20 * MIB) is None
        slow.answer(7)
        settle()
        assert pages.held_by(slow.folders, 20 * MIB) == 7 * MIB, "stale, and better than nothing"
        slow.answer(8)
        settle()
        assert pages.held_by(slow.folders, 20 * MIB) == 8 * MIB
        slow.answer(9)
        settle()

    def test_an_old_result_does_not_stand_in_for_ever(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shared, "FRESH_S", 0.0)
        monkeypatch.setattr(shared, "STALE_S", 0.0)
        monkeypatch.setattr(shared, "SHARE", 1e9)
        slow, pages = Slow(tmp_path), SharedPages(patience_s=0)
        assert pages.held_by(slow.folders, 20 * MIB) is None
        slow.answer(7)
        settle()
        assert pages.held_by(slow.folders, 20 * MIB) is None
        slow.answer(8)
        settle()

    def test_few_hang_at_once(self, tmp_path: Path) -> None:
        pages, slow = SharedPages(patience_s=0), []
        for name in range(shared.AT_ONCE + 3):
            (tmp_path / str(name)).mkdir()
            slow.append(Slow(tmp_path / str(name)))
            assert pages.held_by({ProcessId(100 + name, 1): str(tmp_path / str(name))}, 20 * MIB) is None
        hanging = len(readers())
        for each in slow[: shared.AT_ONCE]:
            each.answer(1)
        settle()
        assert hanging == shared.AT_ONCE

    def test_no_thread_to_be_had_is_unreadable_and_tried_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "smaps_rollup").write_text(f"Pss: {7 * 1024} kB\n")
        folders, pages = {ProcessId(100, 700): str(tmp_path)}, SharedPages(patience_s=30)

        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as without:
            without.setattr(threading.Thread, "start", refuse)
            assert pages.held_by(folders, 20 * MIB) is None
        assert pages.held_by(folders, 20 * MIB) == 7 * MIB


MEMINFO = "MemTotal:       65536000 kB\nMemFree:         1000000 kB\nMemAvailable:   {} kB\nBuffers: 1 kB\n"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A made-up machine: 62.5 GiB, half of it available, no stalls, no limit."""
    (tmp_path / "pressure").mkdir()
    (tmp_path / "meminfo").write_text(MEMINFO.format(32768000))
    write_stall(tmp_path, 0.0)
    return tmp_path


def write_stall(root: Path, percent: float) -> None:
    (root / "pressure/memory").write_text(
        f"some avg10=99.00 avg60=0.00 avg300=0.00 total=0\nfull avg10={percent:.2f} avg60=0.00 avg300=0.00 total=0\n"
    )


class TestReading:
    def memory(self, root: Path) -> LinuxMemory:
        return LinuxMemory(str(root), str(root / "cgroup"))

    def test_available_and_level(self, machine: Path) -> None:
        reading = self.memory(machine).reading()
        assert reading.available == {"ram": 32768000 * 1024}
        assert (reading.level, reading.problem) == (Level.NORMAL, None)
        assert "50%" in reading.why
        assert "swap" not in reading.why

    def test_what_is_in_swap_is_named(self, machine: Path) -> None:
        with (machine / "meminfo").open("a") as meminfo:
            meminfo.write("SwapTotal:       8388608 kB\nSwapFree:        6291456 kB\n")
        assert self.memory(machine).reading().why.endswith("tasks stalled 0.0 % of the last 10 s, 2.0 GiB in swap")

    @pytest.mark.parametrize(
        ("available_kib", "stall", "level"),
        [
            (6_600_000, 0.0, Level.NORMAL),
            (6_500_000, 0.0, Level.WARN),
            (3_200_000, 0.0, Level.CRITICAL),
            (32_768_000, 9.0, Level.NORMAL),
            (32_768_000, 10.0, Level.WARN),
            (32_768_000, 40.0, Level.CRITICAL),
        ],
    )
    def test_either_of_the_two_raises_the_level(
        self, machine: Path, available_kib: int, stall: float, level: Level
    ) -> None:
        (machine / "meminfo").write_text(MEMINFO.format(available_kib))
        write_stall(machine, stall)
        assert self.memory(machine).reading().level is level

    def test_a_kernel_without_psi_is_read_by_what_is_available(self, machine: Path) -> None:
        (machine / "pressure/memory").unlink()
        assert self.memory(machine).reading().level is Level.NORMAL

    @pytest.mark.parametrize("text", ["", "full avg10=", "full avg10=x avg60=0", "some avg10=99.00 avg60=0.00\n"])
    def test_psi_that_says_nothing_of_full_is_left_out(self, machine: Path, text: str) -> None:
        (machine / "pressure/memory").write_text(text)
        assert self.memory(machine).reading().level is Level.NORMAL

    @pytest.mark.parametrize(
        "text", ["", "MemTotal: 5 kB\n", "MemAvailable: 5 kB\n", "MemTotal: x kB\nMemAvailable: 5"]
    )
    def test_a_meminfo_without_the_numbers_is_a_problem_and_no_guess(self, machine: Path, text: str) -> None:
        (machine / "meminfo").write_text(text)
        reading = self.memory(machine).reading()
        assert (reading.available, reading.level) == (None, None)
        assert reading.problem is not None and "MemAvailable" in reading.problem

    def test_no_proc_at_all_is_a_problem_and_never_an_exception(self, tmp_path: Path) -> None:
        reading = self.memory(tmp_path / "nowhere").reading()
        assert reading.available is None
        assert reading.problem is not None and "No such file" in reading.problem

    def test_physical_raises_where_it_can_not_be_had(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match="nowhere"):
            self.memory(tmp_path / "nowhere").physical()
        (tmp_path / "meminfo").write_text("MemFree: 1 kB\n")
        with pytest.raises(OSError, match="no MemTotal"):
            self.memory(tmp_path).physical()

    @pytest.mark.parametrize(
        ("files", "physical_mib", "available_mib", "why"),
        [
            ({}, 64000, 32000, "no control groups"),
            ({"memory.max": "max\n", "memory.current": "1", "memory.stat": ""}, 64000, 32000, "v2 without a limit"),
            (
                {
                    "memory.max": f"{8000 * MIB}\n",
                    "memory.current": f"{3000 * MIB}\n",
                    "memory.stat": f"anon 5\ninactive_file {1000 * MIB}\nactive_file 7\n",
                },
                8000,
                6000,
                "v2: the limit, less use, plus file pages that were not used lately",
            ),
            (
                {
                    "memory/memory.limit_in_bytes": f"{8000 * MIB}\n",
                    "memory/memory.usage_in_bytes": f"{3000 * MIB}\n",
                    "memory/memory.stat": f"inactive_file 9\ntotal_inactive_file {500 * MIB}\n",
                },
                8000,
                5500,
                "v1",
            ),
            (
                {
                    "memory/memory.limit_in_bytes": "9223372036854771712\n",
                    "memory/memory.usage_in_bytes": "5",
                    "memory/memory.stat": "",
                },
                64000,
                32000,
                "v1 without a limit is a very large one",
            ),
            (
                {"memory.max": f"{60000 * MIB}", "memory.current": "0", "memory.stat": ""},
                60000,
                32000,
                "the machine around the container may have less",
            ),
            (
                {"memory.max": f"{8000 * MIB}", "memory.current": f"{8001 * MIB}", "memory.stat": ""},
                8000,
                0,
                "never less than nothing",
            ),
            ({"memory.max": f"{8000 * MIB}"}, 64000, 32000, "a limit without its use is none"),
        ],
    )
    def test_a_containers_limit(
        self, machine: Path, files: dict[str, str], physical_mib: int, available_mib: int, why: str
    ) -> None:
        for name, text in files.items():
            path = machine / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        memory = self.memory(machine)
        assert memory.physical() == physical_mib * MIB, why
        assert memory.reading().available == {"ram": available_mib * MIB}, why

    def test_this_machine(self) -> None:
        memory = for_this_system()
        reading = memory.reading()
        assert reading.problem is None
        assert reading.level is not None
        assert reading.available is not None
        assert 0 < reading.available["ram"] < memory.physical() <= psutil.virtual_memory().total
