"""Real models, real servers: what a live test needs, made once and kept for the next run."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.sentinels import Guard, environment
from tests.live.servers import GEAR, Servers

MakeModel = Callable[..., Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.live)


@pytest.fixture(scope="session")
def model_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where made models stay between runs; `pytest --cache-clear` empties it."""
    cache = getattr(request.config, "cache", None)
    if cache is None:  # pytest -p no:cacheprovider
        return tmp_path_factory.mktemp("models")
    return Path(cache.mkdir("admit-models"))


def make_once(folder: Path, maker: str, options: list[str], suffix: str) -> Path:
    """Return the model that `maker` makes with `options`; made when it, or its maker, is new."""
    key = hashlib.sha256((GEAR / maker).read_bytes() + repr(options).encode()).hexdigest()[:10]
    name = "-".join(["tiny" if not options else "", *(option.strip("-") for option in options)]).strip("-")
    model = folder / f"{name}-{key}{suffix}"
    if not model.exists():
        command = [sys.executable, GEAR / maker, model, *options]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        # Another run of the tests may have been quicker; makers write a model whole or not at all.
        assert made.returncode == 0 or model.exists(), made.stderr
    return model


@pytest.fixture(scope="session")
def mlx_model(model_folder: Path) -> MakeModel:
    """`mlx_model()` is a tiny one; `mlx_model("--mb", "300")`, `mlx_model("--kv")` take the options of the maker."""
    return lambda *options: make_once(model_folder, "make_mlx_model.py", list(options), "")


@pytest.fixture(scope="session")
def gguf_model(model_folder: Path) -> MakeModel:
    """`gguf_model()` is a tiny one; `gguf_model("--mb", "300")` takes the options of the maker."""
    return lambda *options: make_once(model_folder, "make_gguf.py", list(options), ".gguf")


@pytest.fixture(scope="session")
def server_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which real servers run here: offline, and with `admit` and them on the PATH."""
    home = tmp_path_factory.mktemp("huggingface")
    (home / "hub").mkdir()  # without it mlx_lm.server answers /v1/models with nothing
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), str(GEAR), os.environ["PATH"]]),
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "MLX_DISABLE_COMPILE": "1",  # else the first answer waits for a C++ compiler, which may not be there
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture
def servers(server_env: dict[str, str], tmp_path: Path) -> Iterator[Servers]:
    """Starts servers, and ends all that the test started, by itself or through `admit` run with `servers.env`."""
    servers = Servers(server_env, tmp_path)
    try:
        yield servers
    finally:
        servers.stop_all()


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Each call returns a port on which nothing listens, and never the same twice."""
    given: set[int] = set()

    def free_port() -> int:
        while True:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port: int = probe.getsockname()[1]
            if port not in given:
                given.add(port)
                return port

    return free_port


@pytest.fixture
def guard(servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Guard]]:
    """`guard(services, **settings)` makes a sentinel; a test starts it by `with`."""
    environment(monkeypatch, servers)
    made: list[Guard] = []

    def make(services: dict[str, Any], **settings: Any) -> Guard:
        folder = tmp_path / f"guard-{len(made)}"
        folder.mkdir()
        kept = {name: settings.pop(name) for name in ("watch", "clock") if name in settings}
        made.append(Guard(folder, servers, services, settings, **kept))
        return made[-1]

    yield make
    for each in made:
        each.sentinel.stop()
