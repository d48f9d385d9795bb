"""matching: which service a command line is, or merely mentions. Text in, judgement out; nothing is read here.

The program is what runs: the name in argv[0], or, behind an interpreter, its script or module. A pattern whose match
needs that name *is* the service; one that would match as well without it only *mentions* it (`tail -f
mlx_lm.server.log`, an editor, `grep`, a shell with the pattern in its `-c` text). Charging takes both, signalling only
the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from admitd import patterns
from admitd.core.terms import Command, Service

LOOKED_AT: Final = 16_384
"""How many bytes of a command line are looked at. Any user can start a process with a 100 KB argument."""

SHELL: Final = "/bin/sh"
HELPER_TAIL: Final = "\nexit $?"
"""Appended to check and unload commands, so that the shell stays their parent and they can be told from the service."""

OWN_PROGRAMS: Final = frozenset({"admit", "admitd", "admit_cli", "admit_cli.main", "admitd.__main__"})

_SHELLS: Final = frozenset({"sh", "bash", "dash", "zsh", "ksh", "fish", "ash"})
_PYTHON: Final = re.compile(r"(python|pypy|Python)[\d.]*[a-z]?\Z")
_OTHER_INTERPRETERS: Final = frozenset({"node", "nodejs", "ruby", "perl", "php", "Rscript", "lua", "tclsh"})
# Options whose next argument belongs to them, and options after which there is no script but a program text.
_TAKES_VALUE: Final = {
    "python": frozenset({"-W", "-X", "--check-hash-based-pycs"}),
    "shell": frozenset({"-o", "+o", "-O", "+O", "--rcfile", "--init-file"}),
    "java": frozenset({"-cp", "-classpath", "--class-path", "-p", "--module-path", "--add-modules"}),
    "other": frozenset({"-r", "--require", "--import", "--loader", "-I", "-C"}),
}
_TEXT_FOLLOWS: Final = {
    "python": frozenset({"-c"}),
    "shell": frozenset({"-c"}),
    "java": frozenset[str](),
    "other": frozenset({"-e", "-E", "--eval", "-p", "--print", "-n"}),
}
_LEADING_ANYTHING: Final = re.compile(r"\A(?:\^|\\A)?(?:\.[*+]\??)+")
_FILLER: Final = "\x01"


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
        matched = [service for service in services if service.process_pattern is not None]
        self._services = matched
        self._patterns: list[Any] = [patterns.compile(service.process_pattern or "") for service in matched]
        self._stripped: list[Any] = [_without_leading_anything(s.process_pattern or "") for s in matched]
        self._set = patterns.compile_set([service.process_pattern or "" for service in matched])
        self._loaders = frozenset(_texts(s.load_cmd) for s in matched if isinstance(s.load_cmd, str))
        helpers = [c for s in services for c in (s.loaded_check_cmd, s.unload_cmd) if c is not None]
        self._helpers = frozenset(_texts(command) for command in helpers)

    def judge(self, raw: bytes) -> Judgement | None:
        """Judge a command line: argv joined by NULs as the kernel keeps it, or by blanks as `ps` prints it.

        None where it is nothing to us, which is nearly always.
        """
        argv, text = _parse(raw)
        if not text:
            return None
        indexes = self._matching(text)
        role = self._role(argv, text)
        if not indexes and role is Role.FOREIGN:
            return None
        names = _name_spans(argv)
        program = names[-1][2] if names else ""
        blanked = _blank(text, names)
        claims = tuple(self._claim(index, text, names, blanked, program) for index in sorted(indexes))
        return Judgement(role, claims)

    def _matching(self, text: str) -> list[int]:
        found = self._set(text)
        if found is None:
            return [i for i, pattern in enumerate(self._patterns) if pattern.search(text)]
        return found

    def _role(self, argv: list[str], text: str) -> Role:
        names = program_names(argv)
        if not OWN_PROGRAMS.isdisjoint(names):
            return Role.OWN
        if text.startswith(SHELL) and _first_line(text) in self._loaders:
            return Role.LOADER
        return Role.HELPER if _first_line(text) in self._helpers else Role.FOREIGN

    def _claim(self, index: int, text: str, names: list[_Span], blanked: str, program: str) -> Claim:
        service = self._services[index]
        if service.program is not None:
            is_it = service.program in {name for _, _, name in names}
            return Claim(service.name, mention=False, program=program, other_program=not is_it)
        pattern = self._stripped[index]
        return Claim(service.name, not _needs_the_name(pattern, text, blanked, names), program)


_Span = tuple[int, int, str]


def _parse(raw: bytes) -> tuple[list[str], str]:
    exact = b"\0" in raw
    text = raw[:LOOKED_AT].rstrip(b"\0 \n").decode("utf-8", "replace")
    if "\0" in text:
        argv = text.split("\0")
        return argv, " ".join(argv)
    # One argument: a path that may hold blanks ("/Applications/LM Studio"), or a title that the process gave itself.
    return [text] if exact and text.startswith("/") else text.split(" "), text


def _first_line(text: str) -> str:
    """A command's text up to its first newline or tab, which `ps` prints in several ways."""
    return re.split(r"[\n\t]|\^J|\^I", text, maxsplit=1)[0].rstrip("? .")


def _texts(command: Command) -> str:
    text = f"{SHELL} -c {command}" if isinstance(command, str) else " ".join(command)
    return _first_line(text[:LOOKED_AT])


def _without_leading_anything(pattern: str) -> Any:
    """`.*vllm` begins to match anywhere; what follows the leading `.*` tells where it really does."""
    rest = _LEADING_ANYTHING.sub("", pattern)
    try:
        return patterns.compile(rest) if rest else patterns.compile(pattern)
    except patterns.BadPattern:
        return patterns.compile(pattern)


def _needs_the_name(pattern: Any, text: str, blanked: str, names: list[_Span]) -> bool:
    if not names:
        return False
    end = names[-1][1]
    found = pattern.search(text)
    if found is None or found.start() >= end:
        return False
    without = pattern.search(blanked)
    return without is None or without.start() >= end


def _blank(text: str, names: list[_Span]) -> str:
    for start, end, _ in names:
        text = text[:start] + _FILLER * (end - start) + text[end:]
    return text


def program_names(argv: list[str]) -> tuple[str, ...]:
    """The names by which a command line's program goes: argv[0]'s, then its interpreter's script or module."""
    return tuple(name for _, _, name in _name_spans(argv))


def _name_spans(argv: list[str]) -> list[_Span]:
    """Where the names stand in the blank-joined text."""
    if not argv or not argv[0]:
        return []
    spans = [_basename_span(0, argv[0])]
    script = _script_index(argv)
    if script is not None:
        offset = sum(len(argument) + 1 for argument in argv[:script])
        is_module = script > 0 and argv[script - 1] == "-m"
        word = argv[script]
        spans.append((offset, offset + len(word), word) if is_module else _basename_span(offset, word))
    return spans


def _basename_span(offset: int, path: str) -> _Span:
    name = path.rsplit("/", 1)[-1]
    # A login shell is "-zsh"; a title set by the program itself ("nginx: master process") ends at its colon.
    shown = name.lstrip("-").rstrip(":") or name
    start = offset + len(path) - len(name)
    return (start, start + len(name), shown)


def _script_index(argv: list[str]) -> int | None:
    """Where an interpreter's script or module stands in argv; None without one."""
    kind = _interpreter(program=_basename_span(0, argv[0])[2])
    if kind is None:
        return None
    arguments = iter(enumerate(argv[1:], 1))
    for index, argument in arguments:
        if argument in _TEXT_FOLLOWS[kind] or _is_bundle_with_text(kind, argument):
            return None
        if argument == "-m" and kind == "python":
            return _next_index(arguments)
        if argument == "-jar":
            return _next_index(arguments)
        if argument in _TAKES_VALUE[kind]:
            next(arguments, None)
        elif not argument.startswith(("-", "+")) and argument:
            return index
    return None


def _is_bundle_with_text(kind: str, argument: str) -> bool:
    """`bash -lc TEXT`, `python -Ic TEXT`: short options in one word, of which the last takes the program text."""
    return kind in ("shell", "python") and bool(re.match(r"-[A-Za-z]*c\Z", argument))


def _next_index(arguments: Iterator[tuple[int, str]]) -> int | None:
    following = next(arguments, None)
    return following[0] if following else None


def _interpreter(program: str) -> str | None:
    if _PYTHON.match(program):
        return "python"
    if program in _SHELLS:
        return "shell"
    if program == "java":
        return "java"
    return "other" if program in _OTHER_INTERPRETERS else None
