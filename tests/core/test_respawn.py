"""Who came back after an unload, who really did not, and whom to tell to stop."""

from __future__ import annotations

import pytest

from admitd.core import respawn
from admitd.core.acts import Tell
from admitd.core.respawn import Back, Memory, Supervisor
from tests.core.worlds import capacity, check, ledger, loaded, mentioned, service

X = service("x", unload_cmd="x stop", loaded_check_cmd="x up")
HOST = capacity(X)
NOBODY: frozenset[str] = frozenset()

Look = tuple[float, list[object], dict[str, float], frozenset[str]]

ROWS: list[tuple[str, list[Look], list[tuple[str, int]]]] = [
    ("unloaded, and gone", [(0, [loaded("x", 5)], {}, NOBODY), (10, [], {"x": 4}, NOBODY)], []),
    ("back under another pid",
     [(0, [loaded("x", 5)], {}, NOBODY), (10, [loaded("x", 6)], {"x": 4}, NOBODY)], [("x", 6)]),
    ("back with workers of its own: who was there first is what its supervisor started",
     [(0, [loaded("x", 5)], {}, NOBODY), (10, [loaded("x", 8), loaded("x", 6), loaded("x", 7)], {"x": 4}, NOBODY)],
     [("x", 6)]),
    ("told once",
     [(0, [loaded("x", 5)], {}, NOBODY), (10, [loaded("x", 6)], {"x": 4}, NOBODY),
      (20, [loaded("x", 7)], {"x": 4}, NOBODY)], [("x", 6)]),
    ("gone for a look first",
     [(0, [loaded("x", 5)], {}, NOBODY), (5, [], {"x": 4}, NOBODY), (10, [loaded("x", 6)], {"x": 4}, NOBODY)],
     [("x", 6)]),
    ("after a minute it is a new load",
     [(0, [loaded("x", 5)], {}, NOBODY), (5, [], {"x": 4}, NOBODY), (70, [loaded("x", 6)], {"x": 4}, NOBODY)], []),
    ("admit loaded it",
     [(0, [loaded("x", 5)], {}, NOBODY), (5, [], {"x": 4}, frozenset({"x"})),
      (10, [loaded("x", 6)], {"x": 4}, NOBODY)], []),
    ("the unload left its process", [(0, [loaded("x", 5)], {}, NOBODY), (10, [loaded("x", 5)], {"x": 4}, NOBODY)], []),
    ("only a mention", [(0, [loaded("x", 5)], {}, NOBODY), (10, [mentioned("x", 6)], {"x": 4}, NOBODY)], []),
    ("only its check", [(0, [loaded("x", 5)], {}, NOBODY), (10, [check("x", True)], {"x": 4}, NOBODY)], []),
    ("never unloaded by admit", [(0, [loaded("x", 5)], {}, NOBODY), (10, [loaded("x", 6)], {}, NOBODY)], []),
    ("unloaded twice, back twice",
     [(0, [loaded("x", 5)], {}, NOBODY), (10, [loaded("x", 6)], {"x": 4}, NOBODY),
      (100, [loaded("x", 7)], {"x": 95}, NOBODY)], [("x", 6), ("x", 7)]),
]  # fmt: skip


@pytest.mark.parametrize(("looks", "back"), [pytest.param(looks, back, id=why) for why, looks, back in ROWS])
def test_who_came_back(looks: list[Look], back: list[tuple[str, int]]) -> None:
    memory = Memory()
    found: list[Back] = []
    for now, what, unloaded_at, loading in looks:
        memory, each = respawn.step(memory, now, ledger(HOST, *what), unloaded_at, loading)  # type: ignore[arg-type]
        found += each
    assert [(each.service, each.pid) for each in found] == back


CGROUPS = [
    ("a system unit", "0::/system.slice/ollama.service", "sudo systemctl stop ollama.service"),
    ("a unit of the user's", "0::/user.slice/user-1000.slice/user@1000.service/app.slice/qwen.service",
     "systemctl --user stop qwen.service"),
    ("a hybrid host", "12:memory:/x\n1:name=systemd:/system.slice/vllm.service\n0::/",
     "sudo systemctl stop vllm.service"),
    ("a name with a sign in it", "0::/system.slice/a\\x20b.service", "sudo systemctl stop 'a\\x20b.service'"),
    ("a container", f"0::/system.slice/docker-{'ab' * 32}.scope", "docker stop abababababab"),
    ("another engine's", f"0::/machine.slice/libpod-{'cd' * 32}.scope/container", "podman stop cdcdcdcdcdcd"),
    ("a login session", "0::/user.slice/user-1000.slice/session-3.scope", None),
    ("the user's manager itself", "0::/user.slice/user-1000.slice/user@1000.service/init.scope", None),
    ("the user's manager, no deeper", "0::/user.slice/user-1000.slice/user@1000.service", None),
    ("no cgroup", "0::/", None),
    ("only other hierarchies", "3:cpu:/system.slice/a.service", None),
    ("nothing", "", None),
    ("damage", "::::\nx\n", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "stop"), [pytest.param(t, s, id=why) for why, t, s in CGROUPS])
def test_the_supervisor_that_a_cgroup_names(text: str, stop: str | None) -> None:
    found = respawn.of_cgroup(text)
    assert (found and found.stop) == stop


def test_a_launchd_job_is_booted_out() -> None:
    assert respawn.of_launchd("org.example.qwen", 501).stop == "launchctl bootout gui/501/org.example.qwen"
    assert respawn.of_launchd("a b", 0, as_root=True).stop == "sudo launchctl bootout 'system/a b'"


def test_a_parent_is_named_and_an_orphan_has_none() -> None:
    assert respawn.of_parent(77, "runner.sh").stop == "kill 77"
    assert respawn.of_parent(1, "systemd").stop is None


@pytest.mark.parametrize(
    ("program", "leads", "said", "stop"),
    [
        ("systemd", True, "something that has ended since", None),
        ("tmux: server", True, "somebody, in tmux: server (process 900),", None),
        ("sshd", False, "somebody, in sshd (process 900),", None),
        ("-zsh", True, "somebody, in -zsh (process 900),", None),
        ("bash", True, "somebody, in bash (process 900),", None),
        ("bash", False, "its parent, bash (process 900),", "kill 900"),
        ("ollama", True, "its parent, ollama (process 900),", "kill 900"),
    ],
)
def test_no_remedy_ends_a_login_or_a_terminal(program: str, leads: bool, said: str, stop: str | None) -> None:
    """A loop in a script is what starts it again; the shell that leads its session is where somebody typed."""
    found = respawn.of_parent(900, program, typed_in=leads)
    assert (found.name, found.stop) == (said, stop)


def test_it_is_told_with_the_command_that_really_stops_it() -> None:
    told = respawn.event(Back("x", 2.4, 6), Supervisor("the systemd unit x.service", "systemctl --user stop x.service"))
    assert isinstance(told, Tell)
    assert told.event.text == (
        "x was back 2 s after its unload: the systemd unit x.service started it again; this stops it for good: "
        "systemctl --user stop x.service"
    )
    assert told.event.next == "systemctl --user stop x.service"
