"""capacity.yaml -> Capacity: where it is found, what it means, which machine it is about."""

from __future__ import annotations

import os
import plistlib
import subprocess
import sys
from pathlib import Path

import pytest

from admitd import capacity, hostnames
from admitd.capacity import ConfigError, NotFound
from admitd.core import headroom
from admitd.core.terms import OnPressure, Probe, Sentinel
from admitd.core.units import from_mb, to_mb
from tests.capacity_files import GIB, HOSTS, TWO, Write, load, service, writer

CONTRACT_EXAMPLE = r"""
host: manoir                    # optional: else the entry whose name is this machine's; else the only one
hosts:
  manoir:
    ram_physical_mb: 65536      # optional: detected when left out
    ram_reserved_mb: 12288      # the OS, the window server, the user's own apps
    ram_safety_mb: 4096         # hard floor, never admitted into
services:
  sanctum-mlx:
    ram_budget_mb: 45000        # required: no budget, no admission
    priority: 100               # higher wins; default 0
    exclusive_with: [lmstudio-coder-14b]      # symmetric, even if only one side says it
    process_pattern: 'mlx_lm\.server .*Qwen3\.6-35B'   # regular expression over a live command line
    program: null               # optional: the program itself (argv[0], or an interpreter's script) must be this
    loaded_check_cmd: null      # exit 0 within 2 s means loaded
    load_cmd: "mlx_lm.server --model mlx-community/Qwen3.6-35B-A3B-4bit --port 8080"
    unload_cmd: null            # default: SIGTERM to the matched processes, then see unload_timeout_s
    load_timeout_s: 300
    unload_timeout_s: 60
    pinned: false               # true: its budget stays committed even while it is not loaded
    evictable: true             # false: never chosen as a victim
    probe:                      # optional: how to see that inference works
      url: http://127.0.0.1:8080/v1/chat/completions
      # method, json body, expect_status, timeout_s, startup_grace_s: with defaults that suit a model server
  lmstudio-coder-14b:
    ram_budget_mb: 12000
    priority: 50
    loaded_check_cmd: "lms ps | grep -q coder-14b"
    load_cmd: "lms load coder-14b"
    unload_cmd: "lms unload coder-14b"
sentinel:
  safelist: [qemu, sanctumd, sanctum-mlx, signal-cli, WindowServer]   # service names, or patterns of processes
  stopped_interval_s: 10
  probe_interval_s: 60
  probe_failures: 3
live_veto: on                   # on: live memory and pressure may refuse what the ledger would admit
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return writer(tmp_path)


# What is right


def test_the_example_of_the_contract_means_what_the_contract_says(write: Write) -> None:
    path = write(CONTRACT_EXAMPLE)
    found = load(path)
    assert found.host.name == "manoir"
    assert to_mb(headroom.pool(found.host)["ram"]) == 49152
    mlx, coder = found.services["sanctum-mlx"], found.services["lmstudio-coder-14b"]
    assert (to_mb(mlx.budget["ram"]), mlx.priority) == (45000, 100)
    assert (to_mb(coder.budget["ram"]), coder.priority) == (12000, 50)
    assert mlx.exclusive_with == {"lmstudio-coder-14b"}
    assert coder.exclusive_with == {"sanctum-mlx"}
    assert mlx.process_pattern == r"mlx_lm\.server .*Qwen3\.6-35B"
    assert (mlx.program, mlx.loaded_check_cmd, mlx.unload_cmd) == (None, None, None)
    assert (mlx.load_timeout_s, mlx.unload_timeout_s, mlx.pinned, mlx.evictable) == (300.0, 60.0, False, True)
    assert coder.loaded_check_cmd == "lms ps | grep -q coder-14b"
    assert mlx.probe == Probe(
        url="http://127.0.0.1:8080/v1/chat/completions",
        method="POST",
        json={"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1},
        expect_status=200,
        timeout_s=30.0,
        startup_grace_s=120.0,
    )
    assert found.sentinel == Sentinel(("qemu", "sanctumd", "sanctum-mlx", "signal-cli", "WindowServer"), 10.0, 60.0, 3)
    assert found.live_veto is True
    assert found.path == str(path)


def test_what_is_left_out_has_a_default(write: Write) -> None:
    found = load(write(service()))
    x = found.services["x"]
    assert (x.priority, x.exclusive_with, x.program, x.load_cmd, x.probe) == (0, frozenset(), None, None, None)
    assert (x.load_timeout_s, x.unload_timeout_s, x.pinned, x.evictable) == (300.0, 60.0, False, True)
    assert found.sentinel == Sentinel()
    assert found.live_veto is True


def test_what_the_sentinel_may_do_has_a_cautious_default(write: Write) -> None:
    found = load(write(service()))
    x, sentinel = found.services["x"], found.sentinel
    assert (x.hard_limit, x.recover, x.idle_unload_s, x.eager) == (None, True, None, False)
    assert (sentinel.on_pressure, sentinel.recoveries_per_hour, sentinel.save_grace_s) == (OnPressure.TELL, 3, 5.0)
    assert (sentinel.notify, sentinel.notify_command) == ((), None)


def test_what_the_sentinel_may_do_can_be_said(write: Write) -> None:
    text = service(hard_limit_mb=100, recover="false", idle_unload_s=900, eager="true") + (
        "sentinel: {on_pressure: Evict, recoveries_per_hour: 1, save_grace_s: 30, notify: ['ntfy://h/t'], "
        "notify_command: [notify-send, admit]}\n"
    )
    found = load(write(text))
    x, sentinel = found.services["x"], found.sentinel
    assert (x.hard_limit, x.recover, x.idle_unload_s, x.eager) == ({"ram": from_mb(100)}, False, 900.0, True)
    assert (sentinel.on_pressure, sentinel.recoveries_per_hour, sentinel.save_grace_s) == (OnPressure.EVICT, 1, 30.0)
    assert (sentinel.notify, sentinel.notify_command) == (("ntfy://h/t",), ("notify-send", "admit"))


def test_a_channel_with_a_password_is_shown_nowhere(write: Write) -> None:
    found = load(write(service() + "sentinel: {notify: ['mailto://me:hush@example.com'], notify_command: 'x hush'}\n"))
    assert "hush" not in repr(found)
    with pytest.raises(ConfigError) as caught:
        load(write(service() + "sentinel: {notify: ['mailto: me:hush@example.com']}\n"))
    assert "hush" not in str(caught.value)


def test_no_services_at_all_is_a_beginning(write: Write) -> None:
    assert load(write(HOSTS + "services: {}\n")).services == {}


def test_a_command_is_text_or_words(write: Write) -> None:
    x = load(write(service(load_cmd="'a | b'", unload_cmd="[virsh, shutdown, 'a b', '']"))).services["x"]
    assert x.load_cmd == "a | b"
    assert x.unload_cmd == ("virsh", "shutdown", "a b", "")


def test_a_command_may_have_several_lines(write: Write) -> None:
    x = load(write(service(load_cmd="|\n      cd /srv\n      exec ./run"))).services["x"]
    assert x.load_cmd == "cd /srv\nexec ./run\n"


SWITCHES = [("on", True), ("off", False), ("'on'", True), ('"OFF"', False), ("yes", True), ("false", False)]


@pytest.mark.parametrize(("word", "value"), SWITCHES)
def test_live_veto_is_on_or_off(write: Write, word: str, value: bool) -> None:
    assert load(write(service() + f"live_veto: {word}\n")).live_veto is value


PROBES = [
    ("a health page", "url: http://localhost:1/health", "GET", None),
    ("a body", "url: http://localhost:1/x\n      json: {a: 1}", "POST", {"a": 1}),
    ("a body, put", "url: http://localhost:1/x\n      json: {a: 1}\n      method: PUT", "PUT", {"a": 1}),
    ("a completion", "url: http://h/v1/completions", "POST", {"prompt": "hi", "max_tokens": 1}),
    ("a completion that is only looked at", "url: http://h/v1/chat/completions\n      method: GET", "GET", None),
    ("a completion without a body", "url: http://h/v1/completions\n      json: null", "GET", None),
    ("a completion with a body of its own", "url: http://h/v1/completions\n      json: {p: 2}", "POST", {"p": 2}),
]


@pytest.mark.parametrize(("keys", "method", "body"), [pytest.param(k, m, b, id=why) for why, k, m, b in PROBES])
def test_a_probe_has_defaults_that_suit_a_model_server(write: Write, keys: str, method: str, body: object) -> None:
    probe = load(write(service(probe="\n      " + keys))).services["x"].probe
    assert probe is not None
    assert (probe.method, probe.json) == (method, body)


def test_an_anchor_may_be_merged_into_each_service(write: Write) -> None:
    text = f"{HOSTS}services:\n  a: &a {{ram_budget_mb: 1, process_pattern: server-a, priority: 7}}\n"
    found = load(write(text + "  b: {<<: *a, process_pattern: server-b}\n"))
    assert found.services["b"].priority == 7
    assert found.services["b"].process_pattern == "server-b"


def test_a_thousand_services_are_read(write: Write) -> None:
    body = "".join(
        f"  s{i}:\n    ram_budget_mb: {i + 1}\n    process_pattern: 'mlx_lm[. ]server .*model-{i}'\n"
        f"    exclusive_with: [s{(i + 1) % 1000}]\n    load_cmd: run {i}\n    probe: {{url: 'http://h:1/health'}}\n"
        for i in range(1000)
    )
    found = load(write(HOSTS + "services:\n" + body))
    assert len(found.services) == 1000
    assert found.services["s5"].exclusive_with == {"s4", "s6"}


# Which machine


MACHINES = [
    ("by its name in the file", "host: box\n" + TWO, "attic", "box"),
    ("by this machine's name", TWO, "box", "box"),
    ("by its short name, whatever the case", TWO, "ATTIC.local", "Attic"),
    ("by its full name", TWO.replace("Attic", "attic.local"), "attic.local", "attic.local"),
    ("the only one", HOSTS, "attic", "box"),
]


@pytest.mark.parametrize(("head", "hostname", "chosen"), [pytest.param(*row[1:], id=row[0]) for row in MACHINES])
def test_the_machine_is_found(write: Write, head: str, hostname: str, chosen: str) -> None:
    assert load(write(head + "services: {}\n"), hostname=hostname).host.name == chosen


def test_a_mac_that_its_network_has_renamed_is_found_by_the_name_that_its_owner_gave_it(
    write: Write, tmp_path: Path
) -> None:
    kept = tmp_path / "preferences.plist"
    kept.write_bytes(plistlib.dumps({"System": {"Network": {"HostNames": {"LocalHostName": "Attic"}}}}))
    nodename = os.uname().nodename
    assert list(hostnames.of_this_machine("darwin", kept)) == [nodename, "Attic"]
    assert hostnames.lasting("darwin", kept) == "Attic"
    assert hostnames.lasting("linux", kept) == nodename
    path = write(TWO + "services: {}\n")
    found = capacity.load(path, detect_physical=lambda: 16 * GIB, names=lambda: ["dhcp-17.example", "Attic"])
    assert found.host.name == "Attic"
    with pytest.raises(ConfigError) as problem:
        capacity.load(path, detect_physical=lambda: 16 * GIB, names=lambda: ["dhcp-17.example", "Cellar"])
    assert "is the name of this machine (dhcp-17.example or Cellar)" in str(problem.value)
    assert "or name an entry cellar" in str(problem.value)


@pytest.mark.parametrize(
    "kept",
    [b"", b"bplist00", b"<?xml version='1.0'?><plist", plistlib.dumps([]), plistlib.dumps({"System": {"Network": 3}})],
)
def test_what_a_mac_keeps_of_its_name_may_be_anything(tmp_path: Path, kept: bytes) -> None:
    (tmp_path / "preferences.plist").write_bytes(kept)
    assert hostnames.lasting("darwin", tmp_path / "preferences.plist") == os.uname().nodename
    assert hostnames.lasting("darwin", tmp_path / "none") == os.uname().nodename


def test_memory_that_is_not_declared_is_detected_to_the_byte(write: Write) -> None:
    path = write("hosts: {box: {ram_reserved_mb: 1024, ram_safety_mb: 1024}}\nservices: {}\n")
    found = load(path, physical=16 * GIB - 12345)
    assert found.host.physical == {"ram": 16 * GIB - 12345}
    assert found.host.reserved == {"ram": from_mb(1024)}


def test_this_machine_says_how_much_memory_it_has(write: Write) -> None:
    path = write("hosts: {box: {ram_reserved_mb: 1, ram_safety_mb: 1}}\nservices: {}\n")
    assert capacity.load(path).host.physical == {"ram": capacity.physical_bytes()}
    assert capacity.physical_bytes() > 64 << 20


def test_a_machine_that_does_not_say_is_a_problem_and_no_crash(write: Write) -> None:
    def refuse() -> int:
        raise OSError("not today")

    path = write("hosts: {box: {ram_reserved_mb: 1, ram_safety_mb: 1}}\nservices: {}\n")
    with pytest.raises(ConfigError, match=r"hosts\.box: the system does not say .*not today.*; write ram_physical_mb"):
        capacity.load(path, detect_physical=refuse)


# Where it is

HOME = "home/me"
CONFIG = f"{HOME}/.config/admit/capacity.yaml"
SANCTUM = f"{HOME}/.sanctum/capacity.yaml"
XDG = "xdg/admit/capacity.yaml"
PLACES: list[tuple[str, str | None, dict[str, str], list[str], str]] = [
    ("--config wins", "named.yaml", {"ADMIT_CONFIG": "env.yaml"}, ["named.yaml", "env.yaml"], "named.yaml"),
    ("then $ADMIT_CONFIG", None, {"ADMIT_CONFIG": "env.yaml"}, ["env.yaml", CONFIG], "env.yaml"),
    ("with a tilde", None, {"ADMIT_CONFIG": "~/env.yaml"}, [f"{HOME}/env.yaml"], f"{HOME}/env.yaml"),
    ("an empty one is none", None, {"ADMIT_CONFIG": ""}, [SANCTUM], SANCTUM),
    ("then ~/.config", None, {}, [CONFIG, SANCTUM], CONFIG),
    ("or $XDG_CONFIG_HOME instead", None, {"XDG_CONFIG_HOME": "TMP/xdg"}, [XDG, CONFIG], XDG),
    ("a relative one does not count", None, {"XDG_CONFIG_HOME": "xdg"}, [XDG, CONFIG], CONFIG),
    ("then ~/.sanctum", None, {}, [SANCTUM], SANCTUM),
]


@pytest.mark.parametrize(
    ("explicit", "environ", "there", "found"), [pytest.param(*row[1:], id=row[0]) for row in PLACES]
)
def test_the_file_is_found_in_order(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    explicit: str | None,
    environ: dict[str, str],
    there: list[str],
    found: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in there:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    environ = {key: value.replace("TMP", str(tmp_path)) for key, value in environ.items()}
    assert capacity.find(explicit, environ, tmp_path / HOME, "linux") == tmp_path / found


def test_on_a_mac_the_library_comes_after_the_config_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    with pytest.raises(NotFound) as caught:
        capacity.find(None, {}, tmp_path, "darwin")
    assert [str(path.relative_to(tmp_path)) for path in caught.value.looked] == [
        ".config/admit/capacity.yaml",
        "Library/Application Support/admit/capacity.yaml",
        ".sanctum/capacity.yaml",
    ]
    path = tmp_path / "Library/Application Support/admit/capacity.yaml"
    path.parent.mkdir(parents=True)
    path.touch()
    assert capacity.find(None, {}, tmp_path, "darwin") == path


def test_where_there_is_none_it_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        capacity.find(None, {}, tmp_path, "linux")
    assert caught.value.looked == (tmp_path / ".config/admit/capacity.yaml", tmp_path / ".sanctum/capacity.yaml")
    assert str(caught.value).endswith(f"in order:\n  {caught.value.looked[0]}\n  {caught.value.looked[1]}")


@pytest.mark.parametrize(("explicit", "environ"), [("no.yaml", {}), (None, {"ADMIT_CONFIG": "no.yaml"})])
def test_a_named_file_that_is_not_there_is_not_replaced_by_another(
    tmp_path: Path, explicit: str | None, environ: dict[str, str]
) -> None:
    (tmp_path / ".sanctum").mkdir()
    (tmp_path / ".sanctum/capacity.yaml").touch()
    with pytest.raises(NotFound, match=r"no\.yaml: no such file \((--config|\$ADMIT_CONFIG)\)"):
        capacity.find(explicit, environ, tmp_path, "linux")


def test_finding_the_file_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pathlib import Path; from admitd import capacity, patterns\n"
        "try: capacity.find(None, {}, Path('/nowhere'), 'linux')\n"
        "except capacity.NotFound: pass\n"
        "print([m for m in ('yaml', 'pydantic', 're2', 'platformdirs') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
