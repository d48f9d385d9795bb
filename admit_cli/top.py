"""top: `admit top`: the ledger live on a terminal. What draws it is imported once it is clear that it can be drawn."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def top(values: dict[str, Any]) -> int:
    """Show it until somebody quits; the exit code. What cannot even be seen once is told as by any other command."""
    from admit_cli.door import BadSetting

    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM", "dumb") == "dumb":
        raise BadSetting(
            "top draws on a terminal, and this is none. For scripts: admit status --json, admit status --watch --json"
        )
    from admit_cli.monitor.rows import order_named
    from admit_cli.monitor.source import Source

    order = order_named(values["sort"])
    source = Source(values["config"])
    first = source.look_once()
    from admit_cli.monitor.screen import Monitor

    monitor = Monitor(source, first, order, values["filter"] or "")
    monitor.run()
    if monitor.fault is not None:
        raise monitor.fault
    return monitor.return_code or 0
