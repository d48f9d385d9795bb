"""Patterns: linear in time, whoever wrote them; and an error that says what RE2 lacks."""

from __future__ import annotations

from typing import Any

import pytest

from admitd import patterns
from admitd.patterns import BadPattern

LACKS = [
    ("look-ahead", r"x(?=a)", "RE2 has no look-around", "use program:"),
    ("negative look-ahead", r"x(?!a)", "RE2 has no look-around", "use program:"),
    ("look-behind", r"(?<=a)b", "RE2 has no look-around", "use program:"),
    ("negative look-behind", r"(?<!a)b", "RE2 has no look-around", "use program:"),
    ("a backreference", r"(a)\1", "RE2 has no backreferences", "write the repeated text twice"),
    ("a named one", r"(?P<n>a)(?P=n)", "RE2 has no backreferences", "write the repeated text twice"),
    ("a conditional", r"(a)?(?(1)b|c)", "RE2 has no conditionals", "(a|b)"),
    ("an atomic group", r"(?>a)b", "RE2 has no atomic groups", "(?:...)"),
    ("a possessive star", r"xa*+", "RE2 has no possessive repetition", "take the last + out"),
    ("a possessive count", r"xa{2}+", "RE2 has no possessive repetition", "take the last + out"),
    ("the end of text in Python's spelling", r"a\Z", r"RE2 has no \Z", r"write \z, or $"),
    ("a verbose pattern", r"(?x) a", "RE2 has no flags a, L, u and x", "leave them out"),
    ("a comment", r"(?#c)a", "RE2 has no comments", "behind a #"),
    ("a code point", r"\u0041", r"RE2 has no \u and \U", r"\x{1F600}"),
    ("a character by name", r"\N{DASH}", r"RE2 has no \N{...}", "the character itself"),
]

WRONG = [
    ("no pattern", "", "matches every process", "what the command line contains"),
    ("anything", ".*", "matches an empty line, and so every process", "must contain"),
    ("an empty alternative", "mlx|", "matches an empty line", "must contain"),
    ("something optional", "(mlx)?", "matches an empty line", "must contain"),
    ("a point", ".", "any one character", "write words"),
    ("anything that is no blank", r"\S+", "any one character", "write words"),
    ("three points", "...", "matches any characters, if there are enough", "write words"),
    ("two hundred characters", r"^.{200}", "matches any characters, if there are enough", "write words"),
    ("1,001 characters", "x" * 1001, "1001 characters", "at most 1000"),
    ("an open group", "(", "missing ): (", r"write \( for the character"),
    ("a closed one", "a)", "unexpected ): a)", r"write \) for the character"),
    ("an open class", "[a", "missing ]: [a", r"write \[ for the character"),
    ("an open class behind a backslash", r"\\Z[", "missing ]", r"write \["),
    ("an open group behind a class of operators", r"vllm[*+]+(serve", "missing ): vllm", r"write \( for the character"),
    ("a closed one behind such a class", r"[(?=]+a)", "unexpected ): ", "open a ( before it"),
    ("an open class behind such a class", r"[?+]+[a", "missing ]: [a", r"write \[ for the character"),
    ("two stars", "[*+]+a**", "bad repetition operator: **", "only one of them"),
    ("a star on nothing", "*.gguf", "no argument for repetition operator: *", r"write \ before"),
    ("a lone backslash", "a\\", "trailing \\", r"write \\"),
    ("an unknown escape", r"a\y", r"invalid escape sequence: \y", r"take the \ out"),
    ("a million repetitions", "(a{1000}){1000}", "invalid repetition size", "at most 1000"),
    ("more than fits in memory", r"\pL{1000}", "pattern too large", "a simpler pattern"),
    ("more than is fast", r"\pL{10}", "a pattern too large to be fast (11964 of", "without \\p"),
    ("half a character", "\udc80", "not text", "UTF-8"),
]


@pytest.mark.parametrize(
    ("pattern", "why", "instead"), [pytest.param(p, w, i, id=name) for name, p, w, i in LACKS + WRONG]
)
def test_a_bad_pattern_says_why_and_what_to_write(pattern: str, why: str, instead: str) -> None:
    with pytest.raises(BadPattern) as caught:
        patterns.compile(pattern)
    assert why in caught.value.why
    assert instead in caught.value.instead
    assert str(caught.value) == f"{caught.value.why}; {caught.value.instead}"


MATCHES = [
    (r"mlx_lm[. ]server .*Qwen3\.6-35B", "/usr/bin/python3 /opt/bin/mlx_lm.server --model m/Qwen3.6-35B-4bit", True),
    (r"mlx_lm[. ]server .*Qwen3\.6-35B", "python -m mlx_lm server --model m/Qwen3.6-35B-4bit", True),
    (r"mlx_lm[. ]server .*Qwen3\.6-35B", "tail -f mlx_lm.server.log", False),
    (r"a.b", "a\nb", True),  # a newline in an argument hides nothing
    (r"Qwen", "qwen", False),
    (r"(?i)Qwen", "qwen", True),
    (r"^é+$", "éé", True),
    (r"--port 8081( |$)", "llama-server --port 80811", False),
    (r"(?<model>x)", "x", True),
]


@pytest.mark.parametrize(("pattern", "line", "matches"), MATCHES)
def test_a_pattern_is_searched_in_the_line(pattern: str, line: str, matches: bool) -> None:
    assert (patterns.compile(pattern).search(line) is not None) is matches


CATASTROPHES = [r"(a+)+$", r"(a|a)*b", r".*vllm.*--port 8000", r"(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)x1y", r"(a?){200}b"]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("pattern", CATASTROPHES)
@pytest.mark.parametrize("line", ["a" * 100_000 + "!", "vllm --port 800" * 8_000])
def test_a_catastrophic_pattern_costs_nothing(pattern: str, line: str) -> None:
    compiled = patterns.compile(pattern)
    together = patterns.compile_set([pattern, "zzz"])
    for _ in range(20):
        assert compiled.search(line) is None
        assert together(line) in ([], None)


def test_compiling_keeps_nothing_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """re2 itself remembers 128 programs of up to 8 MiB each."""
    import re2

    patterns.compile("one")
    assert re2._Regexp._make.cache_info().currsize == 0
    with pytest.raises(BadPattern):
        patterns.compile("(")
    assert re2._Regexp._make.cache_info().currsize == 0


def test_a_usual_pattern_is_small() -> None:
    assert patterns.size(patterns.compile(r"mlx_lm[. ]server .*Qwen3\.6-35B")) < 100


SETS: list[tuple[list[str], str, list[int]]] = [
    ([], "a", []),
    (["a"], "b", []),
    (["a", "b", "c"], "cab", [0, 1, 2]),
    (["a+b", "x.y", "b$"], "x\ny aab", [0, 1, 2]),
    (["a", "a"], "a", [0, 1]),
]


@pytest.mark.parametrize(("texts", "line", "indexes"), SETS)
def test_a_set_tells_which_of_its_patterns_match(texts: list[str], line: str, indexes: list[int]) -> None:
    assert patterns.compile_set(texts)(line) == indexes


def test_a_set_of_a_thousand_agrees_with_its_patterns_one_by_one() -> None:
    texts = [rf"server-{i} .*--port {8000 + i}( |$)" for i in range(1000)]
    together = patterns.compile_set(texts)
    for line in ("server-7 --port 8007", "server-7 --port 8008", "x server-999 -v --port 8999 y", "server-1 " * 200):
        assert together(line) == [i for i, text in enumerate(texts) if patterns.compile(text).search(line)]


@pytest.mark.parametrize("answer", [None, []], ids=["out of memory while matching", "an empty answer"])
def test_a_set_that_cannot_tell_says_so_instead_of_none_match(
    monkeypatch: pytest.MonkeyPatch, answer: list[int] | None
) -> None:
    import re2

    class Exhausted(re2.Set):  # type: ignore[misc]
        def Match(self, text: str) -> Any:
            return answer

    monkeypatch.setattr(re2, "Set", Exhausted)
    assert patterns.compile_set(["a", "b"])("a") is None


def test_a_set_that_cannot_be_compiled_says_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "SET_MAX_MEM", 5_000)
    assert patterns.compile_set([rf"[a-q].*[b-r].*z{i}" for i in range(20)])("a z1") is None
