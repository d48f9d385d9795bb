"""What lies in config/ is what users copy: every file loads, agrees with its schema, and says what it must."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from admitd import capacity, patterns, yamlfile
from admitd.core.terms import Capacity

CONFIG = Path(__file__).parent.parent / "config"
EXAMPLE = CONFIG / "capacity.example.yaml"
SCHEMA = CONFIG / "capacity.schema.json"
RECIPES = sorted((CONFIG / "recipes").glob("*.yaml"))
FILES = [EXAMPLE, *RECIPES]
RUN_BY_TESTS = {"mlx-lm.yaml", "llama-server.yaml"}  # tests/live/test_recipes.py


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def file(request: pytest.FixtureRequest) -> Path:
    assert isinstance(request.param, Path)
    return request.param


def load(path: Path, tmp_path: Path) -> Capacity:
    """A copy, because a checkout may be writable by a group."""
    copy = tmp_path / path.name
    shutil.copyfile(path, copy)
    copy.chmod(0o600)
    return capacity.load(copy, detect_physical=lambda: 64 << 30, names=lambda: ["anywhere"])


def tree(path: Path) -> Any:
    return yamlfile.read(path.read_bytes(), path.name).value


def test_there_is_a_recipe_for_each_engine() -> None:
    names = {path.stem for path in RECIPES}
    assert names >= {"mlx-lm", "lm-studio", "ollama", "llama-server", "comfyui", "vllm", "qemu", "docker"}


def test_it_loads(file: Path, tmp_path: Path) -> None:
    found = load(file, tmp_path)
    assert found.services
    assert all(service.load_cmd for service in found.services.values())


def test_it_agrees_with_the_schema(file: Path) -> None:
    jsonschema_rs.validate(json.loads(SCHEMA.read_text()), tree(file))


def test_it_names_the_schema_for_editors(file: Path) -> None:
    first = file.read_text().splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert (file.parent / first.partition("=")[2]).resolve() == SCHEMA.resolve()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_recipe_says_how_and_whether_it_was_run(path: Path) -> None:
    text = path.read_text()
    for word in ("# Match:", "# Check:", "# Probe:", "# Unload:", "# Budget:"):
        assert word in text
    ran = "Run by the tests of this project" in text
    assert ran == (path.name in RUN_BY_TESTS)
    assert ran != ("Not run here; from the engine's documentation." in text)


def test_the_schema_is_the_one_of_the_model() -> None:
    shown = json.dumps(capacity.json_schema(), indent=2) + "\n"
    assert SCHEMA.read_text() == shown, "write it anew: admit config schema > config/capacity.schema.json"


def test_the_schema_is_a_schema_and_explains_each_key() -> None:
    schema = capacity.json_schema()
    jsonschema_rs.meta.validate(schema)
    shapes = [schema, *schema["$defs"].values()]
    assert len(shapes) == 5
    for shape in shapes:
        assert shape["additionalProperties"] is False
        assert shape["description"]
        for name, key in shape["properties"].items():
            assert key["description"].endswith("."), name
            assert key["examples"], name


AGREED = [
    ("a budget of 0", {"ram_budget_mb": 0}, False),
    ("a budget in words", {"ram_budget_mb": "45 GB"}, False),
    ("a fraction", {"ram_budget_mb": 1.5}, False),
    ("no time", {"load_timeout_s": 0}, False),
    ("half a second", {"load_timeout_s": 0.5}, True),
    ("an unknown key", {"colour": "red"}, False),
    ("words", {"load_cmd": ["a", "b"]}, True),
    ("no words", {"load_cmd": []}, False),
    ("a long pattern", {"process_pattern": "x" * 1001}, False),
    ("a probe", {"probe": {"url": "http://h/", "json": [1]}}, True),
    ("a probe of a file", {"probe": {"url": "file:///x"}}, False),
    ("a small method", {"probe": {"url": "http://h/", "method": "post"}}, False),
    ("a switch in words", {"pinned": "yes"}, False),
]


@pytest.mark.parametrize(("keys", "fine"), [pytest.param(k, f, id=why) for why, k, f in AGREED])
def test_the_schema_and_the_reader_agree(keys: dict[str, Any], fine: bool, tmp_path: Path) -> None:
    service = {"ram_budget_mb": 1, "process_pattern": "abc", **keys}
    whole = {"hosts": {"a": {"ram_reserved_mb": 1, "ram_safety_mb": 1}}, "services": {"x": service}}
    assert jsonschema_rs.is_valid(capacity.json_schema(), whole) is fine
    path = tmp_path / "capacity.json"
    path.write_text(json.dumps(whole))
    path.chmod(0o600)
    try:
        capacity.load(path, detect_physical=lambda: 64 << 30)
        read = True
    except capacity.ConfigError:
        read = False
    assert read is fine


def test_every_example_in_the_schema_can_be_written(tmp_path: Path) -> None:
    definitions = capacity.json_schema()["$defs"]
    service = {name: key["examples"][0] for name, key in definitions["ServiceShape"]["properties"].items()}
    probe = {name: key["examples"][0] for name, key in definitions["ProbeShape"]["properties"].items()}
    host = {name: key["examples"][0] for name, key in definitions["HostShape"]["properties"].items()}
    other = {"ram_budget_mb": 1, "process_pattern": "other"}
    sentinel = {name: key["examples"][0] for name, key in definitions["SentinelShape"]["properties"].items()}
    path = tmp_path / "all.yaml"
    services = {"x": {**service, "probe": probe}, "other-service": other}
    path.write_text(
        json.dumps({"host": "manoir", "hosts": {"manoir": host}, "services": services, "sentinel": sentinel})
    )
    path.chmod(0o600)
    assert capacity.load(path).host.name == "manoir"


LINES = [
    ("mlx-lm.yaml", "mlx-qwen-35b", "/bin/python3 /bin/mlx_lm.server --model m/Qwen3.6-35B-A3B-4bit --port 8080", True),
    ("mlx-lm.yaml", "mlx-qwen-35b", "python -m mlx_lm server --model m/Qwen3.6-35B-A3B-4bit", True),
    ("mlx-lm.yaml", "mlx-qwen-35b", "python -m mlx_lm server --model m/Qwen2.5-Coder-14B", False),
    ("mlx-lm.yaml", "mlx-coder-14b", "python -m mlx_lm server --model m/Qwen2.5-Coder-14B-Instruct-4bit", True),
    ("llama-server.yaml", "llama-8b", "llama-server -m /m/x.gguf --port 8081 -c 8192", True),
    ("llama-server.yaml", "llama-8b", "/usr/bin/python3 ./llama-server -m x.gguf --port 8081", True),
    ("llama-server.yaml", "llama-8b", "llama-server -m /m/x.gguf --port 80811", False),
    ("comfyui.yaml", "comfyui", ".venv/bin/python main.py --port 8188 --disable-auto-launch", True),
    ("comfyui.yaml", "comfyui", "python main.py", False),
    ("vllm.yaml", "vllm-qwen3-8b", "/bin/python /bin/vllm serve Qwen/Qwen3-8B --port 8000 --max-model-len 8192", True),
    ("qemu.yaml", "vm-builder", "/usr/bin/qemu-system-x86_64 -name guest=builder,debug-threads=on -S", True),
    ("qemu.yaml", "vm-builder", "qemu-system-aarch64 -m 8192 -name builder", True),
    ("qemu.yaml", "vm-builder", "qemu-system-x86_64 -name guest=builder2,debug-threads=on", False),
    ("capacity.example.yaml", "sanctum-mlx", "python -m mlx_lm server --model Qwen3.6-35B --port 8080", True),
]


@pytest.mark.parametrize(("name", "service", "line", "matches"), LINES)
def test_a_recipe_matches_what_it_means(name: str, service: str, line: str, matches: bool, tmp_path: Path) -> None:
    (path,) = [path for path in FILES if path.name == name]
    pattern = load(path, tmp_path).services[service].process_pattern
    assert pattern is not None
    assert (patterns.compile(pattern).search(line) is not None) is matches
