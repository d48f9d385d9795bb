"""respawn: a service that is back seconds after its unload: who started it, and what really stops it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from admitd.core.acts import Tell, ago
from admitd.core.events import Event, Number, Severity
from admitd.core.ledger import Account, Ledger
from admitd.core.terms import ProcessId

RESPAWN_S: Final = 30.0
"""launchd waits 10 s between two starts of a job (launchd.plist, ThrottleInterval), systemd 0.1 s (RestartSec)."""


@dataclass(frozen=True, slots=True)
class Supervisor:
    """Who started it: as people know it, and the command that stops it for good; None where there is none to name."""

    name: str
    stop: str | None


@dataclass(frozen=True, slots=True)
class Back:
    """A service that was unloaded and is there again, with other processes than before."""

    service: str
    after_s: float
    pid: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Who was what at the last look, and which unload of each service was spoken of already."""

    processes: Mapping[str, frozenset[ProcessId]] = field(default_factory=dict)
    before: Mapping[str, frozenset[ProcessId]] = field(default_factory=dict)
    spoken: Mapping[str, float] = field(default_factory=dict)


def step(
    memory: Memory, now: float, ledger: Ledger, unloaded_at: Mapping[str, float], loading: frozenset[str]
) -> tuple[Memory, tuple[Back, ...]]:
    """Who came back. `unloaded_at`: when admit last unloaded each service; `loading`: whom it loads, or just has."""
    processes: dict[str, frozenset[ProcessId]] = {}
    before: dict[str, frozenset[ProcessId]] = {}
    spoken = dict(memory.spoken)
    back: list[Back] = []
    for name, account in ledger.accounts.items():
        ids = frozenset(process.id for process in account.processes)
        if not ids:
            continue
        processes[name] = ids
    for name, at in unloaded_at.items():
        held = memory.before.get(name, memory.processes.get(name, frozenset()))
        before[name] = held
        if now - at > RESPAWN_S or spoken.get(name) == at:
            continue
        if name in loading:
            spoken[name] = at
        elif fresh := processes.get(name, frozenset()) - held:
            spoken[name] = at
            back.append(Back(name, now - at, _first(ledger.accounts[name], fresh)))
    kept = {name: ids for name, ids in before.items() if now - unloaded_at[name] <= RESPAWN_S}
    return Memory(processes, kept, spoken), tuple(back)


def event(back: Back, supervisor: Supervisor) -> Tell:
    """What is told of one that came back."""
    remedy = f"; this stops it for good: {supervisor.stop}" if supervisor.stop else ""
    text = f"{back.service} was back {ago(back.after_s)} after its unload: {supervisor.name} started it again{remedy}"
    numbers: dict[str, Number] = {"pid": back.pid, "after_s": round(back.after_s, 1), "supervisor": supervisor.name}
    return Tell(Event("respawned", text, Severity.WARNING, back.service, supervisor.stop, numbers))


def _first(account: Account, fresh: frozenset[ProcessId]) -> int:
    """Whom its supervisor started: what that started in its turn has it for a parent, which keeps nothing running."""
    ids = (process.id for process in account.processes if process.id in fresh)
    return min(ids, key=lambda each: (each.started, each.pid)).pid


ADOPTERS: Final = frozenset({"systemd", "init", "launchd"})
"""Whoever ends leaves its children to one of these: it did not start them."""
SHELLS: Final = frozenset({"sh", "bash", "dash", "zsh", "fish", "ksh", "tcsh", "nu", "pwsh"})
SEATS: Final = frozenset(
    {"login", "sshd", "sshd-session", "su", "sudo", "tmux: server", "tmux", "screen", "SCREEN", "zellij", "mosh-server"}
    | {"Terminal", "iTerm2", "gnome-terminal-", "konsole", "xterm", "kitty", "alacritty", "ghostty", "wezterm-gui"}
)
"""Where people sit. Linux keeps 15 letters of a program's name (proc_pid_comm(5))."""


def of_cgroup(text: str) -> Supervisor | None:
    """The systemd unit or container that /proc/PID/cgroup names; None where it is merely someone's session."""
    for line in text.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers not in ("", "name=systemd"):
            continue
        parts = [part for part in path.split("/") if part]
        container = re.search(r"(docker|podman|libpod)[-/]([0-9a-f]{12})[0-9a-f]{52}", path)
        if container:
            engine = "docker" if container[1] == "docker" else "podman"
            return Supervisor(f"the container {container[2]} ({engine})", f"{engine} stop {container[2]}")
        if parts and parts[-1].endswith(".service") and not parts[-1].startswith("user@"):
            of_user = any(part.startswith("user@") for part in parts)
            command = (
                ["systemctl", "--user", "stop", parts[-1]] if of_user else ["sudo", "systemctl", "stop", parts[-1]]
            )
            return Supervisor(f"the systemd unit {parts[-1]}", shlex.join(command))
    return None


def of_launchd(label: str, uid: int, *, as_root: bool = False) -> Supervisor:
    """The launchd job with that label."""
    domain = f"system/{label}" if as_root else f"gui/{uid}/{label}"
    command = shlex.join((["sudo"] if as_root else []) + ["launchctl", "bootout", domain])
    return Supervisor(f"the launchd job {label}", command)


UNSEEN: Final = Supervisor("a job of the system's launchd, or something that has ended since,", None)
"""Of what launchd itself has for a child: it adopts what is left alone, and `launchctl list` shows a user no job of the
system's."""


def of_parent(pid: int, program: str, *, typed_in: bool = False) -> Supervisor:
    """The program that started it, where it is no service manager that we know; never a command that would end a
    login, a terminal or the manager of all of a user's services. `typed_in`: the parent leads its session."""
    if pid <= 1 or program in ADOPTERS:
        return Supervisor("something that has ended since", None)
    if program in SEATS or (typed_in and program.lstrip("-") in SHELLS):
        return Supervisor(f"somebody, in {program} (process {pid}),", None)
    return Supervisor(f"its parent, {program} (process {pid}),", f"kill {pid}")
