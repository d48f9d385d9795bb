"""What is written for the supervisors, and what they hand over: words that survive quoting, paths that last."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from admit_cli.main import parse
from admitd import actuator, handover, installing, serving
from admitd.core.terms import RAM, Service
from admitd.handover import Handed
from admitd.installing import systemd, wanted
from admitd.installing.wanted import KeeperFailed, NoSupervisor, State, Wanted
from tests.daemons import free_port, served, until
from tests.test_docs import inline_commands


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("plain", '"plain"'),
        ("a b", '"a b"'),
        ('say "hi"', r'"say \"hi\""'),
        ("back\\slash", r'"back\\slash"'),
        ("100%h", '"100%%h"'),
        ("é", '"é"'),
    ],
)
def test_a_word_of_a_unit_stands_for_itself(word: str, written: str) -> None:
    assert systemd.quoted(word) == written


def test_what_no_unit_can_hold_is_refused() -> None:
    with pytest.raises(KeeperFailed, match="line break"):
        systemd.quoted("a\nExecStart=/bin/evil")


def wanted_of(**other: object) -> Wanted:
    said = {"program": "/a/admit", "port": 2189, "config": None, "unix": None, "log": "/l", "environ": {}, **other}
    return Wanted(**said)  # type: ignore[arg-type]


def test_a_dollar_names_no_variable_on_the_command_line_and_needs_no_escape_elsewhere() -> None:
    unit = systemd.service_unit(wanted_of(config="/h/$x/capacity.yaml", environ={"A": "$b"}))
    assert 'ExecStart="/a/admit" "daemon" "run" "--port" "2189" "--config" "/h/$$x/capacity.yaml"\n' in unit
    assert '\nEnvironment="A=$b"\n' in unit
    assert "@" not in unit


def test_where_the_socket_would_not_fit_only_the_port_is_held() -> None:
    assert "@" not in systemd.socket_unit(wanted_of())
    assert systemd.socket_unit(wanted_of()).count("ListenStream=") == 1
    assert "\nListenStream=/s/100%%.sock\n" in systemd.socket_unit(wanted_of(unix="/s/100%.sock"))


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("sudo systemctl start qemu", "sudo"),
        ("cd /x && podman run -d vllm", "podman"),
        (("/usr/bin/doas", "rc-service"), "doas"),
        ("mlx_lm.server --model sudoku", None),
        ("docker run -d vllm", None),
        (None, None),
    ],
)
def test_commands_that_gain_rights_are_seen(command: str | tuple[str, ...] | None, word: str | None) -> None:
    service = Service("x", {RAM: 1}, process_pattern="x", load_cmd=command)
    assert wanted.needs_privilege({"x": service}) == ({} if word is None else {"x": word})


def test_path_is_the_shells_and_then_the_systems() -> None:
    assert wanted.search_path("/me/bin::relative:/usr/bin:/me/bin").split(":")[:2] == ["/me/bin", "/usr/bin"]
    assert wanted.search_path("").endswith("/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")


def an_admit(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "admit"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return program


def test_the_link_in_path_is_taken_before_what_it_leads_to(tmp_path: Path) -> None:
    """Homebrew and uv tool keep the link, and replace what it leads to."""
    real = an_admit(tmp_path / "Cellar" / "1.0" / "bin")
    link = tmp_path / "bin" / "admit"
    link.parent.mkdir()
    link.symlink_to(real)
    environ = {"PATH": f"/usr/bin:{link.parent}"}
    assert wanted.program(str(real), environ, "/nowhere") == str(link)
    assert wanted.program("-c", environ, str(real.parents[1])) == str(link)


def test_another_admit_in_path_is_not_taken(tmp_path: Path) -> None:
    mine, other = an_admit(tmp_path / "venv" / "bin"), an_admit(tmp_path / "other")
    assert wanted.program(str(mine), {"PATH": str(other.parent)}, str(mine.parents[1])) == str(mine)


@pytest.mark.parametrize("place", ["uv/archive-v0/abc/bin", ".cache/pipx/abc/bin"])
def test_one_that_may_be_gone_tomorrow_is_refused(tmp_path: Path, place: str) -> None:
    program = an_admit(tmp_path / place)
    with pytest.raises(KeeperFailed, match=r"lies in a cache.*install admit first, by uv tool, pipx or pip"):
        wanted.program(str(program), {}, str(program.parents[1]))


def test_none_at_all_is_told(tmp_path: Path) -> None:
    with pytest.raises(KeeperFailed, match="there is no program"):
        wanted.program("-m", {}, str(tmp_path))


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KeeperFailed, match="cannot be written"):
        wanted.put(tmp_path / "file" / "unit", b"")


def test_a_link_in_the_place_of_a_unit_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("text")
    (tmp_path / "unit").symlink_to(tmp_path / "theirs")
    assert wanted.put(tmp_path / "unit", b"text")
    assert (tmp_path / "theirs").read_text() == "text" and not (tmp_path / "unit").is_symlink()


def test_there_is_no_installer_for_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "freebsd14")
    with pytest.raises(NoSupervisor, match="admit daemon run"):
        installing.for_this_system({}, "/")


def test_without_systemctl_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KeeperFailed, match=r"systemctl cannot be run.*admit daemon run"):
        systemd.Systemd({}, str(tmp_path)).install(wanted_of())


def test_without_a_systemd_of_the_user_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "systemctl"
    script.write_text("#!/bin/sh\necho 'Failed to connect to bus: No medium found' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(KeeperFailed, match=r"No medium found.*sudo loginctl enable-linger"):
        systemd.Systemd({}, str(tmp_path / "home")).install(wanted_of())
    assert not (tmp_path / "home").exists()


def scripted(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> systemd.Systemd:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return systemd.Systemd({}, str(folder))


def test_what_it_said_is_what_the_journal_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keeper = scripted(tmp_path, "journalctl", 'echo "$*"; echo two', monkeypatch)
    assert keeper.log(7) == ["--no-pager --user-unit=admit.service --user-unit=admit.socket --lines=7 --quiet", "two"]
    assert keeper.log_command(7)[-1] == "--follow"


def test_a_journal_that_may_not_be_read_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keeper = scripted(tmp_path, "journalctl", "echo 'insufficient permissions.' >&2; exit 1", monkeypatch)
    with pytest.raises(KeeperFailed, match=r"journalctl ended with exit 1: insufficient permissions"):
        keeper.log(7)


def test_a_start_that_fails_says_where_to_look(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = "Job for admit.service failed because the control process exited with error code."
    keeper = scripted(tmp_path, "systemctl", f'case "$*" in *start*) echo "{said}"; exit 1;; esac', monkeypatch)
    with pytest.raises(KeeperFailed, match=r"control process exited.*What it said: admit daemon logs"):
        keeper.install(wanted_of())
    assert not list(tmp_path.rglob("admit.*")), "or it would fail again at each login"


def test_what_is_carried_over_decides_where_files_are_and_is_no_secret() -> None:
    shell = {"PATH": "/a", "HF_HOME": "/models", "HF_TOKEN": "secret", "OLLAMA_MODELS": "", "HOME": "/elsewhere"}
    servers = {"OLLAMA_HOST": "127.0.0.1:11500", "DOCKER_HOST": "unix:///run/user/1000/docker.sock"}
    found = wanted.carried({**shell, **servers}, "/home/me")
    assert (found.pop("PATH").split(":")[0], found) == ("/a", {"HOME": "/home/me", "HF_HOME": "/models", **servers})


def test_what_was_installed_is_read_back_whatever_is_in_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keeper = scripted(tmp_path, "systemctl", "exit 0", monkeypatch)
    assert keeper.state() == State(installed=False, running=False, said="unknown (unknown)")
    odd = wanted_of(program='/a "b" \\c/admit', port=2190, config="/$HOME/100%/é.yaml", hardened=False)
    keeper.install(odd)
    state = keeper.state()
    assert (state.command, state.port, state.config) == (tuple(odd.command()), 2190, "/$HOME/100%/é.yaml")
    assert not state.hardened
    (tmp_path / ".config/systemd/user/admit.service").write_text("ExecStart='unfinished\n")
    assert (keeper.state().port, keeper.state().config) == (None, None)


def test_every_command_of_the_page_is_one() -> None:
    commands = inline_commands((Path(__file__).parents[1] / "docs/installing.md").read_text())
    assert len(commands) > 8
    assert [each for each in commands if parse(shlex.split(each)[1:]) is None] == ["admit --install-completion"]


# What is handed over


@contextlib.contextmanager
def notified(folder: Path) -> Iterator[tuple[str, socket.socket]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(folder / "n"))
        line.setblocking(False)
        yield str(folder / "n"), line


def heard(line: socket.socket) -> list[str]:
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(line.recv(4096).decode())
    return found


@pytest.mark.parametrize(
    "environ",
    [
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"},
        {"LISTEN_FDS": "2"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
        {"NOTIFY_SOCKET": "vsock:2:1"},
        {"ADMIT_LOG": "relative.log"},
    ],
)
def test_what_is_not_meant_for_us_or_makes_no_sense_is_nothing(environ: dict[str, str]) -> None:
    left = {**environ, "PATH": "/bin"}
    assert handover.take(left) == handover.ALONE
    assert left == {"PATH": "/bin"}


def test_sockets_are_taken_as_they_are_and_not_inherited() -> None:
    """In a process of its own: descriptor 3 and on are a test runner's own."""
    code = (
        "import os, socket; os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='2')\n"
        "from admitd import handover, serving\n"
        "handed = handover.take(os.environ)\n"
        "port = handed.sockets[0].getsockname()[1]\n"
        "assert not any(each.get_inheritable() for each in handed.sockets), 'inherited'\n"
        "assert 'LISTEN_FDS' not in os.environ\n"
        "print(len(handed.sockets), serving.listen(port, None, handed.sockets[:1]) == list(handed.sockets[:1]))\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as inet:
        give = f"exec {sys.executable} -c '{code.replace(chr(39), chr(34))}' 3<&{inet.fileno()} 4</dev/null"
        done = subprocess.run(
            ["bash", "-c", give], capture_output=True, text=True, timeout=60, pass_fds=(inet.fileno(),), check=False
        )
    assert (done.stdout, done.stderr) == ("1 True\n", "")


def test_a_socket_that_others_could_reach_is_refused() -> None:
    """A hand-written unit with ListenStream=2189 would open it to the network."""
    with socket.create_server(("0.0.0.0", 0)) as wide, pytest.raises(serving.PortTaken, match="admit daemon install"):
        serving.listen(wide.getsockname()[1], None, [wide])
    with socket.create_server(("127.0.0.1", 0)) as elsewhere, pytest.raises(serving.PortTaken):
        serving.listen(free_port(), None, [elsewhere])


def test_the_supervisor_hears_that_it_serves_and_ends(tmp_path: Path) -> None:
    with notified(tmp_path) as (address, line):
        told = Handed(notify=address)
        told.ready("listens")
        told.beat()
        told.stopping()
        assert heard(line) == ["READY=1\nSTATUS=listens", "STOPPING=1\nSTATUS=ends"]


def test_a_supervisor_that_is_gone_disturbs_nobody(tmp_path: Path) -> None:
    Handed(notify=str(tmp_path / "gone"), watchdog_s=1).beat()


def test_the_beat_comes_from_the_loop_that_serves(tmp_path: Path) -> None:
    """While the loop is stuck, no beat comes: that is what the watchdog is for."""
    stuck_s = 1.0

    async def stuck(scope: object, receive: object, send: object) -> None:
        heard(line)
        time.sleep(stuck_s)  # holds up the loop, as a fault of ours would
        silent.append(heard(line) == [])
        raise RuntimeError

    silent: list[bool] = []
    with notified(tmp_path) as (address, line):
        handed = Handed(notify=address, watchdog_s=0.1)
        with served(lambda port: stuck, handed=handed) as door:
            until(lambda: "WATCHDOG=1" in heard(line))
            with contextlib.suppress(Exception):
                door.ask("GET", "/")
            assert silent == [True]
            until(lambda: "WATCHDOG=1" in heard(line))


def test_a_log_of_its_own_is_kept_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, whose output it is."""
    monkeypatch.setattr(actuator, "LOG_MAX", 100)
    log = tmp_path / "logs" / "admitd.log"
    code = (
        "from admitd import actuator, handover; import os; actuator.LOG_MAX = 100\n"
        f"handed = handover.take({{'ADMIT_LOG': {str(log)!r}}})\n"
        "handed.open_log()\n"
        "for number in range(3):\n"
        "    os.write(1, b'x' * 99 + str(number).encode()); os.write(2, b'!\\n'); handed.beat()\n"
        "os.write(2, b'end')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert log.read_bytes() == b"end"
    assert log.with_name("admitd.log.1").read_bytes() == b"x" * 99 + b"2!\n"
    assert log.stat().st_mode & 0o077 == 0


def test_what_launchd_may_not_read_is_known(tmp_path: Path) -> None:
    checkout = tmp_path / "Documents" / "admit"
    checkout.mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(checkout)
    reachable = [str(tmp_path / name) for name in ("Documents.old/x", "Library/LaunchAgents", ".local/bin/admit")]
    guarded = [str(link), str(checkout / ".venv"), str(tmp_path / "downloads/x")]
    assert wanted.out_of_an_agents_reach([*reachable, *guarded], str(tmp_path)) == tuple(guarded)
