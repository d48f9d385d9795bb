"""Every check of `admit doctor`: a case that trips it, beside a twin that does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from admitd import capacity, doctor
from admitd.core import respawn
from admitd.core.terms import RAM, Capacity, Host, Process, ProcessId, Reading, Sentinel, Sighting, Unread
from admitd.core.units import MIB
from admitd.doctor.finding import Answering, Facts, Finding, Held, Level, Logout, Missing
from admitd.doctor.gather import gather
from admitd.installing.wanted import State
from admitd.problem import Problem
from admitd.processes.table import Look
from tests.core.worlds import service

ROOT = Path(__file__).parents[1]
GIB = 1 << 30
UID = 501
NOW = 1_800_000_000.0
MLX = "mlx_lm.server --model m/Qwen --port 81"

CODER = service("coder", 6_000, process_pattern="coder-server .*--port 8", load_cmd="coder-server --x --port 8")
CHAT = service("chat", 2_000, process_pattern="chat-server ", load_cmd=("chat-server", "--fast"))
HOST = Host("box", {RAM: 64 * GIB}, {RAM: 12 * GIB}, {RAM: 4 * GIB})
GOOD = Facts(
    safelisted={"/1": "qemu"},
    version="1.2",
    uid=UID,
    port=2189,
    path="/h/capacity.yaml",
    capacity=Capacity(HOST, {"coder": CODER, "chat": CHAT}),
    look=Look(300),
    physical=64 * GIB,
    answering=Answering(True, "1.2", None, 77, "admitd", "/h/capacity.yaml"),
    keeper=respawn.of_launchd("com.example.admit", UID),
    now=NOW,
    newest_entry=NOW - 5,
    file_changed=NOW - 500,
    journal="/h/journal.jsonl",
    disk_free=50 * GIB,
)


def declares(*services: Any, **sentinel: Any) -> Capacity:
    return Capacity(HOST, {each.name: each for each in services}, sentinel=Sentinel(**sentinel))


def sees(
    name: str, pid: int = 9, *, mention: bool = False, uid: int = UID, line: str = "", program: str = "vim"
) -> Look:
    seen = Sighting(name, Process(ProcessId(pid, 1), uid), mention, program)
    return Look(300, (seen,), lines={pid: line.replace(" ", "\0").encode()} if line else {})


def both(*looks: Look) -> Look:
    lines = {pid: line for look in looks for pid, line in look.lines.items()}
    return Look(300, tuple(seen for look in looks for seen in look.sightings), lines=lines)


UNIT = respawn.of_cgroup("0::/user.slice/user@501.service/app.slice/coder.service")
assert UNIT is not None
OWN_UNIT = respawn.of_cgroup("0::/user.slice/user@501.service/app.slice/admit.service")
OWN_AGENT = respawn.of_launchd("local.admit.daemon", UID)
BY_HAND = respawn.of_parent(9, "zsh")
INSTALLED = ("/h/admit", "daemon", "run", "--port", "2189")
RUNS = State(True, True, "active (running)", command=INSTALLED)
STOPPED = State(True, False, "inactive (dead)", command=INSTALLED)
FAILED = State(True, False, "failed (failed)", command=INSTALLED, failed=True, held=True)
OLD = Answering(True, "1.1", None, 77)
LOOSE = Problem("/h/capacity.yaml", "", 0, "may be written by anyone (mode 0666)", "run: chmod go-w /h/capacity.yaml")
WRONG = Problem("/h/capacity.yaml", "services.x", 3, "is wrong", "write it right")
MLX_SERVICE = service("mlx", 8_000, process_pattern="mlx_lm[. ]server .*Qwen", load_cmd=MLX)
BOUNDED = replace(MLX_SERVICE, load_cmd=f"{MLX} --prompt-cache-bytes 2GB")
HOG = {"coder": Held(7_000 * MIB, 60.0)}

F, W = Level.FAULT, Level.WARNING
# check, what is so, how bad that is, words of what is said, words of what mends it, and the twin that is fine.
CASES: list[tuple[str, dict[str, Any], Level, str, str, dict[str, Any]]] = [
    ("file", {"path": None, "capacity": None, "looked": ("/a",)}, F, "looked for in /a", "admit init", {}),
    ("file", {"capacity": None, "problems": (WRONG, WRONG)}, F, "(and 1 more)", "admit config check", {}),
    ("rights", {"capacity": None, "problems": (LOOSE,)}, F, "anyone", "chmod go-w /h/capacity.yaml", {}),
    ("rights", {"loose": (("others may read it", "chmod 600 /h/token"),)}, F, "others", "chmod 600 /h/token", {}),
    (
        "commands",
        {"missing": (Missing("coder", "load_cmd", "coder-server"),)},
        F,
        "coder: load_cmd runs coder-server, which is not found",
        "${EDITOR:-vi} /h/capacity.yaml",
        {"missing": ()},
    ),
    ("commands", {"missing": (Missing("chat", "unload_cmd", "/x"),)}, W, "chat: unload_cmd", "capacity.yaml", {}),
    ("commands", {"missing": (Missing("chat", "load_cmd", "/d", True),)}, F, "is no folder", "capacity.yaml", {}),
    ("commands", {"missing": (Missing("", "notify_command", "say"),)}, W, "notify_command runs say", "EDITOR", {}),
    (
        "notify",
        {"capacity": declares(notify=("ntfy://h/t",)), "install_apprise": "python -m pip install apprise"},
        F,
        "1 of sentinel.notify",
        "python -m pip install apprise",
        {"capacity": declares(notify=("desktop://",)), "install_apprise": "python -m pip install apprise"},
    ),
    ("processes", {"look": None, "cannot_see": "hidden"}, F, "hidden", "ls -ld /proc", {}),
    (
        "processes",
        {"look": Look(3, unread=(Unread(ProcessId(5, 1), {RAM: 1}, True),))},
        W,
        "1 processes did not show",
        "admit doctor",
        {"look": Look(3, unread=(Unread(ProcessId(5, 1), {RAM: 1}, False),))},
    ),
    ("processes", {"look": Look(3, warnings=("/proc hides",))}, W, "/proc hides", "grep hidepid /proc/mounts", {}),
    (
        "patterns",
        {"capacity": declares(replace(CODER, process_pattern="codex-server"))},
        W,
        "coder: its process_pattern matches no process, nor what its load_cmd starts",
        "admit explain coder",
        {"capacity": declares(replace(CODER, process_pattern="codex-server")), "look": sees("coder")},
    ),
    (
        "patterns",
        {"capacity": declares(replace(CHAT, program="other"))},
        W,
        "chat: its process_pattern",
        "admit explain chat",
        {"capacity": declares(replace(CHAT, load_cmd="lms load chat"))},
    ),
    (
        "overlaps",
        {"look": both(sees("coder"), sees("chat"))},
        F,
        "process 9 is chat and coder at once",
        "admit explain chat",
        {"look": both(sees("coder"), sees("chat", 10))},
    ),
    (
        "overlaps",
        {"capacity": declares(CODER, replace(CHAT, process_pattern="-server "))},
        W,
        "chat: its process_pattern matches what coder's load_cmd starts",
        "admit explain chat",
        {"capacity": declares(CODER, replace(CHAT, process_pattern="-server ", program="chat-server"))},
    ),
    (
        "overlaps",
        {"look": sees("coder", mention=True, line="vim coder-server --port 8")},
        W,
        "coder: only mentioned, by process 9 (vim)",
        "admit service edit coder program=coder-server",
        {"look": sees("coder")},
    ),
    ("memory", {"physical": 32 * GIB}, F, "more would be admitted than there is", "${EDITOR:-vi} /h/capacity.yaml", {}),
    (
        "memory",
        {"physical": 96 * GIB},
        W,
        "the rest is never used",
        "${EDITOR:-vi} ",
        {"physical": 64 * GIB - 600 * MIB},
    ),
    ("memory", {"reading": Reading(problem="no /proc/meminfo")}, W, "no /proc/meminfo", "", {}),
    (
        "budgets",
        {"held": HOG},
        F,
        "coder held 7000 MB, and its budget is 6000 MB",
        "admit service edit coder ram_budget_mb=8192",
        {"held": {"coder": Held(6_000 * MIB)}},
    ),
    (
        "budgets",
        {"held": {"coder": Held(1_000 * MIB, 7_200.0)}},
        W,
        "in 120 min it never came near",
        "admit measure coder --for 10m --write",
        {"held": {"coder": Held(1_000 * MIB, 500.0)}},
    ),
    (
        "caches",
        {"capacity": declares(MLX_SERVICE)},
        W,
        "mlx: mlx_lm.server keeps prompts without a limit",
        f"admit service edit mlx 'load_cmd={MLX} --prompt-cache-bytes 2000MB'",
        {"capacity": declares(BOUNDED)},
    ),
    (
        "caches",
        {"capacity": declares(BOUNDED), "look": sees("mlx", line=MLX)},
        W,
        "mlx: mlx_lm.server",
        "admit unload mlx && admit load mlx",
        {"capacity": declares(MLX_SERVICE), "look": sees("mlx", line=f"{MLX} --prompt-cache-bytes=1GB")},
    ),
    (
        "wired",
        {"mac": True, "wired_limit": 60 * GIB},
        F,
        "iogpu.wired_limit_mb is 61440; above 55705",
        "sudo sysctl iogpu.wired_limit_mb=55705",
        {"mac": True, "wired_limit": 54 * GIB},
    ),
    ("wired", {"mac": True, "physical": 16 * GIB, "wired_limit": 9 * GIB}, F, "above 8192", "=8192", {"mac": False}),
    ("wired", {"mac": True, "wired_limit": None}, W, "does not say", "", {"mac": True, "wired_limit": 0}),
    (
        "respawns",
        {"supervisors": {"coder": UNIT}},
        W,
        "coder: the systemd unit coder.service started it",
        "admit service edit coder 'unload_cmd=systemctl --user stop coder.service'",
        {"supervisors": {"coder": respawn.of_parent(5, "zsh")}},
    ),
    (
        "respawns",
        {"supervisors": {"coder": UNIT}},
        W,
        "started it",
        "admit service edit",
        {"supervisors": {"coder": UNIT}, "capacity": declares(replace(CODER, unload_cmd="x stop"))},
    ),
    (
        "safelist",
        {"capacity": declares(CODER, safelist=("coder", "qemu")), "look": sees("/1", 12, uid=0)},
        W,
        "safelist: qemu: process 12 belongs to uid 0",
        "${EDITOR:-vi} /h/capacity.yaml",
        {"capacity": declares(CODER, safelist=("coder", "qemu")), "look": sees("/1", 12)},
    ),
    (
        "safelist",
        {"capacity": declares(CODER, safelist=("coder",)), "look": sees("coder", uid=7)},
        W,
        "safelist: coder: process 9 belongs to uid 7",
        "${EDITOR:-vi} ",
        {"capacity": declares(CODER, safelist=("coder",)), "look": sees("coder", uid=7), "uid": 0},
    ),
    (
        "daemon",
        {"answering": None, "capacity": declares(CODER, safelist=("coder",))},
        W,
        "no daemon runs: nobody wakes what is on the safelist",
        "admit daemon install",
        {"answering": None},
    ),
    (
        "daemon",
        {"answering": Answering(True, "1.1", None, 77)},
        F,
        "the daemon is version 1.1, and this command 1.2",
        "kill 77; admit daemon run",
        {"answering": Answering(True, "1.2", None, 77)},
    ),
    ("daemon", {"answering": OLD, "keeper": OWN_UNIT}, F, "version 1.1", "admit daemon restart", {}),
    ("daemon", {"answering": OLD, "keeper": OWN_AGENT}, F, "version 1.1", "admit daemon restart", {}),
    ("daemon", {"answering": OLD, "keeper": UNIT}, F, "version 1.1", "kill 77; admit daemon run", {}),
    ("daemon", {"answering": OLD, "keeper": BY_HAND}, F, "version 1.1", "kill 77; admit daemon run", {}),
    ("daemon", {"answering": Answering(True, None, "it sees nothing", 7)}, F, "it sees nothing", "admit events", {}),
    (
        "daemon",
        {"answering": Answering(True, "1.2", None, 77, "admitd", "/other.yaml")},
        W,
        "goes by /other.yaml",
        "admit doctor --config /other.yaml",
        {},
    ),
    ("daemon", {"answering": Answering(False, pid=5, program="nginx")}, W, "something else listens", "run", {}),
    (
        "port",
        {"answering": Answering(False, pid=5, program="nginx")},
        F,
        "127.0.0.1:2189 is taken by process 5 (nginx)",
        "ADMIT_PORT=2190 admit daemon run",
        {"answering": None},
    ),
    ("port", {"answering": Answering(False)}, F, "a program of another user", "ADMIT_PORT=2190", {}),
    (
        "supervisor",
        {"keeper": BY_HAND},
        W,
        "started by hand",
        "kill 77; admit daemon install",
        {"answering": None, "keeper": None},
    ),
    (
        "supervisor",
        {"keeper": respawn.UNSEEN},
        W,
        "by hand, or by a job of the system's launchd",
        "sudo launchctl list | grep admit",
        {"answering": None, "keeper": None},
    ),
    (
        "supervisor",
        {"answering": None, "installed": FAILED},
        F,
        "the installed daemon does not run: failed (failed)",
        "admit daemon start",
        {"installed": FAILED},
    ),
    ("supervisor", {"answering": None, "installed": STOPPED}, W, "does not run: inactive", "admit daemon start", {}),
    (
        "supervisor",
        {"answering": None, "installed": RUNS, "port": 2190},
        W,
        "listens on port 2189, and this command asks on port 2190",
        "export ADMIT_PORT=2189",
        {"installed": RUNS},
    ),
    ("supervisor", {"answering": None, "installed": RUNS}, F, "does not answer", "admit daemon restart", {}),
    ("clock", {"now": 5.0}, W, "before this program was written", "date", {}),
    ("clock", {"newest_entry": NOW + 3600}, W, "3600 s in the future", "date", {"newest_entry": None}),
    ("clock", {"file_changed": NOW + 100}, W, "capacity.yaml was changed 100 s", "date", {"file_changed": NOW + 5}),
    ("disk", {"disk_free": 3 * MIB}, F, "3 MB are free", "df -h", {"disk_free": GIB}),
    ("disk", {"disk_free": 300 * MIB}, W, "300 MB are free", "df -h", {}),
    ("disk", {"journal_problem": "Permission denied"}, F, "Permission denied", "ls -l /h/journal.jsonl", {}),
    ("disk", {"journal_closed": "/h"}, W, "can't be written", "ls -ld /h", {}),
    ("disk", {"disk_free": None}, W, "nobody says", "", {}),
    (
        "logout",
        {"logout": Logout("al ice", "its default")},
        W,
        "RemoveIPC= is on (its default)",
        "loginctl enable-linger 'al ice'",
        {},
    ),
]


def findings(name: str, facts: Facts) -> list[Finding]:
    return [finding for check, finding in doctor.examine(facts) if check.name == name]


@pytest.mark.parametrize(
    ("name", "so", "level", "what", "mend", "twin"), CASES, ids=[f"{case[0]}: {case[3]}" for case in CASES]
)
def test_a_check_trips_and_its_twin_does_not(
    name: str, so: dict[str, Any], level: Level, what: str, mend: str, twin: dict[str, Any]
) -> None:
    found = findings(name, replace(GOOD, **so))
    assert found[0].level is level
    assert what in found[0].what
    assert mend in (found[0].mend or "")
    assert {each.level for each in findings(name, replace(GOOD, **twin))} == {Level.OK}


def test_every_check_has_a_case() -> None:
    assert {case[0] for case in CASES} == {check.name for check in doctor.CHECKS}


def test_all_is_fine_where_all_is_fine() -> None:
    found = doctor.examine(GOOD)
    assert [check.name for check, _ in found] == [check.name for check in doctor.CHECKS]
    assert {finding.level for _, finding in found} == {Level.OK}


def test_where_nothing_can_be_seen_nothing_is_a_fault_in_the_code() -> None:
    """Every check says something of facts that are all missing, or is named as left out for want of a file."""
    blind = Facts("1", UID, 2189, mac=True)
    said = {check.name for check, _ in doctor.examine(blind)}
    assert not said & set(doctor.left_out(blind))
    assert said | set(doctor.left_out(blind)) == {check.name for check in doctor.CHECKS}
    unseen = replace(GOOD, look=None)
    assert {check.name for check, _ in doctor.examine(unseen)} == {check.name for check in doctor.CHECKS}
    assert doctor.left_out(unseen) == []


def test_a_folder_that_may_not_be_entered_is_a_fault_and_no_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def closed(*_: object) -> Path:
        raise PermissionError(13, "Permission denied", "/h/closed/capacity.yaml")

    monkeypatch.setattr(capacity, "find", closed)
    facts = gather({"HOME": str(tmp_path)}, None, 1)
    assert facts.path == "/h/closed/capacity.yaml"
    (found,) = findings("file", facts)
    assert found.level is Level.FAULT
    assert "Permission denied" in found.what


def test_a_port_that_is_held_for_the_installed_daemon_is_nobody_elses() -> None:
    held = replace(GOOD, answering=None, installed=FAILED)
    assert [each.what for each in findings("port", held)] == ["127.0.0.1:2189 is held for the installed daemon"]
    assert "free" in findings("port", replace(held, port=2190))[0].what
    assert "(see supervisor)" in findings("daemon", held)[0].what


def test_the_page_names_every_check_and_what_it_looks_at() -> None:
    page = (ROOT / "docs" / "doctor.md").read_text()
    for check in doctor.CHECKS:
        assert f"| `{check.name}` | {check.looks_at} |" in page


@pytest.mark.parametrize("path", sorted((ROOT / "config").rglob("*.yaml")), ids=lambda path: path.name)
def test_no_recipe_is_complained_of_for_its_patterns(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / path.name
    copy.write_text(path.read_text())
    copy.chmod(0o600)
    declared = capacity.load(copy, detect_physical=lambda: 64 << 30, names=lambda: ["anywhere"])
    facts = replace(GOOD, capacity=declared, look=Look(300))
    for name in ("patterns", "overlaps", "respawns", "safelist", "caches"):
        assert {each.level for each in findings(name, facts)} == {Level.OK}, name
