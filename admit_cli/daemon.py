"""daemon: `admit daemon run`."""

from __future__ import annotations

import os
import sys
from typing import Any

from admitd import daemon, places, serving
from admitd.core import wire


def run(values: dict[str, Any]) -> int:
    """Run the daemon in the foreground; the exit code."""
    try:
        daemon.run(os.environ, values["config"], values["port"] or places.port(os.environ))
    except serving.PortTaken as problem:
        print(f"admitd: {problem}", file=sys.stderr)
        return wire.FAILED
    return wire.OK
