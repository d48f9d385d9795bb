"""onnx_image: image embedding by onnxruntime: an encoder that takes pixel_values, and its preprocessor_config.json."""

from __future__ import annotations

from typing import Any, Final

import onnxruntime as ort

from admit_sdk.backends import Check, Steps, wrong_kind
from admit_sdk.backends.onnx_files import inputs_of, need_of, open_session, outputs_of, part, settings
from admit_sdk.backends.onnx_text import ACTIVATIONS, unit
from admit_sdk.backends.pictures import open_image, prepare, size_of
from admit_sdk.errors import ModelFailed
from admit_sdk.models import Model, Need
from admit_sdk.requests import Capability, ImageEmbedding, Request, Vectors

# The outputs that are the vector of a whole picture, the best first; else the first token of the last layer.
WHOLE: Final = ("image_embeds", "pooler_output", "sentence_embedding")


class OnnxImageEmbedding:
    """CLIP's and SigLIP's vision towers, ViT, DINO."""

    capability = Capability.IMAGE_EMBEDDING

    def need(self, model: Model) -> Need:
        config = settings(model, "config.json", needed=False)
        vision = config.get("vision_config")
        merged = {**config, **vision} if isinstance(vision, dict) else config
        width, height = size_of(settings(model, "preprocessor_config.json", needed=False))
        patch, hidden, heads = (
            int(merged.get(name) or default)
            for name, default in (("patch_size", 14), ("hidden_size", 768), ("num_attention_heads", 12))
        )
        tokens = (width // patch + 1) * (height // patch + 1)
        return need_of(model, [part(model)], 4 * tokens * (ACTIVATIONS * hidden + 2 * heads * tokens))

    def load(self, model: Model, soft_bytes: int, hard_bytes: int) -> LoadedImageEmbedder:
        session = open_session(model, part(model))
        preparation = settings(model, "preprocessor_config.json", needed=False)
        return LoadedImageEmbedder(model, session, preparation, self.need(model))


class LoadedImageEmbedder:
    """An encoder of pictures in memory."""

    def __init__(self, model: Model, session: ort.InferenceSession, preparation: dict[str, Any], need: Need) -> None:
        self._model = model
        self._session = session
        self._preparation = preparation
        self._gives = outputs_of(session)
        self.need = Need(need.weights, need.working)
        takes = inputs_of(session)
        if "pixel_values" not in takes:
            raise ModelFailed(f"{model.name} takes {', '.join(takes)}, and no pixel_values: it embeds no images")

    def run(self, request: Request[Any], check: Check) -> Steps:
        if not isinstance(request, ImageEmbedding):
            raise wrong_kind(self._model, request)
        vectors = []
        for image in request.images:
            pixels = prepare(open_image(image), self._preparation)
            found = dict(zip(self._gives, self._session.run(None, {"pixel_values": pixels}), strict=True))
            name = next((each for each in WHOLE if each in found), None)
            vectors.append(unit(found[self._gives[0]][0][0] if name is None else found[name][0]))
            yield None
        return Vectors(tuple(vectors))

    def unload(self) -> None:
        del self._session
