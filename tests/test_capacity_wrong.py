"""What is wrong in a capacity.yaml: the row, the mistake, what is said about it. All at once, and with what to write."""

from __future__ import annotations

# ruff: noqa: E501 -- one row of a table is one line
import copy
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admitd.capacity import ConfigError
from admitd.meaning import Meaning
from admitd.patterns import LONGEST
from admitd.reading import read_shape
from admitd.yamlfile import Document
from tests.capacity_files import GIB, HOSTS, TWO, Write, complaints, load, service, writer


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return writer(tmp_path)


KEYS_OF_X = [
    ("no budget", {"ram_budget_mb": ...}, "4: services.x.ram_budget_mb: is missing; write ram_budget_mb: 45000"),
    ("an empty budget", {"ram_budget_mb": ""}, "an empty value is no amount of memory; write whole MB"),
    ("a budget of 0", {"ram_budget_mb": 0}, "5: services.x.ram_budget_mb: a budget of 0 MB is nothing; write whole MB"),
    ("less than 0", {"ram_budget_mb": -5}, "a budget of -5 MB is nothing"),
    ("a unit", {"ram_budget_mb": "45 GB"}, '"45 GB" is text, not a number of MB; write 46080'),
    ("another", {"ram_budget_mb": "1.5GiB"}, '"1.5GiB" is text, not a number of MB; write 1536'),
    ("one that is no whole MB", {"ram_budget_mb": "1500 KB"}, "; write 2"),
    ("a quoted number", {"ram_budget_mb": '"45000"'}, '"45000" is text, not a number of MB; write 45000'),
    ("a comma", {"ram_budget_mb": '"45,000"'}, "; write 45000"),
    ("nonsense", {"ram_budget_mb": "plenty"}, '"plenty" is text, not a number of MB; write 45000'),
    ("a point", {"ram_budget_mb": "45000.0"}, "45000.0 is not a whole number of MB; write 45000"),
    ("a fraction", {"ram_budget_mb": "45000.2"}, "45000.2 is not a whole number of MB; write 45001"),
    ("1e400", {"ram_budget_mb": "1e400"}, "1e400 is not a finite number; write whole MB"),
    ("not a number", {"ram_budget_mb": ".nan"}, ".nan is not a finite number; write whole MB"),
    ("infinity", {"ram_budget_mb": "-.inf"}, "-.inf is not a finite number; write whole MB"),
    ("more than any machine", {"ram_budget_mb": 10**20}, "100000000000000000000 MB is more than the 1073741824 MB"),
    ("yes", {"ram_budget_mb": "yes"}, "yes is no amount of memory"),
    ("a list of budgets", {"ram_budget_mb": "[1]"}, "a list is no amount of memory"),
    ("more than the pool", {"ram_budget_mb": 10241}, "10241 MB is more than the whole pool of 10240 MB; write at most 10240"),
    ("a misspelt key", {"ram_bugdet_mb": 5}, "7: services.x.ram_bugdet_mb: a service has no such key; did you mean ram_budget_mb?"),
    ("a key with dashes", {"load-cmd": "a"}, "did you mean load_cmd? Write load_cmd"),
    ("an unknown key", {"colour": "red"}, "has no such key; write one of ram_budget_mb, priority"),
    ("a priority in words", {"priority": "high"}, '"high" is not a whole number; write a whole number, for example 100'),
    ("half a priority", {"priority": 1.5}, "1.5 is not a whole number"),
    ("a huge priority", {"priority": 10**9}, "1000000000 is not between -1000000 and 1000000"),
    ("a switch in quotes", {"pinned": "'yes'"}, '"yes" is neither true nor false; write true, without quotes'),
    ("a number as a switch", {"evictable": 1}, "1 is neither true nor false; write true or false"),
    ("a wrong minute", {"load_timeout_s": "5m"}, '"5m" is text, not a number of seconds; write 300'),
    ("no time", {"load_timeout_s": 0}, "0 seconds is too short; write more than 0"),
    ("less than no time", {"unload_timeout_s": -1}, "-1 seconds is too short"),
    ("all time", {"load_timeout_s": ".inf"}, ".inf is not a finite number; write seconds"),
    ("no number of seconds", {"load_timeout_s": ".NaN"}, ".NaN is not a finite number"),
    ("seconds beyond all numbers", {"unload_timeout_s": "1e400"}, "1e400 is not a finite number"),
    ("a month", {"load_timeout_s": 3000000}, "3000000 seconds is more than the 604800 of a week"),
    ("a switch as seconds", {"load_timeout_s": "on"}, "on is no number of seconds"),
    ("one word, no list", {"exclusive_with": "y"}, '"y" is one word, not a list; write [y]'),
    ("an exclusion of itself", {"exclusive_with": "[x]"}, '7: services.x.exclusive_with[0]: "x" excludes itself'),
    ("of nobody", {"exclusive_with": "[z]"}, '"z" is no service of this file'),
    ("of a number", {"exclusive_with": "[7]"}, 'YAML reads 7 as a number, not as text; quote it: write "7"'),
    ("a pattern that does not compile", {"process_pattern": "'x('"}, "6: services.x.process_pattern: not a regular expression: missing )"),
    ("a pattern of another engine", {"process_pattern": "'x(?=y)'"}, "RE2 has no look-around, unlike Python's re"),
    ("a pattern for everything", {"process_pattern": "'.*'"}, "matches an empty line, and so every process"),
    ("a long pattern", {"process_pattern": "x" * (LONGEST + 1)}, "a pattern of 1001 characters; write at most 1000"),
    ("a number as a pattern", {"process_pattern": 8080}, 'YAML reads 8080 as a number, not as text; quote it: write "8080"'),
    ("no sign of life", {"process_pattern": ...}, "4: services.x: has neither process_pattern nor loaded_check_cmd"),
    ("null as the only sign", {"process_pattern": "null"}, "has neither process_pattern nor loaded_check_cmd"),
    ("a program without a pattern", {"process_pattern": ..., "loaded_check_cmd": "a", "program": "b"},
     "services.x.program: narrows process_pattern, and there is none"),
    ("an empty program", {"program": "''"}, "services.x.program: the text is empty"),
    ("an empty command", {"load_cmd": "''"}, "services.x.load_cmd: the text is empty"),
    ("a command of blanks", {"unload_cmd": "'  '"}, "services.x.unload_cmd: the text is empty"),
    ("a command of no words", {"load_cmd": "[]"}, "a command of no words; write at least the program"),
    ("a command that begins with nothing", {"load_cmd": "['', a]"}, "does not begin with a program"),
    ("a number in a command", {"load_cmd": "[sleep, 100]"}, 'word 2 of the command is a number, not text; quote it: write "100"'),
    ("true as a command", {"loaded_check_cmd": "true"}, 'YAML reads true as the switch true, not as text; quote it: write "true"'),
    ("a NUL in a command", {"load_cmd": '"a\\0b"'}, "a NUL character in the text"),
    ("a NUL in a word", {"load_cmd": '[a, "b\\0"]'}, "a NUL character in word 2 of the command"),
    ("a mapping as a command", {"load_cmd": "{a: b}"}, "a mapping is not text"),
    ("a probe without a URL", {"probe": "{timeout_s: 3}"}, "7: services.x.probe.url: is missing; write url: http://"),
    ("a probe that is a URL", {"probe": "http://h/"}, '"http://h/" is not a mapping; write its settings under it (url: ...)'),
    ("a file as a probe", {"probe": "{url: file:///etc/passwd}"}, "is not an http URL"),
    ("a URL with a line break", {"probe": '{url: "http://h/\\r\\nX: y"}'}, "a line break inside the text"),
    ("a URL with a blank", {"probe": '{url: "http://h/ x"}'}, "characters that no URL has"),
    ("a password in a URL", {"probe": "{url: 'http://me:hunter2@h/v1'}"}, "services.x.probe.url: the URL names a user, and a probe sends neither"),
    ("a port beyond all ports", {"probe": "{url: 'http://h:99999/'}"}, "is not an http URL"),
    ("a small method", {"probe": "{url: 'http://h/', method: post}"}, '"post" is not a method; write POST'),
    ("a strange one", {"probe": "{url: 'http://h/', method: TRACE}"}, '"TRACE" is not a method; write one of GET'),
    ("a strange status", {"probe": "{url: 'http://h/', expect_status: 99}"}, "99 is not between 100 and 599"),
    ("a body that JSON cannot carry", {"probe": "{url: 'http://h/', json: {a: [.nan]}}"}, "services.x.probe.json: .nan cannot stand in JSON"),
    ("a body without end", {"probe": "{url: 'http://h/', json: " + "[" * 20 + "]" * 20 + "}"}, "nested more than 16 deep"),
    ("a limit below the budget", {"hard_limit_mb": 99}, "services.x.hard_limit_mb: 99 MB is less than its budget of 100 MB: it would be closed for using it; write at least 100"),
    ("a limit of nothing", {"hard_limit_mb": 0}, "0 MB is not an amount"),
    ("a limit in words", {"hard_limit_mb": "1 GB"}, '"1 GB" is text, not a number of MB; write 1024'),
    ("a wish as a switch", {"recover": "maybe"}, '"maybe" is neither true nor false'),
    ("an eager number", {"eager": 1}, "1 is neither true nor false"),
    ("no idleness", {"idle_unload_s": 0}, "0 seconds is too short; write more than 0"),
    ("half an hour", {"idle_unload_s": "30m"}, '"30m" is text, not a number of seconds; write 1800'),
    ("a misspelt probe key", {"probe": "{url: 'http://h/', timeout: 3}"}, "a probe has no such key; did you mean timeout_s?"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "said"), [pytest.param(k, s, id=why) for why, k, s in KEYS_OF_X])
def test_a_wrong_key_is_said_once_with_what_to_write(write: Write, keys: dict[str, Any], said: str) -> None:
    found = complaints(write(service(**keys)))
    assert len(found) == 1, found
    assert said in found[0]
    assert re.match(r"\d+: services\.x", found[0])
    assert "; " in found[0]


FILES = [
    ("a list", "[]", ["1: a list is not a mapping; write its settings under it (hosts: ...)"]),
    ("a word", "hello", ['1: "hello" is not a mapping']),
    ("null", "null", ["1: is empty"]),
    ("nothing declared", "live_veto: on", ["1: hosts: is missing", "1: services: is missing"]),
    ("hosts without a host", "hosts: {}\nservices: {}", ["1: hosts: names no machine"]),
    ("hosts as a list", "hosts: [a]\nservices: {}", ["1: hosts: a list is not a mapping"]),
    ("an empty services", HOSTS + "services:\n", ["3: services: is empty; write names"]),
    ("an empty service", HOSTS + "services:\n  x:\n", ["4: services.x: is empty; write its settings under it (ram_budget_mb"]),
    ("a host without memory", "hosts: {a: {}}\nservices: {}", ["ram_reserved_mb: is missing", "ram_safety_mb: is missing"]),
    ("memory in words", HOSTS.replace("16384", "16 GB") + "services: {}", ['"16 GB" is text, not a number of MB; write 16384']),
    ("memory below nothing", HOSTS.replace("2048", "-1") + "services: {}", ["-1 MB is not an amount; write whole MB of at least 0"]),
    ("no pool", HOSTS.replace("4096", "14336") + "services: {}",
     ["2: hosts.box: leaves a pool of 0 MB (16384 physical - 14336 reserved - 2048 safety)"]),
    ("less than no pool, elsewhere", HOSTS + "  b: {ram_physical_mb: 1, ram_reserved_mb: 2, ram_safety_mb: 0}\n"
     "host: box\nservices: {}", ["3: hosts.b: leaves a pool of -1 MB"]),
    ("a host that is not there", "host: bax\n" + HOSTS + "services: {}", ['1: host: "bax" is no entry of hosts; did you mean box? Write one of box']),
    ("two hosts and neither is this one", TWO + "services: {}",
     ["1: hosts: none of Attic, box is the name of this machine (elsewhere.local); write host: Attic at the top, or name an entry elsewhere"]),
    ("a number as the host", "host: 5\n" + HOSTS + "services: {}", ['1: host: YAML reads 5 as a number, not as text; quote it: write "5"']),
    ("a path as a name", service().replace("  x:", "  ../../x:"),
     ['4: services."../../x": "../../x" is no name; write x (letters, digits']),
    ("a blank in a name", service().replace("  x:", "  my model:"), ['"my model" is no name; write my-model (']),
    ("a name of signs", service().replace("  x:", "  '..':"), ['".." is no name; write letters, digits']),
    ("a name of 64 letters", service().replace("  x:", f"  {'n' * 64}:"), [f"is no name; write {'n' * 63} ("]),
    ("an empty name", service().replace("  x:", "  '':"), ['"" is no name']),
    ("a host with a path", HOSTS.replace("box", "/etc") + "services: {}", ['"/etc" is no name; write etc (']),
    ("yes as a name", service().replace("  x:", "  yes:"), ['as a key, "yes" is not text: YAML reads it as true; quote it']),
    ("no as a name", service().replace("  x:", "  no:"), ['as a key, "no" is not text: YAML reads it as false; quote it']),
    ("a number as a name", service().replace("  x:", "  14:"), ['as a key, "14" is not text: YAML reads it as 14; quote it']),
    ("a service outside services", HOSTS + "services: {}\nqwen: {ram_budget_mb: 5}\n",
     ["4: qwen: capacity.yaml has no such key; write one of host, hosts, services, sentinel, live_veto, version"]),
    ("a misspelt section", service() + "sentinels: {}\n", ["sentinels: capacity.yaml has no such key; did you mean sentinel?"]),
    ("neither on nor off", service() + "live_veto: maybe\n", ['live_veto: "maybe" is neither on nor off; write on or off']),
    ("an empty sentinel", service() + "sentinel:\n", ["sentinel: is empty"]),
    ("a sentinel without rest", service() + "sentinel: {stopped_interval_s: 0.001}\n", ["0.001 seconds is too short; write at least 0.1"]),
    ("a sentinel without patience", service() + "sentinel: {probe_failures: 0}\n", ["0 is not between 1 and 1000"]),
    ("pressure in other words", service() + "sentinel: {on_pressure: kill}\n", ['sentinel.on_pressure: "kill" is nothing that can be done; write tell or evict']),
    ("no recoveries", service() + "sentinel: {recoveries_per_hour: 0}\n", ["0 is not between 1 and 1000"]),
    ("no grace", service() + "sentinel: {save_grace_s: -1}\n", ["-1 seconds is too short"]),
    ("one channel, no list", service() + "sentinel: {notify: 'ntfy://x/y'}\n", ["is one word, not a list"]),
    ("a channel that is no URL", service() + "sentinel: {notify: [5]}\n", ["sentinel.notify[0]: this is no URL that Apprise knows"]),
    ("a command of no words to tell by", service() + "sentinel: {notify_command: []}\n", ["a command of no words"]),
    ("a safelist with a bad pattern", service() + "sentinel: {safelist: [x, '(']}\n",
     ["sentinel.safelist[1]: not a regular expression: missing ): ("]),
    ("a safelist with a number", service() + "sentinel: {safelist: [1]}\n", ["sentinel.safelist[0]: YAML reads 1 as a number"]),
    ("pinned services that fill more than the pool",
     HOSTS + "services:\n  a: {ram_budget_mb: 6000, process_pattern: aa, pinned: true}\n"
     "  b: {ram_budget_mb: 4241, process_pattern: bb, pinned: true}\n",
     ["5: services.b.pinned: the pinned services a, b need 10241 MB together, more than the pool of 10240 MB"]),
    ("a similar name", HOSTS + "services:\n  qwen: {ram_budget_mb: 1, process_pattern: aa, exclusive_with: [qwem]}\n",
     ['"qwem" is no service of this file; did you mean qwen? Write the name of one']),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), [pytest.param(t, s, id=why) for why, t, s in FILES])
def test_a_wrong_file_is_said_with_what_to_write(write: Write, text: str, said: list[str]) -> None:
    found = complaints(write(text))
    assert len(found) == len(said), found
    for part, line in zip(said, found, strict=True):
        assert part in line


def test_a_pinned_pair_that_just_fits_is_fine(write: Write) -> None:
    text = (
        "services:\n  a: {ram_budget_mb: 6000, process_pattern: aa, pinned: true}\n"
        "  b: {ram_budget_mb: 4240, process_pattern: bb, pinned: true}\n"
    )
    assert len(load(write(HOSTS + text)).pinned) == 2


EVERYTHING_WRONG = """
hosts:
  box: {ram_physical_mb: 16384, ram_reserved_mb: 4096, ram_safety_mb: 2048, ram_saftey_mb: 1}
services:
  ../../x: {ram_budget_mb: 45 GB, process_pattern: '(?=a)'}
  one:
    ram_budget_mb: 45000.0
    exclusive_with: [one, tow, 5]
    proces_pattern: x
    pinned: "yes"
    load_cmd: true
    probe: {url: "ftp://x", expect_status: 999}
  two: {ram_budget_mb: 70000, loaded_check_cmd: "x"}
sentinel: {safelist: ["("]}
memory: 3
"""


def test_all_problems_come_at_once_in_the_order_of_the_lines(write: Write) -> None:
    found = [line.split(": ")[:2] for line in complaints(write(EVERYTHING_WRONG))]
    assert sorted(found, key=lambda pair: int(pair[0])) == found
    assert {tuple(pair) for pair in found} == {
        ("3", "hosts.box.ram_saftey_mb"),
        ("5", 'services."../../x".ram_budget_mb'),
        ("5", 'services."../../x"'),
        ("5", 'services."../../x".process_pattern'),
        ("7", "services.one.ram_budget_mb"),
        ("8", "services.one.exclusive_with[0]"),
        ("8", "services.one.exclusive_with[1]"),
        ("8", "services.one.exclusive_with[2]"),
        ("9", "services.one.proces_pattern"),
        ("10", "services.one.pinned"),
        ("11", "services.one.load_cmd"),
        ("12", "services.one.probe.url"),
        ("12", "services.one.probe.expect_status"),
        ("14", "sentinel.safelist[0]"),
        ("15", "memory"),
    }


def test_a_size_is_checked_though_another_service_is_wrong(write: Write) -> None:
    text = HOSTS + "services:\n  a: {ram_budget_mb: 99999, process_pattern: aa}\n  b: {ram_budget_mb: 0}\n"
    assert len(complaints(write(text))) == 3


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "body",
    [
        "".join(f"k{i}: 1\n" for i in range(40_000)),
        "services:\n" + "".join(f"  ../{i}: 1\n" for i in range(40_000)),
        "services:\n  x:\n" + "".join(f"    k{i}: 1\n" for i in range(40_000)),
        "services:\n  x:\n    exclusive_with: [" + ", ".join(f"n{i}" for i in range(40_000)) + "]\n",
        "services:\n" + "".join(f"  s{i}: {{process_pattern: '\\pL{{1000}}{i}'}}\n" for i in range(9_000)),
        "services:\n" + "".join(f"  s{i}: {{exclusive_with: [t{i}], process_patern: 1}}\n" for i in range(9_000)),
    ],
    ids=["keys", "names", "keys of a service", "exclusions", "patterns", "services"],
)
def test_tens_of_thousands_of_mistakes_are_a_short_answer(write: Write, body: str) -> None:
    path = write(HOSTS + body)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert len(caught.value.problems) > 1000
    assert len(str(caught.value)) < 30_000


def test_a_problem_has_its_five_parts(write: Write) -> None:
    path = write(service(ram_budget_mb="45 GB"))
    with pytest.raises(ConfigError) as caught:
        load(path)
    (problem,) = caught.value.problems
    assert (problem.file, problem.path, problem.line) == (str(path), "services.x.ram_budget_mb", 5)
    assert (problem.what, problem.instead) == ('"45 GB" is text, not a number of MB', "write 46080")
    assert str(problem) == f"{path}:5: services.x.ram_budget_mb: {problem.what}; {problem.instead}"


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["x", "box", "(", "5m"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "box", "url", ""]), inner, max_size=3)
    ),
    max_leaves=6,
)
RIGHT: dict[str, Any] = {
    "host": "box",
    "hosts": {"box": {"ram_physical_mb": 9000, "ram_reserved_mb": 1, "ram_safety_mb": 1}},
    "services": {
        "x": {
            "ram_budget_mb": 5,
            "process_pattern": "abc",
            "exclusive_with": ["y"],
            "load_cmd": "a",
            "probe": {"url": "http://h/"},
        },
        "y": {"ram_budget_mb": 5, "loaded_check_cmd": ["a"], "pinned": True, "load_timeout_s": 3},
    },
    "sentinel": {"safelist": ["x", "abc"], "probe_failures": 3},
    "live_veto": "on",
}


def places(tree: object, keys: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inner = (
        [place for key, value in tree.items() for place in places(value, (*keys, key))]
        if isinstance(tree, dict)
        else []
    )
    return [keys, *inner]


@given(st.lists(st.tuples(st.sampled_from(places(RIGHT)[1:]), ANYTHING), max_size=3))
def test_whatever_stands_anywhere_is_read_or_said(changes: list[tuple[tuple[str, ...], Any]]) -> None:
    tree = copy.deepcopy(RIGHT)
    for keys, value in changes:
        node: Any = tree
        for key in keys[:-1]:
            node = node.get(key) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node[keys[-1]] = value
    document = Document("F", tree, {}, {})
    shape, problems, bad = read_shape(document)
    if shape is not None:
        meaning = Meaning(document, shape, bad)
        found = meaning.capacity("h", lambda: GIB)
        assert (found is None) == bool(problems or meaning.problems)
        problems += meaning.problems
    assert all(str(problem).isprintable() and len(str(problem)) < 600 for problem in problems)
