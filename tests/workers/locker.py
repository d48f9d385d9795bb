"""locker: holds the machine-wide lock until it is ended. `python -m tests.workers.locker WHERE`."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from tests.gates import reservations

with reservations(Path(sys.argv[1])).lock():
    print("held", flush=True)
    signal.pause()
