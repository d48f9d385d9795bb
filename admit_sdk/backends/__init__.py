"""backends: what loads a model and runs it: a small protocol, and one file for each library that is behind it.

A backend is named in NAMES; its file, and the library with it, is imported when a model needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol

from admit_sdk.errors import ModelFailed
from admit_sdk.models import Model, Need
from admit_sdk.requests import Capability, Piece, Request
from admitd import extras

Check = Callable[[], None]
"""Raises Aborted or DeadlinePassed where the request is not wanted any more."""

Steps = Generator[Piece | None, None, Any]
"""Work on one request, in steps: a piece of the answer, or None for a step that has none yet; it returns the answer.

Between two steps the worker looks whether the request was cancelled. Closing it gives back what it holds.
"""


class Backend(Protocol):
    """One way of loading models of one capability. Its methods are called from any thread."""

    capability: Capability

    def need(self, model: Model) -> Need:
        """What the model will hold, read off its files. Raises ModelFailed, OSError."""

    def load(self, model: Model, soft_bytes: int, hard_bytes: int) -> Loaded:
        """Load it. Called in the worker's thread, in which all that follows happens, too. Raises ModelFailed, OSError.

        The budget is that of the whole app, for libraries that keep freed memory within a limit of their own.
        """


class Loaded(Protocol):
    """A model in memory, in one thread."""

    @property
    def need(self) -> Need:
        """What it holds, measured now that it is loaded, and what a request may take beside that."""

    def run(self, request: Request[Any], check: Check) -> Steps:
        """Answer one request. `check` is for long steps. Raises ValueError for what this model can't answer."""

    def unload(self) -> None:
        """Give everything back. Called once, and last."""


# By name: the file in this folder, the class in it, what it is for, the extra that brings its library, and how its
# models are told by their files where a capability has more than one backend.
NAMES: Final = {
    "mlx-lm": ("mlx_text", "MlxText", Capability.TEXT_TO_TEXT, "mlx"),
    "mlx-vlm": ("mlx_vision", "MlxVision", Capability.VISION, "vision"),
    "onnx-text-embedding": ("onnx_text", "OnnxTextEmbedding", Capability.TEXT_EMBEDDING, "onnx"),
    "onnx-image-embedding": ("onnx_image", "OnnxImageEmbedding", Capability.IMAGE_EMBEDDING, "onnx"),
    "onnx-text-to-image": ("onnx_diffusion", "OnnxTextToImage", Capability.TEXT_TO_IMAGE, "onnx"),
}
_registered: dict[str, Backend] = {}


def register(name: str, backend: Backend) -> None:
    """Add a backend of the app's own, under a name that models can give. ValueError where that is taken."""
    if name in NAMES or name in _registered:
        raise ValueError(f"there is a backend called {name} already")
    _registered[name] = backend


def backend_of(model: Model) -> Backend:
    """The backend of a model. Raises ModelFailed where there is none, or its library is not installed."""
    name = model.backend
    if name is None:
        name = next(name for name, (_, _, capability, _) in NAMES.items() if capability is model.capability)
    found = _registered.get(name)
    if found is None:
        found = _ours(name, model)
    if found.capability is not model.capability:
        raise ModelFailed(f"{model.name}: the backend {name} is for {found.capability}, not {model.capability}")
    return found


def _ours(name: str, model: Model) -> Backend:
    if name not in NAMES:
        known = ", ".join([*NAMES, *_registered])
        raise ModelFailed(f"{model.name} names the backend {name}, and there is none; there are {known}")
    file, kind, _, extra = NAMES[name]
    try:
        backend: Backend = getattr(import_module(f"admit_sdk.backends.{file}"), kind)()
    except ImportError as missing:
        raise ModelFailed(
            f"{model.name} needs {name}, and {missing.name or 'its library'} is not installed: {extras.install(extra)}"
        ) from missing
    return backend


def folder_of(model: Model) -> Path:
    """The model's folder. Raises ModelFailed where there is none."""
    folder = Path(model.path)
    if not folder.is_dir():
        why = "is a file" if folder.exists() else "is not there"
        raise ModelFailed(f"{model.name}: {folder} {why}; name the folder of the model")
    return folder


def wrong_kind(model: Model, request: Request[Any]) -> ValueError:
    """For a request that is of another capability than the model."""
    return ValueError(f"{model.name} is for {model.capability}, and was asked for {request.capability}")
