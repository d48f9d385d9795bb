"""estimating: what `admit estimate` says of a model, beside what a real server took to serve it.

What a server took is the most that it ever held in RAM (VmHWM) once it has answered a prompt of that length.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from admitd import modelfiles
from admitd.core import sizing
from admitd.core.sizing import Attention
from admitd.core.units import MIB
from bench.measuring import Plan, Results, Skipped, end
from bench.native import OUT
from bench.world import ROOT, free_port, python

GEAR: Final = ROOT / "scripts" / "gear"
ANSWER_S: Final = 90.0
TOKENS: Final = 8
"""Of the answer."""


@dataclass(frozen=True, slots=True)
class Case:
    """One server: the options of its model's maker, those of the server, and words of prompt. `context`: what a llama
    server takes when it starts, for `parallel` requests together; an MLX server takes what a prompt needs."""

    engine: str
    model: tuple[str, ...]
    words: int
    context: int = 0
    parallel: int = 1
    loading: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return " ".join((self.engine, *self.model, *self.loading)) if self.model else f"{self.engine} tiny"


CASES: Final = (
    Case("mlx_lm.server", (), 4),
    Case("mlx_lm.server", ("--mb", "300"), 4),
    Case("mlx_lm.server", ("--mb", "300"), 1000),
    Case("mlx_lm.server", ("--kv",), 150),
    Case("mlx_lm.server", ("--kv",), 400),
    Case("llama-server", (), 200, 2048, 1, ("--no-mmap",)),
    Case("llama-server", ("--mb", "300"), 200, 2048, 1, ("--no-mmap",)),
    Case("llama-server", ("--mb", "300"), 200, 2048, 1, ()),
    Case("llama-server", ("--mb", "300"), 200, 65_536, 4, ("--no-mmap",)),
)


@dataclass(frozen=True, slots=True)
class Compared:
    """Bytes that it took, and what was said beforehand."""

    took: int
    estimate: sizing.Estimate

    @property
    def ratio(self) -> float:
        return self.estimate.together / self.took


def command(case: Case, model: Path, port: int) -> list[str]:
    """The server's command line."""
    if case.engine == "mlx_lm.server":
        return ["mlx_lm.server", "--model", str(model), "--port", str(port)]
    size = ["-c", str(case.context), "-np", str(case.parallel), *case.loading]
    return ["llama-server", "-m", str(model), "--port", str(port), *size]


def compare(case: Case, model: Path, pid: int, port: int) -> Compared:
    """Use the server that answers on `port`, and see what it took. Raises Skipped where the kernel does not tell."""
    used = use(port, case.words) + TOKENS
    tokens = case.context // case.parallel if case.context else used
    attention = Attention.FUSED if sys.platform == "darwin" else Attention.WHOLE
    return Compared(peak(pid), sizing.estimate(modelfiles.read(model), tokens, case.parallel, attention))


def use(port: int, words: int) -> int:
    """One request whose prompt has so many words; how many tokens that was."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    message = {"role": "user", "content": " hello" * words}
    body = json.dumps({"messages": [message], "max_tokens": TOKENS})
    client.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    answer = client.getresponse()
    said: Any = json.loads(answer.read())
    client.close()
    if answer.status != 200:
        raise Skipped(f"the server answered {answer.status}: {said}")
    return int(said["usage"]["prompt_tokens"])


def peak(pid: int) -> int:
    """The most bytes that a process ever held in RAM. Raises Skipped where the kernel does not tell."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise Skipped("the kernel does not tell a process's peak")


def measure(plan: Plan) -> Results:
    """The servers one after the other; what can't be run here says why."""
    found, skipped = [], {}
    for case in CASES[:1] if plan.quick else CASES:
        try:
            each = _served(case)
        except (Skipped, OSError) as why:
            skipped[case.name] = str(why)
            continue
        found.append(
            {
                "name": case.name,
                "tokens": each.estimate.tokens,
                "parallel": each.estimate.parallel,
                "took_mb": round(each.took / MIB),
                "estimated_mb": round(each.estimate.together / MIB),
                "deviation": round(each.ratio - 1, 3),
                "budget_mb": round(sizing.budget(each.estimate.together) / MIB),
            }
        )
    if not found:
        raise Skipped("; ".join(skipped.values()))
    return {"servers": found, "skipped": skipped}


def _served(case: Case) -> Compared:
    folder = OUT / "models"
    folder.mkdir(parents=True, exist_ok=True)
    mlx = case.engine == "mlx_lm.server"
    model = folder / ("-".join(["estimate", *(each.strip("-") for each in case.model)]) + ("" if mlx else ".gguf"))
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "MLX_DISABLE_COMPILE": "1"}
    environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), str(GEAR), environ["PATH"]])
    if not model.exists():
        maker = GEAR / ("make_mlx_model.py" if mlx else "make_gguf.py")
        _done(python(str(maker), str(model), *case.model), environ)
    port = free_port()
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(command(case, model, port), env=environ, **quiet)
    try:
        _done(python(str(GEAR / "ask.py"), f"http://127.0.0.1:{port}", "--wait", str(ANSWER_S)), environ)
        return compare(case, model, server.pid, port)
    finally:
        server.terminate()
        end(server)


def _done(words: list[str], environ: dict[str, str]) -> None:
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Skipped((done.stderr.strip().splitlines() or [f"{Path(words[-1]).name} failed"])[-1])
