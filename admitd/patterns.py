"""patterns: the regular expressions of capacity.yaml, matched in linear time whatever the pattern and the line.

Any user can start a process with a 100 KB argument, and Python's `re` needs more than 20 s for `(a+)+$` on 28
characters. RE2 cannot backtrack; the price is the handful of features that `_LACKS` names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from admitd.problem import printable

LONGEST: Final = 1000
LARGEST: Final = 2000
"""Instructions of RE2 that one pattern may have; a usual one has 40. On a hostile line each costs up to 1 ns a byte."""
SET_MAX_MEM: Final = 64 << 20
"""re2's default of 8 MiB takes 370 ms a line at 1,000 loose patterns; with 64 MiB it takes 4."""

_MAX_MEM: Final = 8 << 20
_ANY_CHARACTER: Final = "\x01"

# What `re` has and RE2 lacks, told by the text of the pattern: sign, its name, what to write instead.
_LACKS: Final = (
    (r"\(\?<?[=!]", "look-around", "write what the line contains; to leave other processes out, use program:"),
    (r"\(\?P=|\\[1-9]|\\g<", "backreferences", "write the repeated text twice"),
    (r"\(\?\(", "conditionals", "write both cases: (a|b)"),
    (r"\(\?>", "atomic groups", "write (?:...): nothing backtracks here anyway"),
    (r"(?:[*+?]|\})\+", "possessive repetition", "take the last + out: nothing backtracks here anyway"),
    (r"\\Z", r"\Z", r"write \z, or $"),
    (r"\(\?#", "comments", "put the comment behind a # outside the pattern"),
    (r"\(\?[aiLmsux]*[aLux]", "flags a, L, u and x", "leave them out; i, m and s exist"),
    (r"\\[uU]", r"\u and \U", r"write the character itself, or \x{1F600}"),
    (r"\\N", r"\N{...}", "write the character itself"),
)
_UNBALANCED: Final = ("missing ]", "missing )", "unexpected )", "trailing")
_ADVICE: Final = (
    ("invalid repetition size", "write a count of at most 1000 in all"),
    ("too large", "write a simpler pattern, with smaller {counts}"),
    ("missing ]", r"close the [ with ], or write \[ for the character"),
    ("missing )", r"close the ( with ), or write \( for the character"),
    ("unexpected )", r"open a ( before it, or write \) for the character"),
    ("repetition operator", r"write \ before a *, + or ? that is meant as a character, and else only one of them"),
    ("trailing", r"write \\ for a backslash"),
    ("escape sequence", r"take the \ out if the character after it is meant"),
    ("UTF-8", "write text"),
)


class BadPattern(ValueError):
    """A pattern that cannot be used: why, and what to write instead."""

    def __init__(self, why: str, instead: str) -> None:
        super().__init__(f"{why}; {instead}")
        self.why = why
        self.instead = instead


def options(max_mem: int = _MAX_MEM) -> Any:
    """The options of every pattern here: UTF-8, case counts, `.` takes a newline, silent, bounded memory."""
    import re2

    out = re2.Options()
    out.log_errors = False
    out.dot_nl = True
    out.max_mem = max_mem
    return out


def compile(pattern: str) -> Any:
    """`pattern` as an object with `search(text)`. BadPattern where RE2 will not have it or it would match anything."""
    import re2

    if not pattern:
        raise BadPattern("an empty pattern matches every process", "write what the command line contains")
    if len(pattern) > LONGEST:
        raise BadPattern(f"a pattern of {len(pattern)} characters", f"write at most {LONGEST}")
    try:
        compiled = re2.compile(pattern, options())
    except UnicodeEncodeError:
        raise BadPattern("a pattern that is not text", "write it as UTF-8") from None
    except re2.error as error:
        raise _explain(pattern, error) from None
    finally:
        re2.purge()  # re2 would keep the last 128 programs alive, of up to 8 MiB each
    if size(compiled) > LARGEST:
        why = f"a pattern too large to be fast ({size(compiled)} of RE2's instructions, at most {LARGEST})"
        raise BadPattern(why, r"write a simpler one, with smaller {counts} and without \p{...}")
    if compiled.search("") is not None:
        raise BadPattern("the pattern matches an empty line, and so every process", "write what the line must contain")
    if compiled.search(_ANY_CHARACTER) is not None:
        raise BadPattern("the pattern matches any one character, and so every process", "write words of the line")
    if compiled.search(_ANY_CHARACTER * LONGEST) is not None:  # RE2 counts no further
        raise BadPattern("the pattern matches any characters, if there are enough", "write words of the line")
    return compiled


def size(compiled: Any) -> int:
    """How large a compiled pattern is, in RE2's instructions."""
    return int(compiled.programsize)


def compile_set(texts: Sequence[str]) -> Callable[[str], list[int] | None]:
    """All of `texts` at once: line -> the indexes of those that match; None where the set could not tell.

    RE2 answers "none" when it runs out of memory on a line. One more pattern that always matches shows that case, so
    that a loaded service is never taken for a stopped one: the caller then asks the patterns one by one.
    """
    import re2

    if not texts:
        return _nothing
    patterns = re2.Set.SearchSet(options(SET_MAX_MEM))
    for text in texts:
        patterns.Add(text)
    witness = patterns.Add("")
    try:
        patterns.Compile()
    except re2.error:
        return _cannot_tell

    def matching(line: str) -> list[int] | None:
        found = patterns.Match(line)
        if not found or witness not in found:
            return None
        return sorted(index for index in found if index != witness)

    return matching


def _nothing(_line: str) -> list[int]:
    return []


def _cannot_tell(_line: str) -> None:
    return None


def _explain(pattern: str, error: Exception) -> BadPattern:
    said = error.args[0] if error.args else ""
    said = printable((said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said))[:100])
    # What stands in a [...] is no operator, however it looks: so RE2's own word on what is wrong goes first.
    bare = said if "repetition operator" in said else re.sub(r"\\\\", "", pattern)
    for sign, name, instead in () if said.startswith(_UNBALANCED) else _LACKS:
        if re.search(sign, bare):
            return BadPattern(f"RE2 has no {name}, unlike Python's re ({said})", instead)
    instead = next((advice for sign, advice in _ADVICE if sign in said), "write it in RE2's syntax")
    return BadPattern(f"not a regular expression: {said}", instead)
