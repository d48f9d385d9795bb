"""swapping: what a pool adds to loading and swapping models with mlx-lm alone, and how soon a cancelled answer stops.

Both ways take turns in one process of their own, with the same models. Turns of one way differ by more than what the
pool adds, so that is taken within each turn: what it took, less what it spent inside mlx-lm, MLX and the garbage
collector, which the plain way needs as well.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from bench.measuring import Plan, Results, Skipped, figures, take_turns
from bench.native import OUT
from bench.world import ROOT, python

MAKER: Final = ROOT / "scripts" / "gear" / "make_mlx_model.py"
TOKENS_BEFORE: Final = 3


def measure(plan: Plan) -> Results:
    """Seconds by way, and of the time from a cancellation to its end."""
    megabytes = 97 if plan.quick else 582
    model = OUT / "models" / f"mb-{megabytes}"
    model.parent.mkdir(parents=True, exist_ok=True)
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "MLX_DISABLE_COMPILE": "1", "PYTHONPATH": str(ROOT)}
    if not model.exists():
        _run(python(str(MAKER), str(model), "--mb", str(megabytes)), environ)
    turns = (2, 5) if plan.quick else (12, 200)
    found: Results = json.loads(_run(python("-m", "bench.swapping", str(model), *map(str, turns)), environ))
    return {"megabytes": megabytes, **found}


def _run(command: list[str], environ: dict[str, str]) -> str:
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Skipped(
            f"a model for mlx-lm can't be run here: {done.stderr.strip().splitlines()[-1:] or done.returncode}"
        )
    return done.stdout


def within(model: Path, turns: int, cancellations: int) -> Results:
    """The figures, measured in this process."""
    import mlx.core as mx
    from mlx_lm.generate import generate_step
    from mlx_lm.utils import load

    from admit_sdk import Capability, MemoryGovernor, Model, ModelPool, TextToText
    from admit_sdk.lifecycle import State

    inner = Inner()
    ready: list[float] = []
    added: dict[str, list[float]] = {"load": [], "swap": []}
    weights = sum(each.stat().st_size for each in model.glob("*.safetensors"))
    # Room for one and a half, beside what Python and MLX hold.
    governor = MemoryGovernor("64GiB", "400MiB", soft=weights * 3 // 2, name="bench")
    pool = ModelPool(
        governor,
        [Model(name, model, Capability.TEXT_TO_TEXT, context=512) for name in "ab"],
        told=lambda _, state: ready.append(time.perf_counter()) if state is State.READY else None,
    )
    one_token = TextToText.of("hello", max_tokens=1)
    kept: list[Any] = []

    def plain_load() -> float:
        began = time.perf_counter()
        kept.append(load(str(model)))
        took = time.perf_counter() - began
        plain_unload()
        return took

    def plain_unload() -> None:
        kept.clear()
        gc.collect()
        mx.clear_cache()

    def pool_load() -> float:
        inner.seconds = 0.0
        began = time.perf_counter()
        pool.ensure_workers("a")
        while not ready:
            time.sleep(0.0005)
        took = ready[0] - began
        added["load"].append((took - inner.seconds) / inner.seconds)
        pool.evict("a")
        ready.clear()
        return took

    def plain_swap() -> float:
        kept.append(load(str(model)))
        began = time.perf_counter()
        plain_unload()
        loaded, tokenizer = load(str(model))[:2]
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], add_generation_prompt=True)
        next(generate_step(mx.array(prompt), loaded, max_tokens=1))
        took = time.perf_counter() - began
        del loaded, tokenizer
        plain_unload()
        return took

    def pool_swap() -> float:
        pool.ask("a", one_token)
        inner.seconds = 0.0
        began = time.perf_counter()
        pool.ask("b", one_token, wait_s=60)
        took = time.perf_counter() - began
        added["swap"].append((took - inner.seconds) / inner.seconds)
        pool.evict("b")
        ready.clear()
        return took

    found = take_turns(
        {"mlx_lm.load": plain_load, "pool, load": pool_load, "mlx_lm, swap": plain_swap, "pool, swap": pool_swap}, turns
    )
    stops = [_stop(pool) for _ in range(cancellations)]
    pool.close()
    governor.close()
    shares = {name: round(statistics.median(each), 5) for name, each in added.items()}
    return {
        "ways": {name: figures(seconds) for name, seconds in found.items()},
        "added": shares,
        "stops": figures(stops),
    }


class Inner:
    """Counts the seconds inside what the plain way needs, too: loading, answering, unloading, collecting garbage."""

    def __init__(self) -> None:
        from admit_sdk import worker
        from admit_sdk.backends import mlx_text

        self.seconds = 0.0
        mlx_text.load = self._timed(mlx_text.load)
        mlx_text.LoadedText.unload = self._timed(mlx_text.LoadedText.unload)  # type: ignore[method-assign]
        worker._work = self._timed(worker._work)
        gc_collect = self._timed(gc.collect)
        worker.gc = SimpleNamespace(collect=gc_collect)  # type: ignore[assignment]

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*given, **options)
            finally:
                self.seconds += time.perf_counter() - began

        return timed


def _stop(pool: Any) -> float:
    """Seconds from a cancellation to the end of the request, its cache given back."""
    from admit_sdk import Aborted, TextToText

    stream = pool.stream("a", TextToText.of("hello", max_tokens=400))
    for _ in range(TOKENS_BEFORE):
        next(stream)
    began = time.perf_counter()
    stream.cancel()
    try:
        for _ in stream:
            pass
    except Aborted:
        return time.perf_counter() - began
    raise Skipped("the answer had ended before it could be cancelled")


if __name__ == "__main__":
    print(json.dumps(within(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
