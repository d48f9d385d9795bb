"""mlx_text: text to text by mlx-lm: a folder with config.json, safetensors and a tokenizer."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any, Final

import mlx.core as mx
from mlx_lm.generate import generate_step, generation_stream
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.sample_utils import apply_top_p, greedy_sampler
from mlx_lm.utils import load

from admit_sdk.backends import Check, Steps, folder_of, wrong_kind
from admit_sdk.backends.mlx_memory import (
    after_request,
    attention,
    before_thread_ends,
    keep_within,
    loaded_by,
    weights_of,
)
from admit_sdk.errors import ModelFailed
from admit_sdk.models import Model, Need
from admit_sdk.requests import Capability, Finish, Piece, Request, Text, TextToText
from admitd import modelfiles
from admitd.core import sizing
from admitd.modelfiles.bounded import BadFile

CHUNK_S: Final = 0.05
"""How long one step over a prompt should take: between two steps a cancellation is looked at."""
CHUNK_LEAST: Final = 32
CHUNK_MOST: Final = 2048


class MlxText:
    """mlx-lm."""

    capability = Capability.TEXT_TO_TEXT

    def need(self, model: Model) -> Need:
        return need_of(model)

    def load(self, model: Model, soft_bytes: int, hard_bytes: int) -> LoadedText:
        keep_within(soft_bytes, hard_bytes)
        folder = folder_of(model)
        return loaded_by("mlx-lm", model, lambda: LoadedText(model, *load(str(folder), lazy=model.map_weights)[:2]))


def need_of(model: Model) -> Need:
    """By the files: the weights, the cache of `context` tokens, and what is computed in between."""
    try:
        files = modelfiles.read(folder_of(model))
    except BadFile as fault:
        raise ModelFailed(f"{model.name}: {fault}") from fault
    estimate = sizing.estimate(files, model.context, 1, attention())
    working = sizing.cache(files.shape, model.context, 1) + estimate.scratch
    return Need(model.size_bytes or files.weights, working)


class LoadedText:
    """A model of mlx-lm in memory."""

    def __init__(self, model: Model, loaded: Any, tokenizer: Any) -> None:
        self._model = model
        self._loaded = loaded
        self._tokenizer = tokenizer
        self._need = Need(weights_of(loaded), need_of(model).working)

    @property
    def need(self) -> Need:
        return self._need

    def run(self, request: Request[Any], check: Check) -> Steps:
        if not isinstance(request, TextToText):
            raise wrong_kind(self._model, request)
        return self._generate(request, self._tokens(request))

    def unload(self) -> None:
        del self._loaded, self._tokenizer
        before_thread_ends()

    def _tokens(self, request: TextToText) -> list[int]:
        messages = [{"role": each.role, "content": each.content} for each in request.messages]
        if self._tokenizer.has_chat_template:
            tokens = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        else:
            tokens = self._tokenizer.encode("\n".join(each["content"] for each in messages))
        whole: list[int] = list(tokens)
        fit(self._model, len(whole), request.max_tokens)
        return whole

    def _generate(self, request: TextToText, tokens: list[int]) -> Steps:
        """The cache lives in this frame: it goes when the generator ends, or is closed."""
        cache = make_prompt_cache(self._loaded)
        detokenizer = self._tokenizer.detokenizer
        detokenizer.reset()
        said: list[str] = []
        finish: Finish = "length"
        made = 0
        steps: Generator[Any, None, None] | None = None
        try:
            rest = yield from self._prefill(mx.array(tokens), cache)
            steps = generate_step(
                rest, self._loaded, max_tokens=request.max_tokens, sampler=_sampler(request), prompt_cache=cache
            )
            for token, _ in steps:
                made += 1
                if token in self._tokenizer.eos_token_ids:
                    finish = "stop"
                    break
                detokenizer.add_token(token)
                said.append(detokenizer.last_segment)
                yield Piece(said[-1])
            detokenizer.finalize()
            said.append(detokenizer.last_segment)
            if said[-1]:
                yield Piece(said[-1])
            return Text("".join(said), len(tokens), made, finish)
        finally:
            if steps is not None:
                steps.close()
            cache.clear()
            after_request()

    def _prefill(self, prompt: mx.array, cache: list[Any]) -> Generator[None, None, mx.array]:
        """Work through all of a prompt but its last token, in steps short enough to be cancelled between."""
        chunk = CHUNK_LEAST
        while len(prompt) > 1:
            began = time.monotonic()
            count = min(chunk, len(prompt) - 1)
            with mx.stream(generation_stream):
                self._loaded(prompt[:count][None], cache=cache)
                mx.eval([each.state for each in cache])
            prompt = prompt[count:]
            took = max(time.monotonic() - began, 1e-4)
            chunk = min(CHUNK_MOST, 2 * chunk, max(CHUNK_LEAST, int(count * CHUNK_S / took)))
            yield None
        return prompt


def fit(model: Model, prompt: int, answer: int) -> None:
    """Raise ValueError for what would outgrow the cache that memory is kept for."""
    if prompt + answer > model.context:
        raise ValueError(
            f"a prompt of {prompt} tokens and an answer of {answer} are more than the {model.context} that "
            f"{model.name} keeps memory for: ask for at most {max(0, model.context - prompt)} tokens, or declare it "
            f"with context={prompt + answer}"
        )


def _sampler(request: TextToText) -> Callable[[mx.array], mx.array]:
    """With a seed the numbers are the request's own: what else runs in this process does not change its answer."""
    if request.temperature == 0:
        greedy: Callable[[mx.array], mx.array] = greedy_sampler
        return greedy
    key = None if request.seed is None else mx.random.key(request.seed)

    def sample(logprobs: mx.array) -> mx.array:
        nonlocal key
        if 0 < request.top_p < 1:
            logprobs = apply_top_p(logprobs, request.top_p)
        if key is None:
            return mx.random.categorical(logprobs / request.temperature)
        key, now = mx.random.split(key)
        return mx.random.categorical(logprobs / request.temperature, key=now)

    return sample
