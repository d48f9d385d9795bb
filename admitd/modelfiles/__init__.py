"""modelfiles: what a model's own files say of it, without loading it. Files are taken for hostile: all is bounded."""

from __future__ import annotations

from pathlib import Path

from admitd.core.sizing import ModelFiles
from admitd.modelfiles.bounded import BadFile


def read(path: Path) -> ModelFiles:
    """What a GGUF file, or a folder with safetensors and a config.json, says. Raises BadFile, OSError."""
    from admitd.modelfiles import gguf, safetensors

    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; name a GGUF file, or a folder with config.json and safetensors")
    if not path.is_dir():
        if path.suffix.lower() == ".safetensors":
            raise BadFile(f"{path} is one file of a model; name its folder: {path.parent}")
        return gguf.read(path)
    folder = _snapshot(path)
    if (folder / "config.json").exists():
        return safetensors.read(folder)
    found = sorted(each for each in folder.glob("*.gguf") if "mmproj" not in each.name)
    whole = [each for each in found if gguf.part_of(each) in (None, 1)]
    if len(whole) == 1:
        return gguf.read(whole[0])
    if whole:
        raise BadFile(f"{folder} holds {len(whole)} GGUF models; name one of them, {whole[0].name} for example")
    raise BadFile(f"{folder} has neither a config.json with safetensors nor a GGUF file")


def _snapshot(folder: Path) -> Path:
    """The files of a model in the Hugging Face cache (models--owner--name/snapshots/REVISION), else the folder."""
    try:
        revision = (folder / "refs" / "main").read_text(encoding="ascii")[:64].strip()
    except (OSError, ValueError):
        return folder
    inside = folder / "snapshots" / revision
    return inside if revision.isalnum() and inside.is_dir() else folder
