"""prometheus: where Debian's package `prometheus` is, with its promtool; a test that needs it is skipped without."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

WHERE = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def tool(name: str) -> str:
    """The path of `prometheus` or `promtool`. scripts/setup fetches both where apt-get can."""
    found = shutil.which(name, path=WHERE)
    if found is None:
        pytest.skip(f"{name} is not installed; it is in Debian's package prometheus")
    return found
