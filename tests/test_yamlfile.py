"""YAML in, a plain tree with lines out; whatever the bytes, quickly and in bounded memory."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import textwrap

import pytest
import yaml

from admitd import yamlfile
from admitd.problem import ConfigError, Problem, show, spell


def read(text: str | bytes) -> yamlfile.Document:
    return yamlfile.read(text.encode() if isinstance(text, str) else text, "F")


def complaints(text: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return str(caught.value)


@pytest.fixture(params=["libyaml", "pure"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both parsers: PyYAML has libyaml in its wheels, and not everywhere else."""
    if request.param == "pure":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    elif not hasattr(yaml, "CSafeLoader"):
        pytest.skip("this PyYAML has no libyaml")
    return str(request.param)


VALUES = [
    ("a word is text", "x", "x"),
    ("a number in quotes is text", "'5'", "5"),
    ("a whole number", "45000", 45000),
    ("a whole number with marks", "45_000", 45000),
    ("a negative one", "-3", -3),
    ("a hexadecimal one", "0x10", 16),
    ("a number with a leading zero stays text: it is 8 or 10", "010", "010"),
    ("so does one with a point", "01.5", "01.5"),
    ("a fraction", "1.5", 1.5),
    ("an exponent", "1e3", 1000.0),
    ("an exponent beyond all numbers", "1e400", math.inf),
    ("infinity", "-.inf", -math.inf),
    ("a date stays text", "2026-11-21", "2026-11-21"),
    ("a time stays text", "12:30", "12:30"),
    ("a version stays text", "1.2.3", "1.2.3"),
    ("a lone sign stays text", "-x", "-x"),
    ("on is true", "on", True),
    ("No is false", "No", False),
    ("y stays text", "y", "y"),
    ("nothing is null", "", None),
    ("a tilde is null", "~", None),
    ("a list", "[a, 1]", ["a", 1]),
    ("an empty mapping", "{}", {}),
    ("a folded text", ">-\n  a\n  b", "a b"),
    ("a standard tag", "!!str 5", "5"),
    ("another", "!!float 5", 5.0),
    ("a value that looks like a merge", "<<", "<<"),
]


@pytest.mark.parametrize(("text", "value"), [pytest.param(t, v, id=why) for why, t, v in VALUES])
def test_a_value_means_what_it_says(parser: str, text: str, value: object) -> None:
    assert read(f"a: {text}\n").value == {"a": value}


def test_nan_is_read_and_its_spelling_kept() -> None:
    document = read("a: .NaN\nb: yes\nc: text\n")
    assert isinstance(document.value, dict)
    assert math.isnan(document.value["a"])
    assert document.written == {("a",): ".NaN", ("b",): "yes"}


def test_each_place_knows_its_line(parser: str) -> None:
    document = read("# x\na:\n  b: 1\n  c:\n    - d\n    - e: >\n        long\n        text\nf: {g: 2,\n  h: 3}\n")
    expected = {("a",): 2, ("a", "b"): 3, ("a", "c", 0): 5, ("a", "c", 1, "e"): 6, ("f", "g"): 9, ("f", "h"): 10}
    assert {keys: document.line(keys) for keys in expected} == expected
    assert document.line(("a", "c", 9, "nowhere")) == 4  # the nearest thing around it
    assert document.line(("nowhere",)) == 2


def test_merge_keys_bring_in_what_is_not_there(parser: str) -> None:
    document = read("a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc:\n  <<: [*a, *b]\n  x: 9\nd: {<<: *a}\n")
    assert isinstance(document.value, dict)
    assert document.value["c"] == {"x": 9, "y": 2, "z": 4}
    assert document.value["d"] == {"x": 1, "y": 2}
    assert document.line(("c", "x")) == 5
    assert document.line(("c", "z")) == 2


def test_merges_of_merges() -> None:
    document = read("a: &a {x: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b, z: 3}\n")
    assert isinstance(document.value, dict)
    assert document.value["c"] == {"x": 1, "y": 2, "z": 3}


def test_a_byte_order_mark_is_no_trouble() -> None:
    assert read(b"\xef\xbb\xbfa: 1\n").value == {"a": 1}


def test_windows_line_ends() -> None:
    document = read("a: 1\r\nb:\r\n  c: 2\r\n")
    assert document.value == {"a": 1, "b": {"c": 2}}
    assert document.line(("b", "c")) == 3


REFUSED: list[tuple[str, str | bytes, list[str]]] = [
    ("an empty file", "", ["F: is empty; write hosts: and services:"]),
    ("only a comment", "# hi\n", ["is empty"]),
    ("UTF-16 with a mark", "a: 1".encode("utf-16"), ["UTF-16", "iconv -f UTF-16 -t UTF-8"]),
    ("UTF-16 without one", "a: 1".encode("utf-16-be"), ["UTF-16"]),
    ("UTF-32", "a: 1".encode("utf-32"), ["UTF-16 (or UTF-32)"]),
    ("not UTF-8", b"a: 1\nb: \xff\n", ["F:2:", "byte 0xff is not UTF-8", "save the file as UTF-8"]),
    ("a NUL", b"a: 1\nb: x\0y\n", ["F:2:", "a NUL byte", "take it out"]),
    ("an escape character", b"a: \x1b[0m\n", ["F:1:", "U+001B"]),
    ("a line end that no editor shows", "a: # x\u2028b: 1\n", ["U+2028"]),
    ("a tab as indentation", "a:\n\tb: 1\n", ["F:2:", "tab", "write blanks"]),
    ("a tab after blanks", "a:\n  - b\n\t- c\n", ["F:3:", "tab", "write blanks"]),
    ("a key twice", "a: 1\nb: 2\na: 3\n", ["F:3: a:", "on line 3", "on line 1", "write it once"]),
    ("a key twice, deep inside", "a:\n  b:\n    c: 1\n    c: 2\n", ["F:4: a.b.c:"]),
    ("yes as a key", "services:\n  yes: 1\n", ["F:2: services:", '"yes"', "reads it as true", 'write "yes"']),
    ("a number as a key", "1: x\n", ['"1" is not text', 'write "1"']),
    ("null as a key", "~: x\n", ["reads it as null", 'write "~"']),
    ("a list as a key", "? [a]\n: 1\n", ["a list cannot be a key"]),
    ("a template that was not filled in", "a: {{ name }}\n", ["a mapping cannot be a key"]),
    ("an alias of nothing", "a: *b\n", ["F:1:", "*b stands for nothing"]),
    ("an alias of itself", "a: &a [*a]\n", ["F:1:", "stands inside what it stands for"]),
    ("a merge of itself", "a: &a\n  <<: *a\n", ["F:2:", "stands inside what it stands for"]),
    ("a merge of a number", "a: &a 1\nb: {<<: *a}\n", ["F:2: b:", "<< takes in mappings only"]),
    ("two documents", "---\na: 1\n---\nb: 1\n", ["F:3:", "second document"]),
    ("a directive", "%YAML 1.1\n---\na: 1\n", ["F:1:", "begins with %"]),
    ("a Python object", "a: !!python/object/apply:os.system [x]\n", ["!!python/object/apply:os.system", "no meaning"]),
    ("a Python name", "a: !!python/name:os.system\n", ["!!python/name:os.system", "no meaning"]),
    ("a private tag", "a: !secret x\n", ["!secret", "take the tag out"]),
    ("bytes in base64", "a: !!binary aGk=\n", ["!!binary", "no meaning"]),
    ("a tag that lies", "a: !!int x\n", ["'x' is not what its tag", "!!int"]),
    ("a backslash in double quotes", 'a: "mlx_lm\\.server"\n', ["F:1:", "single quotes"]),
    ("an open bracket", "a: [1, 2\nb: 3\n", ["F:2:", "close the bracket"]),
    ("an open quote", 'a: 1\nb: "x\nc: 2\n', ["F:2:", "close the quote"]),
    ("a colon inside a value", "a: b: c\n", ["F:1:", "quote a value that holds ': '"]),
    ("a value that begins with @", "a: @x\n", ["F:1:", "quote the value"]),
    ("a wrong indentation", "a:\n  b: 1\n c: 2\n", ["F:3:", "indentation"]),
    ("a number of 5,000 digits", "a: " + "1" * 5000, ["a number of 5000 digits"]),
    ("several at once", "a: !x 1\nb: 1\nb: 2\nno: 3\n", ["F:1:", "F:3: b:", 'F:4: as a key, "no"']),
]


@pytest.mark.parametrize(("text", "parts"), [pytest.param(t, p, id=why) for why, t, p in REFUSED])
def test_what_is_wrong_is_said_with_its_line(text: str | bytes, parts: list[str]) -> None:
    said = complaints(text)
    for part in parts:
        assert part in said
    assert "Traceback" not in said


@pytest.mark.parametrize("text", [pytest.param(t, id=why) for why, t, _ in REFUSED])
def test_the_other_parser_refuses_it_as_well(parser: str, text: str | bytes) -> None:
    assert complaints(text).startswith("F:")


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 31))
MERGED_LAUGHS = "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 31))
WIDE = "a: &a {" + ", ".join(f"k{i}: 1" for i in range(9000)) + "}\nb: {<<: [" + ", ".join(["*a"] * 9000) + "]}\n"
MANY_SMALL = (
    "big: &big {"
    + ", ".join(f"k{i}: 1" for i in range(9000))
    + "}\nsmall: &s {x: 1}\nb: {<<: [*big, "
    + ", ".join(["*s"] * 20000)
    + "]}\n"
)
MIB = 1 << 20

HOSTILE: dict[str, bytes] = {
    "ten megabytes of brackets": b"[" * (10 * MIB),
    "twenty levels of doubled aliases": LAUGHS.encode(),
    "doubled merges": MERGED_LAUGHS.encode(),
    "one wide mapping merged nine thousand times": WIDE.encode(),
    "a small mapping merged into a large one": MANY_SMALL.encode(),
    "aliases that nest deeper than the file": (
        "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [[[[[[[*a{i - 1}]]]]]]]\n" for i in range(1, 300))
    ).encode(),
    "random bytes": bytes((i * 7919 + (i >> 3) * 104729) % 256 for i in range(MIB)),
    "printable noise": bytes(33 + (i * 7919 + (i >> 3) * 104729) % 94 for i in range(MIB)),
}
for piece in (
    "[", "{", "- ", "? ", "- - - -\n", "a: ", "a:\n ", "!a ", "&a ", "*a ", '"', "'", "|\n", ">", "%TAG !a! b\n",
    "# \n", "\n", "a", "a b ", "[a,", "{a,", "[]", "? a\n", "a\n", "[a,a],", "- a\n", "--- \n", "...\n", "\t",
    "a:\tb\n", "?\n", "!!str ", '"\\x41', "? [", "}: {", '{"a": ', "- |\n a\n", ", ", ":", ": ", "- !!a &b\n",
    "\r", "a: 1\n", "\\", "e1", "- yes: 1\n", "9", "1_", "0x_", ".", "é", "\u0085", "{? ", "&a [*a, ", "<<: ",
    "{<<: ",
):  # fmt: skip
    HOSTILE[f"a mebibyte of {piece!r}"] = (piece.encode() * MIB)[:MIB]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_gets_a_short_answer(name: str) -> None:
    try:
        document = yamlfile.read(HOSTILE[name], "F")
    except ConfigError as error:
        assert len(str(error)) < 20_000
        assert str(error).startswith("F")
    else:
        assert len(document.lines) <= yamlfile.MOST_NODES


@pytest.mark.timeout(120)
def test_hostile_files_stay_within_a_quarter_of_a_gibibyte() -> None:
    code = """
        import resource, sys
        resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))
        sys.path[:0] = [sys.argv[1], sys.argv[2]]
        from admitd import yamlfile
        from admitd.problem import ConfigError
        from test_yamlfile import HOSTILE
        grew = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for data in HOSTILE.values():
            try:
                yamlfile.read(data, "F")
            except ConfigError as error:
                str(error)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - grew)
    """
    here = __file__.rsplit("/", 1)[0]
    command = [sys.executable, "-c", textwrap.dedent(code), here.rsplit("/", 1)[0], here]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 1 << 28


def test_a_file_at_the_bounds_is_read() -> None:
    deepest = yamlfile.DEEPEST
    assert read("[" * deepest + "]" * deepest).value is not None
    assert "nested more than 32 deep" in complaints("[" * (deepest + 1) + "]" * (deepest + 1))
    assert "more than 100000 values" in complaints("- a\n" * 100_001)
    assert "1048576 bytes" in complaints("#" * (yamlfile.MOST_BYTES + 1))


def test_many_problems_are_cut_short() -> None:
    with pytest.raises(ConfigError) as caught:
        read("".join(f"{i}: x\n" for i in range(10_000)))
    assert len(caught.value.problems) == 10_000
    assert str(caught.value).count("\n") == 50
    assert str(caught.value).endswith("and 9950 more problems like these")


SPELLED = [
    ((), ""),
    (("services", "a.b-c", "exclusive_with", 0), "services.a.b-c.exclusive_with[0]"),
    (("services", "../../x", "probe"), 'services."../../x".probe'),
    (("a\nb",), '"a\\nb"'),
    (("x" * 100,), '"' + "x" * 59 + "..."),
]


@pytest.mark.parametrize(("keys", "text"), SPELLED)
def test_a_place_is_spelled_on_one_line(keys: tuple[str | int, ...], text: str) -> None:
    assert spell(keys) == text


SHOWN = [("45 GB", '"45 GB"'), (True, "true"), (None, "null"), (1.5, "1.5"), ([1], "a list"), ({}, "a mapping"),
         (math.nan, ".nan"), ("\x1b[0m", '"\\u001b[0m"'), ("\ud800", '"\\ud800"')]  # fmt: skip


@pytest.mark.parametrize(("value", "text"), SHOWN)
def test_a_value_is_shown_without_harm(value: object, text: str) -> None:
    assert show(value) == text


def test_a_problem_without_a_line_names_the_file_alone() -> None:
    assert str(Problem("F", "", 0, "is empty", "write something")) == "F: is empty; write something"


def test_json_is_yaml_too() -> None:
    tree = {"hosts": {"a": {"ram_reserved_mb": 1}}, "services": {"x": {"load_cmd": ["a", "b: c"], "pinned": True}}}
    assert read(json.dumps(tree)).value == tree
