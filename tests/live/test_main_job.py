"""The main job on real servers: mlx_lm.server and llama.cpp's, declared, admitted, refused, evicted, lost and found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.live.servers import Servers, wait_until

POOL_MB = 1200
OK, FAILED, REFUSED = 0, 1, 2


@dataclass
class House:
    """A capacity.yaml with real servers in it, and the command line that goes by it."""

    servers: Servers
    folder: Path
    ports: dict[str, int]

    @property
    def env(self) -> dict[str, str]:
        return {
            **self.servers.env,
            "HOME": str(self.folder),
            "XDG_STATE_HOME": str(self.folder / "state"),
            "ADMIT_STATE_DIR": str(self.folder / "reservations"),
            "ADMIT_CONFIG": str(self.folder / "capacity.yaml"),
            "ADMIT_PORT": "1",  # where no daemon can be
        }

    def admit(self, *words: str) -> tuple[int, dict[str, Any], str]:
        """Exit code, JSON, stderr of one command."""
        done = self._run(["admit", *words, "--json"])
        return done.returncode, json.loads(done.stdout) if done.stdout.strip() else {}, done.stderr

    def paste(self, remedy: str) -> int:
        """Run a remedy as it was printed."""
        return self._run(["/bin/sh", "-c", remedy]).returncode

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        where = {"env": self.env, "cwd": self.folder}
        return subprocess.run(command, **where, capture_output=True, text=True, timeout=120, check=False)

    def of(self, name: str) -> dict[str, Any]:
        """A service's line in the ledger."""
        _, ledger, _ = self.admit("status")
        return next(service for service in ledger["services"] if service["name"] == name)


@pytest.fixture
def house(
    servers: Servers, tmp_path: Path, mlx_model: Callable[..., Path], gguf_model: Callable[..., Path],
    free_port: Callable[[], int],
) -> House:  # fmt: skip
    """chat and coder are MLX servers that exclude each other, llama is llama.cpp's; any two of them are too much."""
    ports = {name: free_port() for name in ("chat", "coder", "llama")}
    mlx, gguf = mlx_model(), gguf_model()
    load = {
        "chat": f"mlx_lm.server --model {mlx} --port {ports['chat']}",
        "coder": f"mlx_lm.server --model {mlx} --port {ports['coder']}",
        "llama": f"llama-server -m {gguf} --port {ports['llama']}",
    }
    programs = {"chat": r"mlx_lm\.server", "coder": r"mlx_lm\.server", "llama": "llama-server"}
    services: dict[str, dict[str, Any]] = {
        name: {
            "ram_budget_mb": 700,
            "process_pattern": f"{programs[name]} .*--port {ports[name]}$",
            "load_cmd": command,
            "load_timeout_s": 60,
            "probe": {"url": f"http://127.0.0.1:{ports[name]}/v1/chat/completions"},
        }
        for name, command in load.items()
    }
    services["llama"]["priority"] = 10
    services["coder"]["exclusive_with"] = ["chat"]
    hosts = {"here": {"ram_physical_mb": POOL_MB + 512, "ram_reserved_mb": 256, "ram_safety_mb": 256}}
    file = tmp_path / "capacity.yaml"
    file.write_text(yaml.safe_dump({"hosts": hosts, "services": services}))
    file.chmod(0o600)
    return House(servers, tmp_path, ports)


def test_loaded_already_loaded_refused_evicted_unloaded(house: House) -> None:
    """The story whole, on an MLX server and llama.cpp's."""
    code, loaded, _ = house.admit("load", "chat")
    assert (code, loaded["outcome"]) == (OK, "loaded")
    house.servers.answer(house.ports["chat"])
    chat = house.of("chat")
    assert (chat["state"], chat["pids"], chat["charged_mb"]) == ("loaded", loaded["pids"], 700)
    assert 50 < chat["measured_mb"] < 400

    code, again, _ = house.admit("load", "chat")
    assert (code, again["verdict"]) == (OK, "already_loaded")

    code, refused, told = house.admit("load", "llama")
    assert (code, refused["reason"], refused["shortfall_mb"]) == (REFUSED, "no-headroom", 200)
    assert [blocker["service"] for blocker in refused["blockers"]] == ["chat"]
    assert refused["remedy"] == "admit unload chat"
    assert "admit unload chat" in told

    code, excluded, _ = house.admit("load", "coder")
    assert (code, excluded["reason"], excluded["victims"]) == (REFUSED, "exclusive", ["chat"])

    code, evicted, _ = house.admit("load", "llama", "--evict", "--yes")
    assert (code, evicted["outcome"]) == (OK, "loaded")
    house.servers.answer(house.ports["llama"])
    assert house.of("chat")["state"] == "stopped"

    code, kept, _ = house.admit("load", "chat")
    assert (code, kept["victims"], kept["remedy"]) == (REFUSED, [], None)
    assert "llama has a higher priority" in kept["detail"]

    code, gone, _ = house.admit("unload", "llama")
    assert (code, gone["outcome"]) == (OK, "unloaded")
    assert house.servers.alive() == []


def test_the_remedy_as_printed_makes_room(house: House) -> None:
    """A refusal's one command, pasted into a shell, and then it fits."""
    assert house.admit("load", "llama")[0] == OK
    code, refused, _ = house.admit("load", "chat", "--evict", "--yes")
    assert (code, refused["remedy"]) == (REFUSED, None), "a higher priority is nobody's victim"
    assert house.paste(refused["blockers"][0]["remedy"]) == OK
    assert house.admit("load", "chat")[0] == OK
    code, refused, _ = house.admit("load", "llama")
    assert code == REFUSED
    assert house.paste(refused["remedy"]) == OK
    assert house.admit("load", "llama")[0] == OK


def test_killed_by_hand_and_loaded_again(house: House) -> None:
    """Nothing remembers it: what the process table does not show is not charged."""
    _, loaded, _ = house.admit("load", "chat")
    os.kill(loaded["pids"][0], signal.SIGKILL)
    wait_until(lambda: house.of("chat")["state"] == "stopped")
    assert house.admit("plan", "llama")[1]["fits"]
    assert house.admit("load", "chat")[1]["outcome"] == "loaded"


def test_started_by_hand_and_seen(house: House, mlx_model: Callable[..., Path]) -> None:
    """A server that nobody asked for is charged as any other, and can be unloaded."""
    by_hand = house.servers.start("mlx_lm.server", "--model", mlx_model(), "--port", str(house.ports["chat"]))
    wait_until(lambda: house.of("chat")["state"] == "loaded")
    assert house.of("chat")["pids"] == [by_hand.pid]
    assert house.admit("load", "llama")[0] == REFUSED
    assert house.admit("unload", "chat")[0] == OK
    assert by_hand.wait(10) == -signal.SIGTERM


def test_a_crash_while_loading_gives_everything_back(house: House) -> None:
    """Killed before it answers: exit 1, the reason, and nothing reserved."""
    environment = {**house.env}
    loading = house.servers.start("admit", "load", "chat", env=environment, cwd=house.folder)
    server = wait_until(lambda: house.of("chat")["pids"], 30)[0]
    psutil.Process(server).kill()
    assert loading.wait(60) == FAILED, house.servers.log(loading)
    assert "chat failed to load" in house.servers.log(loading)
    _, ledger, _ = house.admit("status")
    assert (ledger["reservations"], ledger["free_mb"]) == ([], POOL_MB)


def test_a_server_that_cannot_load_says_why(house: House) -> None:
    """The last lines of its log, exit 1, the room given back."""
    file = house.folder / "capacity.yaml"
    broken = file.read_text()
    model = next(word for word in broken.split() if word.endswith(".gguf"))
    file.write_text(broken.replace(model, str(house.folder / "missing.gguf")))
    code, failed, told = house.admit("load", "llama")
    assert (code, failed["outcome"]) == (FAILED, "failed")
    assert "missing.gguf" in told
    assert house.admit("status")[1]["free_mb"] == POOL_MB
