"""daemon: `admit daemon run`."""

from __future__ import annotations

import os
from typing import Any

from admit_cli.door import BadSetting
from admit_cli.tell import tell
from admitd import daemon, places, processes, serving
from admitd.core import wire


def run(values: dict[str, Any]) -> int:
    """Run the daemon in the foreground; the exit code."""
    try:
        port = values["port"] or places.port(os.environ)
    except ValueError as problem:
        raise BadSetting(str(problem)) from problem
    try:
        daemon.run(os.environ, values["config"], port)
    except processes.NoSuchReader as problem:
        raise BadSetting(str(problem)) from problem
    except serving.PortTaken as problem:
        tell(f"admitd: {problem}")
        return wire.FAILED
    return wire.OK
