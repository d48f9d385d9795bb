"""`admit measure` of a real server that is used: what it says is what the server held."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bench.estimating import peak, use
from tests.live.servers import Servers

ROOT = Path(__file__).parents[2]


def test_a_model_server_is_measured_while_it_works(servers: Servers, mlx_model, free_port, tmp_path: Path) -> None:
    port, model = free_port(), mlx_model("--kv")
    config = tmp_path / "capacity.yaml"
    config.write_text(
        "hosts:\n  box: {ram_physical_mb: 16384, ram_reserved_mb: 4096, ram_safety_mb: 2048}\nlive_veto: off\n"
        f"services:\n  chat: {{ram_budget_mb: 64, process_pattern: 'mlx_lm[.]server .*--port {port}'}}\n"
    )
    config.chmod(0o600)
    env = {**servers.env, "PYTHONPATH": str(ROOT), "ADMIT_STATE_DIR": str(tmp_path), "HOME": str(tmp_path)}
    server = servers.start("mlx_lm.server", "--model", model, "--port", str(port))
    servers.answer(port)
    before = peak(server.pid)

    words = ["measure", "chat", "--for", "20s", "--write", "--json", "--config", str(config)]
    line = [sys.executable, "-c", "from admit_cli.main import main; main()", *words]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=env) as measuring:
        use(port, 150)
        said = json.loads(measuring.communicate(timeout=60)[0])

    held = peak(server.pid)
    assert held > before + (50 << 20), "the cache of that prompt"
    assert abs(said["peak_mb"] - (held >> 20)) <= 1
    assert said["notes"] == []
    assert f"ram_budget_mb: {said['ram_budget_mb']}, process_pattern" in config.read_text()
    print(f"measured {said['peak_mb']} MB, {said['cpu_s']} s of processor time, budget {said['ram_budget_mb']} MB")
