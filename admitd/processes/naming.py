"""naming: what program a command line runs. Text in, names out; nothing is read here.

A line has one of two forms. Linux keeps argv joined by NULs: there each argument is certain. `ps`, and programs that
write their title over their argv, join it by blanks: there a path that holds a blank looks like two arguments, and what
is said of it is a guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

LOOKED_AT: Final = 16_384
"""How many bytes of a command line are looked at. Any user can start a process with a 100 KB argument."""

_BUNDLE: Final = ".app/Contents/MacOS/"
_BUNDLE_HOMES: Final = ("/Applications/", "/Users/", "/System/", "/Library/", "/Volumes/", "/opt/", "/private/")


@dataclass(frozen=True, slots=True)
class Name:
    """A name by which a program goes, and where it stands in the blank-joined text."""

    start: int
    end: int
    shown: str


@dataclass(frozen=True, slots=True)
class Line:
    """A command line taken apart. `names`: argv[0]'s, then that of the script or module its interpreter runs.

    `runs_text`: an interpreter that was given no script, but a program in its arguments or on its input.
    `guessed`: where an argument ends is not certain, and so neither is the program.
    """

    argv: tuple[str, ...]
    text: str
    exact: bool
    names: tuple[Name, ...] = ()
    script: int | None = None
    runs_text: bool = False
    guessed: bool = False

    @property
    def program(self) -> str:
        return self.names[-1].shown if self.names else ""


def read(raw: bytes) -> Line:
    """Take a command line apart. Any bytes will do."""
    exact = b"\0" in raw
    joined = raw[:LOOKED_AT].rstrip(b"\0 \n").decode("utf-8", "replace")
    if "\0" in joined:
        return _named(joined.split("\0"), exact=True)
    # One argument: a path that may hold blanks, or a whole line that the process wrote over its argv, as Chromium does.
    if exact and joined.startswith("/") and " -" not in joined:
        return _named([joined], exact=True)
    if not exact and re.fullmatch(r"\(.*\)|\[.*\]( <defunct>)?", joined, re.DOTALL):
        # ps could not read the arguments; this is the name that the kernel keeps, at most 16 bytes of it.
        return Line((joined,), joined, exact=False, guessed=True)
    return _named(_split(joined), exact=False)


def _named(argv: list[str], *, exact: bool) -> Line:
    text = " ".join(argv)
    if not argv[0]:
        return Line(tuple(argv), text, exact)
    names = [_basename(0, argv[0])]
    options = _interpreter(names[0].shown)
    script = None if options is None else _script(argv, options)
    if script is not None:
        index, skip, is_module = script
        word = argv[index]
        offset = sum(len(argument) + 1 for argument in argv[:index])
        module = Name(offset + skip, offset + len(word), word[skip:])
        names.append(module if is_module else _basename(offset, word))
    at = None if script is None else script[0]
    guessed = not exact and (_may_go_on(argv, 0) or (at is not None and _may_go_on(argv, at)))
    return Line(tuple(argv), text, exact, tuple(names), at, options is not None and script is None, guessed)


def _basename(offset: int, path: str) -> Name:
    name = path.rsplit("/", 1)[-1]
    # A login shell is "-zsh"; a title that a program gave itself ("nginx: master process") ends at its colon.
    shown = name.lstrip("-").rstrip(":") or name
    start = offset + len(path) - len(name)
    return Name(start, start + len(name), shown)


def _split(text: str) -> list[str]:
    """The words of a line that was joined by blanks; the path of a macOS bundle ("LM Studio.app") stays whole."""
    program = _bundled(text)
    if program is None:
        return text.split(" ")
    rest = text[len(program) :]
    return [program, *rest[1:].split(" ")] if rest else [program]


def _bundled(text: str) -> str | None:
    """The program's path where it lies in a bundle; its name is nearly always the bundle's own."""
    if not text.startswith(_BUNDLE_HOMES):
        return None
    ends = [end for end in (text.find(" /"), text.find(" -")) if end >= 0]
    front, inside, _ = text[: min(ends, default=len(text))].rpartition(_BUNDLE)
    if not inside:
        return None
    begin = len(front) + len(inside)
    name = front.rsplit("/", 1)[-1]
    rest = text[begin:]
    if rest == name or rest.startswith(name + " "):
        return text[: begin + len(name)]
    return text[:begin] + rest.split(" ", 1)[0]


def _may_go_on(words: list[str], index: int) -> bool:
    """Whether the path at `index` may hold a blank, and so go on in the next word: /Volumes/My Disk/llama-server."""
    if not words[index].startswith("/"):
        return False
    for word in words[index + 1 :]:
        if word.startswith(("-", "/")):
            return False
        if "/" in word:
            return True
    return False


@dataclass(frozen=True, slots=True)
class _Options:
    """How an interpreter finds its script among its options. Letters may stand together in one word: `bash -lc`.

    `values`: the rest of the word, or else the next one, belongs to the letter; `attached`: only the rest of the word;
    `texts`: there is no script; `scripts`: the rest of the word, or else the next one, is the script or module.
    """

    values: str = ""
    attached: str = ""
    texts: str = ""
    scripts: str = ""
    long_values: frozenset[str] = frozenset()
    long_texts: frozenset[str] = frozenset()
    long_scripts: frozenset[str] = frozenset()
    letters: bool = True


# From each one's manual: python3(1), bash(1), perlrun(1), ruby(1), node(1), php(1), lua(1), Rscript(1), java(1).
_PYTHON: Final = _Options("WX", texts="c", scripts="m", long_values=frozenset({"--check-hash-based-pycs"}))
_SHELL: Final = _Options("oO", texts="cs", long_values=frozenset({"--rcfile", "--init-file"}))
_NODE: Final = _Options(
    "rC",
    texts="ep",
    long_values=frozenset(["--require", "--import", "--loader", "--experimental-loader", "--conditions", "--title"]),
    long_texts=frozenset({"--eval", "--print"}),
)
_JAVA: Final = _Options(
    long_values=frozenset(
        (
            *("-cp", "-classpath", "--class-path", "-p", "--module-path"),
            *("--add-modules", "--add-opens", "--add-exports", "--add-reads"),
        )
    ),
    long_scripts=frozenset({"-jar", "-m", "--module"}),
    letters=False,
)
_INTERPRETERS: Final = {
    **dict.fromkeys(("python", "pythonw", "pypy", "Python"), _PYTHON),
    **dict.fromkeys(("sh", "bash", "dash", "zsh", "ksh", "fish", "ash"), _SHELL),
    **dict.fromkeys(("node", "nodejs"), _NODE),
    "perl": _Options("I", attached="0CDFMVdimx", texts="eE"),
    "ruby": _Options("CEIr", attached="0FKTWix", texts="e"),
    "php": _Options("Stcdz", texts="BERr", scripts="f"),
    "lua": _Options("l", texts="e"),
    "Rscript": _Options(texts="e"),
    "tclsh": _Options(),
    "java": _JAVA,
}
SHELLS: Final = frozenset(name for name, options in _INTERPRETERS.items() if options is _SHELL)
_VERSION: Final = re.compile(r"(?<=[a-zA-Z])\d[\d.]*[a-z]?\Z")


def _interpreter(program: str) -> _Options | None:
    return _INTERPRETERS.get(_VERSION.sub("", program))


def _script(argv: list[str], options: _Options) -> tuple[int, int, bool] | None:
    """Where the script or module stands: the word, how many of its characters are not its name, and whether it is a
    module; None without one."""
    words = iter(enumerate(argv[1:], 1))
    for index, word in words:
        if word in ("", "-"):
            return None
        if word == "--":
            return _following(words, is_module=False)
        if word[0] not in "-+":
            return index, 0, False
        option, equals, _ = word.partition("=")
        if option in options.long_texts:
            return None
        if option in options.long_scripts:
            return _following(words, is_module=option != "-jar")
        if option in options.long_values:
            if not equals:
                next(words, None)
        elif options.letters and not word.startswith("--"):
            kind, rest = _letters(word, options)
            if kind == "text":
                return None
            if kind == "script":
                module = options is _PYTHON
                return _following(words, is_module=module) if rest == len(word) else (index, rest, module)
            if kind == "value" and rest == len(word):
                next(words, None)
    return None


def _letters(word: str, options: _Options) -> tuple[str, int]:
    """What the letters of one word ask for, and where the rest of the word begins."""
    for at, letter in enumerate(word[1:], 1):
        if letter in options.texts:
            return "text", at
        if letter in options.scripts:
            return "script", at + 1
        if letter in options.values:
            return "value", at + 1
        if letter in options.attached:
            break
    return "flags", len(word)


def _following(words: Iterator[tuple[int, str]], *, is_module: bool) -> tuple[int, int, bool] | None:
    following = next(words, None)
    return None if following is None else (following[0], 0, is_module)
