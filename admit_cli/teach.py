"""teach: the long way: help, completion, and errors for what could not be parsed, by Typer, from the same table."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Final

import typer
from typer.core import TyperCommand

from admit_cli import grammar, table
from admit_cli.main import call
from admitd import __version__
from admitd.core import wire

_EPILOG: Final = (
    "Exit codes: 0 done; 2 refused (and nothing else is 2), with the remedy on stderr; 1 failed; 64 wrong usage; "
    "66 no such service or file; 69 the daemon is needed and not there; 75 timed out, trying later may help; "
    "78 the configuration is wrong."
)
_INTERRUPTED: Final = 130
_WrongUsage: Final[Any] = typer.BadParameter.__mro__[2]
"""ClickException, which Typer keeps under several names, none of them public in all of its versions."""


def teach(argv: list[str]) -> int:
    """Run one command line through Typer; the exit code. Typer's own 2 becomes 64: 2 means refused, and only that."""
    ran: list[int] = []
    try:
        code = application(ran)(args=argv, prog_name="admit", standalone_mode=False)
    except _WrongUsage as wrong:
        wrong.show()
        if "--json" in argv:
            from admit_cli.render import print_json

            print_json({"title": "Wrong usage", "detail": wrong.format_message(), "exit_code": wire.USAGE})
        return wire.USAGE
    except typer.Abort:
        return _INTERRUPTED
    except SystemExit as end:  # a completion script was printed, or could not be
        return wire.FAILED if end.code else wire.OK
    if ran:
        return ran[0]
    return code if isinstance(code, int) else wire.OK


def application(ran: list[int]) -> typer.Typer:
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
        taught = type("Taught", (Taught,), {"told": command})
        home.command(command.path[-1], cls=taught, help=command.help)(_function(command, ran))
    app.callback()(_root)
    return app


class Taught(TyperCommand):
    """One command of the table: its help shows examples, and what follows `--` is not looked into."""

    told: ClassVar[grammar.Command]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Options end at `--`, and so do the command's own arguments where it takes a command line after it."""
        ctx.meta["admit.rest"] = []
        if any(argument.rest for argument in self.told.arguments) and "--" in args:
            at = args.index("--")
            args, ctx.meta["admit.rest"] = args[:at], args[at + 1 :]
        try:
            return super().parse_args(ctx, args)
        except _WrongUsage as wrong:
            if getattr(wrong, "ctx", ctx) is None:
                wrong.ctx = ctx  # so that the usage is shown with each of them
            raise

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """NAME, NAME..., and for the rest: -- CMD..."""
        shown = [_shown(argument) for argument in self.told.arguments]
        rest = [f"-- {_shown(argument)}" for argument in self.told.arguments if argument.rest]
        return [*shown[: len(shown) - len(rest)], "[OPTIONS]", *rest]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, options, examples."""
        if self.told.arguments:
            with formatter.section("Arguments"):
                formatter.write_dl([(_shown(argument), argument.help) for argument in self.told.arguments])
        options = [(f"{option.flag} {option.metavar}".rstrip(), option.help) for option in self.told.options]
        with formatter.section("Options"):
            formatter.write_dl([*options, ("-h, --help", "Show this message and exit.")])
        with formatter.section("Examples"):
            for example in self.told.examples:
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")


def _shown(argument: grammar.Argument) -> str:
    return argument.metavar + ("..." if argument.many or argument.rest else "")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"admit {__version__}")
        raise typer.Exit


def _root(
    context: typer.Context,
    config: Annotated[str | None, typer.Option("--config", help=grammar.CONFIG.help, metavar="FILE")] = None,
    version: Annotated[
        bool, typer.Option("--version", "-V", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    context.obj = config


def _function(command: grammar.Command, ran: list[int]) -> Callable[..., None]:
    """A function with the signature that Typer reads a command's arguments and options from."""

    def run(typer_context: typer.Context, **values: Any) -> None:
        if values.get("config") is None:
            values["config"] = typer_context.obj
        for argument in command.arguments:
            if argument.rest:
                values[argument.name] = _rest(typer_context, argument, values[argument.name])
            elif argument.many:
                values[argument.name] = list(values[argument.name] or ())
        ran.append(call(command, values))

    parameters = [inspect.Parameter("typer_context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)]
    for argument in command.arguments:
        parameters.append(_argument(argument))
    for option in command.options:
        parameters.append(_option(option))
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _rest(context: typer.Context, argument: grammar.Argument, before: list[str] | None) -> list[str]:
    """What followed `--`. `before`: surplus words in front of it."""
    rest: list[str] = context.meta["admit.rest"]
    if before or not (rest or argument.optional):
        what = f"unexpected {' '.join(before)!r}" if before and rest else "the command to become goes after --"
        raise typer.BadParameter(f"{what}; for example: admit run chat -- mlx_lm.server", ctx=context, param_hint="CMD")
    return rest


def _argument(argument: grammar.Argument) -> inspect.Parameter:
    completion: Any = {"name": _services, "keys": _keys}.get(argument.name)
    said = typer.Argument(metavar=_shown(argument), show_default=False, autocompletion=completion)
    if argument.rest:
        kind: Any = Annotated[list[str] | None, said]
        return inspect.Parameter(argument.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
    kind = Annotated[list[str] if argument.many else str | None if argument.optional else str, said]
    default = None if argument.optional else inspect.Parameter.empty
    return inspect.Parameter(argument.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _option(option: grammar.Option) -> inspect.Parameter:
    if option.kind == grammar.FLAG:
        flag: Any = Annotated[bool, typer.Option(option.flag)]
        return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=flag)

    def parse(text: str) -> Any:
        try:
            return grammar.convert(option, text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    said = typer.Option(option.flag, metavar=option.metavar, parser=parse, show_default=False)
    kind: Any = Annotated[Any, said]
    return inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)


def _services(context: typer.Context, incomplete: str) -> list[str]:
    """The declared services, for completion. What is wrong with the file is not told on a Tab."""
    from admit_cli.inside import Inside
    from admitd.places import PORT

    try:
        named = context.params.get("config") or (context.parent.params.get("config") if context.parent else None)
        names = list(Inside(named, PORT).house.gate.capacity().services)
    except Exception:
        return []
    return [name for name in names if name.startswith(incomplete)]


def _keys(incomplete: str) -> list[str]:
    """The keys of a service, as they are written in front of a value."""
    from admitd.shape import ProbeShape, ServiceShape, keys_of

    names = [name for name in keys_of(ServiceShape) if name != "probe"]
    names += [f"probe.{name}" for name in keys_of(ProbeShape)]
    return [f"{name}=" for name in names if name.startswith(incomplete)]
