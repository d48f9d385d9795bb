"""table: every command, argument and option once. The fast parser, the help, the errors and the docs all come from it.

This file is read on every start.
"""

from __future__ import annotations

from admit_cli.grammar import COUNT, DURATION, FLAG, MOMENT, PORT, TEXT, Argument, Command, Option

JSON = Option("--json", FLAG, "Print JSON on stdout, for programs.")
WAIT = Option("--wait", DURATION, "Where it is refused: wait in the queue for so long (90s, 10m, 1h).", "DURATION")
DAEMON_PORT = Option("--port", PORT, "The port; ADMIT_PORT and 2189 otherwise.", "PORT")
YES = Option("--yes", FLAG, "Don't ask before unloading others.")

NAME = Argument("name", "A service that capacity.yaml declares.")
NEW = Argument("name", "What the new service is called.")
KEYS = Argument("keys", "Keys of the file; probe.url=... for what stands deeper.", many=True, metavar="KEY=VALUE")
NAMES = Argument("name", "Services that capacity.yaml declares.", many=True)

GROUPS = {
    "service": "Add, edit or remove a service of capacity.yaml.",
    "cache": "Look after the model files that apps share.",
    "config": "Check capacity.yaml, or print its JSON Schema.",
    "daemon": "Run the daemon that answers everybody, or install it.",
}

COMMANDS = (
    Command(
        "init",
        "admit_cli.init:init",
        "Write a capacity.yaml for this machine, from what runs. It shows what it found, and asks; a file that is "
        "there is never overwritten.",
        (
            "admit init                       # while your model servers run",
            "admit init --yes                 # without a question",
            "admit init --merge               # add what runs to the file that is there; comments stay",
        ),
        (),
        (
            Option("--merge", FLAG, "Add to the file that is there what runs and is not declared yet."),
            Option("--yes", FLAG, "Don't ask."),
            JSON,
        ),
    ),
    Command(
        "doctor",
        "admit_cli.doctor:doctor",
        "Check the file, this machine and the daemon. Says what mends what is wrong, and changes nothing; ends with 1 "
        "where there is a fault.",
        ("admit doctor", "admit doctor --json | jq '.findings[] | select(.level != \"ok\")'"),
        (),
        (JSON,),
    ),
    Command(
        "load",
        "admit_cli.load:load",
        "Ask for admission, load the service, and wait until it answers. Its load_cmd runs only once it is admitted, "
        "in a session of its own; what it prints goes to a log file.",
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
            Option("--cleanup", FLAG, "Where it is not loaded in time: run its unload_cmd, SIGTERM to its load_cmd."),
            JSON,
        ),
    ),
    Command(
        "unload",
        "admit_cli.unload:unload",
        "Stop services and wait until their memory is back. One after the other; a process that merely mentions a "
        "service is never signalled.",
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
        "Ask for admission, then become CMD. Same pid, environment and files, so that launchd, systemd and cron "
        "supervise CMD itself; where it is refused, CMD never starts.",
        (
            "admit run chat -- mlx_lm.server --model ~/models/chat --port 8080",
            "admit run night-job --wait 2h -- python train.py",
        ),
        (NAME, Argument("cmd", "The command to become, after --.", rest=True)),
        (WAIT, JSON),
    ),
    Command(
        "status",
        "admit_cli.status:status",
        "Show the ledger: the pool, services, reservations, pressure.",
        (
            "admit status                     # one screen",
            "admit status --watch             # again every 2 s, until Ctrl-C",
            "admit status --json | jq .free_mb",
        ),
        (),
        (JSON, Option("--watch", FLAG, "Show it again every 2 seconds.")),
    ),
    Command(
        "top",
        "admit_cli.top:top",
        "Watch the ledger live, and act on it. Sort, filter, load, unload and explain by key; the newest events below.",
        ("admit top", "admit top --sort charged --filter loaded"),
        (),
        (
            Option("--sort", TEXT, "Order by name, state, budget, holds, charged or prio.", "COLUMN"),
            Option("--filter", TEXT, "Only services whose name or state has this in it.", "TEXT"),
        ),
    ),
    Command(
        "plan",
        "admit_cli.status:plan",
        "Show what would have to be unloaded for it to fit. Changes nothing.",
        ("admit plan coder", "admit plan coder --json"),
        (NAME,),
        (JSON,),
    ),
    Command(
        "explain",
        "admit_cli.explain:explain",
        "Show which processes match a service, and why. Also which were passed over, and what its check said.",
        ("admit explain coder",),
        (NAME,),
        (JSON,),
    ),
    Command(
        "service add",
        "admit_cli.service:add",
        "Declare one more service in capacity.yaml. Every comment stays; what would make the file wrong is refused. "
        "Where load_cmd starts an engine that is known, what is missing is told by it.",
        (
            "admit service add coder load_cmd='mlx_lm.server --model /models/Coder --port 8081'",
            "admit service add painter ram_budget_mb=14000 'process_pattern=painter-server .*--port 8090'",
            "admit service add chat ram_budget_mb=7000 loaded_check_cmd='lms ps | grep -qw chat'",
        ),
        (NEW, KEYS),
        (JSON,),
    ),
    Command(
        "service edit",
        "admit_cli.service:edit",
        "Change keys of a service in capacity.yaml. KEY= takes one out, and it has its default again.",
        (
            "admit service edit coder ram_budget_mb=16000 priority=80",
            "admit service edit coder exclusive_with=chat,vision hard_limit_mb=",
        ),
        (NAME, KEYS),
        (JSON,),
    ),
    Command(
        "service remove",
        "admit_cli.service:remove",
        "Take a service out of capacity.yaml, with its comment. What runs goes on, and is counted no more.",
        ("admit service remove coder",),
        (NAME,),
        (JSON,),
    ),
    Command(
        "events",
        "admit_cli.events:events",
        "Show what was done and found. Admissions, loads, recoveries, what was closed and why.",
        (
            "admit events                     # the last 100",
            "admit events --since 1h --service coder",
            "admit events --follow --json | jq .text",
        ),
        (),
        (
            Option("--follow", FLAG, "Go on with what comes, until Ctrl-C."),
            Option("--service", TEXT, "Only what concerns this service.", "NAME"),
            Option(
                "--since",
                MOMENT,
                "Not older than this: 90s, 1h, 7d, or 2026-11-21T10:00; the last 1000 of them.",
                "WHEN",
            ),
            JSON,
        ),
    ),
    Command(
        "estimate",
        "admit_cli.estimate:estimate",
        "What a model will hold, told from its files. Weights, cache at a context length, scratch; nothing is loaded.",
        (
            "admit estimate ~/models/Qwen3-8B-4bit",
            "admit estimate llama-3.gguf --context 32768 --parallel 4",
        ),
        (Argument("path", "A GGUF file, or a folder with config.json and safetensors."),),
        (
            Option("--context", COUNT, "Tokens of one request, prompt and answer; 8192 otherwise.", "N"),
            Option("--parallel", COUNT, "Requests at once; 1 otherwise.", "N"),
            JSON,
        ),
    ),
    Command(
        "measure",
        "admit_cli.measure:measure",
        "Watch a service or a command: its peak, and the budget it needs.",
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
        "cache status",
        "admit_cli.cache:status",
        "Show the model files on the disk: sizes, last use, who uses them. What Hugging Face's own cache holds, too.",
        ("admit cache status", "admit cache status --json | jq .held_bytes"),
        (),
        (JSON,),
    ),
    Command(
        "cache gc",
        "admit_cli.cache:gc",
        "Remove what nobody has used for 30 days. Also what is beyond the maximum; what is in use stays.",
        (
            "admit cache gc --dry-run         # only show what would go",
            "admit cache gc",
            "admit cache gc --hub             # of Hugging Face's cache too; shows it and asks",
        ),
        (),
        (
            Option("--dry-run", FLAG, "Only show what would go."),
            Option("--hub", FLAG, "What is idle in Hugging Face's own cache too; asks before it goes."),
            Option("--yes", FLAG, "Don't ask before deleting from Hugging Face's cache."),
            JSON,
        ),
    ),
    Command(
        "cache evict",
        "admit_cli.cache:evict",
        "Remove files by name or hash, now. Or a repository of Hugging Face's own cache. What is in use stays.",
        (
            "admit cache evict qwen3-8b-q4.gguf",
            "admit cache evict 3f2a9c10d4b7   # the beginning of its SHA-256, as cache status shows it",
            "admit cache evict model/mlx-community/Qwen3-8B-4bit",
        ),
        (Argument("file", "A file's name, the beginning of its SHA-256, or TYPE/OWNER/NAME.", many=True),),
        (JSON,),
    ),
    Command(
        "config check",
        "admit_cli.config:check",
        "Read capacity.yaml and report every problem at once. Ends with 78 where there is one.",
        ("admit config check", "admit config check --config ./capacity.yaml"),
        (),
        (JSON,),
    ),
    Command(
        "config schema",
        "admit_cli.config:schema",
        "Print the JSON Schema of capacity.yaml, for editors.",
        ("admit config schema > capacity.schema.json",),
        (),
        (JSON,),
    ),
    Command(
        "daemon run",
        "admit_cli.daemon:run",
        "Run the daemon in the foreground. On 127.0.0.1 and a unix socket beside it, until SIGTERM.",
        ("admit daemon run", "admit daemon run --port 2190"),
        (),
        (DAEMON_PORT,),
    ),
    Command(
        "daemon install",
        "admit_cli.install:install",
        "Have the system keep the daemon running: launchd on macOS, systemd --user on Linux. It starts now and at each "
        "login, and again after a crash. Doing it twice changes nothing; after an upgrade it takes the new version.",
        ("admit daemon install", "admit daemon install --config ~/capacity.yaml --port 2190"),
        (),
        (
            DAEMON_PORT,
            Option("--allow-sudo", FLAG, "systemd: let services' commands use sudo, rootless podman and the like."),
            JSON,
        ),
    ),
    Command(
        "daemon uninstall",
        "admit_cli.install:uninstall",
        "End the daemon and take its files away from the system. capacity.yaml and what was written down stay.",
        ("admit daemon uninstall",),
        (),
        (JSON,),
    ),
    Command(
        "daemon start",
        "admit_cli.install:start",
        "Start the installed daemon.",
        ("admit daemon start",),
        (),
        (JSON,),
    ),
    Command(
        "daemon stop",
        "admit_cli.install:stop",
        "End the installed daemon, until the next login. The services that it started go on.",
        ("admit daemon stop",),
        (),
        (JSON,),
    ),
    Command(
        "daemon restart",
        "admit_cli.install:restart",
        "End the installed daemon and start it again. Reservations stand; under systemd nobody is refused meanwhile.",
        ("admit daemon restart",),
        (),
        (JSON,),
    ),
    Command(
        "daemon status",
        "admit_cli.install:status",
        "Show whether the daemon is installed, runs and answers. Ends with 69 where it does not answer.",
        ("admit daemon status", "admit daemon status --json | jq .version"),
        (),
        (JSON,),
    ),
    Command(
        "daemon logs",
        "admit_cli.install:logs",
        "Show what the installed daemon said.",
        ("admit daemon logs", "admit daemon logs --follow"),
        (),
        (
            Option("--follow", FLAG, "Go on with what comes, until Ctrl-C."),
            Option("--lines", COUNT, "How many lines; 100 otherwise.", "N"),
            JSON,
        ),
    ),
)


def find(argv: list[str]) -> Command | None:
    """The command that argv begins with."""
    for command in COMMANDS:
        if tuple(argv[: len(command.path)]) == command.path:
            return command
    return None
