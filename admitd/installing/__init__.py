"""installing: the daemon as a service of the system's own supervisor, so that it is there after a crash and a login."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from admitd.installing.wanted import Keeper, NoSupervisor


def for_this_system(environ: Mapping[str, str], home: str) -> Keeper:
    """What keeps services running on this system. Raises NoSupervisor."""
    if sys.platform == "darwin":
        from admitd.installing.launchd import Launchd

        return Launchd(home, os.getuid())
    if sys.platform == "linux":
        from admitd.installing.systemd import Systemd

        return Systemd(environ, home)
    raise NoSupervisor(f"there is no installer for {sys.platform}; start this by your own means: admit daemon run")
