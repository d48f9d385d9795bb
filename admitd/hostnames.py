"""hostnames: what this machine is called, so that an entry of `hosts` is found for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PREFERENCES: Final = Path("/Library/Preferences/SystemConfiguration/preferences.plist")


def of_this_machine(platform: str = sys.platform, preferences: Path = _PREFERENCES) -> Iterator[str]:
    """Its names, the one that the system goes by first. On macOS that one may come from the network, and change with
    it, so the one follows that System Settings > General > Sharing shows."""
    yield os.uname().nodename
    if platform == "darwin":
        yield from _set_by_its_owner(preferences)


def lasting(platform: str = sys.platform, preferences: Path = _PREFERENCES) -> str:
    """The name to write into a file: of those, the last."""
    return list(of_this_machine(platform, preferences))[-1]


def _set_by_its_owner(preferences: Path) -> Iterator[str]:
    """LocalHostName, where SystemConfiguration keeps it (SCDynamicStoreCopyLocalHostName)."""
    import plistlib
    from xml.parsers.expat import ExpatError

    try:
        name = plistlib.loads(preferences.read_bytes())["System"]["Network"]["HostNames"]["LocalHostName"]
    except (OSError, ValueError, KeyError, TypeError, ExpatError, plistlib.InvalidFileException):
        return
    if isinstance(name, str) and name:
        yield name
