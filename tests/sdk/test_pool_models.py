"""Real models in a pool, on mlx-lm: who goes, what comes back to the system, and what a cancelled request leaves."""

from __future__ import annotations

import gc
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from admit_sdk.errors import Aborted, MemoryExhausted, ModelFailed
from admit_sdk.governor import MemoryGovernor
from admit_sdk.holdings import give_back_freed, measure
from admit_sdk.lifecycle import State
from admit_sdk.models import Model
from admit_sdk.pool import ModelPool
from admit_sdk.requests import Capability, Message, TextToText
from admitd.core.units import MIB
from tests.gates import until
from tests.sdk.counting import states

mx = pytest.importorskip("mlx.core")
MlxText = pytest.importorskip("admit_sdk.backends.mlx_text").MlxText

ROOT = Path(__file__).parents[2]
WEIGHTS_MB = 194
"""What `--mb 200` makes."""
SLACK_MB = 70
"""What Python, MLX and the allocator keep or give back meanwhile; a model is 194 MB."""
Make = Callable[..., ModelPool]


def held_mb() -> int:
    """What the process holds, as the kernel has it, after everything that is free went back."""
    gc.collect()
    give_back_freed()
    return measure().counted // MIB


def text(name: str, path: Path, **options: Any) -> Model:
    return Model(name, path, Capability.TEXT_TO_TEXT, context=options.pop("context", 128), **options)


def ask(tokens: int = 4, said: str = "hello") -> TextToText:
    return TextToText((Message("user", said),), max_tokens=tokens)


@pytest.fixture
def make(mlx_model: Callable[..., Path]) -> Iterator[Make]:
    """Pools whose budget has room for `soft_mb` of models beside what the test process holds anyway."""
    made: list[ModelPool] = []
    with ModelPool(MemoryGovernor("4GiB", watch=False), [text("warm", mlx_model())]) as warm:
        warm.ask("warm", ask())

    def make(*models: Model, soft_mb: int) -> ModelPool:
        own = held_mb() + SLACK_MB
        governor = MemoryGovernor((own + soft_mb + 100) * MIB, own * MIB, soft=soft_mb * MIB, watch=False)
        made.append(ModelPool(governor, models))
        return made[-1]

    yield make
    for each in made:
        assert each.close(30)
        assert each.governor.allocated_bytes == 0
        assert each.governor.close()


def test_three_models_under_a_budget_for_two(
    make: Make, mlx_model: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    """LRU goes, one that answers stays, the eager one goes last; the memory comes back to the system each time."""
    path = mlx_model("--mb", "200")
    before = held_mb()
    models = [text(name, path, eager=name == "eager", context=1024) for name in ("eager", "a", "b")]
    pool = make(*models, soft_mb=470)
    until(lambda: states(pool) == {"eager": State.READY})

    assert pool.ask("a", ask()).tokens > 0
    both = held_mb()
    assert both - before > 2 * WEIGHTS_MB - SLACK_MB

    pool.ask("b", ask())
    assert states(pool).keys() == {"eager", "b"}, "a was used last, and yet the eager one stays"
    assert abs(held_mb() - both) < SLACK_MB

    with pool.stream("b", ask(900)) as answering, pool.stream("eager", ask(900)) as too:
        next(answering)
        next(too)
        with pytest.raises(MemoryExhausted, match="ask again when b and eager has answered"):
            pool.ask("a", ask())
        assert states(pool).keys() == {"eager", "b"}
        assert next(answering).text is not None

    until(lambda: set(states(pool).values()) == {State.IDLE})
    assert pool.evict("b") == 1
    assert held_mb() < both - WEIGHTS_MB + SLACK_MB
    assert "eager was loaded eagerly" not in caplog.text

    assert pool.evict("eager") == 1
    assert held_mb() < before + SLACK_MB
    assert pool.governor.allocated_bytes == 0


SWAPS = """
import json, sys
from pathlib import Path
from admit_sdk.governor import MemoryGovernor
from admit_sdk.holdings import measure
from admit_sdk.models import Model
from admit_sdk.pool import ModelPool
from admit_sdk.requests import Capability, TextToText

MIB = 1 << 20
models = [Model(name, Path(sys.argv[1]), Capability.TEXT_TO_TEXT, context=128) for name in "ab"]
held = []
with ModelPool(MemoryGovernor(700 * MIB, 350 * MIB, soft=150 * MIB), models) as pool:
    for turn in range(50):
        assert pool.ask("ab"[turn % 2], TextToText.of("hello", max_tokens=1), wait_s=60).tokens == 1
        assert [each.model for each in pool.status()] == ["ab"[turn % 2]]
        held.append(measure().counted // MIB)
    pool.evict("b")
    held.append(measure().counted // MIB)
print(json.dumps(held))
"""


@pytest.mark.slow
def test_fifty_swaps_leave_nothing_behind(mlx_model: Callable[..., Path]) -> None:
    """Two models of 97 MB where one fits: each request swaps them, in a process of its own."""
    command = [sys.executable, "-c", SWAPS, str(mlx_model("--mb", "97"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    *held, after = json.loads(done.stdout)
    assert max(held[25:]) <= max(held[:10]) + 20, held
    assert after < min(held) - 97 + 30, held


def test_a_cancelled_request_releases_its_cache(make: Make, mlx_model: Callable[..., Path]) -> None:
    """Each token of this model keeps 256 KiB; what stays after the cancellation is the weights."""
    pool = make(text("a", mlx_model("--kv"), context=1024), soft_mb=1200)
    pool.ask("a", ask())
    weights = mx.get_active_memory()
    stream = pool.stream("a", ask(700, "word " * 60))
    next(stream)
    assert mx.get_active_memory() - weights > 30 * MIB
    stream.cancel()
    with pytest.raises(Aborted):
        list(stream)
    until(lambda: states(pool) == {"a": State.IDLE})
    assert mx.get_active_memory() - weights < MIB
    assert mx.get_cache_memory() < MIB
    assert pool.ask("a", ask()).tokens > 0


def test_a_long_prompt_is_worked_on_in_steps_between_which_it_can_be_cancelled(
    make: Make, mlx_model: Callable[..., Path]
) -> None:
    declared = text("a", mlx_model("--kv"), context=1000)
    long = ask(10, "word " * 50)
    before_the_first: list[object] = []

    def run() -> None:
        """In a thread of its own, as a worker does: it gives its streams back."""
        loaded = MlxText().load(declared, 4 << 30, 4 << 30)
        steps = loaded.run(long, lambda: None)
        before_the_first.extend(itertools.takewhile(lambda step: step is None, steps))
        steps.close()
        loaded.unload()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(100)
    assert len(before_the_first) >= 3

    pool = make(declared, soft_mb=3000)
    pool.ask("a", ask())
    ticket = pool.submit("a", long)
    until(lambda: states(pool) == {"a": State.BUSY})
    ticket.cancel()
    with pytest.raises(Aborted):
        ticket.result(30)


def test_two_models_answer_at_the_same_time_as_they_do_alone(make: Make, mlx_model: Callable[..., Path]) -> None:
    """MLX's streams and random numbers are each thread's and each request's own."""
    pool = make(text("a", mlx_model()), text("b", mlx_model("--seed", "1")), soft_mb=100)
    hot = TextToText((Message("user", "hello"),), max_tokens=40, temperature=1.5, seed=7)
    alone = [pool.ask(name, hot).text for name in "ab"]
    assert alone[0] != alone[1]
    for _ in range(3):
        together = [pool.submit(name, hot) for name in "ab"]
        assert [each.result(60).text for each in together] == alone


def test_what_a_model_has_no_room_for_is_refused_with_the_numbers(make: Make, mlx_model: Callable[..., Path]) -> None:
    pool = make(text("a", mlx_model(), context=64), soft_mb=100)
    with pytest.raises(ValueError, match=r"an answer of 100 are more than the 64 that a keeps memory for: ask for at"):
        pool.ask("a", ask(100))


def test_weights_that_are_read_as_they_are_needed(make: Make, mlx_model: Callable[..., Path]) -> None:
    """Loaded lazily a model holds nothing, and what it is going to hold is kept for it all the same."""
    pool = make(text("a", mlx_model("--mb", "97"), map_weights=True), soft_mb=300)
    before = mx.get_active_memory()
    pool.ensure_workers("a")
    until(lambda: states(pool) == {"a": State.READY})
    assert mx.get_active_memory() - before < MIB
    assert pool.governor.allocated_bytes > 90 * MIB
    pool.ask("a", ask())
    assert mx.get_active_memory() - before > 90 * MIB


def test_the_limits_of_mlx_come_from_the_budget_and_the_wired_one_is_left_alone(
    make: Make, mlx_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is never raised, on no way that leads there (see docs/sdk/models.md)."""
    raised: list[str] = []
    monkeypatch.setattr(mx, "set_wired_limit", lambda limit: raised.append("mx"))
    for module in ("mlx_lm.generate", "mlx_lm.utils"):
        monkeypatch.setattr(sys.modules[module], "maybe_set_recommended_wired_limit", lambda: raised.append("mlx_lm"))
    pool = make(text("a", mlx_model()), soft_mb=160)
    pool.ask("a", ask())
    assert not raised
    assert mx.set_memory_limit(pool.hard_bytes) == pool.hard_bytes
    assert mx.set_cache_limit(pool.soft_bytes // 16) == pool.soft_bytes // 16


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has neither a config.json with safetensors"),
        (lambda folder: (folder / "config.json").write_text("{"), "holds no JSON where there should be some"),
        (lambda folder: os.truncate(folder / "model.safetensors", 5000), "is cut short"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "could not be loaded|can't be loaded"),
    ],
    ids=["no config", "bad config", "cut short", "no tokenizer"],
)
def test_a_model_that_is_damaged_says_so(
    make: Make, mlx_model: Callable[..., Path], tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    import shutil

    folder = Path(shutil.copytree(mlx_model(), tmp_path / "model"))
    spoil(folder)
    pool = make(text("a", folder), soft_mb=100)
    with pytest.raises(ModelFailed, match=said):
        pool.ask("a", ask())
    until(lambda: pool.governor.allocated_bytes == 0)


def test_a_load_that_fails_late_gives_its_memory_back(
    make: Make, mlx_model: Callable[..., Path], tmp_path: Path
) -> None:
    """The weights are there when the tokenizer is missed; and whoever keeps the error does not keep them."""
    folder = tmp_path / "model"
    folder.mkdir()
    for each in mlx_model("--mb", "200").iterdir():
        if each.name != "tokenizer.json":
            (folder / each.name).symlink_to(each)
    before = held_mb()
    pool = make(text("a", folder), soft_mb=400)
    with pytest.raises(ModelFailed) as told:
        pool.ask("a", ask())
    until(lambda: pool.governor.allocated_bytes == 0)
    assert held_mb() < before + SLACK_MB
    assert "a can't be loaded by mlx-lm" in str(told.value)


def test_a_folder_that_is_not_there(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ModelFailed, match="nowhere is not there; name the folder of the model"):
        make(text("a", tmp_path / "nowhere"), soft_mb=100).ask("a", ask())
