"""boot: which boot of the machine this is, and how long ago it was; neither jumps when the wall clock is set."""

from __future__ import annotations

import ctypes
import sys
import time
from functools import cache
from typing import Final

_ID_MAX: Final = 64


@cache
def boot_id() -> str:
    """A word that no other boot has; empty where the system has none."""
    try:
        if sys.platform == "darwin":
            return _bootsession()
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read(_ID_MAX).strip().decode("ascii")
    except (OSError, ValueError):
        return ""


def is_other_boot(told: str) -> bool:
    """Whether `told` is the id of another boot than this; where either is not known, it may be this one."""
    return bool(told and boot_id()) and told != boot_id()


def since_boot_s() -> float:
    """Seconds since the boot, those asleep included."""
    # Linux: CLOCK_MONOTONIC stands still in suspend. macOS: it does not (clock_gettime(3)), and has no CLOCK_BOOTTIME.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _bootsession() -> str:
    # xnu bsd/kern/kern_sysctl.c: kern.bootsessionuuid, a string that is made anew at each boot.
    text = ctypes.create_string_buffer(_ID_MAX)
    size = ctypes.c_size_t(_ID_MAX)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.sysctlbyname(b"kern.bootsessionuuid", text, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        return ""
    return text.value.decode("ascii", "replace")
