"""yamltext: bytes -> text that a YAML parser can take, and the parser's errors in words that help."""

from __future__ import annotations

import re
from typing import Any, Final

from admitd.problem import ConfigError, Problem, show

_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")
# YAML's printable characters, less those that end a line for YAML and for no editor (NEL, U+2028, U+2029).
_UNWANTED: Final = re.compile(r"[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_DIRECTIVE: Final = re.compile(r"^%", re.MULTILINE)
_INDENTING_TAB: Final = re.compile(r" *\t\s*\S")

_ADVICE: Final = (
    ("unknown escape character", "write the text in 'single quotes', where \\ is just a \\"),
    ("mapping values are not allowed", "quote a value that holds ': ', or mend the indentation"),
    ("cannot start any token", "quote the value: it begins with a character that means something to YAML"),
    ("found unexpected end of stream", "close the quote"),
    ("did not find expected ',' or", "close the bracket, or quote the value"),
    ("expected ',' or", "close the bracket, or quote the value"),
    ("expected ':'", "write 'key: value', with a blank after the colon"),
    ("did not find expected key", "mend the indentation or the quotes on this line or the one before"),
    ("expected <block end>", "mend the indentation or the quotes on this line or the one before"),
    ("anchor", "write a value there, not * or &"),
)


def decode(data: bytes, file: str) -> str:
    """The text of `data`: UTF-8, with or without a byte order mark, and nothing that does not show."""
    if data.startswith(_UTF16) or _looks_like_utf16(data):
        what = "is UTF-16 (or UTF-32), not UTF-8"
        raise ConfigError([Problem(file, "", 0, what, f"write it as UTF-8: iconv -f UTF-16 -t UTF-8 {show(file)}")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"byte 0x{data[error.start]:02x} is not UTF-8"
        raise ConfigError([Problem(file, "", line, what, "save the file as UTF-8")]) from None
    if unwanted := _UNWANTED.search(text):
        line, code = text.count("\n", 0, unwanted.start()) + 1, ord(unwanted[0])
        what = "a NUL byte" if code == 0 else f"a character that does not show (U+{code:04X})"
        raise ConfigError([Problem(file, "", line, what, "take it out")])
    if directive := _DIRECTIVE.search(text):
        line = text.count("\n", 0, directive.start()) + 1
        raise ConfigError([Problem(file, "", line, "a line that begins with % is for the parser", "take it out")])
    return text


def _looks_like_utf16(data: bytes) -> bool:
    head = data[:256]
    return len(head) >= 4 and (not any(head[0::2]) or not any(head[1::2])) and any(head)


def explain(error: Any, text: str, file: str) -> Problem:
    """A parser's error: which line, what it met, what to write."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = mark.line + 1 if mark else 1
    context = getattr(error, "context_mark", None)
    tabbed = _first_tabbed(text, context.line + 1 if context else line, line)
    if tabbed:
        return Problem(file, "", tabbed, "a tab in the indentation, which YAML does not take", "write blanks")
    said = " ".join(part for part in (getattr(error, "problem", None), getattr(error, "context", None)) if part)
    instead = next((advice for sign, advice in _ADVICE if sign in said), "mend the indentation or the quotes there")
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    last = text.count("\n") + (not text.endswith("\n"))
    if context and "end of stream" in said:
        line = context.line + 1
    return Problem(file, "", max(1, min(line, last)), f"not YAML: {problem}", instead)


def _first_tabbed(text: str, first: int, last: int) -> int | None:
    """The first line of the few up to `last` that a tab indents; the parser may notice only one line later."""
    lines = text.split("\n")
    for number in range(max(1, min(first, last) - 1, last - 50), min(last, len(lines)) + 1):
        if _INDENTING_TAB.match(lines[number - 1]):
            return number
    return None
