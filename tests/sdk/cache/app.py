"""app: an app in a process of its own. `python -m tests.sdk.cache.app FOLDER fetch URL SHA256`, `... hold SHA256`,
`... map PATH`, `... churn SEED URL SHA256 ...`: says what it does, keeps it until its stdin is closed."""

from __future__ import annotations

import hashlib
import mmap
import os
import random
import sys

from admit_sdk.cache import CacheError, ModelCache, Progress


def tell(progress: Progress) -> None:
    print(progress.state, progress.done_bytes, progress.why, flush=True)


def churn(folder: str, seed: str, *words: str) -> None:
    """Fetch, check and give back, over and over, in a cache with room for three files of a MB."""
    cache = ModelCache(folder, app=f"churn-{seed}", max_bytes=3 << 20, spare_bytes=0)
    files = list(zip(words[::2], words[1::2], strict=True))
    chance = random.Random(seed)
    for _ in range(15):
        url, sha256 = chance.choice(files)
        with cache.fetch(url, sha256) as held:
            assert hashlib.sha256(held.path.read_bytes()).hexdigest() == sha256
        cache.collect()
        print("turn", flush=True)
    print("done", flush=True)


def main(folder: str, what: str, *words: str) -> None:
    if what == "map":
        fd = os.open(words[0], os.O_RDONLY)
        mapped = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        os.close(fd)
        print("mapped", flush=True)
        sys.stdin.read()
        print("last", mapped[-1], flush=True)
        return
    if what == "churn":
        churn(folder, *words)
        return
    cache = ModelCache(folder, app="other-app", max_bytes=100 << 20, spare_bytes=0)
    try:
        held = cache.fetch(words[0], words[1], on_progress=tell) if what == "fetch" else cache.hold(words[0])
    except CacheError as error:
        print(f"{type(error).__name__} {error}", flush=True)
        sys.exit(1)
    with held:
        print("held", held.path, flush=True)
        sys.stdin.read()


main(*sys.argv[1:])
