"""ps: its output read, and ps run, hung, failed and late.

The files tests/recorded/ps-macos-*.txt were not captured on a Mac. They are composed, line by line, from the formats in
Apple's published source (adv_cmds, ps/print.c and ps/keyword.c) and man page: `TX` for a traced stop, `?E` for one that
is wedged in exit, `(comm)` where the arguments cannot be read, `<defunct>`, the effective uid as a signed number,
`^J` and `\\M-C` for what strvis(3) spells out, lstart with a blank before a day of one digit.
"""

from __future__ import annotations

import gc
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admitd import processes
from admitd.core.terms import RAM, Process, ProcessId
from admitd.processes import ps
from admitd.processes.linux import LinuxTable
from admitd.processes.matching import Matcher
from admitd.processes.naming import LOOKED_AT
from admitd.processes.ps import ALL, NotTold, Ps, PsTable
from admitd.processes.rows import COLUMNS, Row, parse
from admitd.processes.table import CannotSee
from tests.processes.conftest import patient_ps
from tests.processes.crowd import (
    WAIT,
    Crowd,
    eventually,
    heard,
    matcher,
    noting,
    open_descriptors,
    pids,
    said_of,
    service,
    sightings_of,
    state_of,
    tell,
)

RECORDED = Path(__file__).parents[1] / "recorded"
TABLE = (RECORDED / "ps-macos-table.txt").read_bytes()


def rows_of(name: str) -> Mapping[int, Row]:
    return {row.pid: row for row in parse((RECORDED / f"ps-macos-{name}.txt").read_bytes())}


def fixed(output: bytes, **options: Any) -> PsTable:
    """A table over what ps printed once; as if macOS had given tokens of 7 x the pid."""
    options.setdefault("identify", lambda pid: ProcessId(pid, 7 * pid))
    return PsTable(run=lambda _arguments: output, **options)


# Reading.


def test_every_line_is_a_row() -> None:
    assert len(rows_of("table")) == TABLE.count(b"\n") == 20


def test_a_row() -> None:
    python = rows_of("table")[610]
    assert (python.parent, python.uid, python.stat, python.rss_kib) == (1, 501, "R+", 45 << 20)
    assert python.started_at == 1795255200  # date -u -d 'Sat Nov 21 10:00:00 2026' +%s
    assert python.command.endswith(b"mlx_lm.server --model mlx-community/Qwen3.6-35B-A3B-4bit --port 8080")


@pytest.mark.parametrize(
    ("pid", "what"),
    [
        (210, {"uid": -2}),
        (611, {"stopped": True, "traced": False, "zombie": False}),
        (612, {"stopped": False, "traced": True}),
        (613, {"stopped": False, "zombie": False, "command": b"(llama-server)"}),
        (614, {"zombie": True, "command": b"<defunct>"}),
        (615, {"started_at": 1793491209}),
        (621, {"command": b""}),
        (622, {"stopped": False, "command": b"-zsh"}),
        (99998, {"command": b"/Volumes/My Disk/bin/llama-server --port 8083"}),
    ],
)
def test_rows_of_every_kind(pid: int, what: Mapping[str, object]) -> None:
    row = rows_of("table")[pid]
    assert {name: getattr(row, name) for name in what} == what


def test_a_long_line_is_cut() -> None:
    assert len(rows_of("table")[620].command) == LOOKED_AT


def test_a_line_that_is_cut_off_is_none() -> None:
    assert sorted(rows_of("cut-off")) == [1, 88, 210, 388, 501]


def test_what_looks_like_a_row_and_is_none() -> None:
    rows = rows_of("hostile")
    assert sorted(rows) == [80]
    assert rows[80].command.startswith(b"llama-server")


def test_a_name_that_imitates_a_line_of_ps_is_one_process() -> None:
    rows = rows_of("table")
    assert rows[618].command.startswith(b"evil ^J  610")
    assert rows[610].command.startswith(b"/opt/homebrew/")


@given(st.binary(max_size=400) | st.lists(st.sampled_from([*TABLE[:900].split(b" "), b"\n", b" "])).map(b" ".join))
def test_any_output_is_read(output: bytes) -> None:
    for row in parse(output):
        assert row.pid > 0
    try:
        look = fixed(output).look(matcher(s="a"))
    except CannotSee:
        assert not parse(output)
    else:
        assert look.count


# Who is who, by what macOS's ps prints.


def test_who_is_who_on_a_mac() -> None:
    services = [
        service("mlx", r"mlx_lm\.server", loaded_check_cmd="lms ps | grep -q coder-14b"),
        service("llama", "llama-server"),
        service("studio", r"MacOS/LM Studio( |$)", program="LM Studio"),
        service("zsh", "zsh"),
    ]
    look = fixed(TABLE).look(Matcher(services))
    assert {pid: said_of(look, pid) for pid in rows_of("table") if said_of(look, pid)} == {
        501: {"studio": "is"},
        502: {"studio": "its program is LM Studio Helper (Renderer), and `program:` names another"},
        610: {"mlx": "is"},
        611: {"llama": "is"},
        612: {"llama": "is"},
        613: {"llama": "mentions"},
        615: {"mlx": "mentions"},
        616: {"mlx": "mentions"},
        618: {"mlx": "mentions"},
        619: {"mlx": "mentions"},
        622: {"zsh": "is"},
        99998: {"llama": "mentions"},
    }
    assert [s.process.stopped for pid in (610, 611, 612) for s in sightings_of(look, pid)] == [False, True, False]
    assert [s.process.traced for pid in (610, 611, 612) for s in sightings_of(look, pid)] == [False, False, True]
    assert sightings_of(look, 610)[0].process.id == ProcessId(610, 4270), "the system's own token"
    assert not look.unread


def test_where_the_system_gives_no_token_the_start_by_ps_must_do() -> None:
    def not_told(_pid: int) -> ProcessId | None:
        raise NotTold

    table = fixed(TABLE, identify=not_told)
    (seen,) = sightings_of(table.look(matcher(mlx=r"mlx_lm\.server --model")), 610)
    assert seen.process.id == table.identify(610) == ProcessId(610, 1795255200)
    assert table.identify(614) is None, "a zombie"
    assert table.identify(4711) is None


def test_a_process_that_has_gone_since_ps_saw_it_is_nobody() -> None:
    look = fixed(TABLE, identify=lambda _pid: None).look(matcher(mlx="mlx_lm"))
    assert look.sightings == ()


def test_a_second_look_finds_the_same_process_or_nobody() -> None:
    tokens = {610: 1}
    table = fixed(TABLE, identify=lambda pid: ProcessId(pid, tokens[pid]))
    match = matcher(mlx=r"mlx_lm\.server --model")
    process = Process(ProcessId(610, 1), 501)
    judged = table.again(process, match)
    assert judged is not None and not judged.claims[0].mention
    assert table.again(process, matcher(other="nothing")) is None
    tokens[610] = 2
    assert table.again(process, match) is None


def test_a_second_look_that_fails_is_not_taken_for_an_answer() -> None:
    def fails(_arguments: tuple[str, ...]) -> bytes:
        raise CannotSee("ps gave no answer")

    with pytest.raises(CannotSee):
        PsTable(fails, lambda pid: ProcessId(pid, 1)).again(Process(ProcessId(610, 1), 501), matcher(a="b"))


def test_an_unchanged_table_is_judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    match = matcher(mlx="mlx_lm")
    judged: list[bytes] = []
    monkeypatch.setattr(match, "judge", noting(match.judge, judged))
    table = fixed(TABLE)
    for _ in range(3):
        table.look(match)
    assert len(judged) == len({row.command for row in rows_of("table").values()})


@pytest.mark.parametrize("output", [b"", b"\n\n", b"Segmentation fault\n", b"\x00\xff" * 100])
def test_output_that_says_nothing_is_no_empty_table(output: bytes) -> None:
    with pytest.raises(CannotSee, match="nothing that can be read"):
        fixed(output).look(matcher(a="b"))


# Running it.


@pytest.fixture
def fake_ps(tmp_path: Path) -> Callable[[str], str]:
    """A ps that is a shell script."""

    def make(text: str) -> str:
        script = tmp_path / "ps"
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(stat.S_IRWXU)
        return str(script)

    return make


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("exit 3", "ended with 3: it does not say why"),
        ("echo no such keyword >&2; exit 1", "ended with 1: no such keyword"),
        ("echo 1 2 3; exit 1", "ended with 1"),
        ("kill -9 $$", "ended with -9"),
        ("head -c 100000 /dev/zero | tr '\\0' x >&2; exit 2", "ended with 2: x{200}$"),
    ],
)
def test_a_ps_that_fails(fake_ps: Callable[[str], str], text: str, why: str) -> None:
    with pytest.raises(CannotSee, match=why):
        Ps(fake_ps(text)).run(ALL)


def test_a_ps_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CannotSee, match=r"cannot be run: No such file"):
        Ps(str(tmp_path / "ps")).run(ALL)


def test_no_process_selected_is_no_failure(fake_ps: Callable[[str], str]) -> None:
    assert Ps(fake_ps("exit 1")).run(("-p", "1")) == b""


def test_a_flood_on_one_line_is_cut_as_it_comes(fake_ps: Callable[[str], str]) -> None:
    printed = Ps(fake_ps("head -c 3000000 /dev/zero | tr '\\0' x; echo; echo short"), 30).run(ALL)
    first, second, rest = printed.split(b"\n")
    assert (len(first), second, rest) == (ps._LINE_MAX, b"short", b"")


def test_what_it_is_given(fake_ps: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("PS_FORMAT", "pid")
    printed = Ps(fake_ps('echo "$@"; env; cat')).run(ALL).decode()
    assert printed.startswith("-axww -o pid= -o ppid= -o uid= -o stat= -o lstart= -o rss= -o command=\n")
    assert "LC_ALL=C\n" in printed and "TZ=UTC\n" in printed
    assert "SECRET" not in printed and "PS_FORMAT" not in printed


@pytest.mark.parametrize("text", ["read line < FIFO", "echo 1; exec >&-; read line < FIFO", "while :; do echo 1; done"])
def test_a_ps_that_hangs_is_not_waited_for(
    fake_ps: Callable[[str], str], text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Killed and collected, with nothing left open."""
    os.mkfifo(tmp_path / "fifo")
    started: list[subprocess.Popen[bytes]] = []
    popen: Any = subprocess.Popen

    def starting(*arguments: Any, **options: Any) -> Any:
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", starting)
    one = Ps(fake_ps(text.replace("FIFO", str(tmp_path / "fifo"))), 0.2)
    before = open_descriptors()
    for _ in range(3):
        with pytest.raises(CannotSee, match=r"gave no answer in 0\.2 s"):
            one.run(ALL)
    assert open_descriptors() == before
    eventually("they are collected", lambda: one._late is None or one._late.poll() is not None)
    assert [process.returncode for process in started] == [-9] * 3
    gc.collect()


def test_a_ps_that_hangs_in_the_kernel_is_left_and_no_other_started_beside_it(
    fake_ps: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As if SIGKILL had to wait as well."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    program = fake_ps(f"read line < {gate}; echo 1")
    kill = subprocess.Popen.kill
    monkeypatch.setattr(subprocess.Popen, "kill", lambda _process: None)
    one = Ps(program, 0.2)
    with pytest.raises(CannotSee, match="gave no answer"):
        one.run(ALL)
    assert one._late is not None
    late = one._late
    with pytest.raises(CannotSee, match="hangs and cannot be killed"):
        one.run(ALL)
    kill(late)
    eventually("it has ended", lambda: state_of(late.pid) in ("Z", ""))
    Path(program).write_text("#!/bin/sh\necho back\n")
    assert one.run(ALL) == b"back\n"
    assert late.returncode == -9


def test_one_at_a_time(fake_ps: Callable[[str], str], tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    one = Ps(fake_ps(f"mkdir {lock} || exit 9; head -c 100 /dev/null; rmdir {lock}; echo 1"), 30)
    said: list[bytes | str] = []

    def ask() -> None:
        try:
            said.append(one.run(ALL))
        except CannotSee as problem:
            said.append(str(problem))

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == [b"1\n"] * 12


# The real one, on Linux.

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="compares ps with Linux's /proc")


@on_linux
def test_the_real_ps_sees_whom_proc_shows(crowd: Crowd) -> None:
    started = [crowd.python(WAIT, f"decoy_lm.server {number}").pid for number in range(20)]
    rows = {row.pid: row for row in parse(Ps(bound_s=60).run(ALL))}
    assert set(started) <= set(rows)
    for pid in started:
        assert (rows[pid].parent, rows[pid].uid) == (os.getpid(), os.getuid())
        assert rows[pid].rss_kib > 1000
    look = patient_ps().look(matcher(everyone="[a-z][/a-z]"))
    assert set(started) <= set(pids(look.sightings))
    kernel = {row.pid for row in rows.values() if row.kernel_thread}
    assert not kernel & set(pids(look.sightings))
    assert pids(LinuxTable().look(matcher(kernel=r"kthreadd|kworker")).sightings) == []


@on_linux
def test_the_real_ps_on_one_that_is_gone(crowd: Crowd) -> None:
    table = patient_ps()
    process = crowd.python(WAIT, "decoy_lm.server")
    (seen,) = sightings_of(table.look(matcher(mlx="decoy_lm")), process.pid)
    assert table.identify(process.pid) == seen.process.id
    crowd.end(process)
    assert table.again(seen.process, matcher(mlx="decoy_lm")) is None
    assert (
        Ps(bound_s=60).run(("-ww", "-p", str(process.pid), *COLUMNS)) == b""
        or table.identify(process.pid) != seen.process.id
    )
    table.close()


@on_linux
def test_it_identifies_without_proc_as_well(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_told(_pid: int) -> ProcessId | None:
        raise NotTold

    process = crowd.python("print(1, flush=True); " + WAIT, "decoy_lm.server")
    assert heard(process) == b"1"
    table = PsTable(Ps(bound_s=60).run, identify=not_told)
    found = table.identify(process.pid)
    assert found is not None and found.started > 1_700_000_000
    tell(process)
    crowd.end(process)
    assert table.identify(process.pid) is None


@on_linux
def test_a_machine_without_proc_is_not_taken_for_one_without_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    from admitd.processes import proc

    monkeypatch.setattr(proc, "stat", lambda _pid, _root="/proc": None)
    with pytest.raises(NotTold):
        ps.identify(os.getpid())


# The choice between them.


def test_which_reader_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(processes.for_this_system({"ADMIT_PROCESS_READER": "ps"}), PsTable)
    assert isinstance(processes.for_this_system({"ADMIT_PROCESS_READER": "proc"}), LinuxTable)
    for platform, kind in (("darwin", PsTable), ("freebsd14", PsTable), ("linux", LinuxTable)):
        monkeypatch.setattr(sys, "platform", platform)
        assert isinstance(processes.for_this_system({}), kind)
        assert isinstance(processes.for_this_system({"ADMIT_PROCESS_READER": ""}), kind)
    with pytest.raises(ValueError, match="write ps or proc"):
        processes.for_this_system({"ADMIT_PROCESS_READER": "lsof"})


def test_an_unread_row_is_charged_what_it_holds() -> None:
    """Linux's ps prints `Zl` and no arguments for a process whose first thread has ended."""
    output = (
        b" 1 0 0 Ss Sat Nov 14 08:00:01 2026 9 init\n 9 1 %d Zl Sat Nov 14 08:00:01 2026 2048 [python3] <defunct>\n"
    )
    look = fixed(output % os.geteuid()).look(matcher(a="python3"))
    (unread,) = look.unread
    assert (unread.process.pid, unread.resident, unread.could_be_ours) == (9, {RAM: 2 << 20}, True)
