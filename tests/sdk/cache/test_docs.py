"""docs/sdk/cache.md: its code runs, its names exist, its defaults are those of the code."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import admit_sdk.cache
from admit_sdk.cache import CacheError, room
from tests.sdk.cache.conftest import ROOT
from tests.sdk.cache.server import Server, sha256, some_bytes

PAGE = (ROOT / "docs" / "sdk" / "cache.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_code_of_the_page_runs(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADMIT_MODEL_CACHE", str(tmp_path / "models-cache"))
    assert len(BLOCKS) == 2
    for number, block in enumerate(BLOCKS):
        code = block.replace("https://models.example.org", server.url)
        for path, written in re.findall(rf'"{server.url}(\S+)"(?:,|\nSHA256 =) ("\w+"(?: \+ "0" \* 60)?)', code):
            data = some_bytes(5000, number + len(path))
            server.put(path, data)
            code = code.replace(written, f'"{sha256(data)}"')
        exec(compile(code, "cache.md", "exec"), {})
    said = capsys.readouterr().out
    assert f"{tmp_path / 'models-cache' / 'files'}{os.sep}" in said
    assert "downloading 5000 5000" in said
    assert "['config.json', 'model.safetensors']" in said


def test_every_error_is_named() -> None:
    errors = {
        name
        for name in admit_sdk.cache.__all__
        if isinstance(kind := getattr(admit_sdk.cache, name), type) and issubclass(kind, CacheError)
    }
    assert len(errors) > 8
    assert not {name for name in errors if f"`{name}`" not in PAGE}


def test_the_defaults_are_those_of_the_code() -> None:
    assert "a quarter of the free disk" in PAGE
    assert room.SHARE_OF_FREE == 0.25
    assert "for so long goes; 30 days" in PAGE
    assert room.IDLE_S == 30 * 86_400
    assert "whatever the maximum says; 1 GiB" in PAGE
    assert room.SPARE_BYTES == 1 << 30
