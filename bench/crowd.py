"""crowd: hundreds or thousands of processes with command lines as a busy machine has them, each its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from bench.measuring import Skipped, resident
from bench.native import build
from bench.world import serving_lines

_KINDS: Final = (
    "/usr/sbin/nginx\t-g\tdaemon off; worker {0}",
    "/usr/lib/postgresql/15/bin/postgres\t-D\t/var/lib/postgresql/15/main\t-c\tcluster_name=main-{0}",
    "/usr/lib/firefox/firefox\t-contentproc\t-childID\t{0}\t-isForBrowser\t-prefsHandle\t0\t-prefsLen\t31337\t"
    "-prefMapHandle\t1\t-prefMapSize\t244787\t-jsInitHandle\t2\t-parentBuildID\t20261001000000\ttab",
    "/usr/bin/python3\t/srv/app/manage.py\tworker\t--queue\tq{0}\t--concurrency\t4\t--loglevel\tINFO",
    "node\t/srv/web/node_modules/.bin/vite\t--port\t{0}",
    "/bin/bash\t-c\twhile true; do sleep {0}; done",
    "/usr/bin/dbus-daemon\t--session\t--address=systemd:\t--nofork\t--nopidfile\t--systemd-activation\t--seat={0}",
    "sshd: user{0} [priv]",
    "/opt/google/chrome/chrome\t--type=renderer\t--lang=en-US\t--num-raster-threads=4\t--renderer-client-id={0}\t"
    "--time-ticks-at-unix-epoch=-1732201234567890\t--launch-time-ticks=2939393\t--shared-files=v8_context_snapshot_data"
    ":100\t--field-trial-handle=0,i,1234567890,1234567890,262144\t--enable-features=A,B,C\t--variations-seed-version",
    "/usr/bin/qemu-system-x86_64\t-name\tguest{0}\t-m\t2048\t-smp\t2\t-drive\tfile=/var/vm/{0}.qcow2,if=virtio",
    "/usr/lib/systemd/systemd-userwork:\tworker\t{0}",
    "java\t-Xmx512m\t-cp\t/opt/app/lib/a.jar:/opt/app/lib/b.jar\tcom.example.Main\t--shard={0}",
)


def command_lines(count: int) -> list[str]:
    """Command lines of a crowd, among them those of a few services; arguments parted by tabs."""
    serving = serving_lines()[:count]
    return serving + [_KINDS[index % len(_KINDS)].format(index) for index in range(count - len(serving))]


def processes_here() -> int:
    """How many processes this machine has now."""
    return sum(name.isdigit() for name in os.listdir("/proc"))


@contextmanager
def crowd(total: int) -> Iterator[int]:
    """Fill the machine up to `total` processes; gives how many it has then. Each is ended at the end, by its pid.

    Raises Skipped where so many can't be had.
    """
    if not os.path.isdir("/proc/self"):
        raise Skipped("there is no /proc here")
    wanted = max(len(serving_lines()), total - processes_here())
    room = int(_read("/proc/sys/kernel/pid_max", "32768")) // 2
    if wanted > room:
        raise Skipped(f"{wanted} more processes are too many for this machine's pids")
    with resident([str(build("crowd")), str(build("sitter"))]) as maker:
        for line in command_lines(wanted):
            maker.send(line)
        maker.send()
        started = int(maker.hear()[1])
        if started < wanted * 0.95:
            raise Skipped(f"only {started} of {wanted} processes could be started (ulimit -u, pids cgroup)")
        yield processes_here()


def _read(path: str, otherwise: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return otherwise
