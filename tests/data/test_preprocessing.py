import contextlib
import io
import warnings

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import TypeAdapter
from torchvision.transforms.v2 import functional as F

from planish.artifact import InputSpec, Preprocessing
from planish.data.normalisation import Normalise
from planish.data.preprocessing import decode, preprocess, resize
from planish.errors import DataError


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def gradient(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 255 // max(1, height - 1), x * 255 // max(1, width - 1), (x + y) % 256], axis=2).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_rgb_comes_back_as_it_was(kind: str) -> None:
    pixels = gradient(13, 17)
    options = {"lossless": True} if kind == "WEBP" else {}
    assert (decode(encoded(Image.fromarray(pixels), kind, **options), 3, 256) == pixels).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_scaled_not_clipped(kind: str, channels: int) -> None:
    values = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
    out = decode(encoded(Image.fromarray(values), kind), channels, 256)
    assert out.shape == (20, 30, channels)
    assert np.abs(out - values[..., None] / 257).max() <= 0.5


def test_thirty_two_bit_grey_counts_as_sixteen_or_is_refused() -> None:
    values = np.array([[0, 65535], [257, 514]], dtype=np.int32)
    assert decode(encoded(Image.fromarray(values), "TIFF"), 1, 256)[..., 0].tolist() == [[0, 255], [1, 2]]
    with pytest.raises(DataError, match="grey values"):
        decode(encoded(Image.fromarray(values * 2), "TIFF"), 1, 256)
    with pytest.raises(DataError, match="floating-point"):
        decode(encoded(Image.fromarray(values.astype(np.float32)), "TIFF"), 1, 256)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(orientation: int) -> None:
    upright = gradient(6, 10)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    assert (decode(encoded(Image.fromarray(np.ascontiguousarray(stored)), exif=exif), 3, 256) == upright).all()


def test_alpha_is_put_on_white() -> None:
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0, :, 0] = 200
    rgba[0, :, 3] = [0, 255, 128]
    out = decode(encoded(Image.fromarray(rgba)), 3, 256)[0].astype(float)
    expected = rgba[0, :, :3] * (rgba[0, :, 3:] / 255) + 255 * (1 - rgba[0, :, 3:] / 255)
    assert np.abs(out - expected).max() <= 1
    grey_alpha = Image.merge("LA", [Image.new("L", (2, 2), 0), Image.new("L", (2, 2), 0)])
    assert (decode(encoded(grey_alpha), 1, 256) == 255).all()


def test_palettes_with_a_transparent_colour_one_bit_and_cmyk() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    assert decode(encoded(palette), 3, 9)[0].tolist() == [[255, 0, 0], [0, 0, 255]]
    assert decode(encoded(palette, transparency=1), 3, 9)[0].tolist() == [[255, 0, 0], [255, 255, 255]]
    assert decode(encoded(Image.fromarray(np.array([[True, False]]))), 1, 9)[0, :, 0].tolist() == [255, 0]
    assert decode(encoded(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "TIFF"), 3, 9)[0, 0].tolist() == [255, 0, 0]


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    assert decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), 3, 9)[0, 0].tolist() == [255, 0, 0]


@given(height=st.integers(1, 60), width=st.integers(1, 60), side=st.integers(1, 40), channels=st.sampled_from([1, 3]))
@settings(max_examples=40, deadline=None)
def test_the_shorter_side_is_bounded_and_the_aspect_kept(height: int, width: int, side: int, channels: int) -> None:
    out = decode(encoded(Image.fromarray(gradient(height, width))), channels, side)
    assert out.shape[2] == channels
    assert out.dtype == np.uint8
    assert min(out.shape[:2]) == min(side, height, width)
    if min(height, width) <= side:
        assert out.shape[:2] == (height, width)
    else:
        assert abs(max(out.shape[:2]) - max(height, width) * side / min(height, width)) <= 1


def test_a_bomb_is_refused_from_its_header() -> None:
    bomb = encoded(Image.new("1", (14_000, 14_000)))
    assert len(bomb) < 1_000_000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match="pixels"):
            decode(bomb, 3, 256)
    with pytest.raises(DataError, match="at most 50 pixels"):
        decode(encoded(Image.new("L", (10, 10))), 1, 256, max_pixels=50)


@pytest.mark.parametrize("damage", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "half", "head"])
def test_what_is_no_whole_image_is_refused(damage: bytes | str) -> None:
    good = encoded(Image.fromarray(gradient(64, 64)), "JPEG")
    data = good[: len(good) // 2] if damage == "half" else good[:20] if damage == "head" else damage
    with pytest.raises(DataError, match="cannot be decoded"):
        decode(data, 3, 256)


@given(data=st.binary(max_size=200), keep=st.integers(0, 300))
@settings(max_examples=100, deadline=None)
def test_damaged_files_raise_nothing_but_data_errors(data: bytes, keep: int) -> None:
    for kind in ("PNG", "JPEG", "GIF", "TIFF"):
        whole = encoded(Image.fromarray(gradient(8, 8)), kind)
        with contextlib.suppress(DataError):
            decode(whole[:keep] + data, 3, 256)


def settings_for(how: str) -> Preprocessing:
    return Preprocessing(256, how, (0.5,), (0.5,))  # type: ignore[arg-type]


def test_resize_agrees_with_pillow() -> None:
    image = gradient(40, 30)
    squashed = resize(image, InputSpec(3, 20, 24), settings_for("squash"))
    assert (squashed == np.asarray(Image.fromarray(image).resize((24, 20), Image.Resampling.BILINEAR))).all()
    cropped = resize(image, InputSpec(3, 20, 20), settings_for("crop"))
    by_hand = np.asarray(Image.fromarray(image).resize((20, 26), Image.Resampling.BILINEAR))[3:23]
    assert (cropped == by_hand).all()


@pytest.mark.parametrize("shape", [(1, 2_000_000, 1), (2_000_000, 1, 1)])
def test_a_line_of_pixels_does_not_fill_the_memory(shape: tuple[int, int, int]) -> None:
    """Scaled up as a whole it would have 80 billion pixels."""
    image = np.full(shape, 9, np.uint8)
    assert (resize(image, InputSpec(1, 200, 200), settings_for("crop")) == np.full((200, 200, 1), 9)).all()


@given(
    st.integers(1, 50),
    st.integers(1, 50),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(["squash", "crop"]),
    st.sampled_from([1, 3]),
)
@settings(max_examples=60, deadline=None)
def test_resize_always_gives_the_input_size(height: int, width: int, h: int, w: int, how: str, channels: int) -> None:
    image = np.full((height, width, channels), 77, dtype=np.uint8)
    out = resize(image, InputSpec(channels, h, w), settings_for(how))  # type: ignore[arg-type]
    assert out.shape == (h, w, channels)
    assert (out == 77).all()  # no black border is ever brought in


def test_prepare_is_both_and_the_right_size_is_left_alone() -> None:
    image = gradient(24, 24)
    spec = InputSpec(3, 24, 24)
    assert (preprocess(encoded(Image.fromarray(image)), spec, settings_for("crop")) == image).all()
    assert resize(image, spec, settings_for("squash")) is image


def test_normalise_agrees_with_numpy() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    out = Normalise(mean, std)(torch.from_numpy(images))
    assert out.dtype == torch.float32
    assert np.allclose(out, ((images / 255 - mean) / std).transpose(0, 3, 1, 2), atol=1e-6)


def test_normalise_exports_to_onnx_with_any_batch() -> None:
    import onnxruntime

    layer = Normalise((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)).eval()
    example = torch.zeros(2, 8, 9, 3, dtype=torch.uint8)
    program = torch.onnx.export(
        layer, (example,), dynamo=True, dynamic_shapes=({0: torch.export.Dim("n")},), input_names=["images"], verbose=False
    )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for count in (1, 5):
        images = torch.randint(0, 256, (count, 8, 9, 3), dtype=torch.uint8)
        assert np.allclose(session.run(None, {"images": images.numpy()})[0], layer(images), atol=1e-6)


def of_each_image(images: np.ndarray, normalisation: str) -> np.ndarray:
    """With numpy, in float64; one grey level is the least that is divided by."""
    out = []
    for image in images.astype(np.float64):
        offset, spread = (image.min(), np.ptp(image)) if normalisation == "min_max" else (image.mean(), image.std())
        out.append((image - offset) / max(spread, 1))
    return np.stack(out).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("normalisation", ["min_max", "z_score"])
@pytest.mark.parametrize("channels", [1, 3])
def test_normalise_by_each_image_agrees_with_numpy(normalisation: str, channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 9, channels), dtype=np.uint8)
    images[1] //= 9
    images[2], images[3] = 0, 255  # of one colour
    images[4], images[4, 0, 0, 0] = 100, 101  # hardly more than that
    preprocessing = Preprocessing(256, "squash", (0.5,) * channels, (0.2,) * channels, normalisation)  # type: ignore[arg-type]
    out = Normalise.of(preprocessing)(torch.from_numpy(images))
    assert out.dtype == torch.float32
    assert np.allclose(out, of_each_image(images, normalisation), atol=1e-5)
    assert (out[2:4] == 0).all()
    assert (out[0].min(), out[0].max()) == (0, 1) if normalisation == "min_max" else abs(float(out[0].std(correction=0)) - 1) < 1e-5


def test_preprocessing_written_before_there_was_a_choice_is_by_the_data_set() -> None:
    written = {"decode_side": 32, "resize": "squash", "mean": [0.5], "std": [0.2]}
    assert TypeAdapter(Preprocessing).validate_python(written).normalisation == "dataset"
    images = torch.arange(16, dtype=torch.uint8).view(1, 4, 4, 1)
    assert torch.equal(Normalise.of(TypeAdapter(Preprocessing).validate_python(written))(images), Normalise((0.5,), (0.2,))(images))


@given(height=st.integers(1, 90), width=st.integers(1, 90), side=st.integers(1, 50), seed=st.integers(0, 9))
@settings(max_examples=150, deadline=None)
def test_pixels_are_those_of_torchvision(height: int, width: int, side: int, seed: int) -> None:
    """Networks are published with accuracies measured on torchvision's resize and crop; ours must be the same to the bit, without torch.

    But for lines of pixels, of which only the middle is scaled up.
    """
    assume(max(height, width) <= 16 * min(height, width))
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    image = Image.fromarray(pixels)
    smaller = F.resize(image, [side]) if min(height, width) > side else image
    assert (decode(encoded(image), 3, side) == np.asarray(smaller)).all()
    cropped = F.center_crop(F.resize(image, [side]), [side, side])
    assert (resize(pixels, InputSpec(3, side, side), settings_for("crop")) == np.asarray(cropped)).all()
    squashed = F.resize(image, [side, side + 3])
    assert (resize(pixels, InputSpec(3, side, side + 3), settings_for("squash")) == np.asarray(squashed)).all()
