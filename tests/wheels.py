"""wheels: the wheel as it is built, and installers that put it into a clean HOME, with this machine's settings alone.

Packages come from wherever this machine's pip and uv get theirs, in the locked versions. Where they cannot be had, the
test that asks for them is skipped, with what the installer said.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = f"{sys.base_prefix}/bin/python{sys.version_info[0]}.{sys.version_info[1]}"  # one that is no environment
UV = str(Path(sys.executable).with_name("uv"))
UNREACHABLE = re.compile(r"connect|resolve host|name resolution|error sending request|Failed to fetch|timed out", re.I)


@dataclass
class Built:
    """A wheel, and the versions that are installed with it."""

    wheel: Path
    locked: Path


def build(source: Path, what: str, folder: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", what, "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=60)


def unpacked(folder: Path) -> Path:
    """What a checkout has, from the source archive: the checkout itself is not for a test to build in."""
    build(ROOT, "sdist", folder)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    return archive.with_name(archive.name.removesuffix(".tar.gz"))


def built(folder: Path) -> Built:
    """Build it into `folder`."""
    build(ROOT, "wheel", folder)
    (wheel,) = folder.glob("admit-*.whl")
    lines = re.findall(r"^([A-Za-z0-9_.-]+==[^ ;\\]+)", (ROOT / "requirements/run.txt").read_text(), re.MULTILINE)
    locked = folder / "locked.txt"
    locked.write_text("\n".join(lines) + "\n")
    return Built(wheel, locked)


def settings(home: Path) -> dict[str, str]:
    """The environment of an installer: a clean HOME, this machine's settings, and nothing of this environment's."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(("UV_", "PIP_", "SSL_"))}
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(home),
        "PIP_NO_COMPILE": "1",
        **from_pip(),
        **kept,
        "UV_CACHE_DIR": cache(),
    }


def command(*words: str, home: Path, **environ: str) -> None:
    """Run an installer."""
    everything = {**settings(home), **environ}
    done = subprocess.run(words, env=everything, capture_output=True, text=True, timeout=110, check=False)
    skip_unreachable(done.returncode, done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr


def skip_unreachable(code: int, said: str) -> None:
    """Skip the test where packages cannot be had."""
    if code and UNREACHABLE.search(said):
        pytest.skip(f"no packages can be had here: {said.strip().splitlines()[-1]}")


def cache() -> str:
    asked = subprocess.run([UV, "cache", "dir"], capture_output=True, text=True, timeout=60, check=False)
    return asked.stdout.strip() or os.path.expanduser("~/.cache/uv")


def from_pip() -> dict[str, str]:
    """uv does not read pip's settings; as in scripts/setup, it hears of them here."""
    told = {"UV_DEFAULT_INDEX": "PIP_INDEX_URL", "SSL_CERT_FILE": "PIP_CERT"}
    return {theirs: os.environ[ours] for theirs, ours in told.items() if os.environ.get(ours)}
