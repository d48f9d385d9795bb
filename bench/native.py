"""native: compiles the C programs of the bench, once for each text they have."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Final

from bench.measuring import Skipped

HERE: Final = Path(__file__).parent
OUT: Final = HERE / "out"
_FLAGS: Final = ("-O2", "-Wall", "-pthread")


def build(name: str) -> Path:
    """The program made of native/NAME.c. Raises Skipped where it can't be had."""
    source = HERE / "native" / f"{name}.c"
    made = OUT / "bin" / f"{name}-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"
    if made.exists():
        return made
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise Skipped("there is no C compiler here (cc)")
    made.parent.mkdir(parents=True, exist_ok=True)
    # Static where the C library can be had so: a smaller process, and thousands of sitters are started.
    for flags in (("-static",), ()):
        done = subprocess.run(
            [compiler, *_FLAGS, *flags, "-o", f"{made}.new", str(source)], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            Path(f"{made}.new").rename(made)
            return made
    raise Skipped(f"{name}.c does not compile here: {done.stderr.strip().splitlines()[0]}")
