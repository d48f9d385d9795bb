"""The sentinel in its daemon: what it says of itself, and what is left when the daemon is killed in the middle."""

from __future__ import annotations

import json
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from admitd.boot import boot_id
from tests.live.sentinels import hits, listens, stand_in, start_stand_in
from tests.live.servers import Servers, wait_until


class Daemon:
    """One daemon over one capacity.yaml; killed and started again at will."""

    def __init__(self, servers: Servers, folder: Path, port: int, services: dict[str, Any]) -> None:
        self._servers = servers
        self._port = port
        self._file = folder / "capacity.yaml"
        content = {
            "hosts": {"here": {"ram_physical_mb": 65_536, "ram_reserved_mb": 1, "ram_safety_mb": 1}},
            "services": services,
            "sentinel": {"stopped_interval_s": 0.5, "probe_interval_s": 0.5},
            "live_veto": "off",
        }
        self._file.write_text(yaml.safe_dump(content))
        self._file.chmod(0o600)
        self._env = {
            **servers.env,
            "HOME": str(folder),
            "XDG_STATE_HOME": str(folder / "state"),
            "ADMIT_STATE_DIR": str(folder / "reservations"),
        }

    def start(self) -> subprocess.Popen[bytes]:
        process = self._servers.start(
            "admit", "--config", self._file, "daemon", "run", "--port", str(self._port), env=self._env
        )
        wait_until(self._is_up, 30, lambda: "the daemon listens")
        return process

    def admit(self, *words: str) -> int:
        """The exit code of a command that a user gives."""
        return self._servers.start("admit", "--config", self._file, *words, env=self._env).wait(60)

    def ask(self, path: str) -> Any:
        return json.loads(self.text(path))

    def text(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    def kinds(self) -> list[str]:
        return [each["kind"] for each in self.ask("/events")["events"]]

    def _is_up(self) -> bool:
        try:
            return bool(self.ask("/healthz"))
        except OSError:
            return False


def test_how_its_rounds_go_is_shown(servers: Servers, tmp_path: Path, free_port: Callable[[], int]) -> None:
    daemon = Daemon(servers, tmp_path, free_port(), {})
    process = daemon.start()
    wait_until(lambda: daemon.ask("/healthz")["sentinel"]["rounds"] >= 3)
    told = daemon.ask("/healthz")["sentinel"]
    assert told["errors"] == 0
    assert told["last_round_s_ago"] < 5
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert not list((tmp_path / "state" / "admit").glob("*.alive")), "a clean end leaves no sign of life"


@pytest.mark.slow
def test_killed_in_the_middle_of_a_recovery_nothing_needs_repair(
    servers: Servers, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """What it had started goes on and stays reserved; the next daemon says so, and recovers nothing twice."""
    port = free_port()
    start_stand_in(servers, port, "--mode", "hang")
    slow = stand_in(port, load_timeout_s=30)
    slow["load_cmd"] = f"sleep 6; exec {slow['load_cmd']}"
    daemon = Daemon(servers, tmp_path, free_port(), {"chat": slow})
    first = daemon.start()
    wait_until(lambda: "admitted" in daemon.kinds(), 30, lambda: "the load begins")
    begun = f"exec {slow['load_cmd'].split('exec ')[1]}"
    wait_until(
        lambda: any(begun in " ".join(each.cmdline()) for each in servers.alive()), 30, lambda: "its command runs"
    )
    first.kill()
    first.wait()
    daemon.start()
    assert [held["service"] for held in daemon.ask("/capacity")["reservations"]] == ["chat"]
    wait_until(lambda: listens(port), 30, lambda: "what the first daemon started goes on")
    wait_until(lambda: daemon.ask("/capacity")["reservations"] == [], 10, lambda: "and its reservation ends")
    before = hits(port)
    wait_until(lambda: hits(port) >= before + 2, 20, lambda: "it is probed, and answers")
    told = daemon.ask("/events")["events"]
    assert [each["kind"] for each in told].count("recovering") == 1
    assert any("in the middle of recovering chat" in each["text"] for each in told)


def test_who_is_held_back_since_the_machine_went_down_is_so_until_somebody_loads_it(
    servers: Servers, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """Also by a daemon that was started anew meanwhile."""
    port, own = free_port(), free_port()
    chat = stand_in(port)
    del chat["probe"]
    daemon = Daemon(servers, tmp_path, own, {"chat": chat})
    held = tmp_path / "state" / "admit" / f"admitd-{own}.held"
    held.parent.mkdir(parents=True)
    held.write_text(f"{boot_id()} {time.monotonic():.6f} chat\n")
    for end in (signal.SIGTERM, signal.SIGKILL):
        process = daemon.start()
        wait_until(lambda: daemon.ask("/healthz")["sentinel"]["rounds"] >= 2)
        assert held.read_text().split()[2:] == ["chat"]
        process.send_signal(end)
        process.wait(30)
    assert daemon.admit("load", "chat") == 0, "no daemon is there, and it counts all the same"
    daemon.start()
    wait_until(lambda: not held.exists())
