"""commandline: what a command of capacity.yaml would run: its programs, the folder they are run in, its last argv.

A shell's whole language is not understood, and need not be: what is not plain is passed over, never guessed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from admitd import engines
from admitd.core.terms import RAM, Command, Service
from admitd.engines import Draft, Found
from admitd.processes import naming
from admitd.processes.matching import Matcher

_OTHERS: Final = (
    "colima container curl docker launchctl limactl lms ollama open orb podman prlctl service ssh sudo systemctl "
    "systemd-run tmux utmctl virsh wget"
)
HANDS_OVER: Final = frozenset(_OTHERS.split())
"""Programs that have the service started by somebody else, so that their own arguments are not its."""
_SHELL_HAS: Final = (
    "! . : [ alias bg break case command continue do done echo elif else esac eval exec exit export false fi for "
    "function if in kill local printf pwd read return set shift sleep source test then trap true type ulimit umask "
    "unset until wait while { } [["
)
_BUILTIN: Final = frozenset(_SHELL_HAS.split())
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_NOT_PLAIN: Final = re.compile(r"\$\(|`|<<|\$\{[^}]*[^A-Za-z0-9_}]")
_ENDS: Final = frozenset({"&&", "||", "|", ";", "&", "|&", "\n", "(", ")"})


@dataclass(frozen=True, slots=True)
class Simple:
    """One simple command: its words, and the folder that a `cd` before it went to."""

    argv: tuple[str, ...]
    folder: str | None = None


def simple_commands(command: Command, environ: Mapping[str, str]) -> list[Simple]:
    """The programs that a command runs, in their order; none where it is not plain."""
    if not isinstance(command, str):
        return [Simple(tuple(command))]
    if _NOT_PLAIN.search(command):
        return []
    found = []
    folder = None
    for segment in _segments(command):
        words = [_expanded(word, environ) for word in segment]
        while words and (_ASSIGNMENT.match(words[0]) or words[0] in ("exec", "env", "nohup", "command", "time")):
            del words[0]
        if words[:1] == ["cd"]:
            folder = words[1] if len(words) == 2 else None
        elif words:
            found.append(Simple(tuple(words), folder))
    return found


def programs(command: Command, environ: Mapping[str, str]) -> list[Simple]:
    """Those that are files, and no part of the shell."""
    found = simple_commands(command, environ)
    plain = isinstance(command, str)
    return [each for each in found if not (plain and (each.argv[0] in _BUILTIN or "$" in each.argv[0]))]


def engine_of(command: Command, environ: Mapping[str, str]) -> Draft | None:
    """The service that a command would start, as the engine that it runs has it; None where that is none we know."""
    started = simple_commands(command, environ)
    if not started:
        return None
    argv = started[-1].argv
    raw = "\0".join(argv).encode("utf-8", "surrogateescape") + b"\0"
    known = Matcher(Service(each.key, {RAM: 1}, process_pattern=each.seen) for each in engines.ENGINES)
    judged = known.judge(raw)
    real = [claim.service for claim in judged.claims if not claim.mention] if judged is not None else []
    if not real:
        return None
    return engines.of(Found(real[0], (), argv, naming.read(raw).program, cwd=started[-1].folder))


def _segments(text: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(re.sub(r"(?<=\s)\d(?=[<>])", "", text), posix=True, punctuation_chars="();<>|&\n")
    lexer.whitespace = " \t\r"
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    skip = False
    try:
        for token in lexer:
            if token in _ENDS or set(token) <= {"\n", ";"}:
                yield words
                words = []
            elif set(token) <= set("<>&|"):
                skip = True  # what follows is a file
            elif skip:
                skip = False
            else:
                words.append(token)
    except ValueError:
        return  # an open quote: the shell will say so
    yield words


def _expanded(word: str, environ: Mapping[str, str]) -> str:
    """As a shell would, where the variable is known."""
    if word == "~" or word.startswith("~/"):
        word = "$HOME" + word[1:]
    return re.sub(
        r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))",
        lambda found: environ.get(found[1] or found[2], found[0]),
        word,
    )
