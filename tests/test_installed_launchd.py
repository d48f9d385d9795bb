"""The daemon as a launchd agent: its plist as it is parsed, and a stand-in for launchctl that keeps its exit codes."""

from __future__ import annotations

import json
import os
import plistlib
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from admit_cli import main
from admitd import installing
from admitd.installing.launchd import LABEL, Launchd, plist
from admitd.installing.wanted import KeeperFailed, NotInstalled, Wanted
from tests import fakelaunchctl
from tests.daemons import ADMIT, Daemon, prepared, sleeper, until

WITHIN_S = 60.0
UID = os.getuid()


@dataclass
class Mac:
    """A home with a capacity file, and the launchd that is not there."""

    daemon: Daemon
    folder: Path

    @property
    def home(self) -> Path:
        return Path(self.daemon.environ["HOME"])

    @property
    def plist(self) -> Path:
        return self.home / "Library" / "LaunchAgents" / f"{LABEL}.plist"

    @property
    def log(self) -> Path:
        return self.home / "Library" / "Logs" / "admit" / "admitd.log"

    def launchd(self, bound_s: float = WITHIN_S) -> Launchd:
        return Launchd(str(self.home), UID, launchctl=str(self.folder / "launchctl"), bound_s=bound_s)

    def wanted(self, **other: Any) -> Wanted:
        environ = {**self.daemon.environ, **other.pop("environ", {})}
        said = {"port": self.daemon.port, "config": None, "log": str(self.log), **other}
        return Wanted(program=str(ADMIT), unix=str(self.daemon.socket_path), environ=environ, **said)

    def is_up(self) -> bool:
        try:
            return self.daemon.ask("GET", "/healthz").status == 200
        except OSError:
            return False

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        return found

    def remember(self, **changed: Any) -> None:
        now = self.state if (self.folder / "state.json").exists() else {}
        (self.folder / "state.json").write_text(json.dumps({**now, **changed}))

    def said(self) -> list[str]:
        """The launchctl commands so far, looks left out."""
        lines = (self.folder / "said").read_text().splitlines()
        return [line.split()[0] for line in lines if not line.startswith("print ")]


@pytest.fixture
def mac() -> Iterator[Mac]:
    with tempfile.TemporaryDirectory(prefix="a") as home:
        folder = Path(home, "l")
        folder.mkdir()
        script = folder / "launchctl"
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {fakelaunchctl.__file__} {folder} "$@"\n')
        script.chmod(0o755)
        made = Mac(prepared(Path(home, "f"), sleeper("nap", 1), Path(home)), folder)
        try:
            yield made
        finally:
            if (folder / "state.json").exists() and fakelaunchctl.runs(made.state["pid"]):
                os.kill(made.state["pid"], signal.SIGKILL)


def test_the_plist_says_what_launchd_must_know(mac: Mac) -> None:
    found = plistlib.loads(plist(mac.wanted(config="/a b/capacity.yaml")))
    environ = found.pop("EnvironmentVariables")
    assert found == {
        "Label": LABEL,
        "ProgramArguments": [
            *(str(ADMIT), "daemon", "run", "--port", str(mac.daemon.port)),
            *("--config", "/a b/capacity.yaml"),
        ],
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 15,
        "ExitTimeOut": 20,
        "ProcessType": "Interactive",
        "AbandonProcessGroup": True,
        "LimitLoadToSessionType": "Aqua",
        "StandardOutPath": str(mac.log),
        "StandardErrorPath": str(mac.log),
    }
    assert environ == {**mac.daemon.environ, "ADMIT_LOG": str(mac.log), "ADMIT_SUPERVISOR": "launchd"}
    assert all(isinstance(value, str) for value in environ.values()), "launchd ignores all others, silently"


def test_a_path_with_anything_in_it_comes_back_as_it_was(mac: Mac) -> None:
    odd = 'a & b <c> "d" é %h $HOME'
    assert plistlib.loads(plist(mac.wanted(environ={"ODD": odd})))["EnvironmentVariables"]["ODD"] == odd


def test_it_is_installed_and_runs_with_what_the_plist_gives_it(mac: Mac) -> None:
    assert mac.launchd().install(mac.wanted()) == (str(mac.plist),)
    assert mac.plist.stat().st_mode & 0o777 == 0o644
    until(mac.is_up, WITHIN_S)
    assert mac.said() == ["enable", "bootstrap", "kickstart"]
    state = mac.launchd().state()
    assert (state.installed, state.running, state.port) == (True, True, mac.daemon.port)
    assert "listens on" in until(lambda: "\n".join(mac.launchd().log(100)), WITHIN_S)


def test_what_it_starts_knows_nothing_of_the_supervisor(mac: Mac) -> None:
    """A service that wrote into the daemon's log, or spoke for it, would be a fault of ours."""
    mac.launchd().install(mac.wanted())
    until(mac.is_up, WITHIN_S)
    mac.daemon.write(mac.daemon.capacity_file.read_text() + f"  told: {json.dumps(_telling(mac.home))}\n")
    token = (mac.daemon.places / "token").read_text().strip()
    mac.daemon.token = token
    until(lambda: "told" in [each["name"] for each in mac.daemon.capacity()["services"]], WITHIN_S)
    assert mac.daemon.act("/services/told/load").status == 200
    assert "ADMIT_LOG" not in (mac.home / "environ").read_text()


def _telling(home: Path) -> dict[str, Any]:
    check = ["test", "-e", str(home / "environ")]
    return {"ram_budget_mb": 1, "loaded_check_cmd": check, "load_cmd": f"env > {home}/environ"}


def test_a_second_install_leaves_the_running_one_alone(mac: Mac) -> None:
    mac.launchd().install(mac.wanted())
    pid = mac.state["pid"]
    assert mac.launchd().install(mac.wanted()) == ()
    assert mac.state["pid"] == pid
    assert mac.said() == ["enable", "bootstrap", "kickstart", "kickstart"]


def test_a_changed_one_is_booted_out_awaited_and_booted_anew(mac: Mac) -> None:
    """Over a loaded job, bootstrap keeps the old definition."""
    mac.launchd().install(mac.wanted())
    assert mac.launchd().install(mac.wanted(environ={"LANG": "C"})) == (str(mac.plist),)
    assert mac.said() == ["enable", "bootstrap", "kickstart", "bootout", "enable", "bootstrap", "kickstart"]
    assert mac.state["job"]["EnvironmentVariables"]["LANG"] == "C"


def test_a_bootstrap_that_meets_a_bootout_tries_again(mac: Mac) -> None:
    """5: somebody else booted it out a moment ago, and it has not gone yet."""
    mac.remember(races=2)
    mac.launchd().install(mac.wanted())
    assert mac.said() == ["enable", "bootstrap", "bootstrap", "bootstrap", "kickstart"]


def test_one_that_was_disabled_is_enabled_first(mac: Mac) -> None:
    """A `disable` outlives every uninstall."""
    mac.remember(disabled=True)
    mac.launchd().install(mac.wanted())
    assert mac.state["job"] is not None


def test_a_job_of_another_definition_that_came_between_is_replaced(mac: Mac) -> None:
    mac.launchd().install(mac.wanted())
    launchd = mac.launchd()
    launchd._boot_in()
    assert mac.said()[3:] == ["enable", "bootstrap", "bootout", "bootstrap", "kickstart"]


def test_a_plist_that_others_may_write_to_is_told(mac: Mac) -> None:
    mac.launchd().install(mac.wanted())
    mac.launchd().stop()
    mac.plist.chmod(0o666)
    with pytest.raises(KeeperFailed, match="ended with 122: the plist must be yours"):
        mac.launchd().start()


@pytest.mark.parametrize("code", [112, 125])
def test_without_a_desktop_session_it_is_said_what_to_do(mac: Mac, code: int) -> None:
    """Over ssh, say. Which of the two is said differs by version of macOS."""
    mac.remember(refuses=code)
    with pytest.raises(KeeperFailed, match=f"{code}: there is no desktop session of yours: log in at the screen"):
        mac.launchd().install(mac.wanted())
    assert not mac.plist.exists()
    assert "no desktop session" in mac.launchd().state().said
    assert mac.launchd().uninstall() == ()


def test_without_a_desktop_session_it_is_uninstalled_all_the_same(mac: Mac) -> None:
    """Its plist would start it again at the next login."""
    mac.launchd().install(mac.wanted())
    mac.remember(refuses=125)
    assert mac.launchd().uninstall() == (str(mac.plist),)
    assert not mac.plist.exists()


def test_a_bootout_that_says_it_goes_on_still_is_waited_for(mac: Mac) -> None:
    mac.launchd().install(mac.wanted())
    until(mac.is_up, WITHIN_S)
    mac.remember(in_progress=True)
    assert mac.launchd().uninstall() == (str(mac.plist),)
    assert not mac.is_up()


def test_what_bootstrap_leaves_without_a_process_is_started(mac: Mac) -> None:
    mac.remember(idle=True)
    mac.launchd().install(mac.wanted())
    until(mac.is_up, WITHIN_S)


def test_a_restart_that_meets_another_tries_again(mac: Mac) -> None:
    mac.launchd().install(mac.wanted())
    mac.remember(races=2)
    mac.launchd().restart()
    assert mac.said()[3:] == ["kickstart"] * 3


@pytest.mark.parametrize("plist", [b"", b"<?xml version='1.0'?><plist", b"bplist00", plistlib.dumps([])])
def test_a_plist_that_somebody_has_broken_is_shown_as_far_as_it_goes(mac: Mac, plist: bytes) -> None:
    mac.plist.parent.mkdir(parents=True)
    mac.plist.write_bytes(plist)
    state = mac.launchd().state()
    assert (state.installed, state.command) == (True, ())


def test_one_that_does_not_end_is_not_waited_for_for_ever(mac: Mac) -> None:
    mac.launchd().install(mac.wanted())
    until(mac.is_up, WITHIN_S)
    os.kill(mac.state["pid"], signal.SIGSTOP)
    try:
        with pytest.raises(KeeperFailed, match="did not end in 1 s"):
            mac.launchd(bound_s=1).stop()
    finally:
        os.kill(mac.state["pid"], signal.SIGCONT)


def test_stopped_started_and_restarted(mac: Mac) -> None:
    with pytest.raises(NotInstalled):
        mac.launchd().start()
    mac.launchd().install(mac.wanted())
    until(mac.is_up, WITHIN_S)
    before = mac.state["pid"]
    mac.launchd().restart()
    until(mac.is_up, WITHIN_S)
    assert mac.state["pid"] != before
    mac.launchd().stop()
    assert not mac.is_up() and not mac.launchd().state().running
    mac.launchd().restart()
    until(mac.is_up, WITHIN_S)


def test_uninstalled_twice_leaves_the_users_files(mac: Mac) -> None:
    mac.launchd().install(mac.wanted())
    assert mac.launchd().uninstall() == (str(mac.plist),)
    assert not mac.plist.exists() and not mac.is_up()
    assert mac.launchd().uninstall() == ()
    assert mac.daemon.capacity_file.exists()


def test_what_only_the_user_can_mend_ends_with_0_there(mac: Mac) -> None:
    """launchd starts anew whatever ends with anything else, every 15 s and for ever."""
    mac.daemon.write("services: 3\n")
    mac.launchd().install(mac.wanted())
    until(lambda: not fakelaunchctl.runs(mac.state["pid"]), WITHIN_S)
    assert "hosts" in "\n".join(mac.launchd().log(100))
    done = mac.daemon.admit("daemon", "run")
    assert done.returncode == 78
    mac.daemon.environ |= {"ADMIT_SUPERVISOR": "launchd", "ADMIT_LOG": str(mac.log)}
    assert (mac.daemon.admit("daemon", "run").returncode, done.stdout) == (0, "")


def test_that_launchd_may_not_read_it_is_said_before_it_fails(
    mac: Mac, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(installing, "for_this_system", lambda environ, home: mac.launchd())
    monkeypatch.setattr(sys, "argv", [str(ADMIT)])
    for name, value in {**mac.daemon.environ, "ADMIT_PORT": str(mac.daemon.port)}.items():
        monkeypatch.setenv(name, value)
    there = mac.home / "Documents" / "capacity.yaml"
    there.parent.mkdir()
    there.write_text(mac.daemon.capacity_file.read_text())
    assert main.dispatch(["--config", str(there), "daemon", "install"]) == 0
    assert f"admit: macOS keeps {there} from programs that launchd starts" in capsys.readouterr().err


def test_the_command_line_shows_all_of_it(
    mac: Mac, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def arrange() -> None:
        monkeypatch.setattr(installing, "for_this_system", lambda environ, home: mac.launchd())
        monkeypatch.setattr(sys, "argv", [str(ADMIT)])
        for name, value in {**mac.daemon.environ, "ADMIT_PORT": str(mac.daemon.port)}.items():
            monkeypatch.setenv(name, value)

    arrange()
    assert main.dispatch(["daemon", "install"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [f"wrote {mac.plist}", f"the daemon is installed under launchd: loaded, pid {mac.state['pid']}"]
    assert said[4] == f"  goes by   {mac.daemon.capacity_file}"
    monkeypatch.setattr("admit_cli.install.__version__", "9.9")
    assert main.dispatch(["daemon", "status"]) == 0
    assert "admit 0" in (stale := capsys.readouterr().out) and "this is 9.9; next: admit daemon restart" in stale
    assert main.dispatch(["daemon", "install"]) == 0
    capsys.readouterr()
    assert "\nkickstart -k " in (mac.folder / "said").read_text(), "an upgrade is started anew"
    monkeypatch.undo()
    arrange()
    assert main.dispatch(["daemon", "logs", "--json", "--lines", "1"]) == 0
    assert "live_veto off" in json.loads(capsys.readouterr().out)["lines"][-1]
    became: list[list[str]] = []
    monkeypatch.setattr("admitd.actuator.become", became.append)
    assert main.dispatch(["daemon", "logs", "--follow"]) == 0
    assert became == [["tail", "-n", "100", "-F", str(mac.log)]]
    assert main.dispatch(["daemon", "stop"]) == 0
    assert main.dispatch(["daemon", "status"]) == 69
    assert "answers   no; next: admit daemon start" in capsys.readouterr().out
    assert main.dispatch(["daemon", "uninstall"]) == 0
    assert f"  kept      {mac.daemon.capacity_file}" in capsys.readouterr().out
    assert main.dispatch(["daemon", "restart"]) == 66
    assert "run: admit daemon install" in capsys.readouterr().err
