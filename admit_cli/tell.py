"""tell: the only way to stdout and stderr. Whoever reads there may go away at any time: that ends no command."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_UNWRITTEN = "the answer could not be written to stdout"


def tell(text: str, end: str = "\n") -> None:
    """Say it to people, on stderr, at once."""
    try:
        print(text, end=end, file=sys.stderr, flush=True)
    except OSError:
        _silence(2)


def out(text: str) -> bool:
    """The answer, on stdout; False where nobody reads it any more."""
    return _written(lambda: print(text))


def out_now(text: str) -> bool:
    """As `out`, and handed over at once: more will follow, but not soon."""
    return _written(lambda: print(text, flush=True))


def flush() -> bool:
    """Hand over what is still kept for stdout; False where it could not be written."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _silence(1)
    except OSError as problem:
        _silence(1)
        tell(f"admit: {_UNWRITTEN}: {problem.strerror}")
        return False
    return True


def open_what_is_closed() -> None:
    """Standard streams that the caller closed lead to /dev/null here, so that no other file gets their numbers; a
    command that this process becomes finds them closed, as they were."""
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            if fd != number:
                os.dup2(fd, number, inheritable=False)
                os.close(fd)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


def printable(text: str) -> str:
    """`text` on one line, without what would move a terminal's cursor or colour it: logs and servers say anything."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else " " if each.isspace() else "?" for each in text)


def _written(write: Callable[[], None]) -> bool:
    try:
        write()
    except BrokenPipeError:
        _silence(1)
        return False
    except OSError as problem:
        _silence(1)
        raise OSError(problem.errno, f"{_UNWRITTEN}: {problem.strerror}") from problem
    return True


def _silence(fd: int) -> None:
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, fd)
    os.close(devnull)
