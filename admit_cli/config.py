"""config: `admit config check` and `admit config schema`."""

from __future__ import annotations

from typing import Any

from admit_cli import ownyaml, render
from admit_cli.tell import out, tell
from admitd import capacity
from admitd.core import headroom, wire
from admitd.core.terms import RAM
from admitd.core.units import free_to_mb


def check(values: dict[str, Any]) -> int:
    """Report every problem at once; the exit code."""
    path = ownyaml.find(values["config"])
    try:
        good = ownyaml.load(path)
    except capacity.ConfigError as error:
        if values["json"]:
            problems = [
                {"file": p.file, "path": p.path, "line": p.line, "what": p.what, "instead": p.instead}
                for p in error.problems
            ]
            render.print_json({"ok": False, "file": str(path), "problems": problems})
        else:
            tell(str(error))
        return wire.BAD_CONFIG
    pool = free_to_mb(headroom.pool(good.host)[RAM])
    if values["json"]:
        render.print_json({"ok": True, "file": str(path), "host": good.host.name, "pool_mb": pool, "problems": []})
    else:
        out(f"{path}: fine; host {good.host.name}, pool {pool} MB, {len(good.services)} services")
    return wire.OK


def schema(values: dict[str, Any]) -> int:
    """Print the schema."""
    render.print_json(capacity.json_schema())
    return wire.OK
