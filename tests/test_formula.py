"""The Homebrew formula, as far as it can be known without Homebrew: what is pinned, and how addresses get in."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

spec = importlib.util.spec_from_file_location("formula", ROOT / "scripts/gear/formula.py")
assert spec is not None and spec.loader is not None
formula = importlib.util.module_from_spec(spec)
spec.loader.exec_module(formula)

TEXT = formula.TEMPLATE.read_text()
RESOURCES = re.findall(r'resource "(.+)" do\n    url "@(.+)@" # (\S+)\n    sha256 "(\w{64})"\n  end', TEXT)
LOCK = """\
one==1.0 \\
    --hash=sha256:{a}
two==2.0 ; sys_platform == 'win32' \\
    --hash=sha256:{b}
three==3.0 ; python_full_version >= '3.11' \\
    --hash=sha256:{b}
    # via one
""".format(a="a" * 64, b="b" * 64)


def known(name: str, version: str, sha256: str) -> dict[str, Any]:
    file = f"http://registry/{name}-{version}.tar.gz"
    return {"name": name, "version": version, "sdist": {"url": file, "hashes": {"sha256": sha256}}}


def test_it_pins_what_a_mac_needs_in_the_locked_versions() -> None:
    pinned = formula.pinned(formula.RUN.read_text())
    assert {name for name, *_ in RESOURCES} == set(pinned), "run: scripts/release-formula pin"
    for name, placeholder, file, sha256 in RESOURCES:
        version, hashes = pinned[name]
        assert placeholder == name
        assert file.endswith(f"-{version}.tar.gz") and sha256 in hashes, "run: scripts/release-formula pin"


def test_it_is_of_this_version_and_names_no_host() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f'version "{project["version"]}"' in TEXT, "run: scripts/release-formula pin"
    assert "://" not in TEXT
    dependencies = [re.split(r"[<>=\[]", each)[0].replace(".", "-") for each in project["dependencies"]]
    assert set(dependencies) <= {name for name, *_ in RESOURCES}


def test_what_only_other_systems_need_is_left_out() -> None:
    assert formula.pinned(LOCK) == {"one": ("1.0", {"a" * 64}), "three": ("3.0", {"b" * 64})}


def test_filled_it_holds_an_address_for_each_file_and_the_releases_own() -> None:
    found = {name: (f"http://registry/x/{file}", sha256) for name, _, file, sha256 in RESOURCES}
    filled = formula.fill(TEXT, found, "http://here/admit.tar.gz", "http://here", "c" * 64)
    assert '"@' not in filled
    assert re.findall(r'  url "(.+)"', filled) == ["http://here/admit.tar.gz", *(found[r[0]][0] for r in RESOURCES)]
    assert f'sha256 "{"c" * 64}"' in filled


@pytest.mark.parametrize(
    ("packages", "why"),
    [
        ([known("one", "1.0", "f" * 64)], "is not the one in run.txt"),
        ([known("one", "1.1", "a" * 64)], "one 1.0: the registry has no source of it"),
        ([{"name": "one", "version": "1.0"}], "one 1.0: the registry has no source of it"),
        ([], "the registry does not know one"),
    ],
)
def test_another_file_than_the_pinned_one_is_refused(packages: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(SystemExit, match=why):
        formula.sources({"packages": packages}, {"one": ("1.0", {"a" * 64})})


def test_a_template_that_was_not_written_anew_is_refused() -> None:
    with pytest.raises(SystemExit, match="pins another new; run: scripts/release-formula pin"):
        formula.fill(TEXT, {"new": ("http://x", "a" * 64)}, "u", "h", "s")
    with pytest.raises(SystemExit, match="too much"):
        formula.fill(TEXT, {}, "u", "h", "s")


def test_it_is_filled_from_the_registry(tmp_path: Path) -> None:
    sdist = tmp_path / "admit.tar.gz"
    sdist.write_bytes(b"x")
    command = [sys.executable, str(ROOT / "scripts/gear/formula.py"), "fill", str(sdist), "--url", "u://x"]
    done = subprocess.run([*command, "--homepage", "h"], capture_output=True, text=True, timeout=100, check=False)
    if done.returncode and "Failed to fetch" in done.stderr:
        pytest.skip("no registry can be reached here")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(re.findall(r'^    url "https?://.+[.]tar[.]gz"$', done.stdout, re.MULTILINE)) == len(RESOURCES)
