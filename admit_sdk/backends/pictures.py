"""pictures: an image file as pixels that a model takes."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image as Images
from PIL import UnidentifiedImageError

from admit_sdk.requests import Image

SIDE: Final = 224
"""What encoders take where their settings do not say."""
RESAMPLE: Final = 3
"""Pillow's number for bicubic, which CLIP's settings name, too."""


def open_image(image: Image) -> Images.Image:
    """The picture, in red, green and blue. Raises ValueError for what is none."""
    name = str(image) if isinstance(image, Path) else f"{len(image)} bytes"
    try:
        with Images.open(image if isinstance(image, Path) else BytesIO(image)) as opened:
            return opened.convert("RGB")
    except (UnidentifiedImageError, OSError, Images.DecompressionBombError, SyntaxError) as fault:
        raise ValueError(f"{name} can't be read as an image: {fault}") from None


def prepare(picture: Images.Image, preparation: dict[str, Any]) -> Any:
    """Pixels as the model takes them: resized, cropped, scaled and normalized as transformers' processors do."""
    size = size_of(preparation)
    resample = Images.Resampling(preparation.get("resample", RESAMPLE))
    if preparation.get("do_center_crop"):
        # The shorter side first, then the middle of it.
        scale = max(size[0] / picture.width, size[1] / picture.height)
        grown = (max(size[0], round(picture.width * scale)), max(size[1], round(picture.height * scale)))
        picture = picture.resize(grown, resample)
        left, top = (grown[0] - size[0]) // 2, (grown[1] - size[1]) // 2
        picture = picture.crop((left, top, left + size[0], top + size[1]))
    else:
        picture = picture.resize(size, resample)
    pixels = np.asarray(picture, dtype=np.float32) * np.float32(preparation.get("rescale_factor", 1 / 255))
    if preparation.get("do_normalize", True):
        mean = np.asarray(preparation.get("image_mean", (0.5, 0.5, 0.5)), dtype=np.float32)
        deviation = np.asarray(preparation.get("image_std", (0.5, 0.5, 0.5)), dtype=np.float32)
        pixels = (pixels - mean) / deviation
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def size_of(preparation: dict[str, Any]) -> tuple[int, int]:
    """Width and height: of the crop where there is one."""
    crop = preparation.get("crop_size") if preparation.get("do_center_crop") else None
    size = crop or preparation.get("size") or SIDE
    if isinstance(size, dict):
        side = size.get("shortest_edge")
        return int(size.get("width") or side or SIDE), int(size.get("height") or side or SIDE)
    return int(size), int(size)
