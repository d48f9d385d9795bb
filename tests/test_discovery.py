"""What runs on a machine, as services: matched to what runs and nothing else, with a budget that says why."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from admitd import answered, capacity, changing, checks, discovery, drafting, fromcommand, memory, processes
from admitd.core import respawn
from admitd.core.units import MIB
from admitd.discovery import Discovered, Eyes
from admitd.engines import Draft, Found, of
from admitd.processes import cputime
from admitd.processes.matching import Matcher
from tests import test_estimate
from tests.lookalikes import Lookalikes, Only

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="stand-ins by /proc")
PHYSICAL = 64 << 30
DRIP = object()
"""An answer that has no end."""


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lookalikes]:
    monkeypatch.setattr(answered, "LM_STUDIO", "127.0.0.1:9")  # whatever listens at 1234 here is not the test's
    lookalikes = Lookalikes(tmp_path / "bin")
    try:
        yield lookalikes
    finally:
        lookalikes.end()


def eyes(
    engines: Lookalikes,
    environ: dict[str, str] | None = None,
    claimed: frozenset[int] = frozenset(),
    reader: str = "",
) -> Eyes:
    table = Only(processes.for_this_system({"ADMIT_PROCESS_READER": reader}), engines)
    system = memory.for_this_system()
    bare = {"PATH": str(engines.folder), "OLLAMA_HOST": "127.0.0.1:9"}
    return Eyes(table, system, cputime.for_this_system(), {**bare, **(environ or {})}, engines.folder.parent, claimed)


def written(found: Discovered, folder: Path) -> tuple[capacity.Capacity, str]:
    """The file that comes of it, read as every other."""
    host = drafting.machine("Box.local", PHYSICAL, 60 << 30, found.held, desktop=False)
    text = drafting.whole(host, drafting.entries(found.services, host.pool), found, "2026-11-22")
    path = folder / "capacity.yaml"

    def load(path: Path) -> capacity.Capacity:
        return capacity.load(path, names=lambda: ["box"])

    return changing.create(path, text, load), text


@pytest.fixture
def ollama() -> Iterator[tuple[str, list[Any]]]:
    """Answers as Ollama does at /api/ps, and as LM Studio does at /v1/models; what it says is in the list."""
    said: list[Any] = []

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if said and said[0] is DRIP:
                self.drip()
                return
            body = json.dumps(said[0]).encode() if self.path in ("/api/ps", "/v1/models") else b"{}"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def drip(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while not threading.Event().wait(0.2):
                    self.wfile.write(b" ")

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}", said
        server.shutdown()
        thread.join(30)


def test_an_empty_machine_gives_a_good_file_without_services(engines: Lookalikes, tmp_path: Path) -> None:
    found = discovery.discover(eyes(engines))
    assert found == Discovered()
    good, text = written(found, tmp_path)
    assert good.services == {}
    assert "admit init --merge" in text
    assert good.host.name == "Box"


def test_every_engine_is_found_matched_and_told_from_decoys(
    engines: Lookalikes, tmp_path: Path, ollama: tuple[str, list[Any]]
) -> None:
    """All of them at once, each with an editor beside it that has the name in its arguments."""
    comfy = tmp_path / "ComfyUI"
    comfy.mkdir()
    host, said = ollama
    said.append({"models": [{"name": "qwen3:8b", "size": 5 << 30}, {"name": "bad\n", "size": 1}, 7]})
    lms = engines.folder / "lms"
    engines.folder.mkdir()
    listed = json.dumps([{"identifier": "coder-14b", "modelKey": "q/coder", "sizeBytes": 9_000_000}, 5])
    lms.write_text(f"#!/bin/sh\necho '{listed}'\n")
    lms.chmod(0o755)
    lines = {
        "mlx-qwen3-8b": ("mlx_lm.server", "--model", "org/Qwen3-8B", "--port", "81"),
        "mlx-coder": ("mlx_lm.server", "--model", "org/Coder", "--port", "82", "--prompt-cache-bytes", "2GB"),
        "llama-tiny": ("llama-server", "-m", "/m/tiny.gguf", "--port", "83"),
        "vllm-big": ("vllm", "serve", "org/Big", "--port", "84"),
        "vm-builder": ("qemu-system-aarch64", "-m", "2G", "-name", "builder"),
    }
    pids = {name: engines.start(*line) for name, line in lines.items()}
    pids["comfyui-8199"] = engines.start("../ComfyUI/main.py", "--port", "8199")
    for line in (("ollama", "serve"), ("LM Studio",)):
        engines.start(*line)
    decoys = [engines.decoy(*line) for line in lines.values()] + [engines.decoy(str(comfy / "main.py"))]

    found = discovery.discover(eyes(engines, {"OLLAMA_HOST": host}))
    by_name = {each.draft.name: each for each in found.services}
    assert {name: by_name[name].draft.pids for name in pids} == {name: (pid,) for name, pid in pids.items()}
    assert set(by_name) - set(pids) == {"ollama-qwen3-8b", "lmstudio-coder-14b"}
    assert by_name["vm-builder"].budget == (2048 + 512) * MIB
    assert by_name["ollama-qwen3-8b"].budget is not None
    assert by_name["ollama-qwen3-8b"].budget >= 1.15 * (5 << 30)

    good, text = written(found, tmp_path)
    look = eyes(engines).table.look(Matcher(good.services.values()))
    claimed = {name: {s.process.id.pid for s in look.sightings if s.service == name and not s.mention} for name in pids}
    assert claimed == {name: {pid} for name, pid in pids.items()}, "what runs, and nothing else"
    assert not {s.process.id.pid for s in look.sightings if not s.mention} & set(decoys)
    assert all(by_name[name].matched.startswith("matches process") for name in pids)
    assert good.services["mlx-coder"].exclusive_with == {"mlx-qwen3-8b"}
    assert not good.services["llama-tiny"].exclusive_with
    assert text.count("--prompt-cache-bytes its cache") == 1, "only the one that lacks it"
    assert all(good.services[name].probe for name in ("mlx-coder", "llama-tiny", "vllm-big", "comfyui-8199"))
    load = good.services["mlx-coder"].load_cmd
    assert isinstance(load, str)
    assert load.startswith(str(engines.folder / "mlx_lm.server"))


def lms(engines: Lookalikes, *models: str, exits: str = "") -> Path:
    """LM Studio's command line tool, as far as it is asked; `exits`: what it does when asked without --json."""
    program = engines.folder / "lms"
    program.parent.mkdir(parents=True, exist_ok=True)
    listed = json.dumps([{"identifier": name, "modelKey": name, "sizeBytes": 9_000_000} for name in models])
    rows = "\n".join(f"{name}  {name}  IDLE  9 MB" for name in models)
    program.write_text(
        f'#!/bin/sh\n[ "$2" = --json ] && exec echo {shlex.quote(listed)}\n{exits}\necho {shlex.quote(rows)}\n'
    )
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    ("answer", "is_probed"),
    [({"data": []}, True), ({"error": "token"}, False), (["nonsense"], False), (DRIP, False), (None, False)],
)
def test_lm_studio_is_probed_only_where_its_server_answers(
    engines: Lookalikes,
    tmp_path: Path,
    ollama: tuple[str, list[Any]],
    monkeypatch: pytest.MonkeyPatch,
    answer: Any,
    is_probed: bool,
) -> None:
    """It is off until somebody switches it on; the model works all the same, in its window."""
    host, said = ollama
    lms(engines, "coder-14b")
    engines.start("LM Studio")
    if answer is not None:
        said.append(answer)
        monkeypatch.setattr(answered, "LM_STUDIO", host)
    good, text = written(discovery.discover(eyes(engines)), tmp_path)
    probe = good.services["lmstudio-coder-14b"].probe
    assert (probe.url if probe else None) == (f"http://{host}/v1/chat/completions" if is_probed else None)
    assert ("lms server start" in text) is not is_probed


def test_a_program_outside_of_path_is_named_by_its_path_and_its_check_says_loaded(
    engines: Lookalikes, tmp_path: Path
) -> None:
    """A daemon that a supervisor starts has another PATH than the shell that init ran in."""
    own = Lookalikes(tmp_path / ".lmstudio" / "bin")
    program = lms(own, "coder-14b", "it's one")
    engines.start("LM Studio")
    found = discovery.discover(eyes(engines))
    assert [(each.draft.name, each.doubt) for each in found.services] == [
        ("lmstudio-coder-14b", None),
        ("lmstudio-it-s-one", None),
    ]
    good, text = written(found, tmp_path)
    commands = good.services["lmstudio-coder-14b"]
    assert commands.loaded_check_cmd == f"{program} ps | grep -qwF -- coder-14b"
    assert commands.unload_cmd == (str(program), "unload", "coder-14b")
    assert {name: check.loaded for name, check in checks.run_all(good.check_commands).items()} == {
        "lmstudio-coder-14b": True,
        "lmstudio-it-s-one": True,
    }
    assert "Not to be trusted" not in text


@pytest.mark.parametrize("exits", ["printf 'no\\033[31m\\nway\\n' >&2; exit 3", "exec sleep 600"])
def test_a_check_that_does_not_say_loaded_is_not_to_be_trusted(engines: Lookalikes, tmp_path: Path, exits: str) -> None:
    lms(engines, "coder-14b", exits=exits)
    engines.start("LM Studio")
    found = discovery.discover(eyes(engines))
    (service,) = found.services
    assert service.doubt is not None
    good, text = written(found, tmp_path)
    assert good.services["lmstudio-coder-14b"].loaded_check_cmd
    before = text.split("    loaded_check_cmd:")[0].splitlines()[-3:]
    assert "# Not to be trusted yet" in "\n".join(before)


@pytest.mark.parametrize(
    ("expires_at", "stays"),
    [
        ("2318-03-05T07:20:00.1+01:00", True),  # keep_alive -1
        ("2026-11-22T07:25:00.1+01:00", False),
        ("0001-01-01T00:00:00Z", False),
        ("x", False),
        (None, False),
    ],
)
def test_a_probe_does_not_keep_a_model_that_ollama_would_let_go(
    engines: Lookalikes, tmp_path: Path, ollama: tuple[str, list[Any]], expires_at: Any, stays: bool
) -> None:
    host, said = ollama
    said.append({"models": [{"name": "qwen3:8b", "size": 5 << 30, "expires_at": expires_at}]})
    engines.start("ollama", "serve")
    good, _ = written(discovery.discover(eyes(engines, {"OLLAMA_HOST": host})), tmp_path)
    probe = good.services["ollama-qwen3-8b"].probe
    assert (probe is not None) is stays
    assert probe is None or "keep_alive" not in probe.json


def test_only_large_containers_are_services(engines: Lookalikes, tmp_path: Path) -> None:
    engines.start("dockerd", "-H", "fd://")
    docker = engines.folder / "docker"
    rows = [("db.1", "1.5GiB / 15GiB"), ("small", "300MiB / 15GiB"), ("-x", "9GiB / 9GiB"), ("odd", "lots")]
    lines = "\n".join(json.dumps({"Name": name, "MemUsage": used}) for name, used in rows)
    docker.write_text(f"#!/bin/sh\ncat <<'END'\n{lines}\nnonsense\nEND\n")
    docker.chmod(0o755)
    found = discovery.discover(eyes(engines, {"PATH": f"{engines.folder}:/bin:/usr/bin"}))
    assert [(each.draft.name, each.budget) for each in found.services] == [("docker-db.1", 1792 * MIB)]
    good, _ = written(found, tmp_path)
    assert good.services["docker-db.1"].unload_cmd == (str(docker), "stop", "db.1")
    docker.write_text("#!/bin/sh\nexit 1\n")
    assert "no container" in dict(discovery.discover(eyes(engines)).passed_over)["dockerd"]


@pytest.mark.parametrize("reader", ["proc", "ps"])
def test_two_servers_of_one_model_are_told_apart(engines: Lookalikes, tmp_path: Path, reader: str) -> None:
    one = engines.start("mlx_lm.server", "--model", "org/Same", "--port", "81")
    two = engines.start("mlx_lm.server", "--model", "org/Same", "--port", "812")
    found = discovery.discover(eyes(engines, reader=reader))
    assert [each.draft.name for each in found.services] == ["mlx-same", "mlx-same-2"]
    assert [each.matched for each in found.services] == [
        f"matches process {pid} now and nothing else" for pid in (one, two)
    ]
    good, _ = written(found, tmp_path)
    look = eyes(engines, reader=reader).table.look(Matcher(good.services.values()))
    assert {(s.service, s.process.id.pid) for s in look.sightings} == {("mlx-same", one), ("mlx-same-2", two)}


def test_what_a_supervisor_keeps_running_is_loaded_and_unloaded_by_it() -> None:
    draft = Draft("x", "mlx-lm", "t", keys={"load_cmd": "a", "load_timeout_s": 300})
    unit = respawn.of_cgroup("0::/user.slice/user@501.service/app.slice/chat.service")
    assert discovery.under(draft, unit).keys == {
        "load_cmd": ["systemctl", "--user", "start", "chat.service"],
        "unload_cmd": ["systemctl", "--user", "stop", "chat.service"],
        "load_timeout_s": 300,
    }
    job = discovery.under(draft, respawn.of_launchd("com.example.chat", 501))
    assert job.keys == draft.keys
    assert "admit run x --" in job.notes[0]
    assert "launchctl bootout gui/501/com.example.chat" in job.notes[0]
    assert discovery.under(draft, None) is draft
    assert discovery.kept_by(os.getpid()) is None, "the tests are nobody's unit"


def test_a_command_line_is_written_down_as_it_can_be_run_again(engines: Lookalikes, tmp_path: Path) -> None:
    """Blanks, quotes, signs of the shell, and more than anybody looks at."""
    engines.start("llama-server", "-m", "/m/it's $HOME; a `b`.gguf", "--port", "81", "--alias", "x\ty\x1b")
    engines.start("mlx_lm.server", "--model", "org/M", "--port", "82", "--chat-template", "x" * 20_000)
    good, _ = written(discovery.discover(eyes(engines)), tmp_path)
    commands = {each.name: each.load_cmd for each in good.services.values()}
    program = str(engines.folder / "llama-server")
    (load,) = (load for name, load in commands.items() if name.startswith("llama"))
    assert isinstance(load, str)
    assert shlex.split(load) == [program, "-m", "/m/it's $HOME; a `b`.gguf", "--port", "81", "--alias", "x\ty\x1b"]
    assert commands["mlx-m"] is None


def test_what_models_of_ollama_hold_is_not_reserved_for_others(
    engines: Lookalikes, ollama: tuple[str, list[Any]]
) -> None:
    host, said = ollama
    said.append({"models": [{"name": "a", "size": 5 << 30}]})
    engines.start("ollama", "serve")
    assert discovery.discover(eyes(engines, {"OLLAMA_HOST": host})).held == 5 << 30


def test_another_users_process_is_counted_and_not_started() -> None:
    line = ("llama-server", "-m", "x", "--port", "81")
    draft = of(Found("llama-server", (7,), line, "llama-server", False, None, "llama-server"))
    assert draft is not None
    assert draft.keys["evictable"] is False
    assert "load_cmd" not in draft.keys


@pytest.mark.parametrize("model", ["x" * 5000, "~nobody-here/m", "a/" * 400 + "b"])
def test_a_model_that_is_no_path(engines: Lookalikes, model: str) -> None:
    engines.start("mlx_lm.server", "--model", model)
    found = discovery.discover(eyes(engines))
    assert len(found.services) == (len(model) < 1000)
    assert len(found.passed_over) == (len(model) >= 1000)


def test_a_relative_model_is_loaded_in_its_folder(engines: Lookalikes, tmp_path: Path) -> None:
    engines.folder.mkdir()
    (engines.folder / "m").mkdir()
    engines.start("mlx_lm.server", "--model", "./m", "--port", "82")
    good, _ = written(discovery.discover(eyes(engines)), tmp_path)
    assert str(good.services["mlx-m"].load_cmd).startswith(
        f"cd {engines.folder} && exec {engines.folder}/mlx_lm.server"
    )


@pytest.mark.parametrize(
    ("asker", "server", "where"),
    [
        ({"HF_HUB_CACHE": "asked"}, None, "asked"),
        ({"XDG_CACHE_HOME": "asked"}, {"HF_HOME": "its"}, "its/hub"),
        ({"HF_HOME": "asked"}, {"XDG_CACHE_HOME": "its"}, "its/huggingface/hub"),
        ({"HF_HOME": "asked"}, {"HOME": "its"}, "its/.cache/huggingface/hub"),
    ],
)
def test_a_model_is_found_in_a_cache_that_was_moved(
    engines: Lookalikes, tmp_path: Path, asker: dict[str, str], server: dict[str, str] | None, where: str
) -> None:
    """A server that runs knows where; whoever asks may have another cache, or none."""
    snapshot = tmp_path / where / "models--org--M" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    test_estimate.folder(snapshot)
    environ = {name: str(tmp_path / value) for name, value in asker.items()}
    line = ("mlx_lm.server", "--model", "org/M", "--port", "82")
    if server is None:
        told = fromcommand.told(shlex.join(line), eyes(engines, environ), ())
        assert told is not None
        assert "its files say" in told.why
        return
    engines.start(*line, env={name: str(tmp_path / value) for name, value in server.items()})
    (service,) = discovery.discover(eyes(engines, environ)).services
    assert "its files say" in service.why


def test_what_is_a_service_already_is_not_found_again(engines: Lookalikes, tmp_path: Path) -> None:
    one = engines.start("llama-server", "-m", "/m/a.gguf", "--port", "81")
    engines.start("llama-server", "-m", "/m/b.gguf", "--port", "82")
    found = discovery.discover(eyes(engines, claimed=frozenset([one])))
    assert [each.draft.name for each in found.services] == ["llama-b"]


def test_what_does_not_say_what_it_holds_is_said_so(
    engines: Lookalikes, tmp_path: Path, ollama: tuple[str, list[Any]]
) -> None:
    host, said = ollama
    for line in (("ollama", "serve"), ("LM Studio",), ("qemu-system-aarch64", "-m", "2G"), ("main.py",)):
        engines.start(*line)
    said.append({"models": []})
    passed = dict(discovery.discover(eyes(engines, {"OLLAMA_HOST": host})).passed_over)
    assert "no model loaded" in passed["ollama"]
    assert "lms does not say" in passed["lm-studio"]
    assert "does not say in its arguments" in passed["qemu"]
    said[0] = ["nonsense"]
    found = discovery.discover(eyes(engines, {"OLLAMA_HOST": host}))
    assert "does not say at" in dict(found.passed_over)["ollama"]
    _, text = written(found, tmp_path)
    assert "# ollama: it runs, and does not say" in text


def test_a_service_larger_than_the_pool_stays_a_comment(engines: Lookalikes, tmp_path: Path) -> None:
    engines.start("qemu-system-aarch64", "-m", "512G", "-name", "huge")
    good, text = written(discovery.discover(eyes(engines)), tmp_path)
    assert good.services == {}
    assert "Not declared: its budget of 524800 MB is more than the whole pool" in text
    assert "  # vm-huge:\n" in text


@pytest.mark.parametrize("gib", [4, 8, 16, 24, 64, 192, 512])
@pytest.mark.parametrize("desktop", [True, False])
@pytest.mark.parametrize("free", [0.0, 0.5, 1.0, None])
def test_the_numbers_of_a_host_leave_half_of_it_at_least(gib: int, desktop: bool, free: float | None) -> None:
    physical = gib << 30
    host = drafting.machine("a.b", physical, None if free is None else int(physical * free), 0, desktop=desktop)
    assert host.pool >= physical // 2
    assert host.reserved >= min(physical // 5, physical // 2 - host.safety)
    assert 0 < host.safety <= 4 << 30
    if gib == 64:
        assert host.pool <= 52 << 30


def test_a_hostname_that_is_no_name_is_not_used() -> None:
    assert drafting.machine("-?-.local", PHYSICAL, None, 0, desktop=False).name == "this-machine"
