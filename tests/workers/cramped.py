"""cramped: admission where nothing more can be written. `python -m tests.workers.cramped WHERE HOW`; WHERE is a file
system of its own, which is filled first, and emptied last; what came of it is printed as JSON."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

from admitd.core.verdict import Refused
from admitd.gate import Ask
from tests.gates import ROOM, decided, files, gate, me, reservations, word, words


def fill(where: Path, how: str) -> None:
    if how == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", str(where)], check=True)
        return
    number = 0
    with contextlib.suppress(OSError):
        while True:
            (where / f"filler{number}").write_bytes(b"x" * 4096 if how == "no space" else b"")
            number += 1


def clear(where: Path, how: str) -> None:
    if how == "read-only":
        subprocess.run(["mount", "-o", "remount,rw", str(where)], check=True)
    for filler in where.glob("filler*"):
        filler.unlink()


def main() -> None:
    where, how = Path(sys.argv[1]), sys.argv[2]
    where.chmod(0o700)
    words(gate(where), Ask("small", me(), dry_run=True))
    fill(where, how)
    if how == "no space":
        try:
            (where / "proof").write_bytes(b"x" * 4096)
            sys.exit("there is still room")
        except OSError as problem:
            assert problem.errno == errno.ENOSPC
        with contextlib.suppress(OSError):
            (where / "proof").unlink()
    answer = decided(gate(where), Ask("first", me()))[0]
    verdict = answer.verdict
    told = {
        "full": word(answer),
        "message": verdict.message if isinstance(verdict, Refused) else "",
        "left": files(where) + [name for name in os.listdir(where) if name.startswith(".")],
        "seen": len(reservations(where).standing(ROOM).reservations),
    }
    clear(where, how)
    print(json.dumps({**told, "afterwards": words(gate(where), Ask("first", me()))[0]}))


main()
