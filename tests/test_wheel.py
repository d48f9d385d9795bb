"""What users install: the wheel, by pip, pipx and uv, into clean environments with a clean HOME; then a short tour."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import wheels
from tests.daemons import CAPACITY, end_naps, free_port, sleeper, until
from tests.wheels import PYTHON, UV, Built, build, command, unpacked

ROOT = Path(__file__).parents[1]
PIPX = "pipx==1.18.4"

spec = importlib.util.spec_from_file_location("manpages", ROOT / "scripts/gear/manpages.py")
assert spec is not None and spec.loader is not None
manpages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(manpages)


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    files: dict[str, str] = manpages.files()
    return files


def test_the_manual_pages_and_completions_are_those_of_the_commands(made: dict[str, str]) -> None:
    for name, text in made.items():
        shipped = ROOT / name
        assert shipped.exists() and shipped.read_text() == text, f"{name}: write it anew: scripts/manpages"
    there = {path.relative_to(ROOT).as_posix() for kind in ("man", "completions") for path in (ROOT / kind).iterdir()}
    assert there == set(made), "write them anew: scripts/manpages"


def test_every_variable_of_the_manual_is_read_somewhere() -> None:
    code = "".join(path.read_text() for folder in ("admitd", "admit_cli") for path in (ROOT / folder).rglob("*.py"))
    assert [name for name, _ in manpages.ENVIRONMENT if f'"{name}"' not in code] == []


def test_bash_completes_a_command(tmp_path: Path) -> None:
    line = (
        f"source {ROOT}/completions/admit.bash; COMP_WORDS=(admit unl); COMP_CWORD=1; "
        '_admit_completion admit; echo "${COMPREPLY[@]}"'
    )
    environ = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    done = subprocess.run(["bash", "-c", line], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("unload\n", "")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return wheels.built(tmp_path_factory.mktemp("dist"))


def test_all_that_is_needed_is_in_the_wheel(built: Built, made: dict[str, str]) -> None:
    names = zipfile.ZipFile(built.wheel).namelist()
    for kind in ("launchd", "systemd"):
        for path in (ROOT / kind).iterdir():
            assert f"admitd/{kind}/{path.name}" in names
    data = [name.partition(".data/data/share/")[2] for name in names]
    assert {f"man/man1/{Path(name).name}" for name in made if name.startswith("man/")} <= set(data)
    assert {"bash-completion/completions/admit", "zsh/site-functions/_admit"} <= set(data)
    assert {"fish/vendor_completions.d/admit.fish", "admit/config/capacity.example.yaml"} <= set(data)


def test_the_source_archive_makes_the_same_wheel(built: Built, tmp_path: Path) -> None:
    """Homebrew, and whoever builds it himself, has nothing else."""
    build(unpacked(tmp_path), "wheel", tmp_path)
    (again,) = tmp_path.glob("*.whl")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(built.wheel).namelist())


@pytest.fixture
def home() -> Iterator[Path]:
    """Short, because a socket's path must be."""
    with tempfile.TemporaryDirectory(prefix="a") as folder:
        yield Path(folder)
        end_naps()


def by_uv(built: Built, home: Path) -> Path:
    places = {"UV_TOOL_DIR": str(home / "tools"), "UV_TOOL_BIN_DIR": str(home / "bin")}
    command(UV, "tool", "install", "--constraints", str(built.locked), str(unpacked(home)), home=home, **places)
    return home / "bin"


def by_pipx(built: Built, home: Path) -> Path:
    places = {"PIPX_HOME": str(home / "pipx"), "PIPX_BIN_DIR": str(home / "bin"), "PIPX_DEFAULT_BACKEND": "uv"}
    words = ("install", f"--pip-args=--constraint={built.locked}", str(built.wheel))
    command(UV, "tool", "run", PIPX, *words, home=home, UV_TOOL_DIR=str(home / "tools"), **places)
    return home / "bin"


def by_pip(built: Built, home: Path) -> Path:
    """With Python alone: its pip fetches what builds the wheel, and builds it."""
    command(PYTHON, "-m", "venv", str(home / "admit"), home=home)
    pip = home / "admit/bin/pip"
    command(str(pip), "install", "--constraint", str(built.locked), str(unpacked(home)), home=home)
    return home / "admit/bin"


def gets_the_extra(folder: Path, home: Path) -> None:
    """The command that is named where Apprise is missing, run as it is printed."""
    python = (folder / "admit").resolve().with_name("python")

    def runs(code: str) -> str:
        asked = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert (asked.returncode, asked.stderr) == (0, "")
        return asked.stdout.strip()

    there = "import importlib.util; print(importlib.util.find_spec('apprise') is not None)"
    assert runs(there) == "False"
    command("sh", "-c", runs("from admitd import extras; print(extras.install('notify'))"), home=home)
    assert runs(there) == "True"


def the_daemon_answers(home: Path, environ: dict[str, str]) -> None:
    daemon = subprocess.Popen(["admit", "daemon", "run"], env=environ, stderr=subprocess.PIPE)
    try:
        until((home / f".local/state/admit/admitd-{environ['ADMIT_PORT']}.note").exists, 60)
        asked = ["admit", "load", "coder", "--json"]
        done = subprocess.run(asked, env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr, json.loads(done.stdout)["service"]) == (0, "", "coder")
    finally:
        daemon.terminate()
        daemon.communicate(timeout=30)
    assert daemon.returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(300)  # an installer on a slow machine, and then some twenty commands
@pytest.mark.parametrize("installer", [by_uv, by_pipx, by_pip], ids=lambda each: each.__name__)
def test_the_tour_works_where_nothing_but_the_wheel_was_installed(installer, built: Built, home: Path) -> None:  # type: ignore[no-untyped-def]
    folder = installer(built, home)
    environ = {"PATH": f"{folder}:/usr/bin:/bin", "HOME": str(home), "ADMIT_STATE_DIR": str(home / "s")}
    environ["ADMIT_PORT"] = str(free_port())

    def admit(*words: str) -> tuple[int, str, str]:
        done = subprocess.run(
            ["admit", *words], env=environ, cwd=home, capture_output=True, text=True, timeout=60, check=False
        )
        return done.returncode, done.stdout, done.stderr

    assert admit("--version")[0] == 0
    assert admit("config", "check")[0] == 66
    file = home / ".config/admit/capacity.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(CAPACITY + sleeper("chat", 1, 6000) + sleeper("coder", 2, 6000))
    file.chmod(0o600)
    assert admit("config", "check")[0] == 0
    assert admit("load", "chat")[0] == 0
    code, _, said = admit("load", "coder")
    assert (code, "admit unload chat" in said) == (2, True)
    assert admit("unload", "chat")[0] == 0
    if installer is by_uv:
        the_daemon_answers(home, environ)
    gets_the_extra(folder, home)
    # What the installers of the daemon fill in came with it.
    python = (folder / "admit").resolve().with_name("python")
    code = "from admitd.installing import wanted; print(len(wanted.template('launchd', 'admit.plist')))"
    asked = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (asked.returncode, asked.stderr) == (0, "")
