"""requests: what can be asked of a model, and what it answers: one pair of types for each capability.

A request is valid if it exists: what makes no sense raises ValueError where it is written, not where it is answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Final, Generic, Literal, TypeVar

TOKENS_MAX: Final = 1 << 20
SIDE_MAX: Final = 4096
"""Pixels of a side; a picture of it takes 48 MB decoded."""
SEED_MAX: Final = (1 << 63) - 1

Finish = Literal["stop", "length"]
"""Why a text ended: the model ended it, or `max_tokens` did."""

Image = Path | bytes
"""A PNG, JPEG or whatever else pillow reads: where it lies, or its bytes."""


class Capability(StrEnum):
    """What a model is for."""

    TEXT_EMBEDDING = "text-embedding"
    TEXT_TO_TEXT = "text-to-text"
    VISION = "vision"
    TEXT_TO_IMAGE = "text-to-image"
    IMAGE_EMBEDDING = "image-embedding"


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text, as it comes. `text` may be empty: a token need not be a whole letter."""

    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """A whole answer in words."""

    text: str
    prompt_tokens: int
    tokens: int
    finish: Finish


@dataclass(frozen=True, slots=True)
class Vectors:
    """One vector for each text or image, in their order, each of length 1."""

    vectors: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture: three bytes a pixel, red, green and blue, row by row from the top."""

    width: int
    height: int
    rgb: bytes

    def save(self, path: Path) -> None:
        """Write it in the format that the ending of `path` names."""
        from PIL import Image as Images

        Images.frombytes("RGB", (self.width, self.height), self.rgb).save(path)


Answer_co = TypeVar("Answer_co", covariant=True)


@dataclass(frozen=True)
class Request(Generic[Answer_co]):
    """Something to ask; its kind says what comes back."""

    capability: ClassVar[Capability]


@dataclass(frozen=True)
class TextEmbedding(Request[Vectors]):
    """Vectors of texts, for search and comparison."""

    texts: tuple[str, ...]
    capability: ClassVar[Capability] = Capability.TEXT_EMBEDDING

    def __post_init__(self) -> None:
        _some(self.texts, "texts", str)


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; `role` is a word that the model's template knows: system, user, assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class TextToText(Request[Text]):
    """The next turn of a conversation. `temperature` 0 always takes the likeliest word."""

    messages: tuple[Message, ...]
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    capability: ClassVar[Capability] = Capability.TEXT_TO_TEXT

    def __post_init__(self) -> None:
        _some(self.messages, "messages", Message)
        whole_number(self.max_tokens, "max_tokens", 1, TOKENS_MAX)
        _number(self.temperature, "temperature", 0, 10)
        _number(self.top_p, "top_p", 0, 1)
        if self.seed is not None:
            whole_number(self.seed, "seed", 0, SEED_MAX)

    @classmethod
    def of(cls, prompt: str, *, max_tokens: int = 256) -> TextToText:
        """One question without a conversation before it."""
        return cls((Message("user", prompt),), max_tokens)


@dataclass(frozen=True)
class Vision(Request[Text]):
    """A question about pictures."""

    prompt: str
    images: tuple[Image, ...]
    max_tokens: int = 256
    temperature: float = 0.0
    capability: ClassVar[Capability] = Capability.VISION

    def __post_init__(self) -> None:
        _some(self.images, "images", Path, bytes)
        whole_number(self.max_tokens, "max_tokens", 1, TOKENS_MAX)
        _number(self.temperature, "temperature", 0, 10)


@dataclass(frozen=True)
class TextToImage(Request[Picture]):
    """A picture of what the words say. `guidance` above 1 holds closer to the words, at twice the work."""

    prompt: str
    steps: int = 20
    width: int = 512
    height: int = 512
    guidance: float = 7.5
    seed: int = 0
    capability: ClassVar[Capability] = Capability.TEXT_TO_IMAGE

    def __post_init__(self) -> None:
        whole_number(self.steps, "steps", 1, 1000)
        whole_number(self.width, "width", 8, SIDE_MAX)
        whole_number(self.height, "height", 8, SIDE_MAX)
        _number(self.guidance, "guidance", 0, 100)
        whole_number(self.seed, "seed", 0, SEED_MAX)


@dataclass(frozen=True)
class ImageEmbedding(Request[Vectors]):
    """Vectors of pictures, for search and comparison."""

    images: tuple[Image, ...]
    capability: ClassVar[Capability] = Capability.IMAGE_EMBEDDING

    def __post_init__(self) -> None:
        _some(self.images, "images", Path, bytes)


def _some(values: object, name: str, *kinds: type) -> None:
    """A text is a sequence of texts, too, and never what was meant."""
    if not isinstance(values, Sequence) or isinstance(values, str | bytes) or not values:
        raise ValueError(f"{name} is a tuple with at least one entry, not {str(values)[:40]!r}")
    wrong = next((each for each in values if not isinstance(each, kinds)), None)
    if wrong is not None:
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{name} holds {str(wrong)[:40]!r}, which is not of type {wanted}")


def whole_number(value: object, name: str, least: int, most: int) -> None:
    """Raise ValueError for what is no int between the two: who counts in ones never arrives at 2.5."""
    if type(value) is not int:
        near = int(min(most, max(least, value))) if isinstance(value, int | float) else least
        raise ValueError(
            f"{name} is {value!r:.40}; write a whole number that lies between {least} and {most}, such as {near}"
        )
    _number(value, name, least, most)


def _number(value: float, name: str, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} is {value!r}; it lies between {least} and {most}")
