"""Writes the Homebrew formula: every package pinned to the version and file of requirements/run.txt.

Addresses are each machine's own business, so the formula that lies in packaging/ has none: a release fills them in, as
the registry that this machine is set up for gives them, and only for files with the pinned hashes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

from packaging.markers import Marker

ROOT: Final = Path(__file__).parents[2]
RUN: Final = ROOT / "requirements/run.txt"
TEMPLATE: Final = ROOT / "packaging/homebrew/admit.rb.in"
MAC: Final = {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix", "platform_machine": "arm64"}

FORMULA: Final = """\
# Made by scripts/release-formula from requirements/run.txt. packaging/README.md says what was tried of it.
class Admit < Formula
  include Language::Python::Virtualenv

  desc "Admission control for the memory of one machine"
  homepage "@HOMEPAGE@"
  url "@URL@"
  version "{version}"
  sha256 "@SHA256@"
  license "Apache-2.0"

  depends_on "cmake" => :build
  depends_on "pybind11" => :build
  depends_on "rust" => :build # pydantic-core
  depends_on "abseil"
  depends_on "python@3.13"
  depends_on "re2"

{resources}
  def install
    virtualenv_install_with_resources
    man1.install Dir["man/*.1"]
    bash_completion.install "completions/admit.bash" => "admit"
    zsh_completion.install "completions/_admit"
    fish_completion.install "completions/admit.fish"
    pkgshare.install "config"
  end

  def caveats
    <<~EOS
      To have launchd keep the daemon running: admit daemon install
      Not by `brew services`: the agent needs your PATH, and must not take the services along when it ends.
    EOS
  end

  test do
    assert_match version.to_s, shell_output("#{{bin}}/admit --version")
    assert_match "no capacity.yaml", shell_output("#{{bin}}/admit config check 2>&1", 66)
  end
end
"""
RESOURCE: Final = """\
  resource "{name}" do
    url "@{name}@" # {file}
    sha256 "{sha256}"
  end
"""


def pinned(text: str) -> dict[str, tuple[str, set[str]]]:
    """What a Mac needs of a lock file: each package's version and the hashes of its files."""
    found = {}
    for block in re.split(r"\n(?=[A-Za-z0-9])", text):
        head = re.match(r"([A-Za-z0-9_.-]+)==([^ ;\\]+)(?: ; ([^\\]+))?", block)
        if head is not None and (head[3] is None or Marker(head[3].strip()).evaluate({**MAC, "extra": ""})):
            found[head[1]] = (head[2], set(re.findall(r"sha256:([0-9a-f]{64})", block)))
    return found


def sources(locked: dict[str, Any], wanted: dict[str, tuple[str, set[str]]]) -> dict[str, tuple[str, str]]:
    """Each wanted package's source file, as its address and hash. Raises SystemExit where there is none, or another."""
    found = {}
    for package in locked["packages"]:
        name, sdist = package["name"], package.get("sdist")
        if name not in wanted:
            continue
        version, hashes = wanted[name]
        if sdist is None or package["version"] != version:
            raise SystemExit(f"{name} {version}: the registry has no source of it")
        if sdist["hashes"]["sha256"] not in hashes:
            raise SystemExit(f"{name} {version}: the registry's file is not the one in {RUN.name}")
        found[name] = (sdist["url"], sdist["hashes"]["sha256"])
    missing = sorted(set(wanted) - set(found))
    if missing:
        raise SystemExit(f"the registry does not know {', '.join(missing)}")
    return found


def locked() -> dict[str, Any]:
    """Where the registry has the files, by uv."""
    uv = Path(sys.executable).with_name("uv")
    asked = [str(uv), "pip", "compile", "--quiet", "--universal", "--format", "pylock.toml", "--no-header"]
    asked += ["--no-deps", "--python-version", "3.11", str(RUN)]
    environ = dict(os.environ)
    for theirs, ours in (("UV_DEFAULT_INDEX", "PIP_INDEX_URL"), ("SSL_CERT_FILE", "PIP_CERT")):
        if environ.get(ours):
            environ.setdefault(theirs, environ[ours])
    done = subprocess.run(asked, env=environ, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return tomllib.loads(done.stdout)


def pin(found: dict[str, tuple[str, str]], version: str) -> str:
    """The formula without addresses."""
    blocks = [
        RESOURCE.format(name=name, file=url.rpartition("/")[2].partition("#")[0], sha256=sha256)
        for name, (url, sha256) in sorted(found.items())
    ]
    return FORMULA.format(version=version, resources="\n".join(blocks))


def fill(template: str, found: dict[str, tuple[str, str]], url: str, homepage: str, sha256: str) -> str:
    """The formula with addresses. Raises SystemExit where the template pins other files."""
    for name, (address, expected) in found.items():
        if f'url "@{name}@"' not in template or expected not in template:
            raise SystemExit(f"{TEMPLATE.name} pins another {name}; run: scripts/release-formula pin")
        template = re.sub(rf'url "@{re.escape(name)}@" # .*', lambda _, to=address: f'url "{to}"', template)
    text = template.replace("@URL@", url).replace("@HOMEPAGE@", homepage).replace("@SHA256@", sha256)
    left = re.findall(r'"(@[^"]+@)"', text)
    if left:
        raise SystemExit(f"{TEMPLATE.name} has {', '.join(left)} too much; run: scripts/release-formula pin")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/release-formula")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("pin", help="write packaging/homebrew/admit.rb.in anew")
    filling = verbs.add_parser("fill", help="print the formula of a release")
    filling.add_argument("sdist", type=Path, help="the release's source archive")
    filling.add_argument("--url", required=True, help="where users download that archive")
    filling.add_argument("--homepage", required=True)
    given = parser.parse_args()
    found = sources(locked(), pinned(RUN.read_text()))
    if given.verb == "pin":
        version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
        TEMPLATE.write_text(pin(found, version))
        print(f"wrote {TEMPLATE.relative_to(ROOT)}: {len(found)} packages")
    else:
        sha256 = hashlib.sha256(given.sdist.read_bytes()).hexdigest()
        print(fill(TEMPLATE.read_text(), found, given.url, given.homepage, sha256), end="")


if __name__ == "__main__":
    main()
