"""world: a home of its own for everything that is measured: capacity files, services, and the processes around them."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
POOL_MB: Final = 4_000_000
"""Room for all: what is measured is the looking, not what this machine happens to have."""
LOADED: Final = 3
"""How many of the services have a process in the crowd."""


@dataclass(frozen=True, slots=True)
class World:
    """One home: its folder, and the environment in which programs take it for theirs."""

    folder: Path
    environ: dict[str, str]

    @property
    def config(self) -> Path:
        return self.folder / ".config" / "admit" / "capacity.yaml"

    @property
    def state(self) -> Path:
        return Path(self.environ["ADMIT_STATE_DIR"])

    def declare(self, services: int) -> None:
        """Write a capacity.yaml with so many services."""
        self.config.parent.mkdir(parents=True, exist_ok=True)
        self.config.write_text(capacity(services), encoding="utf-8")
        self.config.chmod(0o600)


@contextmanager
def world(services: int) -> Iterator[World]:
    """A world with so many services; gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="admit-bench-"))
    foreign = ("ADMIT_", "XDG_", "PYTHON")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environ |= {"HOME": str(folder), "ADMIT_STATE_DIR": str(folder / "state"), "PYTHONPATH": str(ROOT)}
    environ["PYTHONSAFEPATH"] = "1"  # whatever lies in the current folder is not ours
    environ["ADMIT_PORT"] = str(free_port())
    try:
        (folder / "state").mkdir(mode=0o700)
        made = World(folder, environ)
        made.declare(services)
        yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def service_name(index: int) -> str:
    return f"service-{index:04d}"


def capacity(services: int) -> str:
    """A capacity.yaml; the patterns are as people write them, each its own, and nearly all match nothing."""
    lines = [
        "hosts:",
        f"  bench: {{ram_physical_mb: {POOL_MB + 2}, ram_reserved_mb: 1, ram_safety_mb: 1}}",
        "services:",
    ]
    for index in range(services):
        lines += [
            f"  {service_name(index)}:",
            "    ram_budget_mb: 64",
            f"    process_pattern: '{_pattern(index)}'",
            "    load_cmd: 'true'",
        ]
    # Off: it is the machine's state that would decide then, not the ledger.
    return "\n".join([*lines, "live_veto: off", ""])


def _pattern(index: int) -> str:
    shapes = (
        rf"mlx_lm[. ]server .*--model \S*model-{index:04d}\b",
        rf"llama-server .*-m \S*weights-{index:04d}\.gguf",
        rf"vllm serve \S+/chat-{index:04d}",
    )
    return shapes[index % len(shapes)]


def serving_lines() -> list[str]:
    """Command lines that the first services' patterns match; arguments parted by tabs."""
    return [
        f"/usr/bin/python3\t-m\tmlx_lm\tserver\t--model\tmodels/model-{0:04d}\t--port\t8080",
        f"llama-server\t-m\tmodels/weights-{1:04d}.gguf\t--port\t8081\t-c\t8192\t-ngl\t99",
        f"/usr/bin/python3\t/usr/bin/vllm serve org/chat-{2:04d}\t--port\t8082",
    ]


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def python(*arguments: str) -> list[str]:
    """This Python, with arguments."""
    return [sys.executable, *arguments]
