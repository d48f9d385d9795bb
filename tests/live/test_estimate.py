"""What `admit estimate` says of a model, beside what real servers took to serve it: the deviation is printed, and
bounded: too little would let a load in that does not fit, far too much would keep one out that does.
"""

from __future__ import annotations

import http.client
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from admitd import modelfiles
from admitd.core import sizing
from admitd.core.sizing import Attention
from admitd.core.units import MIB
from tests.live.servers import Servers

LEAST, MOST = 0.9, 1.45
"""Of what was measured. The budget adds 15 % to the estimate."""


def peak(pid: int) -> int:
    """The most that a process ever held in RAM, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    pytest.skip("the kernel does not tell a process's peak")


def use(port: int, words: int) -> None:
    """One request whose prompt has so many words; how many tokens that was is in `used`."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
    message = {"role": "user", "content": " hello" * words}
    body = json.dumps({"messages": [message], "max_tokens": 8})
    client.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    answer = client.getresponse()
    said = json.loads(answer.read())
    assert answer.status == 200, said
    client.close()
    used.append(said["usage"]["prompt_tokens"])


used: list[int] = []


def compared(name: str, model: Path, took: int, tokens: int, parallel: int, record: Any) -> float:
    attention = Attention.FUSED if sys.platform == "darwin" else Attention.WHOLE
    found = sizing.estimate(modelfiles.read(model), tokens, parallel, attention)
    ratio = found.together / took
    record("deviation", f"{ratio - 1:+.0%}")
    print(
        f"{name}: {tokens} tokens x {parallel}: measured {took / MIB:.0f} MB, estimated {found.together / MIB:.0f} MB "
        f"({found.weights / MIB:.0f} + {found.cache / MIB:.0f} + {found.scratch / MIB:.0f} + {found.program / MIB:.0f}"
        f"), {ratio - 1:+.0%}; budget {sizing.budget(found.together) / MIB:.0f} MB"
    )
    return ratio


@pytest.mark.parametrize(
    ("options", "prompt"),
    [((), 4), (("--mb", "300"), 4), (("--mb", "300"), 1000), (("--kv",), 150), (("--kv",), 400)],
)
def test_what_an_mlx_server_takes(
    options: tuple[str, ...], prompt: int, servers: Servers, mlx_model, free_port, record_property
) -> None:
    port, model = free_port(), mlx_model(*options)
    server = servers.start("mlx_lm.server", "--model", model, "--port", str(port))
    servers.answer(port)
    use(port, prompt)
    tokens = used[-1] + 8
    ratio = compared(f"mlx {' '.join(options) or 'tiny'}", model, peak(server.pid), tokens, 1, record_property)
    assert LEAST < ratio < MOST


@pytest.mark.parametrize(
    ("options", "context", "parallel", "loading"),
    [
        ((), 2048, 1, ["--no-mmap"]),
        (("--mb", "300"), 2048, 1, ["--no-mmap"]),
        (("--mb", "300"), 2048, 1, []),
        (("--mb", "300"), 65_536, 4, ["--no-mmap"]),
    ],
)
def test_what_a_llama_server_takes(
    options: tuple[str, ...],
    context: int,
    parallel: int,
    loading: list[str],
    servers: Servers,
    gguf_model,
    free_port,
    record_property,
) -> None:
    """Its context is for all slots together, and taken when it starts; after a load it is only measured once used."""
    port, model = free_port(), gguf_model(*options)
    size = ["-c", str(context), "-np", str(parallel), *loading]
    server = servers.start("llama-server", "-m", model, "--port", str(port), *size)
    servers.answer(port)
    use(port, 200)
    took = peak(server.pid)
    name = f"llama {' '.join(options) or 'tiny'} {' '.join(loading)}"
    ratio = compared(name, model, took, context // parallel, parallel, record_property)
    assert LEAST < ratio < MOST
