"""onnx_files: sessions of onnxruntime over a model's files, and what these take; shared by the backends that run on it.

The files lie as optimum exports them; a model of several parts has each in a folder of its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort

from admit_sdk.backends import folder_of
from admit_sdk.errors import ModelFailed
from admit_sdk.models import Model, Need
from admitd.core.units import MIB

WORKING_LEAST: Final = 16 * MIB
"""onnxruntime's own for a session, and the inputs and outputs of one request."""
JSON_MAX: Final = 4 << 20


def part(model: Model, name: str = "") -> Path:
    """The .onnx file of a part. Hugging Face's hub keeps it in onnx/, optimum does not. Raises ModelFailed."""
    folder = folder_of(model) / name
    for each in (folder / "model.onnx", folder / "onnx" / "model.onnx", folder / "vision_model.onnx"):
        if each.is_file():
            return each
    raise ModelFailed(f"{model.name}: {folder} has no model.onnx; export it with optimum-cli export onnx")


def need_of(model: Model, files: Sequence[Path], working: int) -> Need:
    """By the files. onnxruntime reads a file and then copies its weights: while it loads, both are there (measured with
    1.31: 430 MB for 200). Weights in a file beside it, mapped, take no copy."""
    sizes = [file.stat().st_size for file in files]
    beside = [sum(each.stat().st_size for each in _beside(file)) for file in files]
    copied = sizes if model.map_weights else [own + other for own, other in zip(sizes, beside, strict=True)]
    weights = model.size_bytes or sum(sizes) + sum(beside)
    return Need(weights, working + WORKING_LEAST, max(copied) + WORKING_LEAST)


def _beside(file: Path) -> list[Path]:
    """Files of weights that an .onnx file names; by onnx's and optimum's own habit they carry its name."""
    return [each for each in file.parent.glob(f"{file.name}*data") if each.is_file()]


def open_session(model: Model, file: Path) -> ort.InferenceSession:
    """A session over one file. Raises ModelFailed.

    Without an arena, so that what a request took goes back when it ends. With mapped weights nothing is packed anew:
    packing is a copy.
    """
    options = ort.SessionOptions()
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if model.map_weights:
        options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        return ort.InferenceSession(str(file), options, providers=_providers())
    except Exception as fault:  # onnxruntime raises a dozen kinds, all of its own and none with a base of theirs
        raise ModelFailed(f"{model.name} can't be loaded by onnxruntime: {fault}") from None


def _providers() -> list[str]:
    """CoreML's copies the weights again and maps nothing, so the CPU's serves everywhere."""
    return ["CPUExecutionProvider"]


def inputs_of(session: ort.InferenceSession) -> dict[str, str]:
    """The inputs a session takes, and the type of each."""
    return {each.name: each.type for each in session.get_inputs()}


def outputs_of(session: ort.InferenceSession) -> list[str]:
    return [each.name for each in session.get_outputs()]


def settings(model: Model, name: str, *, needed: bool = True) -> dict[str, Any]:
    """A JSON file of the model's folder; nothing where it is missing and not needed. Raises ModelFailed."""
    path = folder_of(model) / name
    try:
        if path.stat().st_size > JSON_MAX:
            raise ModelFailed(f"{model.name}: {path} has more than {JSON_MAX} bytes")
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        if needed:
            raise ModelFailed(f"{model.name}: {path} is missing; is the export complete?") from None
        return {}
    except ValueError:
        raise ModelFailed(f"{model.name}: {path} holds no JSON") from None
    if not isinstance(found, dict):
        raise ModelFailed(f"{model.name}: {path} holds no JSON object")
    return found
