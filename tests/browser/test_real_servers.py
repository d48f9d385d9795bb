"""The whole story with real model servers: one loaded by a click and seen, a second refused, the daemon stopped."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.chromium import Show, figure
from tests.daemons import Door
from tests.live.servers import Servers, wait_until

pytestmark = pytest.mark.live


def declared(command: str, pattern: str, port: int) -> dict[str, Any]:
    return {
        "ram_budget_mb": 700,
        "process_pattern": rf"{pattern} .*--port {port}$",
        "load_cmd": command,
        "load_timeout_s": 90,
        "probe": {"url": f"http://127.0.0.1:{port}/v1/chat/completions"},
    }


def test_loaded_by_a_click_seen_a_second_refused_room_made_and_the_daemon_stopped(
    servers: Servers, tmp_path: Path, show: Show, free_port: Callable[[], int],
    mlx_model: Callable[..., Path], gguf_model: Callable[..., Path],
) -> None:  # fmt: skip
    port, mlx_port, llama_port = free_port(), free_port(), free_port()
    content = {
        "hosts": {"here": {"ram_physical_mb": 1712, "ram_reserved_mb": 256, "ram_safety_mb": 256}},
        "services": {
            "mlx": declared(f"mlx_lm.server --model {mlx_model()} --port {mlx_port}", r"mlx_lm\.server", mlx_port),
            "llama": declared(f"llama-server -m {gguf_model()} --port {llama_port}", "llama-server", llama_port),
        },
        "sentinel": {"stopped_interval_s": 0.5, "probe_interval_s": 1},
        "live_veto": "off",
    }
    file = tmp_path / "capacity.yaml"
    file.write_text(json.dumps(content))
    file.chmod(0o600)
    environ = {
        **servers.env,
        "HOME": str(tmp_path),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "ADMIT_STATE_DIR": str(tmp_path / "reservations"),
    }
    daemon = servers.start("admit", "--config", file, "daemon", "run", "--port", str(port), env=environ)
    wait_until(lambda: "live_veto" in servers.log(daemon), 60, lambda: servers.log(daemon))
    shown = show(Door(port, (tmp_path / "state" / "admit" / "token").read_text().strip()))

    shown.button("mlx").click()
    shown.agree("Load")
    shown.give_token()
    expect(shown.card("mlx")).to_contain_text("mlx is loaded", timeout=90_000)
    servers.answer(mlx_port)
    shown.shows("mlx", "loaded")
    assert 50 < figure(shown.cell("mlx", "Measured").inner_text()) < 500
    expect(shown.cell("mlx", "Probe")).to_have_text("answers")
    expect(shown.page.locator('#bar [data-kind="service"]')).to_have_count(1)
    expect(shown.page.locator("#events")).to_contain_text("mlx is loaded after")

    shown.button("llama").click()
    expect(shown.card("llama")).to_contain_text("llama is refused: It does not fit")
    expect(shown.card("llama")).to_contain_text("admit --config")
    shown.card("llama").get_by_role("button", name="Make room and load llama…").click()
    shown.agree("Unload and load")
    expect(shown.card("llama")).to_contain_text("llama is loaded", timeout=90_000)
    shown.shows("mlx", "stopped")
    servers.answer(llama_port)

    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(20) == 0
    expect(shown.page.get_by_role("alert").filter(has_text="The daemon is gone")).to_be_visible()
