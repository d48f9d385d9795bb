"""grammar: what a command, an argument and an option are, and the value that what was written stands for.

Nothing is imported here: this file is read on every start.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FLAG, TEXT, DURATION, PORT, COUNT, MOMENT = "flag", "text", "duration", "port", "count", "moment"
LONGEST_WAIT_S = 86_400.0
MOST = 100_000_000


class Option:
    """One option. `name` is how the command's code knows it: the flag's, unless that is a word of Python's."""

    __slots__ = ("flag", "help", "kind", "metavar", "name")

    def __init__(self, flag: str, kind: str, help: str, metavar: str = "", name: str = "") -> None:
        self.flag = flag
        self.name = name or flag.lstrip("-").replace("-", "_")
        self.kind = kind
        self.help = help
        self.metavar = metavar


class Argument:
    """One positional argument. `many`: one or more; `rest`: all that follows, options of others included; `optional`:
    it may be left out; `metavar`: how it is shown, where that is not its name."""

    __slots__ = ("help", "many", "metavar", "name", "optional", "rest")

    def __init__(
        self,
        name: str,
        help: str,
        *,
        many: bool = False,
        rest: bool = False,
        optional: bool = False,
        metavar: str = "",
    ) -> None:
        self.name = name
        self.metavar = metavar or name.upper()
        self.help = help
        self.many = many
        self.rest = rest
        self.optional = optional


CONFIG = Option("--config", TEXT, "The capacity.yaml to go by, instead of the one found by default.", "FILE")


class Command:
    """One command. `run` is `module:function`, imported when it is called."""

    __slots__ = ("arguments", "examples", "help", "options", "path", "run")

    def __init__(
        self,
        path: str,
        run: str,
        help: str,
        examples: tuple[str, ...],
        arguments: tuple[Argument, ...] = (),
        options: tuple[Option, ...] = (),
    ) -> None:
        self.path = tuple(path.split())
        self.run = run
        self.help = help
        self.examples = examples
        self.arguments = arguments
        self.options = (*options, CONFIG)


def convert(option: Option, text: str) -> Any:
    """The value of an option from what was written. Raises ValueError, with what to write instead."""
    if option.kind == DURATION:
        from admitd.core.units import parse_duration

        seconds = parse_duration(text)
        if seconds > LONGEST_WAIT_S:
            raise ValueError(f"{text!r} is longer than a day; write at most 24h")
        return seconds
    if option.kind == PORT:
        from admitd.places import parse_port

        return parse_port(text, option.flag)
    if option.kind == COUNT:
        return _count(text)
    if option.kind == MOMENT:
        import time

        from admit_cli.events import parse_since

        return parse_since(text, time.time())
    return text


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 0 < int(text) <= MOST):
        raise ValueError(f"{text[:20]!r} is no count; write a number from 1 to {MOST}, for example 4096")
    return int(text)
