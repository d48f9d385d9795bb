"""usersystemd: a real `systemd --user`, alone in namespaces of its own: mounts, processes, control groups.

It sees only what it started, has its own /run, and shares the network, so that ports are asked from outside. Where the
machine does not let us make one (no root, no systemd), `why_not` says so and the tests are skipped.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.daemons import until

RUNTIME = "/run/user/admit"
BOOT = """\
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system "$XDG_RUNTIME_DIR"
chmod 700 "$XDG_RUNTIME_DIR"
mount -t tmpfs tmpfs /sys/fs/cgroup
if [ "$HIERARCHIES" = 2 ]; then
    mkdir -p /sys/fs/cgroup/unified /sys/fs/cgroup/systemd
    mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
    mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
else
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
mkdir -p /run/systemd/journal /run/log/journal
if [ -x /lib/systemd/systemd-journald ]; then /lib/systemd/systemd-journald & fi
# journald tells a user's units by where they stand among the control groups, as logind arranges them.
exec_in_its_place='
    for top in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
        if [ -e "$top/cgroup.procs" ]; then
            mkdir -p "$top/user.slice/user-0.slice/user@0.service"
            echo $$ >"$top/user.slice/user-0.slice/user@0.service/cgroup.procs"
        fi
    done
    exec systemd --user --unit="$TARGET" --log-target=console'
sh -c "$exec_in_its_place" &
wait
"""


@dataclass
class UserSystemd:
    """One that runs. `leader`: its namespaces' first process, as seen from here."""

    leader: int
    environ: dict[str, str]

    def command(self, *words: str) -> list[str]:
        """A command line that runs in there."""
        return ["nsenter", "-t", str(self.leader), "-m", "-p", "-C", *words]

    def run(self, *words: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        everything = {**self.environ, **(environ or {})}
        return subprocess.run(
            self.command(*words), env=everything, capture_output=True, text=True, timeout=110, check=False
        )

    def ctl(self, *words: str) -> str:
        """What `systemctl --user` prints."""
        return self.run("systemctl", "--user", "--no-pager", *words).stdout.strip()

    def shown(self, unit: str, name: str) -> str:
        return self.ctl("show", unit, f"--property={name}", "--value")


@contextlib.contextmanager
def running(environ: Mapping[str, str], target: str = "basic.target") -> Iterator[UserSystemd]:
    """A user's systemd with this environment, its units in its HOME; all that it started ends with it."""
    groups = _groups()
    everything = {
        **environ,
        "XDG_RUNTIME_DIR": RUNTIME,
        "HIERARCHIES": str(len(groups)),
        "TARGET": target,
        "SYSTEMD_COLORS": "0",
    }
    name = f"admit-test-{secrets.token_hex(6)}"
    mine = [group / name for group in groups]
    for group in mine:
        group.mkdir(exist_ok=True)
    join = "".join(f"echo $$ > {group}/cgroup.procs; " for group in mine)
    enter = 'exec unshare -m -p -f -C --mount-proc --kill-child sh -c "$BOOT"'
    log = Path(everything["HOME"], "systemd.log")
    with log.open("wb") as said:
        process = subprocess.Popen(
            ["sh", "-c", join + enter], env={**everything, "BOOT": BOOT}, stdin=subprocess.DEVNULL, stdout=said,
            stderr=said, start_new_session=True,
        )  # fmt: skip
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

        def leader() -> int:
            assert process.poll() is None, log.read_text()
            return int((children.read_text().split() or ["0"])[0])

        made = UserSystemd(until(leader, 60), everything)
        until(lambda: made.ctl("is-system-running") in ("running", "degraded"), 60)
        yield made
    finally:
        process.kill()  # and with it, by --kill-child, the first process in there, and by that all others
        process.wait()
        for group in mine:
            until(lambda group=group: _removed(group), 30)


def _groups() -> list[Path]:
    """Where control groups are mounted that systemd wants: version 2, and on hybrid machines its own of version 1."""
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options = line.split()[:4]
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            found.append(Path(where))
    return found


def _removed(group: Path) -> bool:
    """The deepest first; False while somebody in it has not ended yet."""
    for folder, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    return not group.exists()


@cache
def why_not() -> str:
    """Why none can be made here; empty where it can."""
    missing = [name for name in ("systemd", "systemctl", "unshare", "nsenter") if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)} here (Debian: apt-get install systemd util-linux)"
    if not _groups():
        return "no control groups of version 2 are mounted"
    asked = ["unshare", "-m", "-p", "-f", "-C", "--mount-proc", "mount", "-t", "tmpfs", "tmpfs", "/run"]
    tried = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)
    return f"namespaces cannot be made here: {tried.stderr.strip()}" if tried.returncode else ""
