"""What is known of each engine: which live processes are one, and what a service of it looks like; and that
config/recipes/ says the same."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from admitd import answered, capacity, engines
from admitd.core.terms import RAM, Service
from admitd.engines import Draft, Found
from admitd.processes import naming
from admitd.processes.matching import Matcher

RECIPES = Path(__file__).parents[1] / "config" / "recipes"
SEEN = Matcher([Service(each.key, {RAM: 1}, process_pattern=each.seen) for each in engines.ENGINES])


def engine_of(line: str) -> str | None:
    """Which engine a command line is taken for; mentions are none."""
    judged = SEEN.judge("\0".join(shlex.split(line)).encode() + b"\0")
    found = [claim.service for claim in judged.claims if not claim.mention] if judged else []
    return found[0] if found else None


def draft(line: str, cwd: str = "/home/u") -> Draft | None:
    engine = engine_of(line)
    assert engine is not None, line
    read = naming.read("\0".join(shlex.split(line)).encode())
    return engines.of(Found(engine, (7,), read.argv, read.program, True, cwd, line))


LIVE = [
    ("/v/bin/python3 /v/bin/mlx_lm.server --model m/Qwen --port 8080", "mlx-lm"),
    ("python -m mlx_lm server --model m/Qwen", "mlx-lm"),
    ("python3.11 -m mlx_lm.server", "mlx-lm"),
    ("/opt/homebrew/bin/llama-server -m x.gguf", "llama-server"),
    ("/usr/bin/python3 ./llama-server -m x.gguf", "llama-server"),
    ("/v/bin/python /v/bin/vllm serve Qwen/Qwen3-8B --port 8000", "vllm"),
    ("python -m vllm.entrypoints.openai.api_server --model q", "vllm"),
    ("python main.py --port 8188", "comfyui"),
    ("/usr/local/bin/ollama serve", "ollama"),
    ("'/Applications/LM Studio.app/Contents/MacOS/LM Studio'", "lm-studio"),
    ("qemu-system-aarch64 -m 8192 -name builder", "qemu"),
    ("/usr/bin/qemu-system-x86_64 -name guest=b,debug-threads=on -S", "qemu"),
    ("/Applications/UTM.app/Contents/XPCServices/QEMUHelper.xpc/Contents/MacOS/QEMULauncher -name box -m 4096", "qemu"),
    ("/Applications/Docker.app/Contents/MacOS/com.docker.virtualization --kernel k", "docker"),
    ("/usr/bin/dockerd -H fd://", "dockerd"),
    ("vim mlx_lm.server --port 8080", None),
    ("emacs -nw /v/bin/mlx_lm.server", None),
    ("tail -f /var/log/llama-server", None),
    ("tail -f llama-server.log", None),
    ("grep -r 'vllm serve ' .", None),
    ("code main.py", None),
    ("nano /home/u/ComfyUI/main.py", None),
    ("man ollama serve", None),
    ("ssh box ollama serve", None),
    ("/bin/sh -c 'sleep 1; llama-server -m x --port 80'", None),
    ("less qemu-system-aarch64 -name builder", None),
    ("watch ls '/Applications/LM Studio'", None),
]


@pytest.mark.parametrize(("line", "engine"), LIVE, ids=[line for line, _ in LIVE])
def test_a_live_engine_is_told_from_what_mentions_it(line: str, engine: str | None) -> None:
    assert engine_of(line) == engine


@pytest.mark.parametrize("name", ["mlx-lm", "llama-server", "comfyui", "vllm"])
def test_the_recipes_say_the_same(name: str, tmp_path: Path) -> None:
    """What `init` would write for a recipe's own command is what the recipe says."""
    copy = tmp_path / f"{name}.yaml"
    shutil.copyfile(RECIPES / copy.name, copy)
    copy.chmod(0o600)
    declared = capacity.load(copy, detect_physical=lambda: 64 << 30).services
    for service in declared.values():
        assert isinstance(service.load_cmd, str)
        line = service.load_cmd.replace("$HOME", "/home/u").removeprefix('cd "/home/u/ComfyUI" && exec ')
        line = line.removeprefix("VLLM_CPU_KVCACHE_SPACE=4 ")
        found = draft(line, cwd="/home/u/ComfyUI")
        assert found is not None
        way = Service("x", {RAM: 1}, process_pattern=found.ways[0].pattern, program=found.ways[0].program)
        for matcher in (Matcher([service]), Matcher([way])):
            judged = matcher.judge("\0".join(shlex.split(line)).encode())
            assert judged is not None
            assert [claim.mention or claim.other_program for claim in judged.claims] == [False]
        assert (way.program, service.probe is not None) == (service.program, True)
        assert service.probe is not None
        assert found.keys["probe"]["url"] == service.probe.url
        assert found.keys["load_timeout_s"] == service.load_timeout_s
        assert found.keys.get("unload_timeout_s", 60) == service.unload_timeout_s


def test_the_recipes_of_engines_that_are_asked_say_the_same(tmp_path: Path) -> None:
    pairs = {
        "ollama": answered.ollama_model("qwen3:8b", None, "http://127.0.0.1:11434", stays=True),
        "lm-studio": answered.lm_studio_model("coder-14b", "qwen2.5-coder-14b-instruct", None, answered.LM_STUDIO),
    }
    for name, found in pairs.items():
        copy = tmp_path / f"{name}.yaml"
        shutil.copyfile(RECIPES / copy.name, copy)
        copy.chmod(0o600)
        (service,) = capacity.load(copy, detect_physical=lambda: 64 << 30).services.values()
        assert found.name in (service.name, "lmstudio-coder-14b")
        assert service.probe is not None
        assert found.keys["probe"] == {"url": service.probe.url, "json": service.probe.json}
        assert found.keys["load_timeout_s"] == service.load_timeout_s
        assert str(found.keys["loaded_check_cmd"]).split("|")[0] == str(service.loaded_check_cmd).split("|")[0]
        words = found.keys["unload_cmd"]
        assert " ".join(words) == (service.unload_cmd if isinstance(service.unload_cmd, str) else " ".join(words))


def test_the_recipe_of_a_virtual_machine_says_the_same() -> None:
    found = draft("/usr/bin/qemu-system-x86_64 -name guest=builder,debug-threads=on -m size=8388608k -S")
    assert found is not None
    text = (RECIPES / "qemu.yaml").read_text()
    assert f"process_pattern: '{found.ways[0].pattern}'" in text
    assert found.budget == 8704 << 20
    assert (found.name, found.keys["evictable"]) == ("vm-builder", False)
    assert found.keys["unload_cmd"][-2:] == ["shutdown", "builder"]


@pytest.mark.parametrize(
    ("program", "utmctl"),
    [
        (
            "/Applications/UTM.app/Contents/XPCServices/QEMUHelper.xpc/Contents/MacOS/QEMULauncher",
            "/Applications/UTM.app/Contents/MacOS/utmctl",
        ),
        ("'/Users/u/My Apps/UTM.app/Contents/X/QEMULauncher'", "/Users/u/My Apps/UTM.app/Contents/MacOS/utmctl"),
        ("QEMULauncher", "utmctl"),
    ],
)
def test_a_machine_of_utm_is_asked_to_shut_down(program: str, utmctl: str) -> None:
    found = draft(f"{program} -name box -m 4096")
    assert found is not None
    assert found.keys["load_cmd"] == [utmctl, "start", "box"]
    assert found.keys["unload_cmd"] == [utmctl, "stop", "--request", "box"]


def test_the_recipe_of_docker_says_the_same(tmp_path: Path) -> None:
    copy = tmp_path / "docker.yaml"
    shutil.copyfile(RECIPES / copy.name, copy)
    copy.chmod(0o600)
    services = capacity.load(copy, detect_physical=lambda: 64 << 30).services
    desktop = draft("/Applications/Docker.app/Contents/MacOS/com.docker.virtualization --kernel k")
    assert desktop is not None
    assert services[desktop.name].process_pattern == desktop.ways[0].pattern
    container = answered.container("postgres", 1)
    assert services[container.name].loaded_check_cmd == container.keys["loaded_check_cmd"]
    for found in (desktop, container):
        service = services[found.name]
        assert (service.load_cmd, service.unload_cmd) == tuple(
            tuple(found.keys[f"{do}_cmd"]) for do in ("load", "unload")
        )
        assert service.load_timeout_s == found.keys["load_timeout_s"]
        assert service.evictable is found.keys.get("evictable", True)


DRAFTS = [
    ("mlx_lm.server --model org/Qwen3-8B-4bit --port 81", "mlx-qwen3-8b-4bit", ":81/v1/chat/completions"),
    ("mlx_lm.server", "mlx", ":8080/v1/chat/completions"),
    ("mlx_lm.server --model /h/models--org--Big.Model/snapshots/abc", "mlx-big.model", ":8080/v1/chat/completions"),
    ("llama-server -hf ggml-org/Gemma-3 --host 0.0.0.0 --port=99", "llama-gemma-3", "127.0.0.1:99/v1/chat/completions"),
    ("llama-server --host 192.168.1.5", "llama", "192.168.1.5:8080/v1/chat/completions"),
    ("llama-server -m a/b.GGUF --port no", "llama-b", ":8080/v1/chat/completions"),
    ("llama-server -m x --host 'a;rm' --port 99999", "llama-x", "127.0.0.1:8080/v1/chat/completions"),
    ("vllm serve --port 7 --model 'my model!'", "vllm-my-model", ":7/v1/chat/completions"),
    ("python /h/ComfyUI/main.py", "comfyui", ":8188/system_stats"),
    ("python main.py --listen 0.0.0.0 --port 8188", "comfyui", ":8188/system_stats"),
    ("qemu-system-aarch64 -m 2G -name 'my box,process=x'", "vm-my-box", None),
    ("QEMULauncher -name UTM -m 4096", "vm-utm", None),
    ("/Applications/Docker.app/Contents/MacOS/com.docker.virtualization -x", "docker-desktop", None),
]


@pytest.mark.parametrize(("line", "name", "asks"), DRAFTS, ids=[line for line, _, _ in DRAFTS])
def test_a_draft(line: str, name: str, asks: str | None, tmp_path: Path) -> None:
    found = draft(line)
    assert found is not None
    assert found.name == name
    assert str(found.keys.get("probe", {}).get("url", "None")).endswith(asks or "None")
    read = "\0".join(shlex.split(line)).encode() + b"\0"
    for way in found.ways:
        judged = Matcher([Service("x", {RAM: 1}, process_pattern=way.pattern, program=way.program)]).judge(read)
        assert judged is not None, way
        assert not judged.claims[0].mention
        assert not judged.claims[0].other_program


@pytest.mark.parametrize(
    "line",
    [
        "python main.py",  # of whatever
        "python main.py --port 9000",
        "llama-server -m /home/u/.ollama/models/blobs/sha256-1 --port 5",  # Ollama's runner
        "qemu-system-aarch64 -m 2G",
        "dockerd",
        "ollama serve",
    ],
)
def test_what_does_not_say_which_one_it_is_is_no_service(line: str) -> None:
    assert draft(line) is None


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GB", 4 << 30), ("8G", 8 << 30), ("512", 512 << 20), ("1.5GiB", 3 << 29), ("x", None), ("", None), (None, None)],
)
def test_sizes_as_engines_write_them(text: str | None, size: int | None) -> None:
    assert engines.amount(text) == size


def test_names_from_elsewhere_stay_text_in_commands() -> None:
    hostile = "x'; touch /tmp/owned; '"
    for found in (
        answered.ollama_model(hostile, 1, "http://127.0.0.1:1", stays=True),
        answered.lm_studio_model(hostile, hostile, 1, None),
    ):
        command = str(found.keys["loaded_check_cmd"])
        assert any(hostile in word for word in shlex.split(command)[:-1] + shlex.split(command)[-1:])
        assert "touch" not in shlex.split(command)
        assert found.name == "ollama-x-touch-tmp-owned" or found.name.startswith("lmstudio")


@pytest.mark.parametrize("host", ["127.0.0.1:11434", "127.0.0.1:11500"])
def test_what_ollama_is_asked_goes_to_the_server_that_was_found(tmp_path: Path, host: str) -> None:
    """By whoever runs it: a daemon that a supervisor started knows no OLLAMA_HOST."""
    ollama = tmp_path / "ollama"
    ollama.write_text(
        f'#!/bin/sh\n[ "${{OLLAMA_HOST:-127.0.0.1:11434}}" = {host} ] || exit 1\n'
        '[ "$1" = ps ] && echo "qwen3:8b  500a  6 GB" || echo "$2" > "$0.stopped"\n'
    )
    ollama.chmod(0o755)
    keys = answered.ollama_model("qwen3:8b", None, f"http://{host}", stays=False).keys
    for name in ("loaded_check_cmd", "unload_cmd"):
        command = keys[name] if isinstance(keys[name], str) else shlex.join(keys[name])
        done = subprocess.run(
            ["/bin/sh", "-c", command], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, timeout=60, check=False
        )
        assert done.returncode == 0, command
    assert (tmp_path / "ollama.stopped").read_text() == "qwen3:8b\n"
    assert ("OLLAMA_HOST" in keys["loaded_check_cmd"]) == (host != answered.OLLAMA)
