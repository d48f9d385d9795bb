"""estimate: `admit estimate`: what a model will hold, from its own files, before anything is loaded."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

from admit_cli import render
from admitd import modelfiles
from admitd.core import sizing, wire
from admitd.core.sizing import Attention, Engine, Estimate, ModelFiles
from admitd.core.units import to_mb
from admitd.modelfiles.bounded import BadFile

CONTEXT: Final = 8192
"""Tokens where none are named; fewer where the model was made for fewer."""
_SHOWN_TYPES: Final = 3


def estimate(values: dict[str, Any]) -> int:
    """Print what the model at a path will hold; the exit code."""
    path = Path(values["path"]).expanduser()
    try:
        files = modelfiles.read(path)
    except (BadFile, FileNotFoundError) as problem:
        print(f"admit: {problem}", file=sys.stderr)
        return wire.FAILED if isinstance(problem, BadFile) else wire.NO_SUCH
    trained = files.shape.context
    tokens = values["context"] or min(CONTEXT, trained or CONTEXT)
    parallel = values["parallel"] or 1
    attention = Attention.FUSED if sys.platform == "darwin" else Attention.WHOLE
    found = sizing.estimate(files, tokens, parallel, attention)
    notes = [*files.notes, *_notes(files, tokens)]
    if values["json"]:
        render.print_json(_as_json(path, files, found, notes))
    else:
        print(_as_text(path, files, found, notes))
    return wire.OK


def _notes(files: ModelFiles, tokens: int) -> list[str]:
    notes = []
    if files.shape.context is not None and tokens > files.shape.context:
        notes.append(f"the model was made for {files.shape.context} tokens")
    if files.engine is Engine.MLX:
        notes.append(
            "mlx_lm.server keeps the caches of up to 10 prompts beside those at work; --prompt-cache-size and "
            "--prompt-cache-bytes bound that"
        )
    return notes


def _as_json(path: Path, files: ModelFiles, found: Estimate, notes: list[str]) -> dict[str, Any]:
    return {
        "path": str(path),
        "engine": files.engine.value,
        "family": files.family,
        "files": files.files,
        "tensors": files.tensors,
        "types": {name: to_mb(size) for name, size in files.types.items()},
        "context": found.tokens,
        "parallel": found.parallel,
        "weights_mb": to_mb(found.weights),
        "cache_mb": to_mb(found.cache),
        "scratch_mb": to_mb(found.scratch),
        "program_mb": to_mb(found.program),
        "estimate_mb": to_mb(found.together),
        "ram_budget_mb": to_mb(sizing.budget(found.together)),
        "margin": sizing.MARGIN,
        "notes": notes,
    }


def _as_text(path: Path, files: ModelFiles, found: Estimate, notes: list[str]) -> str:
    largest = sorted(files.types, key=lambda name: -files.types[name])[:_SHOWN_TYPES]
    shape = files.shape
    at_once = "" if found.parallel == 1 else f", {found.parallel} requests at once"
    rows = (
        ("weights", found.weights, f"{files.tensors} tensors, mostly {', '.join(largest)}"),
        ("cache", found.cache, f"{found.tokens} tokens{at_once}; {shape.cache_bytes} bytes a number"),
        ("scratch", found.scratch, "one batch of a prompt"),
        ("program", found.program, "the server itself"),
        ("together", found.together, ""),
    )
    lines = [f"{path}: {files.family}, {len(shape.kv_heads)} layers, as {files.engine.value} serves it"]
    lines += [f"  {name:9} {to_mb(size):>9,} MB   {what}".rstrip() for name, size, what in rows]
    lines.append(f"ram_budget_mb: {to_mb(sizing.budget(found.together))}   # {sizing.MARGIN:.0%} of that, rounded up")
    lines += [f"note: {note}" for note in notes]
    return "\n".join(lines)
