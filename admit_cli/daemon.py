"""daemon: `admit daemon run`."""

from __future__ import annotations

import os
from typing import Any

from admit_cli.door import BadSetting
from admit_cli.errors import told
from admit_cli.tell import tell
from admitd import daemon, handover, places, processes, serving
from admitd.capacity import ConfigError, NotFound
from admitd.core import wire
from admitd.places import UnsafePlace


def run(values: dict[str, Any]) -> int:
    """Run the daemon in the foreground; the exit code."""
    handed = handover.take(os.environ)
    handed.open_log()
    try:
        return _run(values, handed)
    except (BadSetting, ConfigError, NotFound, UnsafePlace) as problem:
        code = told(problem)
        return wire.OK if handed.starts_failures_again else code


def _run(values: dict[str, Any], handed: handover.Handed) -> int:
    try:
        port = values["port"] or places.port(os.environ)
    except ValueError as problem:
        raise BadSetting(str(problem)) from problem
    try:
        daemon.run(os.environ, values["config"], port, handed)
    except processes.NoSuchReader as problem:
        raise BadSetting(str(problem)) from problem
    except serving.PortTaken as problem:
        tell(f"admitd: {problem}")
        return wire.FAILED
    return wire.OK
