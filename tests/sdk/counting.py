"""A backend for tests of the pool itself: it counts, at the pace that the test sets. Real ones are in making.py."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from admit_sdk import backends
from admit_sdk.backends import Check, Steps, wrong_kind
from admit_sdk.lifecycle import State
from admit_sdk.models import Model, Need
from admit_sdk.pool import ModelPool
from admit_sdk.requests import Capability, Message, Piece, Request, Text, TextToText
from admitd.core.units import MIB

Make = Callable[..., ModelPool]
NAME = "counting"


@dataclass
class Counting:
    """Answers with the numbers up to `max_tokens`. Each model's size is its `size_bytes`."""

    capability = Capability.TEXT_TO_TEXT
    pace: threading.Semaphore | None = None
    """A token needs one of it."""
    at_load: Callable[[Model], None] = lambda _: None
    at_token: Callable[[int], None] = lambda _: None
    held_when_loaded: int | None = None
    loads: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    open_requests: int = 0

    def need(self, model: Model) -> Need:
        return Need(model.size_bytes or MIB, 0)

    def load(self, model: Model, soft_bytes: int, hard_bytes: int) -> _Loaded:
        self.loads.append(model.name)
        self.at_load(model)
        return _Loaded(self, model)


class _Loaded:
    def __init__(self, backend: Counting, model: Model) -> None:
        self._backend = backend
        self._model = model
        self.need = Need(backend.held_when_loaded or model.size_bytes or MIB, 0)

    def run(self, request: Request[Any], check: Check) -> Steps:
        if not isinstance(request, TextToText):
            raise wrong_kind(self._model, request)
        said = request.messages[-1].content
        if said == "nonsense":
            raise ValueError("that can't be answered")
        backend = self._backend
        backend.answers.append(said)
        backend.open_requests += 1
        try:
            for number in range(request.max_tokens):
                while backend.pace is not None and not backend.pace.acquire(timeout=0.02):
                    check()
                backend.at_token(number)
                yield Piece(f"{number} ")
            return Text("".join(f"{number} " for number in range(request.max_tokens)), 1, request.max_tokens, "length")
        finally:
            backend.open_requests -= 1

    def unload(self) -> None:
        pass


def model(name: str, megabytes: int = 100, **options: Any) -> Model:
    return Model(name, Path("nowhere"), Capability.TEXT_TO_TEXT, backend=NAME, size_bytes=megabytes * MIB, **options)


def use(backend: Counting) -> None:
    """Have models of `model` use this one from now on."""
    backends._registered[NAME] = backend


def ask(said: str = "hello", tokens: int = 2) -> TextToText:
    return TextToText((Message("user", said),), max_tokens=tokens)


def states(pool: ModelPool) -> dict[str, State]:
    return {each.model: each.state for each in pool.status()}
