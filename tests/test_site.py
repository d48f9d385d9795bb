"""The pages in docs/ as a site: it builds strictly, loads nothing from elsewhere, and every snippet in it holds."""

from __future__ import annotations

import configparser
import os
import plistlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from admit_cli import table
from admit_cli.main import parse
from admitd import capacity
from tests.hosts import Daemon, Host, daemon

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
COOKBOOK = DOCS / "cookbook.md"


def blocks(page: Path, kind: str) -> list[str]:
    """What stands in the page's fenced blocks of that kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def of_every_page(kind: str) -> list[object]:
    return [
        pytest.param(block, id=f"{page.relative_to(DOCS)}-{number}")
        for page in PAGES
        for number, block in enumerate(blocks(page, kind))
    ]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(where)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    return where


def test_it_builds_and_has_every_page(site: Path) -> None:
    """Strict: a page that is in no menu, and a link that leads nowhere, are errors."""
    missing = [page for page in PAGES if not (site / page.relative_to(DOCS).with_suffix(".html")).is_file()]
    missing = [page for page in missing if page.name != "README.md"]
    assert missing == []
    assert "chat is loaded" in (site / "tour.html").read_text(), "the tour is the README's"


def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    loads = re.compile(r"""<(?:script|img|iframe|source)[^>]+src=["']?(?:https?:)?//|<link[^>]+href=["']?https?://""")
    assert [page.name for page in site.rglob("*.html") if loads.search(page.read_text())] == []


def test_the_reference_is_what_the_program_says() -> None:
    script = ROOT / "scripts" / "gear" / "reference.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def commands_of(page: Path) -> list[str]:
    """What stands behind a $, up to a pipe or a comment, or in backticks; not what only shows a shape."""
    found = re.findall(r"`(admit [^`]+)`", page.read_text())
    for line in re.findall(r"^\$ (admit .+)", page.read_text(), re.MULTILINE):
        words = shlex.split(line, comments=True)
        ends = [words.index(mark) for mark in ("|", ">", "&&") if mark in words]
        found.append(shlex.join(words[: min(ends, default=len(words))]))
    return [each.strip() for each in found if not re.search(r"\b(NAME|PATH|ID|X|CMD)\b|\[|\.\.\.|--$", each)]


@pytest.mark.parametrize("command", sorted({each for page in PAGES for each in commands_of(page)}))
def test_every_command_is_one(command: str) -> None:
    """It parses, by the same table that runs it; or it is the name of a command, or of a group of them."""
    words = shlex.split(command)[1:]
    known = any(tuple(words) in (each.path, each.path[:1]) for each in table.COMMANDS)
    assert known or parse(words) is not None or words[0] in ("--help", "--install-completion", "--version")


@pytest.mark.parametrize("block", of_every_page("yaml"))
def test_every_capacity_file_is_fine(block: str, tmp_path: Path) -> None:
    """Whole files as they are; a fragment of one beside the smallest host or service that it needs."""
    if (included := re.search(r'--8<-- "(.+)"', block)) is not None:
        block = (ROOT / included[1]).read_text()
    read = yaml.safe_load(block)
    if not isinstance(read, dict) or not set(read) <= {"version", "host", "hosts", "services", "sentinel", "live_veto"}:
        # Another program's file: that it is YAML, and that it calls `admit` as it wants to be called.
        called = re.findall(r"^ *(?:cmd|command): (admit .+)$", block, re.MULTILINE)
        assert called and all(parse(shlex.split(each)[1:]) is not None for each in called)
        return
    read.setdefault("hosts", {"h": {"ram_physical_mb": 65_536, "ram_reserved_mb": 12_288, "ram_safety_mb": 4_096}})
    read.setdefault("services", {"x": {"ram_budget_mb": 1, "process_pattern": "x"}})
    file = tmp_path / "capacity.yaml"
    file.write_text(yaml.safe_dump(read))
    file.chmod(0o600)
    assert capacity.load(file, detect_physical=lambda: 64 << 30).services


@pytest.mark.parametrize("block", of_every_page("sh"))
def test_every_line_of_shell_can_be_read(block: str) -> None:
    done = subprocess.run(["sh", "-n"], input=block, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_reference_names_every_field_of_an_answer(asked: Daemon) -> None:
    page = (DOCS / "reference" / "http.md").read_text()
    shapes = {part.split("\n", 1)[0]: part for part in page.split("\n### ")[1:]}
    _, verdict = asked.admit("chat", holder_pid=os.getpid())
    status, refusal = asked.ask("POST", "/admit", {"service": "other", "holder_pid": os.getpid()})
    assert (verdict["verdict"], status) == ("admitted", 409)
    ledger = asked.ask("GET", "/capacity")[1]
    answers = [("VerdictBody", verdict), ("RefusalBody", refusal), ("Capacity", ledger)]
    answers += [("Service", ledger["services"][0]), ("Reservation", ledger["reservations"][0])]
    assert [name for shape, answer in answers for name in answer if f"| `{name}`" not in shapes[shape]] == []


def test_the_property_list_starts_the_service_through_admit() -> None:
    (block,) = blocks(COOKBOOK, "xml")
    words = plistlib.loads(block.encode())["ProgramArguments"]
    assert parse(words[1:]) is not None
    assert words[words.index("--") + 1].endswith("mlx_lm.server")


def test_the_unit_starts_the_service_through_admit() -> None:
    (block,) = blocks(COOKBOOK, "ini")
    unit = configparser.RawConfigParser()
    unit.read_string(block)
    words = shlex.split(unit["Service"]["ExecStart"])
    assert parse(words[1:]) is not None
    assert unit["Service"]["RestartPreventExitStatus"] == "2"


def test_the_line_for_cron_is_one() -> None:
    (block,) = blocks(COOKBOOK, "text")
    minute, hour, day, month, weekday, *words = shlex.split(block)
    assert (minute, hour, day, month, weekday) == ("0", "3", "*", "*", "*")
    assert parse(words[1:]) is not None


@pytest.mark.parametrize("block", blocks(ROOT / "README.md", "python"))
def test_the_programs_of_the_readme_run(block: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=ROOT,
        env={**os.environ, "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


# The programs of the cookbook, run as they stand but for the port.


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Daemon]:
    host = Host(tmp_path / "host", {"chat": 600, "other": 600})
    with daemon(host) as running:
        yield running


def run(words: list[str], program: str, asked: Daemon, **environ: str) -> subprocess.CompletedProcess[str]:
    program = program.replace("127.0.0.1:2189", f"127.0.0.1:{asked.port}")
    env = {**os.environ, **environ}
    return subprocess.run([*words, program], capture_output=True, text=True, env=env, timeout=60, check=False)


def snippets(kind: str) -> list[str]:
    return [block for block in blocks(COOKBOOK, kind) if "2189" in block]


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        pytest.param(["sh", "-c"], "sh", id="curl"),
        pytest.param([sys.executable, "-c"], "python", id="Python"),
        pytest.param(["node", "--input-type=module", "-e"], "js", id="JavaScript"),
    ],
)
def test_a_program_asks_and_is_admitted_or_told_why_not(asked: Daemon, words: list[str], kind: str) -> None:
    if shutil.which("curl" if kind == "sh" else words[0]) is None:
        pytest.skip(f"{words[0]} is not here")
    program = snippets(kind)[0]
    done = run(words, program, asked)
    assert "admitted" in done.stdout, done.stderr
    _, verdict = asked.admit("other", holder_pid=os.getpid())
    assert verdict["verdict"] == "admitted", verdict
    done = run(words, program, asked)
    assert "200 MB short" in done.stdout + done.stderr


def test_a_reservation_is_given_back_by_its_id(asked: Daemon) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not here")
    _, verdict = asked.admit("chat", holder_pid=os.getpid())
    done = run(["sh", "-c"], snippets("sh")[-1], asked, ID=verdict["reservation"]["id"])
    assert done.returncode == 0
    _, capacity_now = asked.ask("GET", "/capacity")
    assert capacity_now["reservations"] == []
