#!/usr/bin/env python3
"""Makes a real model that mlx-lm loads and serves, from random numbers: nothing is downloaded, and any size can be had.

    make_mlx_model.py OUT              a few hundred KB, for tests that need an answer
    make_mlx_model.py OUT --mb 300     weights of about 300 MiB, for tests that need memory
    make_mlx_model.py OUT --kv         tiny weights, but each token of a prompt keeps 256 KiB

Weights are float32: on a CPU, mlx is about six times slower with float16.
"""

import argparse
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20
BYTES_PER_WEIGHT = 4  # float32

# The roles' marks double as special tokens, as in the chat models that people run.
PAD, BEGIN, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """What decides how much memory a model takes and how much work a token is."""

    family: str
    hidden: int
    feed_forward: int
    heads: int
    layers: int
    extra: dict[str, int]


TINY = Shape("llama", hidden=64, feed_forward=128, heads=4, layers=2, extra={})

# The cache of one token: 16 layers x 8 heads x 256 numbers x (key + value) x 4 bytes = 256 KiB.
CACHE_HUNGRY = Shape("llama", hidden=64, feed_forward=64, heads=8, layers=16, extra={"head_dim": 256})


def heavy(mb: float) -> Shape:
    """A mixture of 64 experts of which a token uses one: much memory, little work."""
    hidden, feed_forward, experts = 256, 512, 64
    layer_bytes = (4 * hidden**2 + 3 * experts * hidden * feed_forward) * BYTES_PER_WEIGHT
    return Shape(
        "mixtral",
        hidden=hidden,
        feed_forward=feed_forward,
        heads=4,
        layers=max(1, round(mb * MIB / layer_bytes)),
        extra={"num_local_experts": experts, "num_experts_per_tok": 1},
    )


def write_tokenizer(folder: Path) -> dict[str, int]:
    """Write a byte-level tokenizer trained on one sentence; returns what the model's config must say about it."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # else it warns that PyTorch is not there
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[PAD, BEGIN, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["hello world, this is a small local model for tests of admission control"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, bos_token=BEGIN, eos_token=END)
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return {"vocab_size": len(fast), "bos_token_id": fast.bos_token_id, "eos_token_id": fast.eos_token_id}


def write_weights(folder: Path, config: dict[str, object], seed: int) -> int:
    """Let mlx-lm's own model class make the weights, so that their names are right by construction; returns bytes."""
    from importlib import import_module

    import mlx.core as mx
    from mlx.utils import tree_flatten

    mx.random.seed(seed)
    family = import_module(f"mlx_lm.models.{config['model_type']}")
    model = family.Model(family.ModelArgs.from_dict(config))
    weights = dict(tree_flatten(model.parameters()))
    total = sum(weight.nbytes for weight in weights.values())
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    index = {"metadata": {"total_size": total}, "weight_map": dict.fromkeys(weights, "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def make(out: Path, shape: Shape, seed: int) -> int:
    """Make the model folder `out`, whole or not at all; returns the bytes of its weights."""
    half_done = out.with_name(f".{out.name}.{os.getpid()}")
    half_done.mkdir(parents=True)
    try:
        config: dict[str, object] = {
            "model_type": shape.family,
            "architectures": [f"{shape.family.capitalize()}ForCausalLM"],
            "hidden_size": shape.hidden,
            "intermediate_size": shape.feed_forward,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.heads,
            "num_hidden_layers": shape.layers,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
            "torch_dtype": "float32",
            **shape.extra,
            **write_tokenizer(half_done),
        }
        (half_done / "config.json").write_text(json.dumps(config, indent=1))
        total = write_weights(half_done, config, seed)
        half_done.rename(out)
    finally:
        shutil.rmtree(half_done, ignore_errors=True)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder to make; must not exist")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--mb", type=float, help="about this many MiB of weights, in steps of 97")
    size.add_argument("--kv", action="store_true", help="a cache that grows fast, to see memory run away")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.out.exists():
        parser.error(f"{options.out} exists already")
    shape = CACHE_HUNGRY if options.kv else heavy(options.mb) if options.mb else TINY
    total = make(options.out, shape, options.seed)
    print(f"{options.out}: {shape.family}, {shape.layers} layers, {total / MIB:.1f} MiB of weights")


if __name__ == "__main__":
    main()
