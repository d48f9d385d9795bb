"""app: an app in a process of its own. `python -m tests.sdk.cache.app FOLDER fetch URL SHA256`, `... hold SHA256`,
`... map PATH`: says what it does, keeps it until its stdin is closed."""

from __future__ import annotations

import mmap
import os
import sys

from admit_sdk.cache import CacheError, ModelCache, Progress


def tell(progress: Progress) -> None:
    print(progress.state, progress.done_bytes, progress.why, flush=True)


def main(folder: str, what: str, *words: str) -> None:
    if what == "map":
        fd = os.open(words[0], os.O_RDONLY)
        mapped = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        os.close(fd)
        print("mapped", flush=True)
        sys.stdin.read()
        print("last", mapped[-1], flush=True)
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
