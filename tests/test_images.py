"""Real pictures come out upright, opaque and 8-bit; broken ones are refused by name."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from foveate import FoveateError, images


def corner(picture: Image.Image) -> tuple[int, int, int]:
    return picture.getpixel((0, 0))


def half(mode: str, dark: object, light: object, size: tuple[int, int] = (8, 6)) -> Image.Image:
    """Left half dark, right half light."""
    picture = Image.new(mode, size, dark)
    picture.paste(light, (size[0] // 2, 0, *size))
    return picture


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "gif", "tiff"])
def test_formats(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"a.{ending}"
    half("RGB", (10, 20, 30), (200, 210, 220), (32, 24)).save(file)
    out = images.load(file)
    assert (out.mode, out.size) == ("RGB", (32, 24))
    assert np.allclose(corner(out), (10, 20, 30), atol=12)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = half("RGB", (0, 0, 0), (255, 255, 255), (40, 16))
    upright.paste((255, 0, 0), (0, 0, 8, 8))  # marks the top left corner
    stored = {  # what a camera would have stored
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    picture = upright.transpose(stored[orientation]) if orientation in stored else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "a.png", exif=exif)
    out = images.load(tmp_path / "a.png")
    assert out.size == (40, 16)
    assert np.array_equal(np.asarray(out), np.asarray(upright))


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    picture.putpixel((1, 0), (200, 0, 0, 255))
    picture.putpixel((2, 0), (0, 0, 0, 128))
    picture.save(tmp_path / "a.png")
    out = images.load(tmp_path / "a.png")
    assert [out.getpixel((x, 0)) for x in range(3)] == [(255, 255, 255), (200, 0, 0), (127, 127, 127)]


def test_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    picture = half("RGB", (255, 0, 0), (0, 0, 255)).quantize(2)
    red = picture.getpixel((0, 0))
    picture.save(tmp_path / "a.png", transparency=red)
    out = images.load(tmp_path / "a.png")
    assert corner(out) == (255, 255, 255)
    assert out.getpixel((7, 0)) == (0, 0, 255)


@pytest.mark.parametrize(
    ("mode", "dark", "light"),
    [("1", 0, 1), ("L", 0, 255), ("LA", (0, 255), (255, 255)), ("CMYK", (255,) * 4, (0,) * 4)],
)
def test_other_modes(tmp_path: Path, mode: str, dark: object, light: object) -> None:
    file = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    half(mode, dark, light).save(file)
    out = images.load(file)
    assert corner(out) == (0, 0, 0)
    assert out.getpixel((7, 0)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257 * 10, 257 * 128, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.asarray(images.load(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 10, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 128.0, 300.0], [0, 128, 255]), ([np.nan, 1, 0], [0, 255, 0])],
)
def test_floats(tmp_path: Path, values: list[float], expected: list[int]) -> None:
    Image.fromarray(np.array([values], dtype=np.float32)).save(tmp_path / "a.tiff")
    assert np.asarray(images.load(tmp_path / "a.tiff"))[0, :, 0].tolist() == expected


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert corner(images.load(tmp_path / "a.gif"))[0] > 200


@pytest.mark.parametrize("size", [(1, 1), (3000, 2), (1, 900)])
def test_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size).save(tmp_path / "a.png")
    assert images.load(tmp_path / "a.png").size == size


def cut_short(ending: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(buffer, ending)
    return buffer.getvalue()[:-2000]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (None, "no image"),
        (b"", "empty"),
        (b"hello, this is text", "no image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<!doctype html>", "web page"),
        (b"%PDF-1.7", "PDF"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "a.png"),
        (cut_short("PNG"), "truncated"),
        (cut_short("JPEG"), "truncated"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path: Path, data: bytes | None, says: str) -> None:
    file = tmp_path / "a.png"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(FoveateError, match=says) as error:
        images.load(file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("error", [RuntimeError, struct.error, KeyError, ZeroDivisionError])
def test_whatever_a_decoder_makes_of_a_damaged_file_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def damaged(*_: object) -> None:
        raise error("frame 0")

    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", damaged)
    with pytest.raises(FoveateError, match="export it again"):
        images.load(tmp_path / "a.png")


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(FoveateError, match="folder"):
        images.load(tmp_path)


def test_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 9_999)
    with pytest.raises(FoveateError, match="100 x 100 pixels"):
        images.load(tmp_path / "a.png")
    for limit in (9_999, 4_000):  # Pillow warns above its limit, and refuses above twice that
        monkeypatch.setattr(images, "MAX_PIXELS", 10**9)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(FoveateError, match="million pixels"):
            images.load(tmp_path / "a.png")


def test_every_file_is_checked(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    with pytest.raises(FoveateError, match=r"b\.png"):
        images.load_all([tmp_path / "a.png", tmp_path / "b.png"])
