"""Checks: all at once, two seconds each, ended with their children when late, and what they said is kept."""

from __future__ import annotations

import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from admitd import actuator, checks
from admitd.core.terms import Check, Command
from tests.gates import until

SHORT_S = 0.3


def one(command: Command, bound_s: float = checks.BOUND_S) -> Check:
    return checks.run_all({"x": command}, bound_s)["x"]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def told_pids(folder: Path, many: int) -> list[int]:
    """The pids that a check's processes wrote, one file each."""
    until(lambda: len([each for each in folder.glob("pid*") if each.read_text().strip()]) == many)
    return [int(each.read_text()) for each in folder.glob("pid*")]


def our_children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.mark.parametrize(
    ("command", "loaded", "detail"),
    [
        ("true", True, "exit 0"),
        ("echo yes", True, "exit 0: yes"),
        ("exit 3", False, "exit 3"),
        ("echo no; echo why >&2; false", False, "exit 1: no\nwhy"),
        (("true",), True, "exit 0"),
        (("grep", "-q", "x", "/dev/null"), False, "exit 1"),
        ("kill -9 $$", False, "killed by SIGKILL"),
        ("echo a | grep -q a", True, "exit 0"),
        ("true # a comment at the end", True, "exit 0"),
        ("printf '\\377'; false", False, "exit 1: \ufffd"),
    ],
)
def test_exit_0_means_loaded(command: Command, loaded: bool, detail: str) -> None:
    assert one(command) == Check("x", loaded, detail)


@pytest.mark.parametrize(
    "command",
    [
        ("/no/such/program",),
        ("/etc/passwd",),
        ("a\0b",),
        "/no/such/program",
        "no-such-program",
        "/etc/passwd",
        "no-such-program | grep -q loaded",
        "no-such-program ps | grep -q loaded || exit 1",
        "exit 127",
    ],
)
def test_a_check_that_cannot_start_says_neither_yes_nor_no(command: Command) -> None:
    """Also where a pipeline hides it: under launchd, PATH is not the user's."""
    check = one(command)
    assert check.loaded is None
    assert check.detail


def as_bash(line: str) -> Command:
    """As where /bin/sh is bash: on macOS, and on some Linux."""
    return ("bash", "-c", 'exec -a /bin/sh bash -c "$0"', line)


@pytest.mark.parametrize(
    ("line", "loaded"),
    [
        ("/no/such/program ps | grep -q loaded", None),
        ("no-such-program ps | grep -q loaded", None),
        ("/no/such/program ps > /dev/null | grep -q x", None),
        ("/no/such/program ps 3>> /dev/null | grep -q x", None),
        ("grep -q x < /no/such/file", False),
        (". /no/such/file && true", False),
        ("true; . /no/such/file && true", False),
        ("cat /no/such/file | grep -q x", False),
        ("echo '/bin/sh: line 1: it: No such file or directory'; false", False),
    ],
)
def test_a_missing_program_is_told_from_a_missing_file(line: str, loaded: bool | None) -> None:
    assert one(as_bash(line)).loaded is loaded


def test_what_it_says_of_a_missing_program_is_kept() -> None:
    assert "no-such-program" in one("no-such-program | grep -q x").detail
    assert "/no/such/program cannot be run: No such file or directory" in one(("/no/such/program",)).detail


def test_a_missing_program_that_does_not_matter_is_none_of_ours() -> None:
    assert one("no-such-program; true").loaded is True


def test_late_is_not_loaded_and_says_what_it_had_said() -> None:
    check = one("echo almost; sleep 1000", SHORT_S)
    assert check == Check("x", False, f"no answer in {SHORT_S:g} s, ended: almost")


def test_a_late_check_goes_with_its_children(tmp_path: Path) -> None:
    """The shell, what it runs, what that runs in the background, and all of it deaf to SIGTERM."""
    script = f"""
        trap '' TERM HUP INT
        echo $$ > {tmp_path}/pid1
        sleep 1000 & echo $! > {tmp_path}/pid2
        (trap '' TERM; sleep 1000 & echo $! > {tmp_path}/pid3; wait) &
        wait
    """
    check = one(script, 1.0)
    assert check.loaded is False
    pids = told_pids(tmp_path, 3)
    until(lambda: not any(is_alive(pid) for pid in pids))


def test_children_in_groups_of_their_own_go_as_well(tmp_path: Path) -> None:
    """A shell with job control gives each job one."""
    script = f"set -m; sleep 1000 & echo $! > {tmp_path}/pid1; echo $$ > {tmp_path}/pid2; wait"
    assert one(("bash", "-c", script), 1.0).loaded is False
    pids = told_pids(tmp_path, 2)
    until(lambda: not any(is_alive(pid) for pid in pids))


def test_a_child_in_the_background_does_not_hold_the_answer_up(tmp_path: Path) -> None:
    """It has the check's output open and lives on: what starts a server on demand does that."""
    check = one(f"sleep 1000 & echo $! > {tmp_path}/pid1; echo up")
    (pid,) = told_pids(tmp_path, 1)
    try:
        assert check == Check("x", True, "exit 0: up")
        assert is_alive(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_flood_of_output_neither_blocks_it_nor_is_kept() -> None:
    check = one("head -c 5000000 /dev/zero | tr '\\0' x; exit 1")
    assert check.loaded is False
    assert check.detail == "exit 1: " + "x" * checks.OUTPUT_KEPT


def test_a_flood_without_end_is_ended() -> None:
    assert one("yes", SHORT_S).loaded is False


@pytest.mark.parametrize("command", ["exec >&- 2>&-; exit 0", "exec >&- 2>&-; sleep 0.2; exit 0"])
def test_a_check_may_close_its_output(command: str) -> None:
    assert one(command) == Check("x", True, "exit 0")


def test_a_check_that_closes_its_output_and_stays_is_late() -> None:
    assert one("exec >&- 2>&-; sleep 1000", SHORT_S).loaded is False


def test_a_check_that_waits_for_input_gets_none() -> None:
    assert one("read line || echo nothing to read") == Check("x", True, "exit 0: nothing to read")


def test_a_stopped_check_is_late() -> None:
    assert one("kill -STOP $$", SHORT_S).loaded is False


def test_all_run_at_once() -> None:
    """Thirty of them, each of which ends only when all have begun."""
    script = """
        import os, sys
        folder, mine = sys.argv[1:]
        open(os.path.join(folder, mine), "w").close()
        while len(os.listdir(folder)) < 30:
            os.sched_yield()
    """.replace("\n        ", "\n")
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        commands: dict[str, Command] = {
            f"s{i}": (sys.executable, "-I", "-S", "-c", script, folder, str(i)) for i in range(30)
        }
        found = checks.run_all(commands, bound_s=30.0)
    assert {name: check.loaded for name, check in found.items()} == dict.fromkeys(commands, True)


def test_each_of_thirty_late_ones_is_told_so() -> None:
    commands: dict[str, Command] = {f"s{i}": f"echo {i}; sleep 1000" for i in range(30)}
    found = checks.run_all(commands, bound_s=1.0)
    assert [check.loaded for check in found.values()] == [False] * 30
    assert list(found) == list(commands)
    assert [found[f"s{i}"].detail for i in range(30)] == [f"no answer in 1 s, ended: {i}" for i in range(30)]


def test_a_late_one_does_not_change_what_the_others_say() -> None:
    found = checks.run_all({"late": "sleep 1000", "yes": "true", "no": "false", "gone": ("/no/such",)}, SHORT_S)
    assert {name: check.loaded for name, check in found.items()} == {
        "late": False,
        "yes": True,
        "no": False,
        "gone": None,
    }


def test_one_that_hangs_in_the_kernel_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL does not reach a process that sleeps uninterruptibly: here nothing reaches it."""
    ended: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(actuator, "end_session", ended.append)
        patch.setattr(checks.subprocess.Popen, "__del__", lambda self: None)
        found = checks.run_all({"x": "exec sleep 1000", "y": "true"}, SHORT_S)
    assert [check.loaded for check in found.values()] == [False, True]
    (pid,) = ended
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_nothing_is_left_behind_when_it_is_interrupted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ctrl-C does not reach the checks: each has a session of its own."""
    commands: dict[str, Command] = {
        f"s{i}": f"echo $$ > {tmp_path}/pid{i}; sleep 1000 & echo $! > {tmp_path}/pid{i}b; wait" for i in range(3)
    }
    seen: list[int] = []

    def interrupt(*_: object) -> None:
        seen.extend(told_pids(tmp_path, 6))
        raise KeyboardInterrupt

    before = our_children()
    monkeypatch.setattr(checks, "_ended", interrupt)
    with pytest.raises(KeyboardInterrupt):
        checks.run_all(commands)
    until(lambda: not any(is_alive(pid) for pid in seen))
    assert our_children() <= before


# Together.


class Runs:
    """`checks.run_all`, whose runs begin as they are let; the first `interrupted` of them are interrupted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, interrupted: int = 0) -> None:
        self.begun: list[object] = []
        self.may_go_on = threading.Event()
        self._interrupted = interrupted
        self._real = checks.run_all
        monkeypatch.setattr(checks, "run_all", self._run)

    def _run(self, commands: dict[str, Command], bound_s: float) -> dict[str, Check]:
        self.begun.append(commands)
        number = len(self.begun)
        assert self.may_go_on.wait(20)
        if number <= self._interrupted:
            raise KeyboardInterrupt
        return self._real(commands, bound_s)

    def asked_by(self, many: int) -> list[object]:
        """What so many are told, all but one of whom ask while the first run is under way."""
        together, told = checks.Together(), []

        def ask() -> None:
            try:
                told.append(together.run({"x": "true"})["x"].loaded)
            except KeyboardInterrupt:
                told.append("interrupted")

        threads = [threading.Thread(target=ask) for _ in range(many)]
        threads[0].start()
        until(lambda: self.begun)
        for each in threads[1:]:
            each.start()
        until(lambda: sum(_waits(each) for each in threads[1:]) == many - 1)
        self.may_go_on.set()
        for each in threads:
            each.join()
        return told


def _waits(thread: threading.Thread) -> bool:
    """Whether it waits in a lock or for an event within `run`."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and (frame.f_code.co_name == "wait" or frame.f_code.co_name == "_lead")


def test_who_asks_while_checks_run_shares_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(monkeypatch)
    assert runs.asked_by(16) == [True] * 16
    assert len(runs.begun) == 2


def test_who_shares_a_run_that_is_interrupted_is_answered_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(monkeypatch, interrupted=2)
    told = runs.asked_by(8)
    assert sorted(map(str, told)) == [*["True"] * 6, "interrupted", "interrupted"]
    assert len(runs.begun) >= 3


def test_other_commands_are_another_run() -> None:
    together = checks.Together()
    assert together.run({"x": "true"})["x"].loaded is True
    assert together.run({"x": "false"})["x"].loaded is False


def test_stopped_from_another_thread_they_end_and_none_is_started_any_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ctrl-C in a command that decides by itself: the thread that looks would never hear of it."""
    monkeypatch.setattr(checks, "_stopped", threading.Event())
    command = f"echo $$ > {tmp_path}/pid; sleep 1000 & echo $! > {tmp_path}/pidb; wait"
    with ThreadPoolExecutor(1) as other:
        looking = other.submit(checks.run_all, {"x": command}, 60.0)
        seen = told_pids(tmp_path, 2)
        checks.stop(30.0)
        until(lambda: not any(is_alive(pid) for pid in seen))
        assert isinstance(looking.exception(timeout=30), checks.Stopped)
    with pytest.raises(checks.Stopped):
        one(f"touch {tmp_path}/begun")
    assert not (tmp_path / "begun").exists()


def test_nothing_is_left_open() -> None:
    before, children = sorted(os.listdir("/proc/self/fd")), our_children()
    checks.run_all({"a": "true", "b": "sleep 1000", "c": ("/no/such",), "d": "exec >&-; true"}, SHORT_S)
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert our_children() <= children


def test_without_checks_there_is_nothing_to_say() -> None:
    assert checks.run_all({}) == {}
