"""onnx_diffusion: text to image by onnxruntime: Stable Diffusion as optimum exports it, with one text encoder.

The folder holds text_encoder/, unet/ and vae_decoder/, each with a model.onnx, beside tokenizer/ and scheduler/.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from admit_sdk.backends import Check, Steps, folder_of, wrong_kind
from admit_sdk.backends.denoising import Schedule
from admit_sdk.backends.onnx_files import inputs_of, need_of, open_session, part, settings
from admit_sdk.errors import ModelFailed
from admit_sdk.models import Model, Need
from admit_sdk.requests import Capability, Picture, Request, TextToImage

PARTS: Final = ("text_encoder", "unet", "vae_decoder")
SAMPLE_SIZE: Final = 64
"""Latent pixels of a side, where unet/config.json does not say: Stable Diffusion 1.x."""
HEADS: Final = 8
TOKENS: Final = 77
SCALING: Final = 0.18215
TYPES: Final = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(float)": np.float32}
# The words of CLIP's tokenizer (transformers/convert_slow_tokenizer.py has the same expression for it).
WORDS: Final = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


class OnnxTextToImage:
    """Stable Diffusion 1.x and 2.x, and what was trained from them."""

    capability = Capability.TEXT_TO_IMAGE

    def need(self, model: Model) -> Need:
        """Attention over all latent pixels is the largest array: heads x pixels x pixels, as scores and as weights."""
        if (folder_of(model) / "text_encoder_2").exists():
            raise ModelFailed(f"{model.name} has two text encoders (SDXL); a model with one can be loaded here")
        pixels = _sample_size(model) ** 2
        return need_of(model, [part(model, name) for name in PARTS], 2 * 4 * HEADS * pixels * pixels)

    def load(self, model: Model, soft_bytes: int, hard_bytes: int) -> LoadedDiffusion:
        need = self.need(model)
        try:
            schedule = Schedule.of(settings(model, "scheduler/scheduler_config.json"))
        except ValueError as why:
            raise ModelFailed(f"{model.name}: {why}") from None
        sessions = {name: open_session(model, part(model, name)) for name in PARTS}
        return LoadedDiffusion(model, sessions, read_tokenizer(model), schedule, need)


class LoadedDiffusion:
    """The three parts in memory."""

    def __init__(
        self,
        model: Model,
        sessions: dict[str, ort.InferenceSession],
        tokenizer: Tokenizer,
        schedule: Schedule,
        need: Need,
    ) -> None:
        self._model = model
        self._sessions = sessions
        self._tokenizer = tokenizer
        self._schedule = schedule
        self.need = Need(need.weights, need.working)
        decoder = settings(model, "vae_decoder/config.json", needed=False)
        self._scaling = float(decoder.get("scaling_factor", SCALING))
        self._scale = 2 ** (len(decoder.get("block_out_channels", (1, 2, 3, 4))) - 1)
        self._channels = int(settings(model, "unet/config.json", needed=False).get("in_channels", 4))
        self._pixels_most = _sample_size(model) ** 2
        pad = settings(model, "tokenizer/tokenizer_config.json", needed=False).get("pad_token", "<|endoftext|>")
        self._pad = self._tokenizer.token_to_id(pad["content"] if isinstance(pad, dict) else pad) or 0
        self._unet_types = inputs_of(sessions["unet"])

    def run(self, request: Request[Any], check: Check) -> Steps:
        if not isinstance(request, TextToImage):
            raise wrong_kind(self._model, request)
        height, width = self._latent(request)
        words = [request.prompt] if request.guidance <= 1 else ["", request.prompt]
        meanings = [self._meaning(text) for text in words]
        yield None
        noise = np.random.default_rng(request.seed)
        sample = noise.standard_normal((1, self._channels, height, width)).astype(np.float32)
        moments = self._schedule.moments(request.steps)
        for moment, following in zip(moments, [*moments[1:], None], strict=True):
            predicted = self._predict(sample, moment, meanings[0])
            if len(meanings) > 1:
                check()
                predicted = predicted + request.guidance * (self._predict(sample, moment, meanings[1]) - predicted)
            sample = self._schedule.step(sample, predicted, moment, following).astype(np.float32)
            yield None
        return self._picture(sample)

    def unload(self) -> None:
        del self._sessions, self._tokenizer

    def _latent(self, request: TextToImage) -> tuple[int, int]:
        """Rows and columns of the latent. Raises ValueError for what would outgrow the memory that is kept."""
        if request.width % self._scale or request.height % self._scale:
            raise ValueError(f"{self._model.name} makes pictures whose sides are multiples of {self._scale}")
        height, width = request.height // self._scale, request.width // self._scale
        if height * width > self._pixels_most:
            side = self._scale * round(self._pixels_most**0.5)
            raise ValueError(
                f"{request.width} x {request.height} is more than the {side} x {side} that {self._model.name} keeps "
                "memory for"
            )
        return height, width

    def _meaning(self, text: str) -> Any:
        """What the text encoder makes of the words: padded to 77 tokens, what is longer cut."""
        begin, end = (self._tokenizer.token_to_id(each) for each in ("<|startoftext|>", "<|endoftext|>"))
        tokens = [begin, *self._tokenizer.encode(text, add_special_tokens=False).ids[: TOKENS - 2], end]
        tokens += [self._pad] * (TOKENS - len(tokens))
        session = self._sessions["text_encoder"]
        kind = inputs_of(session)["input_ids"]
        return session.run(None, {"input_ids": np.asarray([tokens], dtype=TYPES.get(kind, np.int64))})[0]

    def _predict(self, sample: Any, moment: int, meaning: Any) -> Any:
        kind = TYPES.get(self._unet_types.get("timestep", ""), np.int64)
        fed = {"sample": sample, "timestep": np.asarray([moment], dtype=kind), "encoder_hidden_states": meaning}
        return self._sessions["unet"].run(None, fed)[0]

    def _picture(self, sample: Any) -> Picture:
        decoded = self._sessions["vae_decoder"].run(None, {"latent_sample": sample / np.float32(self._scaling)})[0][0]
        pixels = (np.clip(decoded / 2 + 0.5, 0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
        return Picture(pixels.shape[1], pixels.shape[0], np.ascontiguousarray(pixels).tobytes())


def read_tokenizer(model: Model) -> Tokenizer:
    """CLIP's tokenizer: tokenizer.json where there is one, else vocab.json and merges.txt. Raises ModelFailed."""
    folder = folder_of(model) / "tokenizer"
    try:
        if (folder / "tokenizer.json").is_file():
            found = Tokenizer.from_file(str(folder / "tokenizer.json"))
        else:
            found = _from_merges(folder)
    except Exception as fault:  # tokenizers raises nothing more special
        raise ModelFailed(f"{model.name}: the tokenizer in {folder} can't be read: {fault}") from None
    missing = [each for each in ("<|startoftext|>", "<|endoftext|>") if found.token_to_id(each) is None]
    if missing:
        raise ModelFailed(f"{model.name}: the tokenizer in {folder} has no {missing[0]}")
    return found


def _from_merges(folder: Path) -> Tokenizer:
    made = Tokenizer(
        models.BPE.from_file(
            str(folder / "vocab.json"),
            str(folder / "merges.txt"),
            end_of_word_suffix="</w>",
            unk_token="<|endoftext|>",  # noqa: S106  # a word, no password
        )
    )
    made.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return made


def _sample_size(model: Model) -> int:
    found = settings(model, "unet/config.json", needed=False).get("sample_size")
    return found if isinstance(found, int) and 0 < found <= 1024 else SAMPLE_SIZE
