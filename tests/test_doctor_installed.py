"""What `admit doctor` says of a daemon under a real `systemd --user`, and whether what mends it does."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import usersystemd
from tests.daemons import free_port, nap, until
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


def test_doctor_names_the_port_that_it_was_installed_for(here: Installed) -> None:
    found = here.doctor(free_port())["supervisor"]
    assert (found["level"], found["mend"]) == ("warning", f"export ADMIT_PORT={here.daemon.port}")


def test_a_unit_of_the_users_own_is_not_the_daemons(installed: Installed) -> None:
    installed.admit("uninstall")
    own = installed.units / "admit-chat.service"
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text("[Service]\nExecStart=/bin/true\n")
    assert installed.doctor()["supervisor"]["level"] == "ok"
    own.unlink()


def test_one_started_by_hand_makes_room_for_the_installed_one(installed: Installed) -> None:
    installed.admit("uninstall")
    by_hand = installed.paste("admit daemon run >/dev/null 2>&1 & echo $!").stdout.strip()

    def serves() -> bool:
        with contextlib.suppress(OSError):
            return installed.daemon.ask("GET", "/healthz").status == 200
        return False

    until(serves, WITHIN_S)
    found = installed.doctor()["supervisor"]
    assert (found["level"], found["mend"]) == ("warning", f"kill {by_hand}; admit daemon install")
    done = installed.paste(found["mend"])
    assert done.returncode == 0, done.stderr
    assert installed.doctor()["supervisor"]["level"] == "ok"


def test_what_doctor_says_of_one_of_another_version_starts_it_anew(here: Installed, tmp_path: Path) -> None:
    newer = tmp_path / "newer.py"
    newer.write_text("import admitd; admitd.__version__ = '9.9'\nfrom admit_cli.main import main; main()\n")
    asked = here.paste(f"{sys.executable} {newer} doctor --json")
    (found,) = [each for each in json.loads(asked.stdout)["findings"] if each["check"] == "daemon"]
    assert found["level"] == "fault" and found["what"].endswith("and this command 9.9")
    before = here.main_pid()
    done = here.paste(found["mend"])
    assert done.returncode == 0, done.stderr
    assert here.another_than(before) and here.daemon.ask("GET", "/healthz").status == 200


def test_what_the_daemon_loads_is_not_unloaded_by_stopping_the_daemon(here: Installed) -> None:
    """It runs inside of the daemon's unit."""
    assert here.daemon.act("/services/nap/load").status == 200
    assert here.doctor()["respawns"]["level"] == "ok"
    assert here.daemon.act("/services/nap/unload").status == 200


@pytest.mark.parametrize(("runs", "stops"), [("exec {nap}", True), ("({nap} &); sleep 300", False)])
def test_a_unit_is_only_stopped_for_what_systemd_started_in_it(installed: Installed, runs: str, stops: bool) -> None:
    """And not for what was left alone there, which systemd adopts: the unit may be a whole terminal's."""
    installed.paste(f"systemd-run --user --unit=work --collect sh -c '{runs.format(nap=nap(1))}'")
    until(lambda: "nap: the systemd unit work.service" in installed.doctor()["respawns"]["what"], WITHIN_S)
    mend = installed.doctor()["respawns"]["mend"]
    installed.paste("systemctl --user stop work.service")
    until(lambda: installed.doctor()["respawns"]["level"] == "ok", WITHIN_S)
    wanted = "admit service edit nap 'unload_cmd=systemctl --user stop work.service'"
    assert mend == (wanted if stops else None)
