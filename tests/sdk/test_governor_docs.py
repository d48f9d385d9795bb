"""The code in docs/sdk/governor.md runs as it stands, one block after the other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.daemons import ROOT, free_port

PAGE = ROOT / "docs" / "sdk" / "governor.md"


def test_the_code_of_the_page_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "ADMIT_PORT": str(free_port())}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks)],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "qwen-8b needs 2048 MB of memory, and 512 MB are free: wait until gemma-27b gives" in done.stdout
