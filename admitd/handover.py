"""handover: what a supervisor (systemd, launchd) hands the daemon, and what it wants to hear back.

Sockets that are open already, READY=1, the watchdog's beat: a few numbers and one datagram (sd_listen_fds(3),
sd_notify(3)), so no library is needed. Where no supervisor stands behind the daemon, all of this is nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from admitd import actuator

FIRST_FD: Final = 3
FDS_MAX: Final = 16
LOG_LOOK_S: Final = 600.0
"""How often a log of our own is looked at. launchd opens it and never rotates it (launchd.plist(5))."""
VARIABLES: Final = (
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "ADMIT_LOG",
    "ADMIT_SUPERVISOR",
)
"""They are the daemon's alone: what it starts must not answer for it, nor write into its log."""


@dataclass(frozen=True, slots=True)
class Handed:
    """What was handed over. `notify`: where to say how it goes; `watchdog_s`: how long the supervisor bears silence;
    `log`: the file that what is said goes to; `by`: the supervisor's word for itself."""

    sockets: tuple[socket.socket, ...] = ()
    notify: str = ""
    watchdog_s: float | None = None
    log: Path | None = None
    by: str = ""

    @property
    def every_s(self) -> float | None:
        """How often `beat` is wanted; None: never."""
        if self.watchdog_s is not None:
            return self.watchdog_s / 2  # as sd_watchdog_enabled(3) recommends
        return None if self.log is None else LOG_LOOK_S

    @property
    def starts_failures_again(self) -> bool:
        """Whether it starts anew whatever ends with anything but 0, at once and for ever: launchd's KeepAlive knows no
        other distinction, so what only the user can mend ends with 0 there."""
        return self.by == "launchd"

    def ready(self, status: str) -> None:
        """The daemon serves."""
        self._say(f"READY=1\nSTATUS={status}")

    def stopping(self) -> None:
        """The end begins."""
        self._say("STOPPING=1\nSTATUS=ends")

    def beat(self) -> None:
        """To be called by the loop that serves, and by nothing else: that it still turns is what this tells."""
        if self.watchdog_s is not None:
            self._say("WATCHDOG=1")
        if self.log is not None:
            with contextlib.suppress(OSError):
                if self.log.stat().st_size >= actuator.LOG_MAX:
                    self.open_log()

    def open_log(self) -> None:
        """Send stdout and stderr to the log, which is rotated where it is long. Raises nothing: they stay as they are
        where it cannot be opened."""
        if self.log is None:
            return
        with contextlib.suppress(OSError):
            actuator.rotate(self.log)
            fd = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                for number in (1, 2):
                    os.dup2(fd, number)
            finally:
                os.close(fd)

    def _say(self, text: str) -> None:
        if not self.notify:
            return
        address = "\0" + self.notify[1:] if self.notify.startswith("@") else self.notify
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.sendto(text.encode(), address)


ALONE: Final = Handed()


def take(environ: MutableMapping[str, str]) -> Handed:
    """What was handed to this process; the variables that say so are taken out of `environ`."""
    said = {name: environ.pop(name, "") for name in VARIABLES}
    return Handed(
        _sockets(said["LISTEN_PID"], said["LISTEN_FDS"]),
        said["NOTIFY_SOCKET"] if said["NOTIFY_SOCKET"].startswith(("/", "@")) else "",
        _watchdog_s(said["WATCHDOG_PID"], said["WATCHDOG_USEC"]),
        Path(said["ADMIT_LOG"]) if said["ADMIT_LOG"].startswith("/") else None,
        said["ADMIT_SUPERVISOR"],
    )


def _sockets(pid: str, count: str) -> tuple[socket.socket, ...]:
    if pid != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return ()
    found = []
    for fd in range(FIRST_FD, FIRST_FD + min(int(count), FDS_MAX)):
        with contextlib.suppress(OSError):  # not open, or no socket: nothing that could be served
            os.set_inheritable(fd, False)
            found.append(socket.socket(fileno=fd))
    return tuple(found)


def _watchdog_s(pid: str, microseconds: str) -> float | None:
    if pid not in ("", str(os.getpid())) or not (microseconds.isascii() and microseconds.isdigit()):
        return None
    return int(microseconds) / 1_000_000 or None
