"""power: whether the machine runs on its battery, for apps that then prefer a smaller model."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Final

SUPPLIES: Final = Path("/sys/class/power_supply")
# IOKit/ps/IOPowerSources.h: what IOPSGetTimeRemainingEstimate returns on unlimited power; anything else is a battery.
_UNLIMITED: Final = -2.0
_IOKIT: Final = "/System/Library/Frameworks/IOKit.framework/IOKit"


def on_battery(supplies: Path = SUPPLIES) -> bool:
    """Whether it does; where the system does not say, it does not."""
    try:
        return _darwin() if sys.platform == "darwin" else _linux(supplies)
    except OSError:
        return False


def _linux(supplies: Path) -> bool:
    """A battery that is being discharged, and no mains or USB supply that is on
    (Documentation/ABI/testing/sysfs-class-power). Batteries of a mouse or a headset say so in `scope`."""
    discharges = False
    for each in supplies.iterdir():
        kind = _word(each / "type")
        if kind in ("Mains", "USB") and _word(each / "online") not in ("", "0"):
            return False
        if kind == "Battery" and _word(each / "scope") != "Device":
            discharges |= _word(each / "status") == "Discharging"
    return discharges


def _word(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _darwin() -> bool:
    estimate = ctypes.CDLL(_IOKIT).IOPSGetTimeRemainingEstimate
    estimate.restype = ctypes.c_double
    return bool(estimate() != _UNLIMITED)
