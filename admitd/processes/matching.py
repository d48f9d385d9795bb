"""matching: which service a command line is, or merely mentions. Text in, judgement out; nothing is read here.

The program is what runs: the name in argv[0], or, behind an interpreter, its script or module. A pattern whose match
needs that name *is* the service; one that would match as well without it only *mentions* it (`tail -f
mlx_lm.server.log`, an editor, `grep`, a shell with the pattern in its `-c` text). Charging takes both, signalling only
the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from typing import Any, Final

from admitd import patterns
from admitd.core.terms import Command, Service
from admitd.processes import naming
from admitd.processes.naming import SHELLS, Line

SHELL: Final = "/bin/sh"
HELPER_TAIL: Final = "\nexit $?"
"""Appended to check and unload commands, so that the shell stays their parent and they can be told from the service."""

OWN_PROGRAMS: Final = frozenset({"admit", "admitd", "admit_cli", "admit_cli.main", "admitd.__main__"})

_LEADING_ANYTHING: Final = re.compile(r"\A((?:\(\?[a-zA-Z]+\))?)(?:\^|\\A)?(?:\.[*+]\??)+")
_FILLER: Final = "\x01"
# What ps prints in ways of its own: macOS writes a newline as ^J and bytes beyond ASCII as strvis(3) does, Linux writes
# a newline as a blank, a tab as a point and other bytes as question marks.
_NOT_PLAIN: Final = re.compile(r"[^\x20-\x7e]+")
_LONGEST_SPELLING: Final = 16
_COMPARED: Final = 4096

REMEMBERED_MAX: Final = 65_536
REMEMBERED_WHOLE: Final = 256
"""Longer lines are remembered by their digest: any user can start processes with long ones, and we must stay small."""


class Role(Enum):
    """What a process is to us, beside what it is to the services."""

    FOREIGN = "foreign"
    OWN = "admit itself"
    LOADER = "the shell that runs a load_cmd"
    HELPER = "a check or unload command"


@dataclass(frozen=True, slots=True)
class Claim:
    """One service's pattern matches. `other_program`: its `program` names something else, so it does not count."""

    service: str
    mention: bool
    program: str
    other_program: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one command line is."""

    role: Role
    claims: tuple[Claim, ...]


class Matcher:
    """The patterns of one capacity.yaml, compiled once: linear in the line, whatever the pattern."""

    def __init__(self, services: Iterable[Service]) -> None:
        services = list(services)
        matched = [service for service in services if service.process_pattern is not None]
        texts = [service.process_pattern or "" for service in matched]
        self._services = matched
        self._patterns: list[Any] = [patterns.compile(text) for text in texts]
        self._stripped: list[Any] = [
            _without_leading_anything(*each) for each in zip(texts, self._patterns, strict=True)
        ]
        self._set = patterns.compile_set(texts)
        self._set("/")  # RE2 compiles a set on its first use: 300 ms at 1,000 patterns, better now than in a look
        self._loaders = _Commands(s.load_cmd for s in services if _shell_text(s.load_cmd) is not None)
        helpers = [c for s in services for c in (s.loaded_check_cmd, s.unload_cmd)]
        self._helpers = _Commands(c + HELPER_TAIL if isinstance(c, str) else c for c in helpers)

    def judge(self, raw: bytes) -> Judgement | None:
        """Judge a command line: argv joined by NULs as the kernel keeps it, or by blanks as `ps` prints it.

        None where it is nothing to us, which is nearly always.
        """
        line = naming.read(raw)
        if not line.text:
            return None
        indexes = self._matching(line.text)
        role = self._role(line)
        if not indexes and role is Role.FOREIGN:
            return None
        return Judgement(role, tuple(self._claim(index, line) for index in sorted(indexes)))

    def _matching(self, text: str) -> list[int]:
        found = self._set(text)
        if found is None:
            return [i for i, pattern in enumerate(self._patterns) if pattern.search(text)]
        return found

    def _role(self, line: Line) -> Role:
        if not OWN_PROGRAMS.isdisjoint(name.shown for name in line.names) or (line.guessed and _may_be_own(line.text)):
            return Role.OWN
        if self._helpers.ran(line):
            return Role.HELPER
        return Role.LOADER if self._loaders.ran(line) else Role.FOREIGN

    def _claim(self, index: int, line: Line) -> Claim:
        service = self._services[index]
        if service.program is None:
            return Claim(service.name, not _needs_the_name(self._stripped[index], line), line.program)
        program = service.program.rsplit("/", 1)[-1]
        if any(program == name.shown for name in line.names):
            return Claim(service.name, mention=False, program=line.program)
        if line.guessed and program in line.text:
            # It may be the one: charged, and never signalled.
            return Claim(service.name, mention=True, program=line.program)
        return Claim(service.name, mention=False, program=line.program, other_program=True)


class Remembered:
    """The judgements of one matcher, by the bytes of the line: an unchanged table is judged once."""

    def __init__(self, matcher: Matcher) -> None:
        self.matcher = matcher
        # By the line itself where it is short, by its digest where it is long: those are looked up through `judge`.
        self.known: dict[bytes | str, Judgement | None] = {}

    def judge(self, line: bytes) -> Judgement | None:
        """What `matcher.judge` says, or said, of these very bytes."""
        key = line if len(line) <= REMEMBERED_WHOLE else blake2b(line, digest_size=32).hexdigest()
        try:
            return self.known[key]
        except KeyError:
            judgement = self.matcher.judge(line)
            if len(self.known) >= REMEMBERED_MAX:
                self.known.clear()
            self.known[key] = judgement
            return judgement


class _Commands:
    """Commands of capacity.yaml, as the command lines of what runs them."""

    def __init__(self, commands: Iterable[Command | None]) -> None:
        self._lines: set[tuple[str, ...]] = set()
        self._spelled: list[tuple[str, list[str], list[int]]] = []
        for command in commands:
            if command is None:
                continue
            text = _shell_text(command)
            kind = "" if text is None else "-c"
            words = _cut((command[0].rsplit("/", 1)[-1], *command[1:]) if text is None else (kind, text))
            if words in self._lines:
                continue
            self._lines.add(words)
            spelled = (" ".join(words) if text is None else text)[:_COMPARED]
            # Blanks at the end are lost in a command line; of a newline there, ps leaves its own spelling.
            stem = spelled.rstrip()
            gaps = [len(found) for found in _NOT_PLAIN.findall(stem)] + [len(spelled) - len(stem)]
            self._spelled.append((kind, [*_NOT_PLAIN.split(stem), ""], gaps))

    def ran(self, line: Line) -> bool:
        """Whether `line` is one of them: run by a shell, or as it is, itself or by the interpreter of its script."""
        if not line.names or not self._lines:
            return False
        is_shell = line.names[0].shown in SHELLS and line.argv[1:2] == ("-c",)
        arguments = line.argv[(line.script or 0) + 1 :]
        if line.exact:
            return _cut(arguments if is_shell else (line.program, *arguments)) in self._lines
        kind = "-c" if is_shell else ""
        text = " ".join(line.argv[2:] if is_shell else (line.program, *arguments))
        return any(kind == each and _is_spelled(text, parts, gaps) for each, parts, gaps in self._spelled)


def _shell_text(command: Command | None) -> str | None:
    """What a shell is told to run; None for what is run without one."""
    if command is None or isinstance(command, str):
        return command
    name = command[0].rsplit("/", 1)[-1]
    return command[2] if len(command) == 3 and name in SHELLS and command[1] == "-c" else None


def _cut(words: tuple[str, ...]) -> tuple[str, ...]:
    """As much of a command as is compared: a command line is looked at up to a bound, and its end is not kept."""
    return (*words[:-1], words[-1][:_COMPARED].rstrip("\0 \n"))


def _is_spelled(text: str, parts: list[str], gaps: list[int]) -> bool:
    """Whether `text` is the parts in their order, with no more between them than ps makes of what stood there."""
    if not text.startswith(parts[0]):
        return False
    at = len(parts[0])
    for part, gap in zip(parts[1:], gaps, strict=True):
        last = at + gap * _LONGEST_SPELLING
        at = text.find(part, at, last + len(part)) + len(part) if part else min(last, len(text))
        if at < len(part):
            return False
    return at >= _COMPARED or not text[at:].strip()


def _may_be_own(text: str) -> bool:
    """An installation whose path holds a blank: /Volumes/My Disk/venv/bin/python /Volumes/My Disk/venv/bin/admit."""
    front = text.split(" -", 1)[0]
    return re.search(r"/bin/admitd?(?: |\Z)", front) is not None


def _without_leading_anything(text: str, pattern: Any) -> Any:
    """`.*vllm` begins to match anywhere; what follows the leading `.*` tells where it really does."""
    rest = _LEADING_ANYTHING.sub(r"\1", text)
    if rest == text:
        return pattern
    try:
        return patterns.compile(rest)
    except patterns.BadPattern:
        return pattern


def _needs_the_name(pattern: Any, line: Line) -> bool:
    """Whether the match would be none if the program had another name; a folder of that name is not enough."""
    if not line.names:
        return False
    name = line.names[-1]
    text = line.text
    if line.runs_text:
        # What an interpreter was told to run is an argument, and no name: only argv[0] itself can be what is meant.
        text = text[: name.end]
    blank = _FILLER * (name.end - name.start)
    without_folders = _FILLER * name.start + text[name.start :]
    return any(
        _begins_before(pattern, each, name.end)
        and not _begins_before(pattern, each[: name.start] + blank + each[name.end :], name.end)
        for each in (text, without_folders)
    )


def _begins_before(pattern: Any, text: str, end: int) -> bool:
    found = pattern.search(text)
    return found is not None and found.start() < end
