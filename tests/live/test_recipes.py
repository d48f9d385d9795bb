"""The recipes that say that they were run: each loaded, answered, refused and unloaded as it stands, on tiny models.

Nothing of a recipe is changed but its ports, which others may use here, and the machine: one that has the memory which
the budgets ask for. The model that it names is there, by that name, and is a small one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.servers import Servers
from tests.live.test_main_job import OK, REFUSED, House

RECIPES = Path(__file__).parents[2] / "config" / "recipes"
HOST = "  this-machine:\n"

Cook = Callable[[str], House]


@pytest.fixture
def cook(servers: Servers, tmp_path: Path, free_port: Callable[[], int]) -> Cook:
    def cook(name: str) -> House:
        text = (RECIPES / name).read_text()
        ports = {port: free_port() for port in sorted(set(re.findall(r"127\.0\.0\.1:(\d+)/", text)))}
        assert ports, "a recipe names where its service answers"
        # All at once: a port that was given here may be one that the recipe names.
        text = re.sub(rf"\b({'|'.join(ports)})\b", lambda found: str(ports[found.group()]), text)
        assert HOST in text
        file = tmp_path / "capacity.yaml"
        file.write_text(text.replace(HOST, f"{HOST}    ram_physical_mb: 65536\n") + "live_veto: off\n")
        file.chmod(0o600)
        return House(servers, tmp_path, ports)

    return cook


def test_mlx_lm(cook: Cook, servers: Servers, tmp_path: Path, mlx_model: Callable[..., Path]) -> None:
    """Both of its services, one after the other: they are exclusive."""
    house = cook("mlx-lm.yaml")
    (tmp_path / "mlx-community").mkdir()
    for model in ("Qwen3.6-35B-A3B-4bit", "Qwen2.5-Coder-14B-Instruct-4bit"):
        (tmp_path / "mlx-community" / model).symlink_to(mlx_model())

    for name, other, port in (("mlx-qwen-35b", "mlx-coder-14b", "8080"), ("mlx-coder-14b", "mlx-qwen-35b", "8081")):
        code, loaded, said = house.admit("load", name)
        assert code == OK, (loaded, said)
        assert servers.answer(house.ports[port])
        line = house.of(name)
        assert (line["state"], len(line["pids"])) == ("loaded", 1)
        code, refused, _ = house.admit("load", other)
        assert (code, refused["reason"]) == (REFUSED, "exclusive")
        assert house.admit("unload", name)[0] == OK
        assert servers.alive() == []


def test_llama_server(cook: Cook, servers: Servers, tmp_path: Path, gguf_model: Callable[..., Path]) -> None:
    house = cook("llama-server.yaml")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "llama-3.1-8b-q4_k_m.gguf").symlink_to(gguf_model())  # below $HOME

    code, loaded, said = house.admit("load", "llama-8b")
    assert code == OK, (loaded, said)
    assert servers.answer(house.ports["8081"])
    line = house.of("llama-8b")
    assert (line["state"], len(line["pids"])) == ("loaded", 1)
    assert house.admit("unload", "llama-8b")[0] == OK
    assert servers.alive() == []
