"""bounded: reading of files that may be anything: only regular ones, never more than was asked for."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

NUMBER_MAX: Final = 1 << 31
"""No dimension of a model comes near it."""
LAYERS_MAX: Final = 10_000


class BadFile(ValueError):
    """A file that is not what it should be; the text names it, says what is wrong, and is fit for users."""


@contextmanager
def opened(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """A regular file and its size. Raises BadFile for anything else: a pipe would make us wait."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb", buffering=1 << 16) as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise BadFile(f"{path} is not a regular file")
        yield file, found.st_size


def whole(value: object, what: str, most: int = NUMBER_MAX) -> int:
    """`value` as a number that a shape may hold. Raises BadFile."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
        raise BadFile(f"{what} is {str(value)[:40]!r}, not a number from 1 to {most}")
    return value
