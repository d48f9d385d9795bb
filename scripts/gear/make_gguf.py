#!/usr/bin/env python3
"""Makes a real GGUF model that llama.cpp loads and serves, from random numbers: nothing is downloaded, any size goes.

    make_gguf.py OUT.gguf              under a MB, for tests that need an answer
    make_gguf.py OUT.gguf --mb 300     weights of about 300 MiB, for tests that need memory

Weights are float32, and the tokenizer knows the 256 bytes and the word "hello".
"""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

MIB = 2**20
BYTES_PER_WEIGHT = 4  # float32

PAD, BEGIN, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
MERGES = ["h e", "l l", "he ll", "hell o"]
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    """What decides how much memory a model takes and how much work a token is. No experts: a plain llama."""

    hidden: int
    feed_forward: int
    heads: int
    layers: int
    experts: int = 0


TINY = Shape(hidden=64, feed_forward=128, heads=4, layers=2)


def heavy(mb: float) -> Shape:
    """A mixture of 64 experts of which a token uses one: much memory, little work."""
    hidden, feed_forward, experts = 256, 512, 64
    layer_bytes = (4 * hidden**2 + 3 * experts * hidden * feed_forward + experts * hidden) * BYTES_PER_WEIGHT
    return Shape(hidden, feed_forward, heads=4, layers=max(1, round(mb * MIB / layer_bytes)), experts=experts)


def byte_alphabet() -> list[str]:
    """The 256 printable characters by which GPT-2's byte-level BPE writes the 256 bytes, in the order of the bytes."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    stand_ins = iter(range(256, 512))
    return [chr(byte if byte in printable else next(stand_ins)) for byte in range(256)]


def vocabulary() -> list[str]:
    tokens = [PAD, BEGIN, END, *byte_alphabet(), *(merge.replace(" ", "") for merge in MERGES)]
    spare = -len(tokens) % 32  # llama.cpp's kernels like rows in multiples of 32
    return [*tokens, *(f"<|spare{n}|>" for n in range(spare))]


def write_header(writer: gguf.GGUFWriter, shape: Shape, tokens: list[str]) -> None:
    writer.add_name("admit-test")
    writer.add_context_length(4096)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.hidden // shape.heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(len(tokens))
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(1)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if token.startswith("<|") else gguf.TokenType.NORMAL for token in tokens]
    )
    writer.add_token_merges(MERGES)
    writer.add_pad_token_id(tokens.index(PAD))
    writer.add_bos_token_id(tokens.index(BEGIN))
    writer.add_eos_token_id(tokens.index(END))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def add_weights(writer: gguf.GGUFWriter, shape: Shape, vocabulary_size: int, seed: int) -> None:
    random = np.random.default_rng(seed)

    def noise(name: str, *dimensions: int) -> None:
        tensor = random.standard_normal(dimensions, dtype=np.float32)
        tensor *= 0.02
        writer.add_tensor(f"{name}.weight", tensor)

    def ones(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(shape.hidden, dtype=np.float32))

    noise("token_embd", vocabulary_size, shape.hidden)
    ones("output_norm")
    noise("output", vocabulary_size, shape.hidden)
    wide, narrow = (shape.feed_forward, shape.hidden), (shape.hidden, shape.feed_forward)
    for block in (f"blk.{layer}" for layer in range(shape.layers)):
        ones(f"{block}.attn_norm")
        ones(f"{block}.ffn_norm")
        for part in ("q", "k", "v", "output"):
            noise(f"{block}.attn_{part}", shape.hidden, shape.hidden)
        if shape.experts:
            noise(f"{block}.ffn_gate_inp", shape.experts, shape.hidden)
            noise(f"{block}.ffn_gate_exps", shape.experts, *wide)
            noise(f"{block}.ffn_up_exps", shape.experts, *wide)
            noise(f"{block}.ffn_down_exps", shape.experts, *narrow)
        else:
            noise(f"{block}.ffn_gate", *wide)
            noise(f"{block}.ffn_up", *wide)
            noise(f"{block}.ffn_down", *narrow)


def make(out: Path, shape: Shape, seed: int) -> None:
    """Write the file `out`, whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    half_done = out.with_name(f".{out.name}.{os.getpid()}")
    tokens = vocabulary()
    try:
        writer = gguf.GGUFWriter(half_done, "llama")
        write_header(writer, shape, tokens)
        add_weights(writer, shape, len(tokens), seed)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        half_done.rename(out)
    finally:
        half_done.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the file to make; must not exist")
    parser.add_argument("--mb", type=float, help="about this many MiB of weights, in steps of 97")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.out.exists():
        parser.error(f"{options.out} exists already")
    shape = heavy(options.mb) if options.mb else TINY
    make(options.out, shape, options.seed)
    print(f"{options.out}: {shape.layers} layers, {options.out.stat().st_size / MIB:.1f} MiB")


if __name__ == "__main__":
    main()
