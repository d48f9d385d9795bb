"""onnx_text: text embedding by onnxruntime: model.onnx, tokenizer.json, and config.json, as optimum exports them.

Pooling is what 1_Pooling/config.json of sentence-transformers says, the mean where there is none.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from admit_sdk.backends import Check, Steps, folder_of, wrong_kind
from admit_sdk.backends.onnx_files import inputs_of, need_of, open_session, outputs_of, part, settings
from admit_sdk.errors import ModelFailed
from admit_sdk.models import Model, Need
from admit_sdk.requests import Capability, Request, TextEmbedding, Vectors

ACTIVATIONS: Final = 24
"""Arrays of the size of a layer's input that are there at once, at most: what attention and feed-forward make."""


class OnnxTextEmbedding:
    """Encoders of the BERT family, and whatever else takes input_ids and an attention_mask."""

    capability = Capability.TEXT_EMBEDDING

    def need(self, model: Model) -> Need:
        config = settings(model, "config.json")
        tokens = _tokens_most(model, config)
        hidden, heads = (
            _whole(config, name, default) for name, default in (("hidden_size", 768), ("num_attention_heads", 12))
        )
        return need_of(model, [part(model)], 4 * tokens * (ACTIVATIONS * hidden + 2 * heads * tokens))

    def load(self, model: Model, soft_bytes: int, hard_bytes: int) -> LoadedEmbedder:
        session = open_session(model, part(model))
        path = folder_of(model) / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as fault:  # tokenizers raises nothing more special
            raise ModelFailed(f"{model.name}: {path} can't be read: {fault}") from None
        tokenizer.no_padding()
        tokenizer.enable_truncation(_tokens_most(model, settings(model, "config.json")))
        pooling = settings(model, "1_Pooling/config.json", needed=False)
        return LoadedEmbedder(
            model, session, tokenizer, self.need(model), first=bool(pooling.get("pooling_mode_cls_token"))
        )


class LoadedEmbedder:
    """An encoder in memory."""

    def __init__(
        self, model: Model, session: ort.InferenceSession, tokenizer: Tokenizer, need: Need, *, first: bool
    ) -> None:
        """`first`: the vector of a text is that of its first token; else their mean."""
        self._model = model
        self._session = session
        self._tokenizer = tokenizer
        self._first = first
        self._takes = inputs_of(session)
        self._gives = outputs_of(session)
        self.need = Need(need.weights, need.working)
        if "input_ids" not in self._takes:
            raise ModelFailed(f"{model.name} takes {', '.join(self._takes)}, and no input_ids: it embeds no text")

    def run(self, request: Request[Any], check: Check) -> Steps:
        if not isinstance(request, TextEmbedding):
            raise wrong_kind(self._model, request)
        vectors = []
        for text in request.texts:
            vectors.append(self._vector(text))
            yield None
        return Vectors(tuple(vectors))

    def unload(self) -> None:
        del self._session, self._tokenizer

    def _vector(self, text: str) -> tuple[float, ...]:
        encoding = self._tokenizer.encode(text)
        rows = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
            "position_ids": list(range(len(encoding.ids))),
        }
        if not encoding.ids:
            raise ValueError(f"{self._model.name} makes no token of {text[:40]!r}: there is nothing to embed")
        fed = {name: np.asarray([rows[name]], dtype=np.int64) for name in self._takes if name in rows}
        found = dict(zip(self._gives, self._session.run(None, fed), strict=True))
        if "sentence_embedding" in found:
            return unit(found["sentence_embedding"][0])
        tokens = next((found[name] for name in ("last_hidden_state", "token_embeddings") if name in found), None)
        states = (found[self._gives[0]] if tokens is None else tokens)[0]
        return unit(states[0] if self._first else states.mean(axis=0))


def unit(vector: Any) -> tuple[float, ...]:
    """The vector at length 1; one of zeros stays what it is."""
    flat = np.asarray(vector, dtype=np.float64).reshape(-1)
    length = float(np.linalg.norm(flat))
    return tuple((flat / length if length else flat).tolist())


def _tokens_most(model: Model, config: dict[str, Any]) -> int:
    return min(model.context, _whole(config, "max_position_embeddings", model.context))


def _whole(config: dict[str, Any], name: str, default: int) -> int:
    found = config.get(name)
    return found if isinstance(found, int) and 0 < found < 1 << 24 else default
