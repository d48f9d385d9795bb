"""Real models for the tests, from random numbers: ONNX files in the layouts that optimum exports, and one for mlx-vlm.

Each is a graph of the kind that it stands for, with one layer: what goes in changes what comes out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.live.servers import GEAR

HIDDEN = 32
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' }}{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    takes: Sequence[onnx.ValueInfoProto],
    gives: Sequence[onnx.ValueInfoProto],
    weights: Mapping[str, Any],
    *,
    beside: bool = False,
) -> None:
    """`beside`: the weights in a file of their own, as optimum does with large models."""
    path.parent.mkdir(parents=True, exist_ok=True)
    initializers = [numpy_helper.from_array(np.asarray(each), name) for name, each in weights.items()]
    graph = helper.make_graph(list(nodes), "graph", list(takes), list(gives), initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save_model(
        model, path, save_as_external_data=beside, location=f"{path.name}_data", size_threshold=1024 if beside else 0
    )


def random(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) / np.float32(shape[0] ** 0.5)


def info(name: str, kind: int, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def text_embedder(folder: Path, *, vocabulary: int = 320, hidden: int = HIDDEN, beside: bool = False) -> Path:
    """A BERT of one attention layer."""
    node = helper.make_node
    nodes = [
        node("Gather", ["words", "input_ids"], ["x1"]),
        node("Gather", ["kinds", "token_type_ids"], ["x2"]),
        node("Add", ["x1", "x2"], ["x"]),
        *(node("MatMul", ["x", f"w{name}"], [name]) for name in "qkv"),
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["scores"]),
        node("Cast", ["attention_mask"], ["mask"], to=FLOAT),
        node("Sub", ["mask", "one"], ["away"]),
        node("Mul", ["away", "much"], ["off"]),
        node("Unsqueeze", ["off", "axis"], ["offs"]),
        node("Add", ["scores", "offs"], ["masked"]),
        node("Softmax", ["masked"], ["attention"], axis=-1),
        node("MatMul", ["attention", "v"], ["seen"]),
        node("Add", ["seen", "x"], ["last_hidden_state"]),
    ]
    weights = {
        "words": random(1, vocabulary, hidden) * 16,
        "kinds": random(2, 2, hidden),
        **{f"w{name}": random(index, hidden, hidden) for index, name in enumerate("qkv", 3)},
        "one": np.float32(1),
        "much": np.float32(1e9),
        "axis": np.array([1], dtype=np.int64),
    }
    takes = [info(name, INT64, "batch", "tokens") for name in ("input_ids", "attention_mask", "token_type_ids")]
    save(
        folder / "model.onnx",
        nodes,
        takes,
        [info("last_hidden_state", FLOAT, "batch", "tokens", hidden)],
        weights,
        beside=beside,
    )
    write_json(
        folder / "config.json",
        {"model_type": "bert", "hidden_size": hidden, "num_attention_heads": 1, "max_position_embeddings": 64},
    )
    _word_tokenizer(folder)
    return folder


def image_embedder(folder: Path) -> Path:
    """A vision tower: patches, their mean, a projection."""
    node = helper.make_node
    nodes = [
        node("Conv", ["pixel_values", "patches"], ["seen"], kernel_shape=[14, 14], strides=[14, 14]),
        node("Tanh", ["seen"], ["bent"]),
        node("ReduceMean", ["bent"], ["mean"], axes=[2, 3], keepdims=0),
        node("MatMul", ["mean", "projection"], ["image_embeds"]),
    ]
    weights = {"patches": random(1, HIDDEN, 3, 14, 14), "projection": random(2, HIDDEN, 16)}
    takes = [info("pixel_values", FLOAT, "batch", 3, "height", "width")]
    save(folder / "model.onnx", nodes, takes, [info("image_embeds", FLOAT, "batch", 16)], weights)
    write_json(
        folder / "config.json", {"vision_config": {"hidden_size": HIDDEN, "num_attention_heads": 1, "patch_size": 14}}
    )
    write_json(
        folder / "preprocessor_config.json",
        {
            "do_center_crop": True,
            "crop_size": {"height": 56, "width": 56},
            "size": {"shortest_edge": 56},
            "resample": 3,
            "image_mean": [0.48, 0.46, 0.41],
            "image_std": [0.27, 0.26, 0.28],
        },
    )
    return folder


def diffusion(folder: Path, *, predicts: str = "epsilon") -> Path:
    """Stable Diffusion in small: pictures of 32 x 32 at most, eight pixels to a latent one."""
    node = helper.make_node
    write_json(folder / "model_index.json", {"_class_name": "ORTStableDiffusionPipeline"})
    words = [node("Gather", ["words", "input_ids"], ["last_hidden_state"])]
    takes = [info("input_ids", TensorProto.INT32, "batch", "tokens")]
    gives = [info("last_hidden_state", FLOAT, "batch", "tokens", HIDDEN)]
    save(folder / "text_encoder" / "model.onnx", words, takes, gives, {"words": random(1, 520, HIDDEN)})
    unet = [
        node("Conv", ["sample", "kernel"], ["around"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("ReduceMean", ["encoder_hidden_states"], ["meaning"], axes=[1], keepdims=0),
        node("MatMul", ["meaning", "to_channels"], ["channels"]),
        node("Cast", ["timestep"], ["moment"], to=FLOAT),
        node("Mul", ["moment", "little"], ["time"]),
        node("Add", ["channels", "time"], ["told"]),
        node("Reshape", ["told", "shape"], ["spread"]),
        node("Add", ["around", "spread"], ["sum"]),
        node("Tanh", ["sum"], ["out_sample"]),
    ]
    takes = [
        info("sample", FLOAT, "batch", 4, "height", "width"),
        info("timestep", INT64, 1),
        info("encoder_hidden_states", FLOAT, "batch", "tokens", HIDDEN),
    ]
    weights = {
        "kernel": random(2, 4, 4, 3, 3),
        "to_channels": random(3, HIDDEN, 4) * 8,
        "little": np.float32(1e-3),
        "shape": np.array([1, 4, 1, 1], dtype=np.int64),
    }
    save(
        folder / "unet" / "model.onnx", unet, takes, [info("out_sample", FLOAT, "batch", 4, "height", "width")], weights
    )
    write_json(folder / "unet" / "config.json", {"in_channels": 4, "sample_size": 4})
    decoder = [
        node("Conv", ["latent_sample", "to_rgb"], ["small"], kernel_shape=[1, 1]),
        node("Resize", ["small", "", "scales"], ["sample"], mode="nearest"),
    ]
    weights = {"to_rgb": random(4, 3, 4, 1, 1) / 20, "scales": np.array([1, 1, 8, 8], dtype=np.float32)}
    takes = [info("latent_sample", FLOAT, "batch", 4, "height", "width")]
    save(folder / "vae_decoder" / "model.onnx", decoder, takes, [info("sample", FLOAT, "batch", 3, "h", "w")], weights)
    write_json(folder / "vae_decoder" / "config.json", {"block_out_channels": [1, 2, 3, 4], "scaling_factor": 0.18215})
    write_json(folder / "scheduler" / "scheduler_config.json", {"prediction_type": predicts, "steps_offset": 1})
    _clip_tokenizer(folder / "tokenizer")
    return folder


def vision(folder: Path) -> Path:
    """A Qwen2-VL of two layers for the words and two for the pictures, which mlx-vlm loads."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_vlm.models import qwen2_vl
    from transformers import PreTrainedTokenizerFast

    folder.mkdir(parents=True)
    ends = _maker().write_tokenizer(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    text = {
        "model_type": "qwen2_vl",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-5,
        "vocab_size": len(tokenizer),
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    }
    tower = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 4, "mlp_ratio": 2, "patch_size": 14}
    identify = tokenizer.convert_tokens_to_ids
    config: dict[str, Any] = {
        **text,
        "image_token_id": identify("<|image_pad|>"),
        "video_token_id": identify("<|video_pad|>"),
        "vision_start_token_id": identify("<|vision_start|>"),
        "eos_token_id": ends["eos_token_id"],
        "torch_dtype": "float32",
        "vision_config": {"model_type": "qwen2_vl", **tower},
    }
    write_json(folder / "config.json", config)
    pixels = {"min_pixels": 3136, "max_pixels": 50176, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
    write_json(
        folder / "preprocessor_config.json",
        {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor", **pixels},
    )
    parts = qwen2_vl.ModelConfig(
        text_config=qwen2_vl.TextConfig(**text),
        vision_config=qwen2_vl.VisionConfig(**tower),
        model_type="qwen2_vl",
        vocab_size=len(tokenizer),
    )
    mx.random.seed(0)
    weights = dict(tree_flatten(qwen2_vl.Model(parts).parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    return folder


def _maker() -> ModuleType:
    """The maker of the models for mlx-lm; scripts/ is no package."""
    found = spec_from_file_location("make_mlx_model", GEAR / "make_mlx_model.py")
    assert found is not None and found.loader is not None
    module = sys.modules["make_mlx_model"] = module_from_spec(found)
    found.loader.exec_module(module)
    return module


def _word_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(["a cat sat on the mat", "memory is what a model needs", "the dog ran home"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def _clip_tokenizer(folder: Path) -> None:
    """Every byte, alone and at the end of a word, and one merge: as small as CLIP's can be."""
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(f"{letter}</w>" for letter in letters), "ca", BEGIN, END]
    write_json(folder / "vocab.json", {word: index for index, word in enumerate(words)})
    (folder / "merges.txt").write_text("#version: 0.2\nc a\n", encoding="utf-8")
    write_json(folder / "tokenizer_config.json", {"pad_token": END, "tokenizer_class": "CLIPTokenizer"})
