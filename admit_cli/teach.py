"""teach: the long way: help, completion, and errors for what could not be parsed, by Typer, from the same table."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from admit_cli import table
from admit_cli.main import call
from admitd import __version__
from admitd.core import wire
from admitd.core.units import parse_duration
from admitd.places import parse_port

_EPILOG = (
    "Exit codes: 0 done; 2 refused (and nothing else is 2), with the remedy on stderr; 1 failed; 64 wrong usage; "
    "66 no such service or file; 69 the daemon is needed and not there; 75 timed out, trying later may help; "
    "78 the configuration is wrong."
)


def teach(argv: list[str]) -> int:
    """Run one command line through Typer; the exit code. Typer's own 2 becomes 64: 2 means refused, and only that."""
    ran: list[int] = []
    try:
        application(ran)(args=argv, prog_name="admit")
    except SystemExit as end:
        if ran:
            return ran[0]
        if end.code == 1:  # Ctrl-C while it asked something
            return 130
        return wire.USAGE if end.code else wire.OK
    return ran[0] if ran else wire.OK


def application(ran: list[int] | None = None) -> typer.Typer:
    """The Typer application that the table describes. The exit code of the command that ran is appended to `ran`."""
    app = typer.Typer(
        name="admit",
        help="Admission control for the memory of one machine: a load that would not fit is refused, with the command "
        "that makes room.",
        epilog=_EPILOG,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    groups: dict[str, typer.Typer] = {}
    for command in table.COMMANDS:
        home = app
        if len(command.path) > 1:
            name = command.path[0]
            if name not in groups:
                groups[name] = typer.Typer(help=table.GROUPS[name], no_args_is_help=True, rich_markup_mode=None)
                app.add_typer(groups[name], name=name)
            home = groups[name]
        settings = {"allow_interspersed_args": not any(a.rest and not a.optional for a in command.arguments)}
        home.command(command.path[-1], help=command.help, epilog=_examples(command), context_settings=settings)(
            _function(command, [] if ran is None else ran)
        )
    app.callback()(_root)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        print(f"admit {__version__}")
        raise typer.Exit


def _root(
    context: typer.Context,
    config: Annotated[str | None, typer.Option("--config", help=table.CONFIG.help, metavar="FILE")] = None,
    version: Annotated[
        bool, typer.Option("--version", "-V", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    context.obj = config


def _examples(command: table.Command) -> str:
    return "Examples:\n\n\b\n" + "\n".join(f"  {example}" for example in command.examples)


def _function(command: table.Command, ran: list[int]) -> Callable[..., None]:
    """A function with the signature that Typer reads a command's arguments and options from."""

    def run(typer_context: typer.Context, **values: Any) -> None:
        if values.get("config") is None:
            values["config"] = typer_context.obj
        for argument in command.arguments:
            if argument.many or argument.rest:
                values[argument.name] = list(values[argument.name] or ())
        ran.append(call(command, values))

    parameters = [inspect.Parameter("typer_context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)]
    for argument in command.arguments:
        kind: Any = list[str] if argument.many or argument.rest else str
        if argument.optional:
            kind = kind | None
        metavar = "-- CMD..." if argument.rest else argument.name.upper()
        said = Annotated[kind, typer.Argument(help=argument.help, metavar=metavar, show_default=False)]
        default = None if argument.optional else inspect.Parameter.empty
        parameters.append(
            inspect.Parameter(argument.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=said)
        )
    for option in command.options:
        parameters.append(_parameter(option))
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _parameter(option: table.Option) -> inspect.Parameter:
    if option.kind == table.FLAG:
        flag: Any = Annotated[bool, typer.Option(option.flag, help=option.help)]
        return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=flag)
    parsers: dict[str, Callable[[str], Any]] = {
        table.TEXT: str,
        table.DURATION: _checked(parse_duration),
        table.PORT: _checked(lambda text: parse_port(text, option.flag)),
    }
    metavar = option.metavar or option.kind.upper()
    said = typer.Option(option.flag, help=option.help, metavar=metavar, parser=parsers[option.kind], show_default=False)
    kind: Any = Annotated[Any, said]
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)


def _checked(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def checked(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    return checked
