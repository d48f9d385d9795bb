"""extras: the command that installs what only some need, into the very environment that misses it.

The project's own name and an extra is no remedy: what an index has by that name need not be this project, and the pip
in somebody's PATH seldom is that of the environment in which uv or pipx put `admit`.
"""

from __future__ import annotations

import importlib.util
import shlex
import sys
from typing import Final

# As the extras in pyproject.toml have them; tests/test_extras.py compares.
NEEDS: Final = {
    "hub": ("huggingface-hub>=1",),
    "mlx": ("mlx-lm==0.32.2", *(("mlx[cpu]==0.32.4",) if sys.platform == "linux" else ())),
    "notify": ("apprise>=1.9",),
    "nvidia": ("nvidia-ml-py>=12.560",),
    "onnx": ("onnxruntime>=1.22", "pillow>=11", "tokenizers>=0.21"),
    "vision": ("mlx-vlm>=0.7",),
}


def install(extra: str) -> str:
    """What to type. An environment that uv made has no pip; uv installs into it from the outside."""
    has_pip = importlib.util.find_spec("pip") is not None
    tool = (sys.executable, "-m", "pip", "install") if has_pip else ("uv", "pip", "install", "--python", sys.executable)
    return shlex.join([*tool, *NEEDS[extra]])
