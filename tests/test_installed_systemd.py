"""The daemon under a real `systemd --user`: what a user installs, and what then happens to it."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from admitd.installing import systemd
from admitd.installing.wanted import Wanted
from tests import usersystemd
from tests.daemons import ADMIT, CAPACITY, ROOT, Daemon, free_port, naps, prepared, request, sleeper, until
from tests.installeddaemon import WITHIN_S, Installed, an_own_systemd

pytestmark = [
    pytest.mark.skipif(bool(usersystemd.why_not()), reason=usersystemd.why_not()),
    pytest.mark.timeout(300),  # several bounded waits in a row
]


@pytest.fixture(scope="module")
def installed() -> Iterator[Installed]:
    with an_own_systemd() as made:
        yield made


@pytest.fixture
def here(installed: Installed) -> Installed:
    installed.install()
    return installed


def test_a_wrong_capacity_file_is_told_before_anything_is_written(installed: Installed) -> None:
    good = installed.daemon.capacity_file.read_text()
    installed.daemon.write(CAPACITY + "  x: {ram_budget_mb: -1}\n")
    said = installed.admit("install", code=78)
    installed.daemon.write(good)
    assert said["title"] == "The configuration is wrong"
    assert not installed.units.exists()


def test_a_daemon_that_runs_already_is_named_and_left_alone(installed: Installed) -> None:
    installed.daemon.start()
    try:
        said = installed.admit("install", code=1)
        assert f"(pid {installed.daemon.pid})" in said["detail"]
        assert not installed.units.exists()
    finally:
        installed.daemon.stop()


def test_a_port_that_another_has_is_told_before_anything_is_written(installed: Installed) -> None:
    listens = (
        f"import os, socket, time; s = socket.create_server(('127.0.0.1', {installed.daemon.port}))\n"
        "if pid := os.fork(): print(pid, flush=True); os._exit(0)\n"
        "os.dup2(os.open('/dev/null', os.O_RDWR), 1); os.dup2(1, 2); time.sleep(600)"
    )
    started = installed.systemd.run(sys.executable, "-c", listens)
    try:
        said = installed.admit("install", code=1)["detail"]
    finally:
        installed.systemd.run("kill", started.stdout.strip())
    port = installed.daemon.port
    assert f"127.0.0.1:{port} is taken by process {started.stdout.strip()} (python" in said
    assert f"next: admit daemon install --port {port + 1}" in said
    assert not installed.units.exists()


def test_one_whose_first_start_fails_is_taken_away_again(installed: Installed) -> None:
    """Else it would fail again at each login."""
    installed.daemon.socket_path.mkdir(parents=True)
    try:
        said = installed.admit("install", code=1)["detail"]
    finally:
        installed.daemon.socket_path.rmdir()
    assert said.startswith("nothing was installed: ") and said.endswith("What it said: admit daemon logs")
    assert not list(installed.units.rglob("admit*"))
    assert installed.systemd.shown("admit.service", "LoadState") == "not-found"


def test_what_is_not_installed_is_said_so(installed: Installed) -> None:
    for word in ("start", "stop", "restart"):
        assert "run: admit daemon install" in installed.admit(word, code=66)["detail"]
    assert installed.admit("status", code=69)["installed"] is False
    assert installed.admit("uninstall")["changed"] is False


def test_it_is_installed_runs_and_answers(here: Installed) -> None:
    said = here.admit("status")
    assert (said["running"], said["answers"], said["port"]) == (True, True, here.daemon.port)
    assert (said["config"], said["pid"]) == (str(here.daemon.capacity_file), here.main_pid())
    assert here.daemon.state("nap") == "stopped"
    assert here.systemd.shown("admit.service", "StatusText").startswith(
        f"listens on http://127.0.0.1:{here.daemon.port}"
    )


def test_what_it_said_is_shown(here: Installed) -> None:
    machine = Path("/etc/machine-id")
    if not machine.exists() or not machine.read_text().strip():
        pytest.skip("no journald without /etc/machine-id")
    said = until(lambda: here.admit("logs", "--lines", "50")["lines"], WITHIN_S)
    assert any(f"listens on http://127.0.0.1:{here.daemon.port}" in line for line in said)


def test_systemd_finds_no_fault_in_the_units(here: Installed) -> None:
    """It ends with 0 whatever it finds, so what it says counts."""
    checked = here.systemd.run("systemd-analyze", "--user", "verify", str(here.units / "admit.service"))
    said = [line for line in checked.stderr.splitlines() if "admit" in line and "man" not in line]
    assert not said


def test_systemd_reads_each_word_as_it_was_written(here: Installed) -> None:
    """Whatever is in a path or a variable: blanks, quotes, and what systemd would expand."""
    odd = "a 'b' \"c\" \\ $HOME ${HOME} %h %% é;#"
    folder = Path(here.daemon.environ["HOME"], "o d d")
    folder.mkdir()
    program = folder / "admit"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@" "$ODD" > "$0.said"\n')
    program.chmod(0o755)
    unit = systemd.service_unit(Wanted(str(program), 1, odd, None, "", {"ODD": odd}))
    (here.units / "odd.service").write_text(unit.replace("Type=notify", "Type=oneshot").replace("Restart=", "#"))
    here.systemd.ctl("daemon-reload")
    here.systemd.ctl("start", "odd.service")
    said = until(lambda: (folder / "admit.said").exists() and (folder / "admit.said").read_text(), WITHIN_S)
    (here.units / "odd.service").unlink()
    assert str(said).splitlines() == ["daemon", "run", "--port", "1", "--config", odd, odd]


def test_a_second_install_changes_nothing(here: Installed) -> None:
    before = here.main_pid(), {path: path.stat().st_mtime_ns for path in here.units.glob("admit.*")}
    said = here.admit("install")
    assert (said["changed"], said["written"]) == (False, [])
    assert before == (here.main_pid(), {path: path.stat().st_mtime_ns for path in here.units.glob("admit.*")})


def test_it_is_there_again_after_a_crash(here: Installed) -> None:
    before = here.end("KILL")
    here.another_than(before)
    assert here.daemon.ask("GET", "/healthz").status == 200
    assert here.admit("status")["restarts"] >= 1


def test_one_that_hangs_is_ended_by_the_watchdog(here: Installed) -> None:
    more = here.units / "admit.service.d" / "quick.conf"
    more.parent.mkdir()
    more.write_text("[Service]\nWatchdogSec=4\nTimeoutAbortSec=1\n")
    try:
        here.systemd.ctl("daemon-reload")
        here.admit("restart")
        before = here.end("STOP")
        here.another_than(before)
        assert here.daemon.ask("GET", "/healthz").status == 200
    finally:
        more.unlink()
        more.parent.rmdir()
        here.systemd.ctl("daemon-reload")
        here.admit("restart")


def test_nobody_is_refused_while_it_starts_anew(here: Installed) -> None:
    """systemd holds the port and the socket: whoever comes meanwhile waits, and is answered by the next one."""
    over = threading.Event()
    refused: list[str] = []
    answered = {"inet": 0, "unix": 0}

    def ask(kind: str) -> None:
        while not over.is_set():
            family, where = {
                "inet": (socket.AF_INET, ("127.0.0.1", here.daemon.port)),
                "unix": (socket.AF_UNIX, str(here.daemon.socket_path)),
            }[kind]
            with socket.socket(family) as line:
                line.settimeout(60)
                try:
                    line.connect(where)
                except OSError as problem:
                    refused.append(f"{kind}: {problem}")
                    continue
                with contextlib.suppress(OSError):  # it was taken by one that ended: only who knocks is never refused
                    line.sendall(request("GET", "/openapi.json"))
                    answered[kind] += line.recv(15) == b"HTTP/1.1 200 OK"

    threads = [threading.Thread(target=ask, args=(kind,)) for kind in answered]
    for each in threads:
        each.start()
    try:
        for how in ("restart", "KILL", "restart"):
            so_far = dict(answered)
            if how == "KILL":
                here.another_than(here.end("KILL"))
            else:
                here.admit("restart")
            until(lambda so_far=so_far: all(answered[kind] > so_far[kind] for kind in answered), WITHIN_S)
    finally:
        over.set()
        for each in threads:
            each.join()
    assert not refused


def test_reservations_and_services_outlive_an_upgrade(here: Installed) -> None:
    """New unit files end the daemon and start another: what it promised stands, and what it started runs on."""
    started = here.systemd.run("sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!")
    holder = int(started.stdout)
    held = here.daemon.ask("POST", "/admit", {"service": "other", "holder_pid": holder}).json()["reservation"]["id"]
    assert here.daemon.act("/services/nap/load").status == 200
    before = here.main_pid(), naps()
    said = here.admit("install", "--allow-sudo")
    assert said["written"] == [str(here.units / "admit.service")]
    assert "NoNewPrivileges" not in (here.units / "admit.service").read_text()
    assert here.main_pid() != before[0]
    assert naps() == before[1]
    assert [each["id"] for each in here.daemon.capacity()["reservations"]] == [held]
    assert here.daemon.state("nap") == "loaded"
    here.systemd.run("kill", str(holder))
    assert here.admit("install")["changed"] is False, "what was asked for once stands"
    assert here.daemon.act("/services/nap/unload").status == 200


def test_another_port_moves_the_sockets(here: Installed) -> None:
    old, new = here.daemon.port, free_port()
    said = here.admit("install", "--port", str(new))
    assert (said["port"], len(said["written"])) == (new, 2)
    assert here.admit("status")["port"] == new
    with pytest.raises(ConnectionRefusedError):
        here.daemon.ask("GET", "/healthz")
    here.admit("install", "--port", str(old))
    assert here.daemon.ask("GET", "/healthz").status == 200


def test_what_only_the_user_can_mend_is_not_tried_again(here: Installed) -> None:
    good = here.daemon.capacity_file.read_text()
    here.daemon.capacity_file.write_text("services: 3\n")
    before = int(here.systemd.shown("admit.service", "NRestarts"))
    here.end("KILL")
    until(lambda: here.systemd.shown("admit.service", "ActiveState") == "failed", WITHIN_S)
    assert here.systemd.shown("admit.service", "ExecMainStatus") == "78"
    assert int(here.systemd.shown("admit.service", "NRestarts")) == before + 1, "once for the crash"
    said = here.admit("status", code=69)
    assert not said["running"] and "exit-code" in said["said"]
    until(lambda: here.systemd.shown("admit.socket", "ActiveState") == "active", WITHIN_S)
    found = here.doctor()
    assert (found["port"]["level"], "held for the installed" in found["port"]["what"]) == ("ok", True)
    assert (found["supervisor"]["level"], found["file"]["level"]) == ("fault", "fault")
    assert here.systemd.shown("admit.socket", "ActiveState") == "active", "to look must not change it"
    assert int(here.systemd.shown("admit.service", "NRestarts")) == before + 1
    here.daemon.write(good)
    assert here.paste(found["supervisor"]["mend"]).returncode == 0
    assert here.doctor()["supervisor"]["level"] == "ok"


def test_stopped_it_stays_stopped_and_the_command_line_goes_on(here: Installed) -> None:
    here.admit("stop")
    assert here.admit("status", code=69)["running"] is False
    asked = here.systemd.run(str(ADMIT), "status", environ={"ADMIT_PORT": str(here.daemon.port)})
    assert (asked.returncode, "no daemon listens" in asked.stderr) == (0, True)
    found = here.doctor()["supervisor"]
    assert (found["level"], found["what"]) == ("warning", "the installed daemon does not run: inactive (dead)")
    assert here.systemd.shown("admit.service", "ActiveState") == "inactive"
    assert here.paste(found["mend"]).returncode == 0
    assert here.doctor()["supervisor"]["level"] == "ok"


def test_one_that_sleeps_is_woken_by_the_first_who_asks(here: Installed) -> None:
    """Only its service was ended, by whatever means: the sockets are still held."""
    here.systemd.ctl("stop", "admit.service")
    named = here.systemd.run(str(ADMIT), "status", environ={"ADMIT_PORT": str(here.daemon.port)})
    assert (named.returncode, "the daemon is only just starting" in named.stderr) == (0, True)
    asked = here.systemd.run(str(ADMIT), "status", environ={"ADMIT_PORT": str(here.daemon.port), "ADMIT_CONFIG": ""})
    assert (asked.returncode, asked.stderr) == (0, "")
    assert here.systemd.shown("admit.service", "ActiveState") == "active"
    here.systemd.ctl("stop", "admit.service")
    assert here.admit("install")["changed"] is False


def test_uninstalled_nothing_of_it_is_left_but_what_is_the_users(here: Installed) -> None:
    said = here.admit("uninstall")
    assert sorted(said["removed"]) == [str(here.units / "admit.service"), str(here.units / "admit.socket")]
    assert here.daemon.capacity_file.exists() and str(here.daemon.capacity_file) in said["kept"]
    assert not list(here.units.rglob("admit*"))
    assert here.systemd.shown("admit.service", "LoadState") == "not-found"
    assert not here.daemon.socket_path.exists()
    with pytest.raises(ConnectionRefusedError):
        here.daemon.ask("GET", "/healthz")


def as_in_the_docs(said: str, daemon: Daemon) -> str:
    said = said.replace(str(daemon.capacity_file), "/home/me/.config/admit/capacity.yaml")
    said = said.replace(daemon.environ["HOME"], "/home/me").replace(str(daemon.port), "2189")
    return re.sub(r"pid \d+", "pid 4242", said)


def test_it_is_there_after_a_boot_and_its_sockets_before_it(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="a") as home:
        daemon = prepared(Path(home, "f"), sleeper("nap", 3), Path(home))
        with usersystemd.running(daemon.environ) as first:
            done = first.run(str(ADMIT), "daemon", "install", environ={"ADMIT_PORT": str(daemon.port)})
            assert as_in_the_docs(done.stdout, daemon) in (ROOT / "docs/installing.md").read_text()
        assert os.path.exists(Path(home, ".config/systemd/user/default.target.wants/admit.service"))
        with usersystemd.running(daemon.environ, target="default.target") as second:
            until(lambda: second.shown("admit.service", "ActiveState") == "active", WITHIN_S)
            assert daemon.ask("GET", "/healthz").status == 200
            listens = int(second.shown("admit.socket", "ActiveEnterTimestampMonotonic"))
            starts = int(second.shown("admit.service", "ExecMainStartTimestampMonotonic"))
            assert 0 < listens <= starts
