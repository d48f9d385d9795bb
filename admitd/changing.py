"""changing: the only way in which a program changes capacity.yaml: a few places, and every other byte stays.

The new file is checked as a whole before it takes the old one's place, at once and with its mode and owner: that it is
a good capacity.yaml, and that nothing but what was meant has changed its meaning. Whoever edited it meanwhile keeps
what he wrote: then nothing is written here.
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from admitd import ownfile, splicing, yamlfile
from admitd.core.terms import Capacity
from admitd.problem import ByHand, ConfigError, Problem, Taken, show, spell
from admitd.splicing import Change, Put, Remove

__all__ = ["ByHand", "Changed", "Load", "Put", "Remove", "Taken", "by_hand", "change", "create"]

Load = Callable[[Path], Capacity]


@dataclass(frozen=True, slots=True)
class Changed:
    """What became of a file: its text before and after, and the line of each change."""

    before: str
    after: str
    lines: tuple[int, ...]


def change(path: Path, changes: Sequence[Change], load: Load) -> Changed:
    """Make these changes, all or none. Raises ByHand, ConfigError, OSError."""
    real = Path(os.path.realpath(path))
    data = ownfile.read(real, yamlfile.MOST_BYTES)
    load(real)
    new, lines = _changed(data, changes, path)
    meant = copy.deepcopy(yamlfile.read(data, str(path)).value)
    for each in changes:
        _apply(meant, each)
    with _beside(real) as draft:
        _put(draft, new, real.stat())
        _check(draft, real, load)
        if yamlfile.read(new, str(path)).value != meant:
            raise ByHand(f"{path}: more would change than was meant; {by_hand(changes)}")
        # The lock is for others who do the same; an editor takes none, and is noticed by what it wrote.
        with real.open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            if ownfile.read(real, yamlfile.MOST_BYTES) != data:
                raise ByHand(f"{path} was edited meanwhile; nothing was written, so do it once more")
            draft.replace(real)
            _to_disk(real.parent)
    return Changed(data.decode("utf-8"), new.decode("utf-8"), tuple(lines))


def create(path: Path, text: str, load: Load) -> Capacity:
    """Write a file that was not there, readable by its owner alone. Raises Taken, ConfigError, OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _beside(path) as draft:
        _put(draft, text.encode("utf-8"), None)
        capacity = _check(draft, path, load)
        try:
            os.link(draft, path)  # unlike rename, never replaces what somebody has just put there
        except FileExistsError:
            raise Taken(f"{path} is there already, and stays as it is") from None
        _to_disk(path.parent)
    return capacity


def by_hand(changes: Sequence[Change]) -> str:
    """What a person would write, or take out."""
    said = [
        f"{spell(each.keys)}: {show(each.value)}" if isinstance(each, Put) else f"without {spell(each.keys)}"
        for each in changes
    ]
    return f"write it by hand: {'; '.join(said)}"


def _changed(data: bytes, changes: Sequence[Change], path: Path) -> tuple[bytes, list[int]]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise ByHand(f"{path} is not plain YAML in UTF-8; {by_hand(changes)}") from None
    lines = []
    for each in changes:
        try:
            text, line = splicing.apply(text, each)
        except splicing.CannotCut as why:
            raise ByHand(f"{path} {why}; {by_hand([each])}") from None
        lines.append(line)
    return text.encode("utf-8"), lines


def _apply(value: Any, change: Change) -> None:
    *above, last = change.keys
    for key in above:
        value = value.setdefault(key, {})
    if isinstance(change, Put):
        value[last] = change.value
    else:
        value.pop(last, None)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """The name of a file beside `path`, which is gone in the end."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield draft
    finally:
        with contextlib.suppress(FileNotFoundError):
            draft.unlink()


def _put(draft: Path, data: bytes, like: os.stat_result | None) -> None:
    """Write a file that only its owner may read until it has the mode, and where that is allowed the owner, of
    `like`."""
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(data)
            out.flush()
            if like is not None:
                if (like.st_uid, like.st_gid) != (os.geteuid(), os.getegid()):
                    with contextlib.suppress(PermissionError):
                        os.fchown(descriptor, like.st_uid, like.st_gid)
                os.fchmod(descriptor, like.st_mode & 0o7777)
            os.fsync(descriptor)
    except OSError as problem:
        raise OSError(problem.errno, problem.strerror, str(draft.parent)) from problem


def _check(draft: Path, path: Path, load: Load) -> Capacity:
    """Read the draft as it will be read; ConfigError speaks of the file that it is to become."""
    try:
        return load(draft)
    except ConfigError as error:
        problems = [Problem(str(path), each.path, each.line, each.what, each.instead) for each in error.problems]
        raise ConfigError(problems) from None


def _to_disk(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # some file systems sync no folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
