"""Identity, with real processes and both readers: who is a service, who only mentions it, and who is admit's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from admitd import actuator
from admitd.core.terms import RAM
from admitd.processes.linux import LinuxTable
from admitd.processes.matching import Matcher
from admitd.processes.ps import PsTable
from admitd.processes.table import ProcessTable
from tests.processes.conftest import patient_ps
from tests.processes.crowd import (
    DECOYS,
    WAIT,
    Crowd,
    eventually,
    heard,
    line_of,
    matcher,
    pids,
    said_of,
    service,
    sightings_of,
    state_of,
    tell,
)

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux's /proc what became of them")

MLX = r"decoy_lm[. ]server"
MATCH = matcher(mlx=MLX)
PYTHON = (sys.executable, "-S", "-E")


# What really is it, and what only mentions it.


def real_ones(crowd: Crowd) -> Iterator[subprocess.Popen[bytes]]:
    script = crowd.script("bin/decoy_lm.server")
    yield crowd.start(*PYTHON, script, "--model", "Qwen")
    crowd.script("decoy_lm/__main__.py")
    yield crowd.start(sys.executable, "-S", "-m", "decoy_lm", "server", cwd=crowd.folder)
    yield crowd.start("decoy_lm.server", "-c", WAIT, executable=sys.executable)
    shell = crowd.folder / "decoy_lm.server.sh"
    shell.write_text("read line\n")
    yield crowd.start("/bin/sh", "-e", shell)


def mentions(crowd: Crowd) -> Iterator[subprocess.Popen[bytes]]:
    log = crowd.folder / "decoy_lm.server.log"
    log.write_text("")
    yield crowd.start("tail", "-f", log)
    yield crowd.start("grep", "decoy_lm.server")
    yield crowd.start("/bin/sh", "-c", "read line # decoy_lm.server")
    yield crowd.start("bash", "--norc", "-lc", "read line; : decoy_lm.server")
    yield crowd.python(WAIT + " # decoy_lm.server")
    yield crowd.start(*PYTHON, crowd.script("train.py"), "--like", "decoy_lm.server")
    yield crowd.start(*PYTHON, crowd.script("decoy_lm.server.d/tool.py"))
    yield crowd.start("/bin/cat", "-", "decoy_lm.server", env={"POSIXLY_CORRECT": "1"})


def test_real_ones_and_mentions(crowd: Crowd, table: ProcessTable) -> None:
    real, mentioned = list(real_ones(crowd)), list(mentions(crowd))
    look = table.look(MATCH)
    for process in real:
        assert said_of(look, process.pid) == {"mlx": "is"}, process.args
    for process in mentioned:
        assert said_of(look, process.pid) == {"mlx": "mentions"}, process.args
    for process in (*real, *mentioned):
        (seen,) = sightings_of(look, process.pid)
        assert seen.process.id == table.identify(process.pid)
        judged = table.again(seen.process, MATCH)
        assert judged is not None and [claim.mention for claim in judged.claims] == [seen.mention]


@pytest.mark.parametrize("program", ["vim", "node", "perl"])
def test_other_programs_where_they_are_installed(crowd: Crowd, table: ProcessTable, program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"no {program} here")
    script = crowd.folder / "decoy_lm.server"
    script.write_text({"node": "process.stdin.resume()", "perl": "<STDIN>"}.get(program, ""))
    if program == "vim":
        vim = crowd.start("vim", "-u", "NONE", "-es", script)
        assert said_of(table.look(MATCH), vim.pid) == {"mlx": "mentions"}
        return
    real = crowd.start(program, script)
    mention = crowd.start(program, "-e", f"{script.read_text()} // 'decoy_lm.server'")
    look = table.look(MATCH)
    assert said_of(look, real.pid) == {"mlx": "is"}
    assert said_of(look, mention.pid) == {"mlx": "mentions"}


def test_program_narrows(crowd: Crowd, table: ProcessTable) -> None:
    narrow = Matcher([service("mlx", MLX, program="decoy_lm.server")])
    (script, *_), (tail, *_) = real_ones(crowd), mentions(crowd)
    look = table.look(narrow)
    assert said_of(look, script.pid) == {"mlx": "is"}
    assert said_of(look, tail.pid) == {"mlx": "its program is tail, and `program:` names another"}


def test_two_services_that_claim_one_process_both_have_it(crowd: Crowd, table: ProcessTable) -> None:
    (script, *_) = real_ones(crowd)
    look = table.look(matcher(one="decoy_lm", two="server", three="--model Qwen"))
    assert said_of(look, script.pid) == {"one": "is", "two": "is", "three": "mentions"}


STRANGE = [
    ("bytes that are no text", b"caf\xc3\xa9 \xff\xfe decoy_lm.server"),
    ("newlines and tabs", b"one\ntwo\tdecoy_lm.server\n"),
    ("a line of ps", b"x\n  1  0  0 Ss Sat Nov 21 19:08:37 2026 10 decoy_lm.server"),
    ("colours", b"\x1b[31mdecoy_lm.server\x1b[0m"),
    ("an argument of 100 KB", b"decoy_lm.server " + b"x" * 100_000),
]


@pytest.mark.parametrize("argument", [pytest.param(argument, id=name) for name, argument in STRANGE])
def test_strange_arguments(crowd: Crowd, table: ProcessTable, argument: bytes) -> None:
    process = crowd.python(WAIT, argument)
    look = table.look(MATCH)
    assert said_of(look, process.pid) == {"mlx": "mentions"}
    assert all(sighting.process.id.pid != 1 for sighting in look.sightings), "nobody else is taken for it"
    assert len(look.lines[process.pid]) <= 16_384


def test_a_blank_command_line(crowd: Crowd, table: ProcessTable) -> None:
    blank = crowd.start("", "-c", WAIT, executable=sys.executable)
    assert said_of(table.look(MATCH), blank.pid) == {}
    look = table.look(matcher(blank="import sys"))
    assert said_of(look, blank.pid) == {"blank": "mentions"}, "its argv[0] is empty, its arguments are not"


# What a process is, and becomes.


def test_a_zombie_is_nobody(crowd: Crowd, table: ProcessTable) -> None:
    process = crowd.start(*PYTHON, crowd.script("decoy_lm.server"))
    (seen,) = sightings_of(table.look(MATCH), process.pid)
    os.kill(process.pid, signal.SIGKILL)
    eventually("it is a zombie", lambda: state_of(process.pid) == "Z")
    assert said_of(table.look(MATCH), process.pid) == {}
    assert table.identify(process.pid) is None
    assert table.again(seen.process, MATCH) is None
    crowd.end(process)
    assert table.identify(process.pid) != seen.process.id


def test_a_stopped_process_holds_its_memory(crowd: Crowd, table: ProcessTable) -> None:
    process = crowd.start(*PYTHON, crowd.script("decoy_lm.server"))
    (running,) = sightings_of(table.look(MATCH), process.pid)
    assert not running.process.stopped
    os.kill(process.pid, signal.SIGSTOP)
    eventually("it is stopped", lambda: state_of(process.pid) == "T")
    (stopped,) = sightings_of(table.look(MATCH), process.pid)
    assert (stopped.process.id, stopped.process.stopped, stopped.process.traced) == (running.process.id, True, False)
    os.kill(process.pid, signal.SIGCONT)
    eventually("it goes on", lambda: state_of(process.pid) in ("S", "R"))
    assert not sightings_of(table.look(MATCH), process.pid)[0].process.stopped


def test_a_traced_process_is_stopped_by_its_debugger_and_not_for_us(crowd: Crowd, table: ProcessTable) -> None:
    process = crowd.start(sys.executable, DECOYS / "is_traced.py", "decoy_lm.server")
    crowd.end_too(process.pid)  # to Popen, a child that is traced and stops has ended
    eventually("it is traced", lambda: state_of(process.pid) == "t")
    (seen,) = sightings_of(table.look(MATCH), process.pid)
    assert (seen.process.stopped, seen.process.traced) == (False, True)


def test_a_process_whose_first_thread_has_ended_holds_its_memory(crowd: Crowd) -> None:
    """Its command line is blank and it shows as a zombie; /proc shows the line of its other threads, ps does not."""
    process = crowd.start(sys.executable, DECOYS / "first_thread_ends.py", "decoy_lm.server")
    assert heard(process) == b"ready"
    eventually("its first thread has ended", lambda: state_of(process.pid) == "Z")
    for table in (LinuxTable(), LinuxTable(keep=4096)):
        (seen,) = sightings_of(table.look(MATCH), process.pid)
        assert seen.mention
        assert table.identify(process.pid) == seen.process.id
        assert table.again(seen.process, MATCH) is not None
        table.close()
    look = patient_ps().look(MATCH)
    unread = [each for each in look.unread if each.process.pid == process.pid]
    assert [(each.process, each.could_be_ours) for each in unread] == [(seen.process.id, True)]
    assert patient_ps().identify(process.pid) == seen.process.id
    os.kill(process.pid, signal.SIGSTOP)
    eventually(
        "its other thread is stopped", lambda: sightings_of(LinuxTable().look(MATCH), process.pid)[0].process.stopped
    )


def test_exec_is_noticed_by_the_next_look(crowd: Crowd, table: ProcessTable) -> None:
    process = crowd.start("/bin/sh", "-c", "read line; exec tail -f /dev/null")
    match = matcher(before="read line", after="tail -f /dev/null$")
    before = table.look(match)
    assert said_of(before, process.pid) == {"before": "mentions", "after": "mentions"}
    tell(process)
    eventually("it has become tail", lambda: line_of(process.pid).startswith(b"tail"))
    after = table.look(match)
    assert said_of(after, process.pid) == {"after": "is"}
    same = sightings_of(before, process.pid)[0].process
    assert same.id == sightings_of(after, process.pid)[0].process.id, "the same process, another program"
    judged = table.again(same, match)
    assert judged is not None and [claim.service for claim in judged.claims] == ["after"]


def test_an_argv_written_over_is_noticed_by_the_next_look(crowd: Crowd, table: ProcessTable) -> None:
    process = crowd.start(sys.executable, DECOYS / "writes_its_argv.py", "room " * 20)
    assert heard(process) == b"ready"
    said = []
    for title in (
        "nothing of note",
        "decoy_lm.server: loading Qwen",
        "other: decoy_lm.server",
        "python|decoy_lm.server",
    ):
        tell(process, title)
        assert heard(process) == b"written"
        said.append(said_of(table.look(MATCH), process.pid))
    assert said == [{}, {"mlx": "is"}, {"mlx": "mentions"}, {"mlx": "is"}]


def test_processes_that_come_and_go_do_not_disturb_the_look(crowd: Crowd, table: ProcessTable) -> None:
    process = crowd.start(*PYTHON, crowd.script("decoy_lm.server"))
    first = sightings_of(table.look(MATCH), process.pid)
    churning = threading.Event()

    def churn() -> None:
        while not churning.is_set():
            for started in [crowd.start("/bin/true", "decoy_lm.server") for _ in range(8)]:
                started.communicate()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(10 if isinstance(table, PsTable) else 150):
            look = table.look(MATCH)
            assert sightings_of(look, process.pid) == [
                type(seen)(seen.service, now.process, seen.mention, seen.program)
                for seen, now in zip(first, sightings_of(look, process.pid), strict=True)
            ]
            assert first[0].process.id == sightings_of(look, process.pid)[0].process.id
            assert not look.unread
    finally:
        churning.set()
        thread.join()


# admit's own, and what it runs.


def children_of(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def cats_of(pid: int) -> int:
    return sum(line_of(child).startswith(b"cat") for child in children_of(pid))


@pytest.fixture
def admit(crowd: Crowd) -> Path:
    """A program called admit that looks like one which waits in a queue; `run ... -- CMD` becomes CMD when told."""
    return crowd.script(
        "bin/admit",
        "import os, sys\nprint('waiting', flush=True)\nsys.stdin.readline()\n"
        "os.execv(sys.executable, [sys.executable, '-S', '-E', *sys.argv[sys.argv.index('--') + 1:]])\n",
    )


def started_by_shell(crowd: Crowd, text: str) -> tuple[subprocess.Popen[bytes], int]:
    """A shell that waits for what it starts, and the pid of that; it has said that it waits."""
    shell = crowd.start("/bin/sh", "-c", text + "; true")
    assert heard(shell) == b"waiting"
    (child,) = map(int, Path(f"/proc/{shell.pid}/task/{shell.pid}/children").read_text().split())
    crowd.end_too(child)
    return shell, child


def test_admit_itself_is_no_service(crowd: Crowd, table: ProcessTable, admit: Path) -> None:
    for words in (("load", "mlx", "decoy_lm.server"), ("run", "mlx", "--", "decoy_lm.server", "--model", "Qwen")):
        process = crowd.start(*PYTHON, admit, *words)
        assert said_of(table.look(MATCH), process.pid) == {"mlx": "it is admit itself"}
    daemon = crowd.script("decoy/admitd/__main__.py")
    process = crowd.start(sys.executable, "-S", "-m", "admitd", "decoy_lm.server", cwd=daemon.parents[1])
    assert said_of(table.look(MATCH), process.pid) == {"mlx": "it is admit itself"}


def test_who_asks_is_no_service(table: ProcessTable) -> None:
    """This test's own command line names itself, and it is the one that looks."""
    own = line_of(os.getpid()).split(b"\0")[0].decode().rsplit("/", 1)[-1]
    look = table.look(matcher(me=own))
    assert said_of(look, os.getpid()) == {"me": "it is admit itself"}


def test_what_starts_a_load_and_waits_for_it_is_no_mention_of_it(
    crowd: Crowd, table: ProcessTable, admit: Path
) -> None:
    """As cron does it. A mention can't be unloaded, and would keep the service itself from being a victim."""
    server = crowd.script("decoy_lm.server")
    shell, child = started_by_shell(crowd, f"{sys.executable} -S -E {admit} run mlx -- {server} --model Qwen")
    look = table.look(MATCH)
    assert said_of(look, child) == {"mlx": "it is admit itself"}
    assert said_of(look, shell.pid) == {"mlx": "it only starts a load"}
    tell(shell)
    eventually("admit has become the server", lambda: b"--\0" not in line_of(child))
    look = table.look(MATCH)
    assert said_of(look, child) == {"mlx": "is"}
    assert said_of(look, shell.pid) == {"mlx": "it only waits for what it started"}


@pytest.mark.parametrize("wrapper", ["", "timeout 9999 "])
def test_what_stands_above_a_service_mentions_it_once_that_is_gone(
    crowd: Crowd, table: ProcessTable, wrapper: str
) -> None:
    """`timeout`, `uv run`, `sudo`, a shell: the service itself is charged meanwhile, and can be unloaded."""
    server = crowd.script("decoy_lm.server", f"print('waiting', flush=True); {WAIT}")
    shell, child = started_by_shell(crowd, f"{wrapper}{sys.executable} -S -E {server} --model Qwen; read line")
    below = children_of(child) or [child]
    crowd.end_too(*below)
    look = table.look(MATCH)
    assert said_of(look, below[0]) == {"mlx": "is"}
    for pid in {shell.pid, child} - {*below}:
        assert said_of(look, pid) == {"mlx": "it only waits for what it started"}
    assert said_of(table.look(matcher(mlx=MLX, other="decoy_lm[.]server --model Qwen; ")), shell.pid) == {
        "mlx": "it only waits for what it started",
        "other": "mentions",
    }, "it waits for no other"
    os.kill(below[0], signal.SIGKILL)
    eventually("nothing is left below the shell", lambda: not children_of(shell.pid))
    assert said_of(table.look(MATCH), shell.pid) == {"mlx": "mentions"}


def test_what_stands_above_a_check_command_keeps_its_charge(crowd: Crowd, table: ProcessTable) -> None:
    """A check that runs the service's own program is not the service, so nothing else is charged for it."""
    server = crowd.script("decoy_lm.server", f"print('waiting', flush=True); {WAIT}")
    shell, child = started_by_shell(crowd, f"{sys.executable} -S -E {server} --ping")
    look = table.look(Matcher([service("mlx", MLX, loaded_check_cmd=(str(server), "--ping"))]))
    assert said_of(look, child) == {"mlx": "it is a check or unload command"}
    assert said_of(look, shell.pid) == {"mlx": "mentions"}


def test_a_shell_that_starts_two_loads_mentions_neither(crowd: Crowd, table: ProcessTable, admit: Path) -> None:
    shell, _ = started_by_shell(crowd, f"{sys.executable} -S {admit} run a -- a.server; : admit run b -- b.server")
    look = table.look(matcher(a=r"a\.server", b=r"b\.server"))
    assert said_of(look, shell.pid) == dict.fromkeys("ab", "it only starts a load")


def test_a_service_that_loads_another_keeps_its_charge(crowd: Crowd, table: ProcessTable, admit: Path) -> None:
    """Even one whose pattern matches its arguments only: what it holds does not go away while it asks."""
    text = "import subprocess, sys; subprocess.run([sys.executable, '-S', input(), 'load', 'mlx'])"
    process = crowd.start(*PYTHON, crowd.script("orchestra.py", text), "--conduct")
    tell(process, str(admit))
    assert heard(process) == b"waiting"
    crowd.end_too(*children_of(process.pid))
    look = table.look(matcher(orchestra="--conduct", mlx="--conduct"))
    assert said_of(look, process.pid) == {"orchestra": "mentions", "mlx": "it only starts a load"}


def test_a_holder_is_no_mention_of_what_it_is_about_to_load(crowd: Crowd, table: ProcessTable) -> None:
    holder = crowd.python(WAIT, "decoy_lm.server")
    assert said_of(table.look(MATCH, {holder.pid: {"mlx"}}), holder.pid) == {"mlx": "it only starts a load"}
    assert said_of(table.look(MATCH, {holder.pid + 1: {"mlx"}}), holder.pid) == {"mlx": "mentions"}
    other = {holder.pid: {"other"}}
    assert said_of(table.look(MATCH, other), holder.pid) == {"mlx": "mentions"}, "its own charge does not go away"
    real = crowd.start(*PYTHON, crowd.script("decoy_lm.server"))
    assert said_of(table.look(MATCH, {real.pid: {"mlx"}}), real.pid) == {"mlx": "is"}, (
        "it holds and is there: it has loaded"
    )


@pytest.mark.parametrize(
    "command", ["cat decoy_lm.server | cat", "cat decoy_lm.server\n\ttrue é", "cat decoy_lm.server"]
)
def test_checks_and_unload_commands_and_their_children_are_no_service(
    crowd: Crowd, table: ProcessTable, tmp_path: Path, command: str
) -> None:
    command = f"cd {tmp_path}; {command}"
    os.mkfifo(tmp_path / "decoy_lm.server")
    helper = actuator.start_helper(command, subprocess.DEVNULL)
    crowd.end_too(helper.pid)
    try:
        eventually("its cats run", lambda: cats_of(helper.pid) == command.count("cat ") + command.count("| cat"))
        children = children_of(helper.pid)
        for services in (
            [service("mlx", MLX, loaded_check_cmd=command)],
            [service("other", None, loaded_check_cmd="x", unload_cmd=command), service("mlx", MLX)],
        ):
            look = table.look(Matcher(services))
            assert said_of(look, helper.pid) == {"mlx": "it is a check or unload command"}
            assert [said_of(look, child) for child in children if b"decoy" in line_of(child)] == [
                {"mlx": "it belongs to a check or unload command"}
            ]
        assert said_of(table.look(MATCH), helper.pid) == {"mlx": "mentions"}, "no one's helper, no exception"
    finally:
        actuator.end_session(helper.pid)
        helper.wait()


@pytest.mark.parametrize("command", ["cat decoy_lm.server; true", "cat decoy_lm.server\ntrue 'é'\n"])
def test_the_shell_around_a_load_command_is_no_service_and_what_it_starts_may_be(
    crowd: Crowd, table: ProcessTable, tmp_path: Path, command: str
) -> None:
    command = f"cd {tmp_path}; {command}"
    os.mkfifo(tmp_path / "decoy_lm.server")
    load = actuator.start_load(command, tmp_path / "log", None)
    crowd.end_too(load.pid)
    try:
        eventually("its cat runs", lambda: cats_of(load.pid) == 1)
        look = table.look(Matcher([service("mlx", "^cat decoy_lm|decoy_lm", load_cmd=command)]))
        assert said_of(look, load.pid) == {"mlx": "it is the shell that runs a load_cmd"}
        (child,) = children_of(load.pid)
        assert said_of(look, child) == {"mlx": "is"}
    finally:
        actuator.end_session(load.pid)
        load.wait()


def test_admit_load_for_real(crowd: Crowd, table: ProcessTable, tmp_path: Path) -> None:
    """The real program, waiting for a service that takes its time to appear."""
    program = Path(sys.executable).with_name("admit")
    if not program.exists():
        pytest.skip("admit is not installed beside this Python")
    os.mkfifo(tmp_path / "decoy_lm.server")
    config = tmp_path / "capacity.yaml"
    config.write_text(
        "hosts: {here: {ram_physical_mb: 4096, ram_reserved_mb: 0, ram_safety_mb: 0}}\nhost: here\nlive_veto: off\n"
        "services:\n  decoy_lm.server:\n    ram_budget_mb: 10\n    process_pattern: 'decoy_lm[.]server .*Qwen'\n"
        f"    load_cmd: 'cd {tmp_path}; cat decoy_lm.server; : decoy_lm.server --model Qwen'\n"
    )
    config.chmod(0o600)
    env = {**os.environ, "ADMIT_STATE_DIR": str(tmp_path / "state"), "XDG_STATE_HOME": str(tmp_path), "ADMIT_PORT": "1"}
    process = crowd.start(program, "--config", config, "load", "decoy_lm.server", env=env, cwd=tmp_path)
    eventually("its load command runs", lambda: process.poll() is not None or bool(children_of(process.pid)))
    assert process.poll() is None, process.communicate()[0]
    (wrapper,) = children_of(process.pid)
    crowd.end_too(wrapper)
    eventually("the wrapper's cat runs", lambda: bool(children_of(wrapper)))
    crowd.end_too(*children_of(wrapper))
    command = f"cd {tmp_path}; cat decoy_lm.server; : decoy_lm.server --model Qwen"
    look = table.look(Matcher([service("mlx", "decoy_lm.server", load_cmd=command)]))
    assert said_of(look, process.pid) == {"mlx": "it is admit itself"}
    assert said_of(look, wrapper) == {"mlx": "it is the shell that runs a load_cmd"}


# Both readers.


def test_both_readers_agree(crowd: Crowd) -> None:
    started = [process.pid for process in (*real_ones(crowd), *mentions(crowd))]
    started += [crowd.python(WAIT, "decoy_lm.server", str(number)).pid for number in range(20)]
    os.kill(started[0], signal.SIGSTOP)
    eventually("one is stopped", lambda: state_of(started[0]) == "T")
    linux, ps = LinuxTable().look(MATCH), patient_ps().look(MATCH)
    for pid in started:
        (one,), (other,) = sightings_of(linux, pid), sightings_of(ps, pid)
        assert (one.service, one.mention, one.process.id, one.process.uid, one.process.stopped) == (
            *(other.service, other.mention, other.process.id, other.process.uid),
            other.process.stopped,
        )
        assert one.process.age_s is not None and other.process.age_s is not None
        assert abs(one.process.age_s - other.process.age_s) < 5
    assert set(started) <= set(pids(linux.sightings)) & set(pids(ps.sightings))
    assert all(unread.resident[RAM] >= 0 for unread in (*linux.unread, *ps.unread))
