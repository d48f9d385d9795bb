"""The actuator: what is started, what is signalled, and above all what is not."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from admitd import actuator
from admitd.core.terms import Command, Process, ProcessId, Service
from admitd.processes.linux import LinuxTable
from admitd.processes.matching import Judgement, Matcher
from tests.core.worlds import service
from tests.gates import until

ROOT = Path(__file__).parents[1]
NOBODY = 65534
SERVER = "admit-test-server"
SERVICE = service("x", process_pattern=SERVER)


@pytest.fixture
def table() -> Iterator[LinuxTable]:
    table = LinuxTable()
    yield table
    table.close()


@dataclass
class Started:
    """A process that the test started, under whatever name it likes."""

    popen: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.popen.pid

    def seen_by(self, table: LinuxTable) -> Process:
        found = table.identify(self.pid)
        assert found is not None
        return Process(found, os.getuid())

    def becomes(self, name: str) -> None:
        """Let it go on, and wait until it goes by this name."""
        if self.popen.stdin is not None:
            self.popen.stdin.write(b"\n")
            self.popen.stdin.flush()
        until(lambda: Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")[0] == name.encode())

    def is_alive(self) -> bool:
        return self.popen.poll() is None

    def state(self) -> str:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]


Start = Callable[..., Started]


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[Started] = []

    def start(executable: str, *argv: str) -> Started:
        popen = subprocess.Popen(argv, executable=executable, stdin=subprocess.PIPE)
        running.append(Started(popen))
        until(lambda: Path(f"/proc/{popen.pid}/cmdline").read_bytes().split(b"\0")[0] == argv[0].encode())
        return running[-1]

    yield start
    for each in running:
        each.popen.kill()
        each.popen.communicate()


@pytest.fixture
def server(start: Start) -> Started:
    return start("/bin/sleep", SERVER, "1000")


def send(
    table: LinuxTable, process: Process, sig: signal.Signals = signal.SIGTERM, to: Service = SERVICE
) -> str | None:
    return actuator.send(process, to.name, sig, table, Matcher([to]))


@pytest.fixture
def pidfds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(actuator, "_pidfd", lambda pid: None)


both_ways = pytest.mark.parametrize("pidfds", [True, False], indirect=True, ids=["by pidfd", "by pid"])


# What is signalled.


@both_ways
def test_the_service_itself_is_signalled(pidfds: None, table: LinuxTable, server: Started) -> None:
    assert send(table, server.seen_by(table)) is None
    assert server.popen.wait(timeout=20) == -signal.SIGTERM


@both_ways
def test_a_stopped_service_is_signalled(pidfds: None, table: LinuxTable, server: Started) -> None:
    """SIGTERM waits until it is continued; SIGKILL does not."""
    os.kill(server.pid, signal.SIGSTOP)
    until(lambda: server.state() == "T")
    assert send(table, server.seen_by(table)) is None
    assert server.state() == "T"
    assert send(table, server.seen_by(table), signal.SIGCONT) is None
    assert server.popen.wait(timeout=20) == -signal.SIGTERM


def test_a_stopped_service_can_be_killed(table: LinuxTable, server: Started) -> None:
    os.kill(server.pid, signal.SIGSTOP)
    until(lambda: server.state() == "T")
    assert send(table, server.seen_by(table), signal.SIGKILL) is None
    assert server.popen.wait(timeout=20) == -signal.SIGKILL


def test_nothing_is_left_open(table: LinuxTable, server: Started) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    send(table, server.seen_by(table), signal.SIGCONT)
    send(table, replace(server.seen_by(table), id=replace(server.seen_by(table).id, started=1)))
    assert sorted(os.listdir("/proc/self/fd")) == before


# What is not.


@both_ways
def test_another_process_with_the_same_pid_is_not_signalled(pidfds: None, table: LinuxTable, server: Started) -> None:
    seen = server.seen_by(table)
    assert (
        send(table, replace(seen, id=replace(seen.id, started=seen.id.started - 1))) == f"process {server.pid} is gone"
    )
    assert server.is_alive()


@both_ways
def test_what_has_become_something_else_is_not_signalled(pidfds: None, table: LinuxTable, start: Start) -> None:
    """The same process, by another program: exec keeps the pid and the start."""
    changing = start("/bin/bash", SERVER, "-c", "read _; exec -a something-else sleep 1000")
    seen = changing.seen_by(table)
    changing.becomes("something-else")
    assert send(table, seen) == f"process {changing.pid} is no longer x"
    assert changing.is_alive()


@both_ways
@pytest.mark.parametrize("name", ["admit", "admitd"])
def test_what_has_become_admit_itself_is_not_signalled(
    pidfds: None, table: LinuxTable, start: Start, name: str
) -> None:
    """A pattern may match any command line, `admit run x` among them."""
    loose = service("x", process_pattern=f"({SERVER}|{name}).* 1000")
    changing = start("/bin/bash", SERVER, "-c", f"read _; exec -a {name} sleep 1000")
    seen = changing.seen_by(table)
    changing.becomes(name)
    refused = send(table, seen, to=loose)
    assert refused is not None and "admit itself" in refused
    assert changing.is_alive()


def test_the_shell_that_runs_a_command_of_ours_is_not_signalled(table: LinuxTable, start: Start) -> None:
    for command in ({"load_cmd": "read _"}, {"unload_cmd": "read _"}, {"loaded_check_cmd": "read _"}):
        ours = service("x", process_pattern=r"sh -c read _", **command)
        shell = start("/bin/sh", "/bin/sh", "-c", "read _")
        assert send(table, shell.seen_by(table), to=ours)
        assert shell.is_alive()


@both_ways
def test_a_mention_is_not_signalled(pidfds: None, table: LinuxTable, start: Start) -> None:
    for mention in (("/bin/cat", "cat", "-", SERVER), ("/bin/sh", "sh", "-c", f"read _ # {SERVER}")):
        process = start(*mention)
        assert send(table, process.seen_by(table)) == f"process {process.pid} is no longer x"
        assert process.is_alive()


def test_a_program_that_is_not_the_declared_one_is_not_signalled(table: LinuxTable, server: Started) -> None:
    narrow = service("x", process_pattern=SERVER, program="another")
    assert send(table, server.seen_by(table), to=narrow)
    assert server.is_alive()


def test_another_service_is_not_signalled(table: LinuxTable, server: Started) -> None:
    assert actuator.send(server.seen_by(table), "y", signal.SIGTERM, table, Matcher([SERVICE]))
    assert server.is_alive()


@pytest.mark.parametrize("pid", [1, os.getpid(), os.getppid()], ids=["init", "ourselves", "our parent"])
def test_some_are_never_signalled(table: LinuxTable, pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the pattern says. Signal 0 would be harmless; any real one is recorded instead of sent."""
    sent: list[object] = []
    monkeypatch.setattr(os, "kill", lambda *what: sent.append(what))
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *what: sent.append(what))
    found = table.identify(pid)
    assert found is not None
    all_of_them = service("x", process_pattern="[a-z]")
    assert send(table, Process(found, 0), to=all_of_them) == f"process {pid} is never signalled"
    assert sent == []


class Meanwhile:
    """A table that sees rightly, and in whose last look something happens."""

    def __init__(self, table: LinuxTable, happens: Callable[[], object]) -> None:
        self._table = table
        self._happens = happens

    def again(self, process: Process, matcher: Matcher) -> Judgement | None:
        found = self._table.again(process, matcher)
        self._happens()
        return found

    def __getattr__(self, name: str) -> object:
        return getattr(self._table, name)


@both_ways
def test_one_that_goes_after_the_second_look_is_gone(pidfds: None, table: LinuxTable, server: Started) -> None:
    """Its pid may be another's by then; through a pidfd the signal reaches nobody."""

    def go() -> None:
        server.popen.kill()
        server.popen.wait()

    process = server.seen_by(table)
    said = send(Meanwhile(table, go), process)  # type: ignore[arg-type]
    assert said == f"process {server.pid} is gone"


def test_a_zombie_is_gone(table: LinuxTable, server: Started) -> None:
    process = server.seen_by(table)
    os.kill(server.pid, signal.SIGKILL)
    os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
    assert send(table, process) == f"process {server.pid} is gone"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be several users")
def test_another_users_process_is_told_of(table: LinuxTable, server: Started) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.workers.signaller", str(NOBODY), str(server.pid), SERVER],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == f"process {server.pid} belongs to another user (uid 0): it cannot be signalled\n" * 2
    assert server.is_alive()


# What is started.


def load(command: Command, log: Path, lease: int | None = None) -> subprocess.Popen[bytes]:
    return actuator.start_load(command, log, lease)


def output_of(command: Command, log: Path, lease: int | None = None) -> str:
    process = load(command, log, lease)
    process.wait(timeout=20)
    return log.read_text()


def test_a_load_command_is_a_string_for_the_shell_or_a_list(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "x.log"
    assert output_of("echo $((1 + 1)); echo err >&2", log) == "2\nerr\n"
    assert output_of(("echo", "$((1 + 1))"), log) == "2\nerr\n$((1 + 1))\n"  # appended


def test_a_load_command_keeps_environment_and_folder_and_gets_a_session_and_no_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADMIT_TEST", "kept")
    told = output_of("echo $ADMIT_TEST; pwd; cut -d' ' -f6 /proc/$$/stat; echo $$; cat", tmp_path / "x.log").split()
    assert told[:2] == ["kept", str(tmp_path)]
    assert told[2] == told[3]


def test_a_load_command_inherits_the_lease_and_nothing_else(tmp_path: Path) -> None:
    secret = os.open(tmp_path, os.O_RDONLY)
    lease = os.open(tmp_path, os.O_RDONLY)
    told = output_of(("ls", "/proc/self/fd"), tmp_path / "x.log", lease).split()
    assert str(lease) in told
    assert str(secret) not in told
    os.close(secret)
    os.close(lease)


@pytest.mark.parametrize("command", [("/no/such/program",), ("/etc/passwd",), ("a\0b",), ("",)])
def test_what_cannot_be_started_says_why(tmp_path: Path, command: Command) -> None:
    with pytest.raises(actuator.CannotStart, match="cannot be run: "):
        load(command, tmp_path / "x.log")


@pytest.mark.parametrize("log", ["file/x.log", "folder"])
def test_a_log_that_cannot_be_written_says_so(tmp_path: Path, log: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(actuator.CannotStart, match="cannot be written: "):
        load("true", tmp_path / log)


def test_a_log_is_kept_under_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actuator, "LOG_MAX", 10)
    log = tmp_path / "x.log"
    for number in range(5):
        output_of(f"echo this is number {number}", log)
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert kept == {
        "x.log": "this is number 4\n",
        "x.log.1": "this is number 3\n",
        "x.log.2": "this is number 2\n",
    }


BECOME = "import sys; from admitd import actuator; actuator.become(sys.argv[1:])"


def became(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BECOME, *command], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False
    )


def test_admit_becomes_the_command_and_its_signals_are_as_they_were() -> None:
    """Python ignores SIGPIPE; a command that inherits that never ends when its reader has gone."""
    told = became("grep", "-E", "^(Name|SigIgn)", "/proc/self/status").stdout.split()
    assert told[1] == "grep"
    ignored = int(told[3], 16)
    assert not ignored & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)


def test_admit_keeps_its_pid_when_it_becomes_the_command() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", BECOME, "sh", "-c", "echo $$"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    out, _ = process.communicate(timeout=20)
    assert int(out) == process.pid


@pytest.mark.parametrize("command", [["/no/such/program"], ["/etc/passwd"], ["a\0b"], [""]])
def test_what_admit_cannot_become_says_why_and_changes_nothing(command: Sequence[str]) -> None:
    before = signal.getsignal(signal.SIGPIPE)
    with pytest.raises(actuator.CannotStart, match="cannot be run: "):
        actuator.become(command)
    assert signal.getsignal(signal.SIGPIPE) == before


# How it ends.


@pytest.fixture(params=["pidfds", "no pidfds"])
def with_and_without_pidfds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS has none; there a process is looked at again before each signal."""
    if request.param == "no pidfds":
        monkeypatch.setattr(actuator, "_pidfd", lambda pid: None)


@pytest.mark.usefixtures("with_and_without_pidfds")
def test_a_session_is_ended_whole_and_no_other(tmp_path: Path, server: Started, table: LinuxTable) -> None:
    """Also the jobs of a shell with job control, each of which has a group of its own."""
    with tmp_path.joinpath("out").open("wb") as out:
        jobs = "set -m; sleep 1000 & echo $!; sleep 1000 & echo $!; wait"
        leader = actuator.start_helper(("bash", "-c", jobs), out)
    try:
        until(lambda: len((tmp_path / "out").read_text().split()) == 2)
        children = [int(pid) for pid in (tmp_path / "out").read_text().split()]
        assert len({os.getpgid(pid) for pid in (leader.pid, *children)}) == 3
    finally:
        actuator.end_session(leader.pid)
        assert leader.wait(timeout=20) == -signal.SIGKILL
    until(lambda: all(table.identify(pid) is None for pid in children))
    assert server.is_alive()


@pytest.mark.usefixtures("with_and_without_pidfds")
def test_a_child_is_ended_with_what_it_started_and_nobody_who_has_a_pid_of_theirs_by_now(
    tmp_path: Path, server: Started, table: LinuxTable
) -> None:
    deaf = "trap '' TERM; echo $$; while :; do sleep 0.1; done"
    with tmp_path.joinpath("out").open("wb") as out:
        line = 'sleep 1000 & echo $!; setsid sh -c "$0" & exec sleep 1000'
        child = subprocess.Popen(["sh", "-c", line, deaf], stdout=out)
    try:
        until(lambda: len((tmp_path / "out").read_text().split()) == 2)
        started = [int(pid) for pid in (tmp_path / "out").read_text().split()]
        family = [each for pid in (child.pid, *started) if (each := table.identify(pid)) is not None]
        stranger = ProcessId(server.pid, 1)  # who had this pid before
        actuator.end_child(child, [*family, stranger], 0.3)
    finally:
        child.kill()
        child.wait(timeout=20)
    assert len(family) == 3
    until(lambda: all(table.identify(pid) is None for pid in started))
    assert server.is_alive()


def test_a_child_is_ended_by_one_who_has_a_thousand_files_open(table: LinuxTable) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, limits[1]), limits[1]))
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    child = subprocess.Popen(["sh", "-c", "sleep 1000 & echo $!; exec sleep 1000"], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        other = table.identify(int(child.stdout.readline()))
        assert other is not None
        actuator.end_child(child, [other], 5.0)
    finally:
        child.kill()
        child.communicate()
        for fd in opened:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    until(lambda: table.identify(other.pid) is None)


@pytest.mark.usefixtures("with_and_without_pidfds")
def test_who_does_not_go_when_a_session_is_asked_to_is_told(tmp_path: Path, table: LinuxTable) -> None:
    """Also where its leader has gone: what it started works on."""
    jobs = "set -m; sh -c 'trap \"\" TERM; echo $$; while :; do sleep 0.1; done' & wait"
    with tmp_path.joinpath("out").open("wb") as out:
        leader = actuator.start_helper(("bash", "-c", jobs), out)
    try:
        until(lambda: (tmp_path / "out").read_text().strip())
        deaf = int((tmp_path / "out").read_text())
        assert deaf in actuator.ask_session(leader.pid, 0.5)
    finally:
        actuator.end_session(leader.pid)
        leader.wait(timeout=20)
    until(lambda: table.identify(deaf) is None)


def test_ending_what_has_ended_already_is_no_error() -> None:
    process = actuator.start_helper("true", subprocess.DEVNULL)
    process.wait(timeout=20)
    actuator.end_session(process.pid)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0, "exit 0"),
        (3, "exit 3"),
        (-9, "killed by SIGKILL"),
        (-64, "killed by SIGRTMAX"),
        (-99, "killed by signal 99"),
    ],
)
def test_how_it_ended_in_words(code: int, said: str) -> None:
    assert actuator.exit_text(code) == said
