"""`admit init` while real servers run: the file that it writes stops them and starts them again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from tests.live.servers import Servers, wait_until

ROOT = Path(__file__).parents[2]


def test_what_init_writes_unloads_and_loads_real_servers(
    servers: Servers, mlx_model, gguf_model, free_port, tmp_path: Path
) -> None:
    """mlx_lm.server by a relative path, llama-server by its port; an editor that names both is neither."""
    model, gguf = mlx_model(), gguf_model()
    ports = [free_port(), free_port()]
    mine = tmp_path / "models"
    mine.mkdir()
    (mine / f"own-{ports[0]}").symlink_to(model)
    mlx = servers.start(
        "mlx_lm.server", "--model", f"./own-{ports[0]}", "--port", str(ports[0]), "--prompt-cache-bytes", "64MB",
        cwd=mine,
    )  # fmt: skip
    llama = servers.start("llama-server", "-m", gguf, "--port", str(ports[1]), "-c", "2048")
    decoy = servers.start("tail", "-f", "/dev/null", "mlx_lm.server", f"own-{ports[0]}", cwd=mine)
    for port in ports:
        servers.answer(port)
    config = tmp_path / "home" / "capacity.yaml"
    env = {
        **servers.env,
        "PYTHONPATH": str(ROOT),
        "ADMIT_STATE_DIR": str(tmp_path / "state"),
        "HOME": str(tmp_path),
        "ADMIT_CONFIG": str(config),
        "ADMIT_PORT": str(free_port()),
    }

    def admit(*words: str) -> str:
        line = [sys.executable, "-c", "from admit_cli.main import main; main()", *words]
        done = subprocess.run(line, capture_output=True, text=True, env=env, timeout=110, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    said: dict[int, dict[str, Any]] = {
        pid: each for each in json.loads(admit("init", "--yes", "--json"))["services"] for pid in each["pids"]
    }
    assert decoy.pid not in said
    for process, held in ((mlx, "at 4096 tokens and its cache of prompts 64 MB"), (llama, "at 2048 tokens")):
        each = said[process.pid]
        assert each["matched"] == f"matches process {process.pid} now and nothing else"
        assert held in each["budget_because"]
        assert each["ram_budget_mb"] >= 1.15 * (psutil.Process(process.pid).memory_info().rss >> 20) * 0.8
    admit("config", "check")
    for process, port in ((mlx, ports[0]), (llama, ports[1])):
        name = said[process.pid]["name"]
        admit("unload", name)
        wait_until(lambda process=process: process.poll() is not None)
        admit("load", name)
        servers.answer(port)
    added = admit("service", "add", "more", f"load_cmd=llama-server -m {gguf} --port {free_port()}")
    assert "  +    ram_budget_mb: " in added, "its file says what it will hold"
    print({each["name"]: (each["ram_budget_mb"], each["budget_because"]) for each in said.values()})
