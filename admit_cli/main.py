"""main: the entry point, and the short way to a command: what parses cleanly runs at once.

All else (help, completion, a typing error) goes the long way through teach.py, which knows the same table. Nothing
heavy is imported here; a test holds that.
"""

from __future__ import annotations

import os
import sys

from admit_cli import grammar, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

FAILED, INTERRUPTED = 1, 130


def main(argv: list[str] | None = None) -> NoReturn:
    """Entry point of `admit`."""
    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        from admit_cli.tell import open_what_is_closed

        open_what_is_closed()
    try:
        code = dispatch(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        from admit_cli.errors import told

        code = told(error)
    from admit_cli.tell import flush

    if not flush():
        code = code or FAILED
    if code == INTERRUPTED:
        _end_checks()
        os._exit(code)  # whoever pressed Ctrl-C does not wait until a look that is under way has come to its end
    sys.exit(code)


def _end_checks() -> None:
    """End the check commands of a look that is under way. Where none can be, their file was not even imported."""
    checks = sys.modules.get("admitd.checks")
    if checks is not None:
        try:
            checks.stop()
        except KeyboardInterrupt:  # pressed again: it is to end now
            return


def admitd() -> NoReturn:
    """Entry point of `admitd`: the same as `admit daemon run`."""
    main(["daemon", "run", *sys.argv[1:]])


def dispatch(argv: list[str]) -> int:
    """Run one command line; the exit code."""
    if argv in (["--version"], ["-V"]):
        from admitd import __version__

        print(f"admit {__version__}")
        return 0
    parsed = None if "_ADMIT_COMPLETE" in os.environ else parse(argv)
    if parsed is None:
        from admit_cli.teach import teach

        return teach(argv)
    return call(*parsed)


def call(command: grammar.Command, values: dict[str, Any]) -> int:
    """Import a command's code and run it; errors become a sentence and an exit code."""
    try:
        return _function(command.run)(values)
    except KeyboardInterrupt as stop:
        from admit_cli.errors import interrupted

        left = str(stop)
        return interrupted(f"interrupted; {left}" if left else "interrupted", as_json=values.get("json", False))
    except Exception as error:
        from admit_cli.errors import told

        return told(error, as_json=values.get("json", False))


def _function(run: str) -> Callable[[dict[str, Any]], int]:
    module, _, name = run.partition(":")
    __import__(module)
    function: Callable[[dict[str, Any]], int] = getattr(sys.modules[module], name)
    return function


def parse(argv: list[str]) -> tuple[grammar.Command, dict[str, Any]] | None:
    """The command and its values; None for whatever is not plainly right."""
    config = None
    if len(argv) > 1 and argv[0] == "--config":
        config, argv = argv[1], argv[2:]
    command = table.find(argv)
    if command is None:
        return None
    values = _values(command, argv[len(command.path) :])
    if values is not None and config is not None and values["config"] is None:
        values["config"] = config
    return None if values is None else (command, values)


def _values(command: grammar.Command, words: list[str]) -> dict[str, Any] | None:
    values: dict[str, Any] = {o.name: False if o.kind == grammar.FLAG else None for o in command.options}
    flags = {option.flag: option for option in command.options}
    takes_rest = any(argument.rest for argument in command.arguments)
    given: list[str] = []
    rest: list[str] | None = None
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--" and takes_rest:
            rest = words[at:]
            break
        if not word.startswith("-"):
            given.append(word)
            continue
        flag, equals, text = word.partition("=")
        option = flags.get(flag)
        if option is None:
            return None
        if option.kind == grammar.FLAG:
            value = None if equals else True
        elif not equals and at >= len(words):
            value = None
        else:
            value = _convert(option, text if equals else words[at])
            at += not equals
        if value is None:
            return None
        values[option.name] = value
    return _with_arguments(command, values, given, rest)


def _with_arguments(
    command: grammar.Command, values: dict[str, Any], given: list[str], rest: list[str] | None
) -> dict[str, Any] | None:
    for argument in command.arguments:
        if argument.rest:
            if not rest and not argument.optional:
                return None
            values[argument.name] = rest or []
        elif argument.many:
            values[argument.name], given = given, []
            if not values[argument.name]:
                return None
        else:
            if not given and not argument.optional:
                return None
            values[argument.name], given = given[0] if given else None, given[1:]
    return None if given else values


def _convert(option: grammar.Option, text: str) -> Any:
    """The option's value; None where `text` is not one."""
    try:
        return None if text == "--" else grammar.convert(option, text)
    except ValueError:
        return None
