"""budgetfile: puts one budget into capacity.yaml: one number changes, and every other byte stays as it was.

The new file is checked as a whole before it takes the old one's place, at once and with its mode.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from admitd import ownfile, yamlfile
from admitd.core.terms import RAM, Capacity
from admitd.core.units import from_mb
from admitd.problem import ConfigError, Problem, spell

KEY: Final = "ram_budget_mb"

Load = Callable[[Path], Capacity]


class ByHand(Exception):
    """The number can't be put there by a program; the text says where a person puts it."""


def write(path: Path, service: str, budget_mb: int, load: Load) -> int:
    """Make `budget_mb` the budget of `service`; the line it stands on. Raises ByHand, ConfigError, OSError."""
    real = Path(os.path.realpath(path))
    data = ownfile.read(real, yamlfile.MOST_BYTES)
    before = load(real)
    changed, line = _changed(data, service, budget_mb, path)
    new = real.with_name(f".{real.name}.{secrets.token_hex(4)}")
    try:
        _put(new, changed, real)
        _check(new, real, before, service, budget_mb, load)
        if ownfile.read(real, yamlfile.MOST_BYTES) != data:
            raise ByHand(f"{path} was edited meanwhile; nothing was written")
        new.replace(real)
    finally:
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
    return line


def _changed(data: bytes, service: str, budget_mb: int, path: Path) -> tuple[bytes, int]:
    """The file with the new number, and the line that it stands on."""
    import yaml

    wanted = f"write it by hand: {spell(('services', service, KEY))}: {budget_mb}"
    try:
        text = data.decode("utf-8")
        node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    except (UnicodeDecodeError, yaml.YAMLError):
        raise ByHand(f"{path} is not plain YAML in UTF-8; {wanted}") from None
    for key in ("services", service, KEY):
        node = _under(node, key)
        if node is None:
            raise ByHand(f"{path} does not say it in the service's own entry; {wanted}")
    start, end = node.start_mark.index, node.end_mark.index
    alone = isinstance(node, yaml.ScalarNode) and text[start:end] == node.value and node.value.isalnum()
    if not alone:
        raise ByHand(f"{path}:{node.start_mark.line + 1} has more than a number there; {wanted}")
    changed = text[:start] + str(budget_mb) + text[end:]
    return changed.encode("utf-8"), node.start_mark.line + 1


def _under(node: Any, key: str) -> Any:
    """The value that stands behind `key`; None where there is none, or where it is an alias for what stands
    elsewhere, and may be somebody else's, too."""
    import yaml

    if not isinstance(node, yaml.MappingNode):
        return None
    for name, value in node.value:
        if isinstance(name, yaml.ScalarNode) and name.value == key:
            ahead = value.start_mark.index >= name.end_mark.index and value.end_mark.index <= node.end_mark.index
            return value if ahead else None
    return None


def _put(new: Path, data: bytes, like: Path) -> None:
    """Write a file that only its owner may read until it has the mode, and where that is allowed the owner, of
    `like`."""
    found = like.stat()
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(data)
        out.flush()
        if (found.st_uid, found.st_gid) != (os.geteuid(), os.getegid()):
            with contextlib.suppress(PermissionError):
                os.fchown(descriptor, found.st_uid, found.st_gid)
        os.fchmod(descriptor, found.st_mode & 0o7777)
        os.fsync(descriptor)


def _check(new: Path, path: Path, before: Capacity, service: str, budget_mb: int, load: Load) -> None:
    """Raises ConfigError where the new file is wrong, ByHand where more than the one number would change."""
    try:
        after = load(new)
    except ConfigError as error:
        problems = [Problem(str(path), each.path, each.line, each.what, each.instead) for each in error.problems]
        raise ConfigError(problems) from None
    declared = before.services[service]
    wanted = replace(declared, budget={**declared.budget, RAM: from_mb(budget_mb)})
    expected = replace(before, services={**before.services, service: wanted}, path=after.path)
    if after != expected:
        raise ByHand(f"{path}: more than {KEY} of {service} would change; write it by hand: {KEY}: {budget_mb}")
