"""The five capabilities, each by a real library on a small model that is made here."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from admit_sdk import backends
from admit_sdk.errors import ModelFailed
from admit_sdk.governor import MemoryGovernor
from admit_sdk.models import Model
from admit_sdk.pool import ModelPool
from admit_sdk.requests import Capability, ImageEmbedding, TextEmbedding, TextToImage, TextToText, Vision
from tests.sdk import counting

pytest.importorskip("onnxruntime")
Images = pytest.importorskip("PIL.Image")
OnnxTextToImage = pytest.importorskip("admit_sdk.backends.onnx_diffusion").OnnxTextToImage
making: Any = pytest.importorskip("tests.sdk.making")
Make = Callable[..., ModelPool]


def once(folder: Path, make: Callable[[Path], Path]) -> Path:
    return folder if folder.exists() else make(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    making.text_embedder(folder / "text")
    making.image_embedder(folder / "image")
    making.diffusion(folder / "diffusion")
    return folder


@pytest.fixture
def make() -> Iterator[Make]:
    opened: list[ModelPool] = []

    def make(path: Path, capability: Capability, **options: Any) -> ModelPool:
        governor = MemoryGovernor("8GiB", watch=False)
        opened.append(ModelPool(governor, [Model("m", path, capability, **options)]))
        return opened[-1]

    yield make
    for each in opened:
        assert each.close(30)
        assert each.governor.allocated_bytes == 0


def png(red: int = 255, size: tuple[int, int] = (90, 60)) -> bytes:
    out = io.BytesIO()
    Images.new("RGB", size, (red, 0, 80)).save(out, "PNG")
    return out.getvalue()


def dot(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def test_text_embedding(make: Make, made: Path) -> None:
    pool = make(made / "text", Capability.TEXT_EMBEDDING)
    texts = ("a cat sat on the mat", "the dog ran home", "a cat sat on the mat")
    one, other, same = pool.ask("m", TextEmbedding(texts)).vectors
    assert len(one) == making.HIDDEN
    assert dot(one, one) == pytest.approx(1)
    assert dot(one, same) == pytest.approx(1)
    assert dot(one, other) < 0.999


def test_a_text_that_is_longer_than_the_model_reads_is_cut(make: Make, made: Path) -> None:
    pool = make(made / "text", Capability.TEXT_EMBEDDING)
    long, longer = pool.ask("m", TextEmbedding(("cat " * 100, "cat " * 200))).vectors
    assert dot(long, longer) == pytest.approx(1)


def test_the_first_token_is_the_vector_where_the_model_says_so(make: Make, made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made / "text", tmp_path / "first"))
    making.write_json(folder / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True})
    request = TextEmbedding(("a cat sat",))
    (mean,) = make(made / "text", Capability.TEXT_EMBEDDING).ask("m", request).vectors
    (first,) = make(folder, Capability.TEXT_EMBEDDING).ask("m", request).vectors
    assert dot(mean, first) < 0.999


def test_image_embedding(make: Make, made: Path, tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    path.write_bytes(png())
    pool = make(made / "image", Capability.IMAGE_EMBEDDING)
    one, same, other = pool.ask("m", ImageEmbedding((path, png(), png(red=0)))).vectors
    assert dot(one, same) == pytest.approx(1)
    assert dot(one, other) < 0.999


@pytest.mark.parametrize("image", [b"no image", Path("nowhere.png"), b""], ids=["noise", "missing", "empty"])
def test_what_is_no_image_is_said(make: Make, made: Path, image: Path | bytes) -> None:
    with pytest.raises(ValueError, match="can't be read as an image"):
        make(made / "image", Capability.IMAGE_EMBEDDING).ask("m", ImageEmbedding((image,)))


def test_text_to_image(make: Make, made: Path, tmp_path: Path) -> None:
    pool = make(made / "diffusion", Capability.TEXT_TO_IMAGE)
    cat, again, dog, other = (
        pool.ask("m", TextToImage(words, steps=4, width=32, height=24, seed=seed))
        for words, seed in (("a cat", 1), ("a cat", 1), ("a dog", 1), ("a cat", 2))
    )
    assert (cat.width, cat.height, len(cat.rgb)) == (32, 24, 32 * 24 * 3)
    assert cat == again
    assert len({cat.rgb, dog.rgb, other.rgb}) == 3
    cat.save(tmp_path / "cat.png")
    assert Images.open(tmp_path / "cat.png").tobytes() == cat.rgb


def test_a_picture_that_memory_is_not_kept_for_is_refused(make: Make, made: Path) -> None:
    pool = make(made / "diffusion", Capability.TEXT_TO_IMAGE)
    with pytest.raises(ValueError, match="512 x 512 is more than the 32 x 32 that m keeps memory for"):
        pool.ask("m", TextToImage("a cat"))
    with pytest.raises(ValueError, match="sides are multiples of 8"):
        pool.ask("m", TextToImage("a cat", width=30, height=32))


def test_a_picture_is_made_in_steps_between_which_it_can_be_called_off(made: Path) -> None:
    backend = OnnxTextToImage()
    loaded = backend.load(Model("m", made / "diffusion", Capability.TEXT_TO_IMAGE), 1 << 30, 1 << 30)
    steps = loaded.run(TextToImage("a cat", steps=10, width=32, height=32), lambda: None)
    assert len(list(itertools.islice(steps, 4))) == 4
    steps.close()
    assert len(list(loaded.run(TextToImage("a cat", steps=10, width=32, height=32), lambda: None))) == 11
    loaded.unload()


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
def test_denoising_finds_the_picture_where_the_prediction_is_right(predicts: str) -> None:
    """A model that always knows what the noise is leads from pure noise to the picture, in any number of steps."""
    import numpy as np

    from admit_sdk.backends.denoising import Schedule

    schedule = Schedule.of({"prediction_type": predicts, "steps_offset": 1})
    rng = np.random.default_rng(0)
    picture, noise = rng.standard_normal((2, 4, 8, 8))
    moments = schedule.moments(10)
    assert moments == sorted(moments, reverse=True)
    kept = schedule.kept[moments[0]]
    sample = kept**0.5 * picture + (1 - kept) ** 0.5 * noise
    for moment, following in zip(moments, [*moments[1:], None], strict=True):
        left = schedule.kept[moment]
        velocity = left**0.5 * noise - (1 - left) ** 0.5 * picture
        sample = schedule.step(sample, noise if predicts == "epsilon" else velocity, moment, following)
    assert np.abs(sample - picture).mean() < 0.05


def test_a_schedule_that_is_not_known_is_said(make: Make, tmp_path: Path) -> None:
    folder = making.diffusion(tmp_path / "sample", predicts="sample")
    with pytest.raises(ModelFailed, match="it predicts sample; what is known here is epsilon and v_prediction"):
        make(folder, Capability.TEXT_TO_IMAGE).ask("m", TextToImage("a cat", width=32, height=32))


def test_vision(make: Make, made_models: Path) -> None:
    pytest.importorskip("mlx_vlm")
    folder = once(made_models / "vision-1", making.vision)
    pool = make(folder, Capability.VISION, context=256)
    stream = pool.stream("m", Vision("what is this", (png(),), max_tokens=4))
    pieces = [piece.text for piece in stream]
    answer = stream.answer
    assert (answer.tokens, answer.finish, "".join(pieces)) == (4, "length", answer.text)
    wide = pool.ask("m", Vision("what is this", (png(size=(200, 60)),), max_tokens=1))
    assert wide.prompt_tokens > answer.prompt_tokens, "a larger picture is more tokens"
    with pytest.raises(ValueError, match="more than the 256"):
        pool.ask("m", Vision("what is this", (png(),), max_tokens=500))


# Choosing, and what is missing.


def test_a_backend_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for name in [each for each in sys.modules if each.startswith("admit_sdk.backends.onnx")]:
        monkeypatch.delitem(sys.modules, name)
    declared = Model("m", Path("x"), Capability.TEXT_EMBEDDING)
    with pytest.raises(ModelFailed, match=r"onnxruntime is not installed: .* 'onnxruntime>=1.22' 'pillow>=11'"):
        backends.backend_of(declared)


@pytest.mark.parametrize(
    ("capability", "backend", "said"),
    [
        (Capability.VISION, "mlx-lm", "m: the backend mlx-lm is for text-to-text, not vision"),
        (Capability.VISION, "magic", "m names the backend magic, and there is none; there are mlx-lm, mlx-vlm"),
    ],
)
def test_a_backend_that_does_not_suit_is_said(capability: Capability, backend: str, said: str) -> None:
    with pytest.raises(ModelFailed, match=said):
        backends.backend_of(Model("m", Path("x"), capability, backend=backend))


def test_an_app_brings_a_backend_of_its_own() -> None:
    mine = counting.Counting()
    backends.register("mine", mine)
    try:
        assert backends.backend_of(Model("m", Path("x"), Capability.TEXT_TO_TEXT, backend="mine")) is mine
        with pytest.raises(ValueError, match="there is a backend called mine already"):
            backends.register("mine", mine)
    finally:
        del backends._registered["mine"]


@pytest.mark.parametrize(
    ("part", "spoil", "capability", "request_", "said"),
    [
        ("text", "tokenizer.json", Capability.TEXT_EMBEDDING, TextEmbedding(("x",)), "tokenizer.json can't be read"),
        ("text", "model.onnx", Capability.TEXT_EMBEDDING, TextEmbedding(("x",)), "can't be loaded by onnxruntime"),
        ("image", "model.onnx", Capability.IMAGE_EMBEDDING, ImageEmbedding((b"x",)), "can't be loaded by onnxruntime"),
        ("diffusion", "tokenizer/vocab.json", Capability.TEXT_TO_IMAGE, TextToImage("x"), "tokenizer can't be read"),
    ],
)
def test_files_that_are_damaged_are_said(
    make: Make, made: Path, tmp_path: Path, part: str, spoil: str, capability: Capability, request_: Any, said: str
) -> None:
    folder = Path(shutil.copytree(made / part, tmp_path / part))
    os.truncate(folder / spoil, 20)
    with pytest.raises(ModelFailed, match=said):
        make(folder, capability).ask("m", request_)


def test_a_model_of_another_kind_is_said(make: Make, made: Path) -> None:
    with pytest.raises(ModelFailed, match="m takes pixel_values, and no input_ids: it embeds no text"):
        folder = made / "image"
        shutil.copy(made / "text" / "tokenizer.json", folder / "tokenizer.json")
        make(folder, Capability.TEXT_EMBEDDING).ask("m", TextEmbedding(("x",)))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: TextEmbedding(()),
        lambda: TextEmbedding("a text"),  # type: ignore[arg-type]
        lambda: TextEmbedding((1,)),  # type: ignore[arg-type]
        lambda: TextToText(()),
        lambda: TextToText.of("x", max_tokens=0),
        lambda: Vision("x", ()),
        lambda: Vision("x", ("path",)),  # type: ignore[arg-type]
        lambda: TextToImage("x", steps=0),
        lambda: TextToImage("x", width=1 << 20),
        lambda: ImageEmbedding((1,)),  # type: ignore[arg-type]
    ],
)
def test_a_request_is_valid_if_it_exists(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"is a tuple with|lies between|is not of type"):
        wrong()
