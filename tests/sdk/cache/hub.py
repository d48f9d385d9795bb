"""hub: fills a cache in Hugging Face's own layout, by its own library, from a server of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.sdk.cache.server import Manners, Server, sha256

PROGRAM = """
import sys
from huggingface_hub import hf_hub_download
for name in sys.argv[3:]:
    hf_hub_download(sys.argv[1], name, revision=sys.argv[2])
"""


def download(server: Server, cache: Path, repo: str, files: dict[str, bytes], commit: str = "c" * 40) -> Path:
    """Have the library download `files` of `repo` into `cache`; the repository's folder."""
    for name, data in files.items():
        server.put(f"/{repo}/resolve/main/{name}", data, f'"{sha256(data)}"')
    server.always = Manners(headers={"X-Repo-Commit": commit})
    environ = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HOME": str(cache.parent), "HF_ENDPOINT": server.url}
    environ |= {
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    command = [sys.executable, "-c", PROGRAM, repo, "main", *files]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return cache / f"models--{repo.replace('/', '--')}"


def age(repo: Path, days: float) -> None:
    """As if it had been read last so long ago."""
    for blob in (repo / "blobs").iterdir():
        then = blob.stat().st_mtime - days * 86_400
        os.utime(blob, (then, then))
