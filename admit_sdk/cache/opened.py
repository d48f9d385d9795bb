"""opened: whether any process has a file open or mapped, asked of the kernel in one call.

On Linux a write lease (F_SETLEASE, fcntl(2)) is granted only while nobody else has the file open; a mapping counts as
open, also after its descriptor was closed, whoever the process belongs to and whatever container it runs in. That costs
microseconds, where /proc/*/maps would have to be read for every process, and waits while one of them maps memory.

Other systems have no such call, and some file systems do not support it: the answer is then no. Nothing is lost by
that: a file that is unlinked while it is mapped stays readable until the last process lets go of it. Only its room on
the disk does not come back before, and the next start has to download it again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
from pathlib import Path


def is_opened(path: Path) -> bool:
    """Whether a process, this one included, has `path` open or mapped; False where that cannot be told."""
    if sys.platform != "linux":
        return False
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Whoever opens the file while the lease stands waits for its end, and the kernel tells us with a signal: by
        # default SIGIO, which ends a process that does not expect it. SIGURG is ignored unless someone asks for it.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    else:
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return False
    finally:
        os.close(fd)
