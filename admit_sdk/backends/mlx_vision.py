"""mlx_vision: questions about images by mlx-vlm: a folder with config.json, safetensors, tokenizer and processor."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

from mlx_vlm.generate.ar import generate_step
from mlx_vlm.models.cache import make_prompt_cache
from mlx_vlm.prompt_utils import apply_chat_template
from mlx_vlm.tokenizer_utils import make_streaming_detokenizer
from mlx_vlm.utils import load, prepare_inputs

from admit_sdk.backends import Check, Steps, folder_of, wrong_kind
from admit_sdk.backends.mlx_memory import after_request, before_thread_ends, keep_within, loaded_by, weights_of
from admit_sdk.backends.mlx_text import fit, need_of
from admit_sdk.backends.pictures import open_image
from admit_sdk.models import Model, Need
from admit_sdk.requests import Capability, Finish, Piece, Request, Text, Vision

_detokenizer_of: Any = make_streaming_detokenizer  # neither has types of its own
_inputs_of: Any = prepare_inputs
PREFILL_TOKENS: Final = 512
"""Tokens of a prompt that are worked on at once; a picture is some hundreds."""


class MlxVision:
    """mlx-vlm."""

    capability = Capability.VISION

    def need(self, model: Model) -> Need:
        """That of the words; what a picture takes in its tower is counted as one part in eight of the weights."""
        words = need_of(model)
        return Need(words.weights, words.working + words.weights // 8)

    def load(self, model: Model, soft_bytes: int, hard_bytes: int) -> LoadedVision:
        keep_within(soft_bytes, hard_bytes)
        folder = folder_of(model)

        def loaded() -> LoadedVision:
            made, processor = load(str(folder), lazy=model.map_weights)
            return LoadedVision(model, made, processor, Need(weights_of(made), self.need(model).working))

        return loaded_by("mlx-vlm", model, loaded)


class LoadedVision:
    """A model of mlx-vlm in memory."""

    def __init__(self, model: Model, loaded: Any, processor: Any, need: Need) -> None:
        self._model = model
        self._loaded = loaded
        self._processor = processor
        self.need = need

    def run(self, request: Request[Any], check: Check) -> Steps:
        if not isinstance(request, Vision):
            raise wrong_kind(self._model, request)
        return self._generate(request)

    def unload(self) -> None:
        del self._loaded, self._processor
        before_thread_ends()

    def _generate(self, request: Vision) -> Steps:
        """The cache lives in this frame: it goes when the generator ends, or is closed."""
        inputs = self._inputs(request)
        tokens = inputs.pop("input_ids")
        fit(self._model, int(tokens.size), request.max_tokens)
        cache = make_prompt_cache(self._loaded.language_model)
        steps: Generator[Any, None, None] = generate_step(
            tokens,
            self._loaded,
            inputs.pop("pixel_values", None),
            inputs.pop("attention_mask", None),
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            prompt_cache=cache,
            prefill_step_size=PREFILL_TOKENS,
            **inputs,
        )
        detokenizer = _detokenizer_of(self._processor)
        ends = getattr(self._processor, "tokenizer", self._processor).stopping_criteria
        said: list[str] = []
        finish: Finish = "length"
        made = 0
        try:
            for token, _ in steps:
                made += 1
                if ends(token):
                    finish = "stop"
                    break
                detokenizer.add_token(token)
                said.append(detokenizer.last_segment)
                yield Piece(said[-1])
            detokenizer.finalize()
            said.append(detokenizer.last_segment)
            if said[-1]:
                yield Piece(said[-1])
            return Text("".join(said), int(tokens.size), made, finish)
        finally:
            steps.close()
            cache.clear()
            after_request()

    def _inputs(self, request: Vision) -> dict[str, Any]:
        images = [open_image(each) for each in request.images]
        prompt = apply_chat_template(self._processor, self._loaded.config, request.prompt, num_images=len(images))
        found = _inputs_of(
            self._processor,
            images=images,
            prompts=prompt,
            image_token_index=getattr(self._loaded.config, "image_token_index", None),
        )
        return {name: value for name, value in found.items() if value is not None}
