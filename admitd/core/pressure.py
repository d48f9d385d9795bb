"""pressure: what the system's numbers mean, as a level. Functions of their arguments."""

from __future__ import annotations

from typing import Final

from admitd.core.terms import Level

# Share of memory that is available. earlyoom sends SIGTERM at 10 % and SIGKILL at 5 % (its man page, -m).
LINUX_WARN_AVAILABLE: Final = 0.10
LINUX_CRITICAL_AVAILABLE: Final = 0.05
# PSI "full", averaged over 10 s, in percent: nohang sends SIGTERM above 40 (nohang-desktop.conf); a quarter warns.
LINUX_WARN_STALL: Final = 10.0
LINUX_CRITICAL_STALL: Final = 40.0
# Half of Linux's, and less: free, file-backed and purgeable pages alone are counted, and macOS still compresses and
# swaps what is beside them.
DARWIN_WARN_AVAILABLE: Final = 0.05
DARWIN_CRITICAL_AVAILABLE: Final = 0.02


def linux_level(available: int, total: int, full_avg10: float | None) -> tuple[Level, str]:
    """The level that MemAvailable and PSI show, and the sentence that says why. Bytes, bytes, percent or None."""
    share = available / total if total > 0 else 0.0
    stall = full_avg10 or 0.0
    why = f"{share:.0%} of memory available, tasks stalled {stall:.1f} % of the last 10 s"
    if share <= LINUX_CRITICAL_AVAILABLE or stall >= LINUX_CRITICAL_STALL:
        return Level.CRITICAL, why
    if share <= LINUX_WARN_AVAILABLE or stall >= LINUX_WARN_STALL:
        return Level.WARN, why
    return Level.NORMAL, why


def darwin_level(kernel_level: int, available: int, total: int) -> Level | None:
    """The worse of kern.memorystatus_vm_pressure_level (1, 2, 4), which does not see what is wired, and of what is
    available of `total`; bytes. None for a value that XNU does not define, while enough is available."""
    share = available / total if total > 0 else 0.0
    if share <= DARWIN_CRITICAL_AVAILABLE:
        return Level.CRITICAL
    told = Level(kernel_level) if kernel_level in (1, 2, 4) else None
    return max(told or Level.WARN, Level.WARN) if share <= DARWIN_WARN_AVAILABLE else told
