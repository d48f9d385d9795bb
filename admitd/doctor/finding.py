"""finding: what one check says, and the facts that all of them go by. Types only; nothing is looked at here."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from admitd.core.respawn import Supervisor
from admitd.core.terms import Capacity, Reading
from admitd.installing.launchd import LABEL
from admitd.installing.systemd import SERVICE
from admitd.installing.wanted import State
from admitd.problem import Problem
from admitd.processes.table import Look


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was found, why it matters, and the command that mends it."""

    level: Level
    what: str
    mend: str | None = None
    service: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One check. It says at least one thing; where its facts are missing, why it could not look."""

    name: str
    looks_at: str
    run: Callable[[Facts], list[Finding]]


@dataclass(frozen=True, slots=True)
class FileCheck:
    """One check of what a good capacity.yaml declares; left out where there is none."""

    name: str
    looks_at: str
    run: Callable[[Facts, Capacity], list[Finding]]


@dataclass(frozen=True, slots=True)
class Missing:
    """A program that a command of the file needs and nobody finds; `folder`: it is a folder that is not there."""

    service: str
    key: str
    program: str
    folder: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """The most that a service's processes held, in bytes, and for how long the youngest of them has run."""

    most: int
    age_s: float | None = None


@dataclass(frozen=True, slots=True)
class Answering:
    """Who answers on the daemon's port: a daemon (`ours`), or something else; `pid`, where it can be told."""

    ours: bool
    version: str | None = None
    problem: str | None = None
    pid: int | None = None
    program: str | None = None
    file: str | None = None


@dataclass(frozen=True, slots=True)
class Logout:
    """When `user` logs out, his reservations are removed; `by`: what says so."""

    user: str
    by: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that was looked at, once. None, or nothing: it could not be told.

    `config`: the file that the user named, whole, if one was; `path`: the one that was found. `safelisted`: entries of
    the safelist that are patterns, by the name under which the look has what they match.
    """

    version: str
    uid: int
    port: int
    environ: Mapping[str, str] = field(default_factory=dict)
    mac: bool = False
    config: str | None = None
    looked: tuple[str, ...] = ()
    path: str | None = None
    capacity: Capacity | None = None
    problems: tuple[Problem, ...] = ()
    loose: tuple[tuple[str, str], ...] = ()
    look: Look | None = None
    safelisted: Mapping[str, str] = field(default_factory=dict)
    cannot_see: str | None = None
    reading: Reading = field(default_factory=Reading)
    physical: int | None = None
    wired_limit: int | None = None
    held: Mapping[str, Held] = field(default_factory=dict)
    missing: tuple[Missing, ...] = ()
    supervisors: Mapping[str, Supervisor] = field(default_factory=dict)
    answering: Answering | None = None
    keeper: Supervisor | None = None
    installed: State | None = None
    now: float = 0.0
    newest_entry: float | None = None
    file_changed: float | None = None
    journal: str = ""
    journal_problem: str | None = None
    journal_closed: str | None = None
    """What of its path this user may not write to."""
    disk_free: int | None = None
    logout: Logout | None = None
    install_apprise: str = ""  # the command; empty where it is there

    def again(self, *words: str) -> str:
        """An `admit` command line that works when pasted, going by the file that the user named."""
        named = [] if self.config is None else ["--config", self.config]
        return shlex.join(["admit", *named, *words])

    @property
    def by_hand(self) -> str:
        """What opens the file to be changed by hand."""
        return editor(self.path or "")


OWN: Final = (f"the systemd unit {SERVICE}", f"the launchd job {LABEL}")
"""The supervisors that `admit daemon install` makes. What the daemon loads runs inside of its unit."""
UNSEEN: Final = "the process table can't be seen (see processes)"


def editor(path: str) -> str:
    """What opens a file; not in quotes, because an EDITOR may have options."""
    return f"${{EDITOR:-vi}} {shlex.quote(path)}"


def ok(what: str) -> list[Finding]:
    return [Finding(Level.OK, what)]


def warning(what: str, mend: str | None = None, service: str | None = None) -> Finding:
    return Finding(Level.WARNING, what, mend, service)


def fault(what: str, mend: str | None = None, service: str | None = None) -> Finding:
    return Finding(Level.FAULT, what, mend, service)
