"""The house rules, read off the code itself: imports point one way, and what is dangerous stands in one file."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("admitd", "admit_cli", "admit_sdk")

# A file imports only from entries that stand above its own; an entry ending in "/" is a folder, whose files may import
# one another. A new file of admitd/ goes in here, under everything that it imports.
ORDER = (
    "admitd/__init__.py",
    "admitd/core/__init__.py",
    "admitd/core/units.py",
    "admitd/core/sizing.py",
    "admitd/core/terms.py",
    "admitd/core/verdict.py",
    "admitd/core/headroom.py",
    "admitd/core/ledger.py",
    "admitd/core/eviction.py",
    "admitd/core/pressure.py",
    "admitd/core/admission.py",
    "admitd/core/events.py",
    "admitd/core/acts.py",
    "admitd/core/stopped.py",
    "admitd/core/probing.py",
    "admitd/core/condition.py",
    "admitd/core/halfway.py",
    "admitd/core/runaway.py",
    "admitd/core/activity.py",
    "admitd/core/relief.py",
    "admitd/core/respawn.py",
    "admitd/core/reboot.py",
    "admitd/core/grouping.py",
    "admitd/core/chronicle.py",
    "admitd/core/governing.py",
    "admitd/core/wire.py",
    "admitd/extras.py",
    "admitd/problem.py",
    "admitd/modelfiles/",
    "admitd/places.py",
    "admitd/patterns.py",
    "admitd/ownfile.py",
    "admitd/yamltext.py",
    "admitd/yamlscalar.py",
    "admitd/yamlfile.py",
    "admitd/values.py",
    "admitd/shape.py",
    "admitd/reading.py",
    "admitd/meaning.py",
    "admitd/hostnames.py",
    "admitd/capacity.py",
    "admitd/yamlwrite.py",
    "admitd/splicing.py",
    "admitd/changing.py",
    "admitd/budgetfile.py",
    "admitd/processes/",
    "admitd/memory/",
    "admitd/actuator.py",
    "admitd/installing/",
    "admitd/handover.py",
    "admitd/checks.py",
    "admitd/boot.py",
    "admitd/record.py",
    "admitd/machinelock.py",
    "admitd/supervisors.py",
    "admitd/portowner.py",
    "admitd/hands.py",
    "admitd/reservations.py",
    "admitd/trail.py",
    "admitd/journal.py",
    "admitd/safelist.py",
    "admitd/families.py",
    "admitd/footprints.py",
    "admitd/tally.py",
    "admitd/asks.py",
    "admitd/gate.py",
    "admitd/apps.py",
    "admitd/flight.py",
    "admitd/probe.py",
    "admitd/ownmetrics.py",
    "admitd/activity.py",
    "admitd/measuring.py",
    "admitd/engines.py",
    "admitd/answered.py",
    "admitd/asking.py",
    "admitd/discovery.py",
    "admitd/drafting.py",
    "admitd/doctor/",
    "admitd/fromcommand.py",
    "admitd/loading.py",
    "admitd/unloading.py",
    "admitd/acting.py",
    "admitd/channels.py",
    "admitd/notify.py",
    "admitd/vitals.py",
    "admitd/mending.py",
    "admitd/faults.py",
    "admitd/errands.py",
    "admitd/insight.py",
    "admitd/sentinel.py",
    "admitd/waiting.py",
    "admitd/eventstream.py",
    "admitd/metrics.py",
    "admitd/schemas.py",
    "admitd/page.py",
    "admitd/doorkeeper.py",
    "admitd/serving.py",
    "admitd/api.py",
    "admitd/appdoor.py",
    "admitd/app.py",
    "admitd/daemon.py",
    "admitd/__main__.py",
)
CORE = tuple(entry for entry in ORDER if entry.startswith("admitd/core/"))

# What the core may import of the standard library: types of data, and functions of their arguments alone.
PURE = {
    "__future__",
    "collections",
    "collections.abc",
    "dataclasses",
    "enum",
    "functools",
    "itertools",
    "json",
    "math",
    "operator",
    "re",
    "shlex",
    "types",
    "typing",
}
IMPURE_NAMES = {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}

STARTS = {
    "subprocess": {"Popen", "run", "call", "check_call", "check_output", "getoutput", "getstatusoutput"},
    "os": {"system", "popen", "fork", "forkpty", "posix_spawn", "posix_spawnp", "startfile"},
    "asyncio": {"create_subprocess_exec", "create_subprocess_shell"},
    "pty": {"spawn", "fork"},
}
SIGNALS = {"os": {"kill", "killpg"}, "signal": {"pidfd_send_signal", "pthread_kill", "raise_signal"}}
STARTERS = {"admitd/actuator.py", "admitd/checks.py", "admitd/processes/ps.py"}
SIGNALLERS = {"admitd/actuator.py"}
# Whoever starts a child may end that one, through the object that stands for it.
OWN_CHILDREN = STARTERS

# Sums of charges that say nothing of room: they decide who is listed or spared first, or what is drawn.
HARMLESS_SUMS = {
    ("admit_cli/render.py", "pool_runs"),
    ("admitd/core/admission.py", "_holders"),
    ("admitd/core/eviction.py", "_fewest_from_the_top"),
    ("admitd/core/eviction.py", "_spare_the_dearest"),
}
CHARGES = re.compile(r"charg|budget|freed|promis|reserv|physical|safety|headroom")

# What the SDK may import of admitd/: rules, what reads the system, and the one file that may end a process (its own, by
# identity); standard library only, all of it.
SHARED = (
    "admitd/__init__.py",
    "admitd/core/",
    "admitd/memory/",
    "admitd/modelfiles/",
    "admitd/processes/__init__.py",
    "admitd/processes/darwin.py",
    "admitd/processes/glimpse.py",
    "admitd/actuator.py",
    "admitd/boot.py",
    "admitd/extras.py",
    "admitd/machinelock.py",
    "admitd/places.py",
)

QUICK = ("admit_cli/main.py", "admit_cli/load.py", "admit_cli/status.py", "admit_cli/render.py", "admit_cli/door.py")
HEAVY = {
    "anyio",
    "asyncio",
    "click",
    "fastapi",
    "http",
    "httptools",
    "platformdirs",
    "prometheus_client",
    "pydantic",
    "re2",
    "rich",
    "starlette",
    "textual",
    "typer",
    "uvicorn",
    "uvloop",
    "yaml",
}
BANNED = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc"}
MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 60


def python_files(*folders: str) -> list[str]:
    """Paths below `folders`, relative to the root of the repository."""
    found = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


SHIPPED = python_files(*PACKAGES)


@cache
def tree(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"), file)


def file_of(module: str) -> str | None:
    """The file of a module of ours."""
    stem = module.replace(".", "/")
    for candidate in (f"{stem}.py", f"{stem}/__init__.py"):
        if (ROOT / candidate).is_file():
            return candidate
    return None


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_in(nodes: Iterator[ast.AST]) -> Iterator[tuple[str, int]]:
    """Module names that are imported, absolute, and where. `from a import b` is a.b where that is a file, else a."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute: `from admitd.core import ...`"
            module = node.module or ""
            for alias in node.names:
                deeper = f"{module}.{alias.name}"
                yield (deeper if file_of(deeper) else module, node.lineno)


def imports(file: str) -> list[tuple[str, int]]:
    return list(imports_in(ast.walk(tree(file))))


def at_the_top(file: str) -> list[str]:
    """What is imported as soon as `file` is: not inside functions, not for the type checker alone."""

    def walk(body: list[ast.stmt]) -> Iterator[ast.AST]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_type_checking(node):
                continue
            yield node
            for field in ("body", "orelse", "finalbody"):
                yield from walk(getattr(node, field, []))
            for handler in getattr(node, "handlers", []):
                yield from walk(handler.body)

    return [module for module, _ in imports_in(walk(tree(file).body))]


def place(file: str) -> int | None:
    """Where in ORDER a file stands."""
    for index, entry in enumerate(ORDER):
        if file == entry or (entry.endswith("/") and file.startswith(entry)):
            return index
    return None


def test_every_file_of_the_daemon_has_its_place_in_the_order() -> None:
    strangers = [file for file in SHIPPED if file.startswith("admitd/") and place(file) is None]
    assert not strangers, (
        f"{', '.join(strangers)}: not in the order of imports yet. Add each to ORDER in tests/test_architecture.py, "
        "under everything that it imports and above everything that imports it"
    )


@pytest.mark.parametrize("file", [file for file in SHIPPED if place(file) is not None])
def test_a_file_imports_only_from_files_above_it(file: str) -> None:
    mine = place(file)
    assert mine is not None
    for module, line in imports(file):
        target = file_of(module)
        above = place(target) if target else None
        if above is not None:
            same_folder = above == mine and ORDER[mine].endswith("/")
            assert above < mine or same_folder, f"{file}:{line} imports {module}, which stands below it in ORDER"


@pytest.mark.parametrize("file", [file for file in SHIPPED if file.startswith("admitd/")])
def test_the_daemon_knows_neither_the_command_line_nor_the_sdk(file: str) -> None:
    if file != "admitd/__main__.py":
        found = [module for module, _ in imports(file) if module.split(".")[0] in ("admit_cli", "admit_sdk")]
        assert not found, f"{file} imports {found[0]}"


def test_the_sdk_needs_no_web_server() -> None:
    banned = {"admit_cli", "fastapi", "pydantic", "starlette", "typer", "uvicorn"}
    for file in (file for file in SHIPPED if file.startswith("admit_sdk/")):
        found = [module for module, _ in imports(file) if module.split(".")[0] in banned]
        assert not found, f"{file} imports {found[0]}"


@pytest.mark.parametrize("file", [file for file in SHIPPED if file.startswith("admit_sdk/")])
def test_the_sdk_takes_rules_and_readings_of_the_daemon_and_nothing_that_decides_for_others(file: str) -> None:
    for module, line in imports(file):
        target = file_of(module)
        ours = target is not None and not target.startswith("admit_sdk/")
        assert not ours or str(target).startswith(SHARED), f"{file}:{line} imports {module}, which is the daemon's own"


def test_the_core_is_all_in_the_order_and_nothing_else_is_called_core() -> None:
    assert [file for file in SHIPPED if file.startswith("admitd/core/") and file not in CORE] == []


@pytest.mark.parametrize("file", [file for file in SHIPPED if file.startswith("admitd/core/")])
def test_the_core_is_pure(file: str) -> None:
    for module, line in imports(file):
        ours = module == "admitd" or module.startswith("admitd.core")
        assert ours or module in PURE, f"{file}:{line} imports {module}: the core imports types of data only"
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Name):
            assert node.id not in IMPURE_NAMES, f"{file}:{node.lineno} uses {node.id}: the core does nothing"
        assert not isinstance(node, ast.Global | ast.AsyncFunctionDef | ast.Await), f"{file} keeps or awaits something"


def used_from(file: str, modules: dict[str, set[str]]) -> Iterator[tuple[str, int]]:
    """Where `file` calls or takes one of these functions, whatever it calls the module; annotations do not count."""
    names = {module: {module} for module in modules}
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in names and alias.asname:
                    names[alias.name].add(alias.asname)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            yield from ((a.name, node.lineno) for a in node.names if a.name in modules[node.module])
    for node in ast.walk(tree(file)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
        ):
            for module, functions in modules.items():
                if node.func.value.id in names[module] and node.func.attr in functions:
                    yield f"{module}.{node.func.attr}", node.lineno


@pytest.mark.parametrize("file", SHIPPED)
def test_commands_are_started_in_few_files(file: str) -> None:
    if file not in STARTERS:
        for name, line in used_from(file, STARTS):
            pytest.fail(f"{file}:{line} uses {name}: commands are started by admitd/actuator.py")
    assert not {"multiprocessing", "pty"} & {module.split(".")[0] for module, _ in imports(file)}


@pytest.mark.parametrize("file", SHIPPED)
def test_signals_are_sent_from_one_file(file: str) -> None:
    if file not in SIGNALLERS:
        for name, line in used_from(file, SIGNALS):
            pytest.fail(f"{file}:{line} uses {name}: signals are sent by admitd/actuator.py, by identity")
    if file not in OWN_CHILDREN:
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                sends = node.func.attr in ("kill", "terminate", "send_signal")
                assert not sends, f"{file}:{node.lineno} sends a signal: admitd/actuator.py does that"


def functions(file: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("file", [file for file in SHIPPED if file != "admitd/core/headroom.py"])
def test_memory_is_added_up_in_one_file(file: str) -> None:
    allowed = {
        node for function in functions(file) if (file, function.name) in HARMLESS_SUMS for node in ast.walk(function)
    }
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "sum":
            adds_memory = node not in allowed and CHARGES.search(ast.unparse(node))
            assert not adds_memory, f"{file}:{node.lineno} adds up memory: admitd/core/headroom.py does that"


def test_every_exception_to_the_one_sum_is_still_needed() -> None:
    needed = {(file, each.name) for file, _ in HARMLESS_SUMS for each in functions(file) if "sum(" in ast.unparse(each)}
    assert needed >= HARMLESS_SUMS


@pytest.mark.parametrize("file", SHIPPED)
def test_files_and_functions_stay_short(file: str) -> None:
    lines = len((ROOT / file).read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES_OF_A_FILE, f"{file} has {lines} lines; at most {MOST_LINES_OF_A_FILE}"
    for function in functions(file):
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        assert length <= MOST_LINES_OF_A_FUNCTION, (
            f"{file}:{function.lineno} {function.name} has {length} lines; at most {MOST_LINES_OF_A_FUNCTION}"
        )


@pytest.mark.parametrize("file", python_files(*PACKAGES, "tests", "bench", "scripts"))
def test_names_say_what_a_thing_is(file: str) -> None:
    words = {word for part in Path(file).with_suffix("").parts for word in part.lower().split("_")}
    assert not words & BANNED, f"{file} is called after nothing in particular"
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.ClassDef):
            parts = {part.lower() for part in re.findall(r"[A-Z][a-z]+", node.name)}
            assert not parts & BANNED, f"{file}:{node.lineno} {node.name} is called after nothing in particular"


@pytest.mark.parametrize("file", python_files(*PACKAGES, "tests", "bench", "scripts"))
def test_nothing_is_left_for_later_in_the_code(file: str) -> None:
    with (ROOT / file).open("rb") as source:
        for token in tokenize.tokenize(source.readline):
            if token.type == tokenize.COMMENT:
                left = re.search(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b", token.string)
                assert not left, f"{file}:{token.start[0]} leaves something for later: {token.string}"


@pytest.mark.parametrize("file", [file for file in QUICK if (ROOT / file).is_file()])
def test_a_command_starts_without_anything_heavy(file: str) -> None:
    reached = {file: file}
    waiting = [file]
    while waiting:
        current = waiting.pop()
        for module in at_the_top(current):
            chain = f"{reached[current]} -> {module}"
            assert module.split(".")[0] not in HEAVY, f"{chain}: import it where it is needed"
            target = file_of(module)
            packages = [
                f"{'/'.join(module.split('.')[:depth])}/__init__.py" for depth in range(1, module.count(".") + 1)
            ]
            for each in (target, *packages):
                if each and each not in reached and (ROOT / each).is_file():
                    reached[each] = chain
                    waiting.append(each)


def test_the_rules_see_the_code() -> None:
    """Else a moved folder would make all of the above true of nothing."""
    assert {"admitd/core/admission.py", "admitd/gate.py", "admit_cli/main.py"} <= set(SHIPPED)
    assert len(SHIPPED) > 40
    assert "admitd.core.headroom" in [module for module, _ in imports("admitd/core/ledger.py")]
