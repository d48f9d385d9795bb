"""conftest: pools whose models count, and real models for the tests, made once and kept for the next run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from admit_sdk import holdings, machine
from admit_sdk.governor import MemoryGovernor
from admit_sdk.holdings import Holdings
from admit_sdk.models import Model
from admit_sdk.pool import ModelPool
from admitd.core.units import MIB
from admitd.memory import Memory
from tests.gates import Quiet
from tests.live.conftest import make_once
from tests.sdk import counting
from tests.sdk.counting import Counting, Make


@pytest.fixture
def backend() -> Counting:
    made = Counting()
    counting.use(made)
    return made


@pytest.fixture
def make(backend: Counting, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Pools with a soft budget of 250 MB and a hard one of 300; the heap of the tests is not counted as an app's."""
    monkeypatch.setattr(holdings, "measure", lambda files=(): Holdings(0))
    monkeypatch.setattr(machine, "available", lambda: None)
    made: list[ModelPool] = []

    def make(
        *models: Model,
        soft_mb: int = 250,
        hard_mb: int = 300,
        reserved_mb: int = 0,
        memory: Memory | None = None,
        **options: Any,
    ) -> ModelPool:
        soft, system = soft_mb * MIB, memory or Quiet()
        governor = MemoryGovernor(hard_mb * MIB, reserved_mb * MIB, soft=soft, memory=system, watch=False)
        made.append(ModelPool(governor, models, **options))
        return made[-1]

    yield make
    for each in made:
        assert each.close(30)
        assert each.governor.allocated_bytes == 0
        assert each.governor.close()


@pytest.fixture(scope="session")
def made_models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where made models stay between runs; `pytest --cache-clear` empties it."""
    cache = getattr(request.config, "cache", None)
    return tmp_path_factory.mktemp("models") if cache is None else Path(cache.mkdir("admit-models"))


@pytest.fixture(scope="session")
def mlx_model(made_models: Path) -> Callable[..., Path]:
    """`mlx_model()` is a tiny one; `mlx_model("--mb", "200")` takes the options of the maker."""
    pytest.importorskip("mlx_lm")
    return lambda *options: make_once(made_models, "make_mlx_model.py", list(options), "")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test asks a hub, and none waits for a C++ compiler."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("MLX_DISABLE_COMPILE", "1")
