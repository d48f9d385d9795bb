"""table: every command, argument and option once. The fast parser, the help, the errors and the docs all come from it.

Nothing is imported here: this file is read on every start.
"""

FLAG, TEXT, DURATION, PORT = "flag", "text", "duration", "port"


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
    it may be left out."""

    __slots__ = ("help", "many", "name", "optional", "rest")

    def __init__(self, name: str, help: str, *, many: bool = False, rest: bool = False, optional: bool = False) -> None:
        self.name = name
        self.help = help
        self.many = many
        self.rest = rest
        self.optional = optional


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


CONFIG = Option("--config", TEXT, "The capacity.yaml to go by, instead of the one found by default.", "FILE")
JSON = Option("--json", FLAG, "Print JSON on stdout, for programs.")
WAIT = Option("--wait", DURATION, "Where it is refused: wait in the queue for so long (90s, 10m, 1h).", "DURATION")
YES = Option("--yes", FLAG, "Don't ask before unloading others.")

NAME = Argument("name", "A service that capacity.yaml declares.")
NAMES = Argument("name", "Services that capacity.yaml declares.", many=True)

GROUPS = {
    "config": "Check capacity.yaml; print its JSON Schema.",
    "daemon": "The daemon: one process that answers everybody.",
}

COMMANDS = (
    Command(
        "load",
        "admit_cli.load:load",
        "Ask for admission, run the service's load_cmd, and follow it until the service answers.",
        (
            "admit load coder                 # 0: loaded; 2: refused, with the reason and the remedy",
            "admit load coder --wait 10m      # wait in the queue until it fits",
            "admit load coder --evict         # show what would have to go, ask, unload it, then load",
        ),
        (NAME,),
        (
            WAIT,
            Option("--evict", FLAG, "Unload what stands in the way first; shows the plan and asks."),
            YES,
            Option("--cleanup", FLAG, "Where it is not loaded in time: unload what is there of it."),
            JSON,
        ),
    ),
    Command(
        "unload",
        "admit_cli.unload:unload",
        "Stop services, one after the other, and wait until their memory is back.",
        (
            "admit unload coder               # its unload_cmd, or SIGTERM to its processes",
            "admit unload coder --kill        # SIGKILL to what is still there after unload_timeout_s",
        ),
        (NAMES,),
        (Option("--kill", FLAG, "SIGKILL to what is still there after unload_timeout_s."), JSON),
    ),
    Command(
        "run",
        "admit_cli.load:run",
        "Ask for admission, then become CMD: same pid, so launchd, systemd and cron supervise CMD itself.",
        (
            "admit run chat -- mlx_lm.server --model ~/models/chat --port 8080",
            "admit run night-job --wait 2h -- python train.py",
        ),
        (NAME, Argument("cmd", "The command to become, after --.", rest=True)),
        (WAIT,),
    ),
    Command(
        "status",
        "admit_cli.status:status",
        "The ledger: the pool, every service, reservations, pressure, warnings.",
        (
            "admit status                     # one screen",
            "admit status --watch             # again every 2 s, until Ctrl-C",
            "admit status --json | jq .free_mb",
        ),
        (),
        (JSON, Option("--watch", FLAG, "Show it again every 2 seconds.")),
    ),
    Command(
        "plan",
        "admit_cli.status:plan",
        "What would have to be unloaded for a service to fit. Changes nothing.",
        ("admit plan coder", "admit plan coder --json"),
        (NAME,),
        (JSON,),
    ),
    Command(
        "explain",
        "admit_cli.explain:explain",
        "Which processes match a service and why; which were passed over; what its check said.",
        ("admit explain coder",),
        (NAME,),
        (JSON,),
    ),
    Command(
        "events",
        "admit_cli.events:events",
        "Show what was done and found: admissions, loads, recoveries, what was closed and why.",
        (
            "admit events                     # the last 100",
            "admit events --since 1h --service coder",
            "admit events --follow --json | jq .text",
        ),
        (),
        (
            Option("--follow", FLAG, "Go on with what comes, until Ctrl-C."),
            Option("--service", TEXT, "Only what concerns this service.", "NAME"),
            Option("--since", TEXT, "Not older than this: 90s, 1h, 7d, or 2026-11-21T10:00.", "WHEN"),
            JSON,
        ),
    ),
    Command(
        "estimate",
        "admit_cli.estimate:estimate",
        "What a model will hold, from its own files: weights, cache at a context length, scratch. Nothing is loaded.",
        (
            "admit estimate ~/models/Qwen3-8B-4bit",
            "admit estimate llama-3.gguf --context 32768 --parallel 4",
        ),
        (Argument("path", "A GGUF file, or a folder with config.json and safetensors."),),
        (
            Option("--context", TEXT, "Tokens of one request, prompt and answer; 8192 otherwise.", "N"),
            Option("--parallel", TEXT, "Requests at once; 1 otherwise.", "N"),
            JSON,
        ),
    ),
    Command(
        "measure",
        "admit_cli.measure:measure",
        "Watch a service, or a command, while it is used: its peak, and the budget that this asks for.",
        (
            "admit measure coder              # for 60 s, or until Ctrl-C; use it meanwhile",
            "admit measure coder --for 10m --write",
            "admit measure -- mlx_lm.server --model ~/models/chat --port 8080",
        ),
        (
            Argument("name", "A service that capacity.yaml declares.", optional=True),
            Argument("cmd", "A command to start and watch instead, after --.", rest=True, optional=True),
        ),
        (
            Option("--for", DURATION, "How long to watch; 60s otherwise, a command to its end.", "DURATION", "for_s"),
            Option("--write", FLAG, "Put the budget into capacity.yaml; comments stay."),
            JSON,
        ),
    ),
    Command(
        "config check",
        "admit_cli.config:check",
        "Read capacity.yaml and report every problem at once; 78 where there is one.",
        ("admit config check", "admit config check --config ./capacity.yaml"),
        (),
        (JSON,),
    ),
    Command(
        "config schema",
        "admit_cli.config:schema",
        "Print the JSON Schema of capacity.yaml, for editors.",
        ("admit config schema > capacity.schema.json",),
    ),
    Command(
        "daemon run",
        "admit_cli.daemon:run",
        "Run the daemon in the foreground, on 127.0.0.1 and a unix socket.",
        ("admit daemon run", "admit daemon run --port 2190"),
        (),
        (Option("--port", PORT, "The port; ADMIT_PORT and 2189 otherwise.", "PORT"),),
    ),
)
