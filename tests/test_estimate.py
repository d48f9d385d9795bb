"""What a model's files say, without loading it: right files give numbers, hostile ones a sentence."""

from __future__ import annotations

import json
import os
import random
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from admit_cli.main import dispatch
from admitd import modelfiles
from admitd.core import sizing
from admitd.core.sizing import Attention, Engine, ModelFiles, Shape
from admitd.core.units import MIB
from admitd.modelfiles.bounded import BadFile

LLAMA_8B: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14_336,
    "vocab_size": 128_256,
    "max_position_embeddings": 131_072,
}


def tensors(*sizes: int, dtype: str = "F16") -> dict[str, Any]:
    """A header whose tensors follow each other; sizes in numbers of two bytes."""
    header, at = {}, 0
    for number, size in enumerate(sizes):
        header[f"t{number}"] = {"dtype": dtype, "shape": [size], "data_offsets": [at, at + 2 * size]}
        at += 2 * size
    return header


def safetensors(path: Path, header: object, room: int | None = None) -> Path:
    """A file with this header and `room` bytes of data, which take no place on disk."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    if room is None:
        assert isinstance(header, dict)
        room = max((each["data_offsets"][1] for each in header.values()), default=0)
    with path.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        out.truncate(8 + len(text) + room)
    return path


def folder(path: Path, config: object = None, **shards: Any) -> Path:
    (path / "config.json").write_text(json.dumps(LLAMA_8B if config is None else config))
    for name, header in (shards or {"model": tensors(100, 50)}).items():
        safetensors(path / f"{name}.safetensors", header)
    return path


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def u32(key: str, value: int) -> bytes:
    return pair(key, 4, struct.pack("<I", value))


def array(key: str, of: int, length: int, items: bytes) -> bytes:
    return pair(key, 9, struct.pack("<IQ", of, length) + items)


PAIRS = (
    pair("general.architecture", 8, text("llama")),
    u32("llama.block_count", 32),
    u32("llama.embedding_length", 4096),
    u32("llama.attention.head_count", 32),
    u32("llama.attention.head_count_kv", 8),
    u32("llama.feed_forward_length", 14_336),
    u32("llama.context_length", 8192),
    array("tokenizer.ggml.tokens", 8, 3, text("a") + text("bb") + text("c" * 600)),
    array("tokenizer.ggml.scores", 6, 5000, bytes(20_000)),
)


def gguf(
    path: Path,
    pairs: tuple[bytes, ...] = PAIRS,
    infos: tuple[tuple[int, int, int], ...] = ((0, 256, 0), (12, 256, 1024)),
    room: int = 1024 + 144,
    head: bytes | None = None,
) -> Path:
    """`infos`: type, how many numbers, offset; `room`: bytes of data."""
    start = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(pairs)) if head is None else head
    described = b"".join(
        text(f"t{at}") + struct.pack("<IQIQ", 1, count, kind, offset) for at, (kind, count, offset) in enumerate(infos)
    )
    whole = start + b"".join(pairs) + described
    path.write_bytes(whole + bytes(-len(whole) % 32) + bytes(room))
    return path


def test_a_folder_says_its_weights_and_its_shape(tmp_path: Path) -> None:
    files = modelfiles.read(folder(tmp_path))
    assert (files.engine, files.family, files.weights, files.tensors) == (Engine.MLX, "llama", 300, 2)
    assert files.shape == Shape(32, (8,) * 32, 128, 128, 4096, 14_336, 128_256, 2, 131_072)
    assert files.notes == ()


def test_an_index_decides_which_files_count(tmp_path: Path) -> None:
    """A folder may hold the same weights twice."""
    folder(tmp_path, a=tensors(10), b=tensors(20), consolidated=tensors(30))
    names = {"x": "a.safetensors", "y": "b.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    files = modelfiles.read(tmp_path)
    assert (files.weights, files.files) == (60, 2)


@pytest.mark.parametrize(
    ("weight_map", "said"),
    [
        ({"x": "gone.safetensors"}, "is missing"),
        ({"x": "../a.safetensors"}, "no safetensors file of this folder"),
        ({"x": "/etc/passwd"}, "no safetensors file of this folder"),
        ({"x": 3}, "no weight_map"),
        ({}, "no weight_map"),
        ([], "no weight_map"),
    ],
)
def test_an_index_that_is_wrong_is_said_so(tmp_path: Path, weight_map: object, said: str) -> None:
    folder(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(BadFile, match=said):
        modelfiles.read(tmp_path)


ONE = {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("header", "room", "said"),
    [
        ({"a": ONE}, 3, "cut short"),
        ({"a": ONE, "b": {**ONE, "data_offsets": [2, 6]}}, 9, "overlap"),
        ({"a": {**ONE, "shape": [3]}}, 9, "makes no sense"),
        ({"a": {**ONE, "shape": [-2]}}, 9, "makes no sense"),
        ({"a": {**ONE, "shape": [True, 2]}}, 9, "makes no sense"),
        ({"a": {**ONE, "data_offsets": [4, 0]}}, 9, "makes no sense"),
        ({"a": {**ONE, "data_offsets": [0.0, 4.0]}}, 9, "makes no sense"),
        ({"a": {**ONE, "data_offsets": [0, 10**30]}}, 9, "makes no sense"),
        ({"a": {"dtype": "F16"}}, 9, "makes no sense"),
        ({"a": []}, 9, "makes no sense"),
        (b"[1]", 0, "no JSON object"),
        (b"{", 0, "no JSON"),
        (b"[" * 100_000, 0, "no JSON"),
    ],
)
def test_a_header_that_lies_is_said_so(tmp_path: Path, header: object, room: int, said: str) -> None:
    folder(tmp_path)
    safetensors(tmp_path / "model.safetensors", header, room)
    with pytest.raises(BadFile, match=said):
        modelfiles.read(tmp_path)


@pytest.mark.parametrize("data", [b"", b"short", struct.pack("<Q", 1 << 60) + b"{}", struct.pack("<Q", 40) + b"{}"])
def test_a_file_that_is_no_safetensors_is_said_so(tmp_path: Path, data: bytes) -> None:
    folder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(BadFile, match=r"not a safetensors file|cut short"):
        modelfiles.read(tmp_path)


def test_a_type_that_came_later_is_believed_in_what_it_takes(tmp_path: Path) -> None:
    later = {"a": {"dtype": "F3_NEW", "shape": [100], "data_offsets": [0, 38]}}
    assert modelfiles.read(folder(tmp_path, model=later)).types == {"F3_NEW": 38}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_hidden_layers": None}, "does not say num_hidden_layers"),
        ({"num_hidden_layers": "many"}, "is 'many', not a number"),
        ({"num_hidden_layers": -1}, "is '-1', not a number"),
        ({"num_hidden_layers": 1e300}, "not a number"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"hidden_size": True}, "is 'True', not a number"),
        ({"head_dim": 1 << 60}, "not a number"),
    ],
)
def test_a_config_that_makes_no_shape_is_said_so(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(BadFile, match=said):
        modelfiles.read(folder(tmp_path, {**LLAMA_8B, **change}))


@pytest.mark.parametrize(
    ("change", "note", "kept"),
    [
        ({"sliding_window": 4096}, "sliding window of 4096", 32),
        ({"sliding_window": 4096, "use_sliding_window": False}, None, 32),
        ({"sliding_window": None}, None, 32),
        ({"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64}, "multi-head latent", 32),
        ({"full_attention_interval": 4}, "24 of 32 layers keep a state", 8),
        ({"layer_types": ["linear_attention", "full_attention"] * 16}, "16 of 32 layers", 16),
        ({"layer_types": ["full_attention"] * 3}, None, 32),
        ({"mamba_d_state": 16}, "state-space", 32),
        ({"vision_config": {}}, "images", 32),
    ],
)
def test_what_is_not_modelled_is_said(tmp_path: Path, change: dict[str, Any], note: str | None, kept: int) -> None:
    files = modelfiles.read(folder(tmp_path, {**LLAMA_8B, **change}))
    assert sum(heads > 0 for heads in files.shape.kv_heads) == kept
    assert any(note in each for each in files.notes) if note else files.notes == ()


def test_a_model_that_sees_has_its_words_in_text_config(tmp_path: Path) -> None:
    files = modelfiles.read(folder(tmp_path, {"model_type": "sees", "text_config": LLAMA_8B}))
    assert len(files.shape.kv_heads) == 32


def test_a_gguf_file_says_the_same(tmp_path: Path) -> None:
    files = modelfiles.read(gguf(tmp_path / "m.gguf"))
    assert (files.engine, files.family, files.weights) == (Engine.LLAMA, "llama", 1024 + 144)
    assert files.types == {"F32": 1024, "Q4_K": 144}
    assert files.shape == Shape(32, (8,) * 32, 128, 128, 4096, 14_336, 3, 2, 8192)


def test_heads_may_differ_by_layer_and_a_layer_may_have_none(tmp_path: Path) -> None:
    pairs = (*PAIRS[:1], u32("llama.block_count", 3), PAIRS[2], PAIRS[3])
    heads = array("llama.attention.head_count_kv", 5, 3, struct.pack("<3i", 8, 0, 4))
    assert modelfiles.read(gguf(tmp_path / "m.gguf", (*pairs, heads))).shape.kv_heads == (8, 0, 4)
    short = array("llama.attention.head_count_kv", 5, 2, struct.pack("<2i", 8, 4))
    with pytest.raises(BadFile, match="2 entries for 3 layers"):
        modelfiles.read(gguf(tmp_path / "m.gguf", (*pairs, short)))


def test_the_parts_of_a_split_model_count_together(tmp_path: Path) -> None:
    first = gguf(tmp_path / "m-00001-of-00002.gguf")
    with pytest.raises(BadFile, match=r"m-00002-of-00002\.gguf is missing"):
        modelfiles.read(first)
    gguf(tmp_path / "m-00002-of-00002.gguf", (), ((0, 256, 0),), 1024)
    files = modelfiles.read(tmp_path)
    assert (files.weights, files.files, files.tensors) == (2048 + 144, 2, 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"head": b"GGML" + bytes(20)}, "not a GGUF file"),
        ({"head": b"GGUF" + struct.pack("<IQQ", 1, 0, 0)}, "version 1"),
        ({"head": b"GGUF" + struct.pack(">IQQ", 3, 0, 0)}, "version 50331648"),
        ({"head": b"GGUF" + struct.pack("<IQQ", 3, 1 << 62, 0)}, "claims 4611686018427387904 tensors"),
        ({"head": b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 40)}, "keys: it is damaged"),
        ({"pairs": ()}, "does not say its architecture"),
        ({"pairs": PAIRS[:2]}, "does not say block_count"),
        ({"pairs": (*PAIRS, text("x" * (2 << 20)))}, "a text of 2097152 bytes"),
        ({"pairs": (*PAIRS, array("x", 9, 1, bytes(12)))}, "an array of type 9"),
        ({"pairs": (*PAIRS, array("x", 0, 1 << 62, b""))}, "arrays of more than"),
        ({"pairs": (*PAIRS, array("x", 0, 3_000_000, b""))}, "cut short"),
        ({"pairs": (*PAIRS, array("x", 8, 3, text("a") + struct.pack("<Q", 1 << 63)))}, "cut short"),
        ({"pairs": (*PAIRS, pair("x", 77, b""))}, "a value of type 77"),
        ({"pairs": (*PAIRS, u32("general.alignment", 0))}, "an alignment of 0"),
        ({"pairs": (*PAIRS, u32("llama.block_count", 0))}, "is '0', not a number"),
        ({"infos": ((0, 1 << 60, 0),)}, "cut short"),
        ({"infos": ((0, 256, 1 << 50),)}, "cut short"),
        ({"infos": ((99, 256, 1 << 50),)}, "cut short"),
        ({"infos": ((0, 256, 0), (0, 256, 64))}, "overlap"),
        ({"room": 100}, "cut short"),
    ],
)
def test_a_gguf_that_lies_is_said_so(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(BadFile, match=said):
        modelfiles.read(gguf(tmp_path / "m.gguf", **change))


def test_no_damage_makes_a_fault(tmp_path: Path) -> None:
    """Cut at every length, and with bytes turned over: it is read, or a BadFile says why not."""
    whole = gguf(tmp_path / "m.gguf").read_bytes()
    chance = random.Random(7)
    damaged = [whole[:length] for length in range(0, 700, 3)]
    for _ in range(300):
        turned = bytearray(whole)
        for _ in range(chance.randint(1, 6)):
            turned[chance.randrange(900)] = chance.randrange(256)
        damaged.append(bytes(turned))
    for data in damaged:
        (tmp_path / "m.gguf").write_bytes(data)
        try:
            sizing.estimate(modelfiles.read(tmp_path / "m.gguf"), 4096, 1)
        except BadFile as problem:
            assert "m.gguf" in str(problem)


def test_a_type_of_gguf_that_came_later_reaches_to_the_next_tensor(tmp_path: Path) -> None:
    files = modelfiles.read(gguf(tmp_path / "m.gguf", infos=((99, 256, 0), (0, 32, 1024)), room=1152))
    assert files.types == {"type 99": 1024, "F32": 128}


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "m.gguf"])
def test_a_pipe_makes_nobody_wait(tmp_path: Path, name: str) -> None:
    if name != "m.gguf":
        folder(tmp_path)
        (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(BadFile, match="not a regular file"):
        modelfiles.read(tmp_path / name if name == "m.gguf" else tmp_path)


def test_a_folder_of_the_hugging_face_cache_leads_to_its_snapshot(tmp_path: Path) -> None:
    inside = tmp_path / "snapshots" / "abc123"
    inside.mkdir(parents=True)
    (tmp_path / "refs").mkdir()
    (tmp_path / "refs" / "main").write_text("abc123")
    folder(inside)
    assert modelfiles.read(tmp_path).weights == 300
    (tmp_path / "refs" / "main").write_text("../../etc")
    with pytest.raises(BadFile, match="neither"):
        modelfiles.read(tmp_path)


def test_a_folder_with_two_models_wants_one_named(tmp_path: Path) -> None:
    gguf(tmp_path / "a.gguf")
    gguf(tmp_path / "mmproj-a.gguf")
    assert modelfiles.read(tmp_path).family == "llama"
    gguf(tmp_path / "b.gguf")
    with pytest.raises(BadFile, match="holds 2 GGUF models"):
        modelfiles.read(tmp_path)


def test_the_cache_is_what_the_papers_say() -> None:
    """Llama 3 8B: 128 KiB a token in halves; 1 GiB at 8192 tokens, as llama.cpp prints it ("KV self size")."""
    shape = Shape(32, (8,) * 32, 128, 128, 4096, 14_336, 128_256, 2)
    assert sizing.cache(shape, 8192, 1) == 1024 * MIB
    assert sizing.cache(shape, 8192, 4) == 4096 * MIB
    assert sizing.cache(shape, 1, 1) == 256 * 128 * 1024, "in steps of 256 tokens"


def test_llama_cpp_reserves_for_the_logits_of_a_batch() -> None:
    """258.50 MiB is what it prints for Llama 3 8B."""
    files = ModelFiles(Engine.LLAMA, "llama", 0, 0, {}, Shape(32, (8,) * 32, 128, 128, 4096, 14_336, 128_256, 2))
    assert 258 * MIB <= sizing.scratch(files, 8192) <= 262 * MIB


def test_attention_that_is_not_fused_keeps_every_score() -> None:
    files = ModelFiles(Engine.MLX, "llama", 0, 0, {}, Shape(32, (8,) * 32, 128, 128, 4096, 14_336, 128_256, 2))
    more = sizing.scratch(files, 8192, Attention.WHOLE) - sizing.scratch(files, 8192)
    assert more == 32 * 2048 * 8192 * 2


@pytest.mark.parametrize(
    ("peak_mb", "budget_mb"), [(0, 16), (1, 16), (100, 128), (222, 256), (223, 512), (1000, 1280), (41_000, 47_360)]
)
def test_a_budget_is_the_peak_and_a_margin_rounded_up(peak_mb: int, budget_mb: int) -> None:
    assert sizing.budget(peak_mb * MIB) == budget_mb * MIB


def run(*words: str) -> int:
    return dispatch(["estimate", *words])


def test_the_command_says_it_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = gguf(tmp_path / "m.gguf")
    assert run(str(path), "--context", "16384", "--parallel", "2") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{path}: llama, 32 layers, as llama.cpp serves it\n")
    assert "  cache         4,096 MB   16384 tokens, 2 requests at once; 2 bytes a number\n" in out
    assert "ram_budget_mb: " in out
    assert "note: the model was made for 8192 tokens" in out


def test_the_command_says_it_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(folder(tmp_path)), "--json") == 0
    said = json.loads(capsys.readouterr().out)
    parts = [said[f"{part}_mb"] for part in ("weights", "cache", "scratch", "program")]
    assert (said["context"], said["parallel"], said["cache_mb"]) == (8192, 1, 2048)
    assert abs(sum(parts) - said["estimate_mb"]) <= 3
    assert said["ram_budget_mb"] >= 1.14 * said["estimate_mb"]


@pytest.mark.parametrize("number", ["0", "-3", "many", "1e9", "9" * 30])
def test_a_context_that_is_no_number_is_said_so(
    tmp_path: Path, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(gguf(tmp_path / "m.gguf")), f"--context={number}") == 64
    assert "--context" in capsys.readouterr().err


def test_what_is_not_there_is_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(tmp_path / "none")) == 66
    assert "is not there" in capsys.readouterr().err


def test_a_bad_file_ends_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = gguf(tmp_path / "m.gguf", room=0)
    assert run(str(path)) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"admit: {path} is cut short")
    assert err.count("\n") == 1


if sys.platform == "linux":

    def test_reading_takes_little_memory(tmp_path: Path) -> None:
        """A file of 40 GB is read by its header alone."""
        count = 20_000_000_000
        folder(tmp_path, model=tensors(count))
        assert modelfiles.read(tmp_path).weights == 2 * count
