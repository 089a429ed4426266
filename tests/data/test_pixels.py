"""The values that pictures of all modes come out with."""

import io
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from elip.data.images import ImageFolder
from elip.data.pixels import levels, resize
from elip.errors import DataError

RAMP = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)  # level n of 8 bits is 257 n of 16
LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16)


def through_file(image: Image.Image, file_format: str = "PNG", folder: ImageFolder | None = None, **options: Any):  # type: ignore[no-untyped-def]
    """Return the pixels [H, W, 3] of a picture that is saved and read again."""
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return np.asarray((folder or ImageFolder()).decode(file)).astype(int)


def grey(levels: np.ndarray) -> np.ndarray:
    return np.repeat(levels[:, :, None], 3, axis=2)


def tiff(pixels: bytes, shape: tuple[int, int], **tags: int | tuple[int, int]) -> io.BytesIO:
    """Return a TIFF of one strip whose tags are set by name, for what Pillow does not write."""
    height, width = shape
    names = {"bits": 258, "photometric": 262, "samples": 277, "extra": 338, "sample_format": 339}
    entries: dict[int, int | tuple[int, int]] = {
        256: width,
        257: height,
        259: 1,
        273: 0,
        277: 1,
        278: height,
        279: len(pixels),
    }
    entries |= {names[name]: value for name, value in tags.items()}
    head = 8 + 2 + 12 * len(entries) + 4
    entries[273] = head
    file = io.BytesIO()
    file.write(b"II*\0" + (8).to_bytes(4, "little") + len(entries).to_bytes(2, "little"))
    for tag, value in sorted(entries.items()):
        numbers = value if isinstance(value, tuple) else (value,)
        kind, size = (3, 2) if tag in names.values() else (4, 4)
        file.write(tag.to_bytes(2, "little") + kind.to_bytes(2, "little") + len(numbers).to_bytes(4, "little"))
        file.write(b"".join(number.to_bytes(size, "little") for number in numbers).ljust(4, b"\0"))
    file.write(bytes(4) + pixels)
    return file


def png(bits: int, colour: int, rows: bytes, width: int, height: int, tRNS: bytes) -> io.BytesIO:
    """Return a PNG with a transparent colour, of depths that Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([bits, colour, 0, 0, 0])
    chunks = chunk(b"IHDR", head) + chunk(b"tRNS", tRNS) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + chunks)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_to_eight(file_format: str) -> None:
    np.testing.assert_array_equal(through_file(Image.fromarray(RAMP), file_format), grey(LEVELS))


def test_sixteen_bits_are_rounded_to_the_nearest_level() -> None:
    values = np.array([[0, 128, 129, 32767, 65406, 65407, 65535]], dtype=np.uint16)
    expected = [[0, 0, 1, 127, 254, 255, 255]]
    np.testing.assert_array_equal(through_file(Image.fromarray(values)), grey(np.array(expected)))


def test_a_pgm_says_what_is_white() -> None:
    for white, values in (
        (255, b"\x00\x80\xff"),
        (1023, b"\x00\x00\x02\x02\x03\xff"),
        (65535, b"\0\0\x80\x80\xff\xff"),
    ):
        file = io.BytesIO(b"P5 3 1 %d\n" % white + values)
        assert np.asarray(ImageFolder().decode(file))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("pixels", "tags", "expected"),
    [
        (RAMP.astype("<u2").tobytes(), {"bits": 16, "photometric": 1}, LEVELS),
        (RAMP.astype("<u2").tobytes(), {"bits": 16, "photometric": 0}, 255 - LEVELS),
        (LEVELS.tobytes(), {"bits": 8, "photometric": 0}, 255 - LEVELS),
        (
            (LEVELS / np.float32(255)).astype("<f4").tobytes(),
            {"bits": 32, "photometric": 0, "sample_format": 3},
            255 - LEVELS,
        ),
    ],
)
def test_tiffs_say_which_end_is_white(pixels: bytes, tags: dict[str, int], expected: np.ndarray) -> None:
    image = ImageFolder().decode(tiff(pixels, (16, 16), **tags))
    np.testing.assert_array_equal(np.asarray(image), grey(expected))


def test_twelve_bits_are_scaled_to_eight() -> None:
    image = ImageFolder().decode(tiff(bytes([0x00, 0x0F, 0xFF, 0x80, 0x08, 0x00]), (1, 4), bits=12, photometric=1))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 255, round(0x800 * 255 / 4095), round(0x800 * 255 / 4095)]


@pytest.mark.parametrize("file_format", ["TIFF", "PPM"])
def test_floats_from_black_to_white_are_scaled(file_format: str) -> None:
    values = (LEVELS / 255).astype(np.float32)
    np.testing.assert_array_equal(through_file(Image.fromarray(values), file_format), grey(LEVELS))


def test_floats_that_are_levels_stay_what_they_are() -> None:
    np.testing.assert_array_equal(through_file(Image.fromarray(LEVELS.astype(np.float32)), "TIFF"), grey(LEVELS))


@pytest.mark.parametrize("odd", [np.nan, np.inf, -0.5, 1.5, 300])
def test_floats_of_an_unknown_range_are_refused(odd: float) -> None:
    values = np.array([[0, 0.5, odd]], dtype=np.float32)
    with pytest.raises(
        DataError, match=r"its values are floats from .* to .*; save it with values from 0 \(black\) to 1"
    ):
        through_file(Image.fromarray(values), "TIFF")


@pytest.mark.parametrize(
    ("pixels", "tags", "message"),
    [
        (np.arange(4, dtype="<i4").tobytes(), {"bits": 32, "photometric": 1}, "whole numbers of 32 bits"),
        (np.arange(4, dtype="<i4").tobytes(), {"bits": 32, "photometric": 1, "sample_format": 2}, "have a sign"),
        (np.arange(4, dtype="<i2").tobytes(), {"bits": 16, "photometric": 1, "sample_format": 2}, "have a sign"),
        (np.arange(4, dtype="<i1").tobytes(), {"bits": 8, "photometric": 1, "sample_format": 2}, "have a sign"),
    ],
)
def test_whole_numbers_of_an_unknown_range_are_refused(pixels: bytes, tags: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=rf"its values .*{message}.*save it with"):
        ImageFolder().decode(tiff(pixels, (2, 2), **tags))


RED, CLEAR_RED, HALF_RED = (255, 0, 0, 255), (255, 0, 0, 0), (255, 0, 0, 128)
ON_WHITE = [[[255, 0, 0], [255, 255, 255], [255, 127, 127]]]


def rgba(*colours: tuple[int, int, int, int]) -> Image.Image:
    return Image.fromarray(np.array([colours], dtype=np.uint8))


@pytest.mark.parametrize(
    ("file_format", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})]
)
def test_transparent_pictures_are_laid_on_white(file_format: str, options: dict[str, Any]) -> None:
    assert through_file(rgba(RED, CLEAR_RED, HALF_RED), file_format, **options).tolist() == ON_WHITE


def test_or_show_what_lies_under_the_transparency() -> None:
    bare = ImageFolder(background="albef")
    assert through_file(rgba(RED, CLEAR_RED, HALF_RED), folder=bare).tolist() == [[[255, 0, 0]] * 3]
    grey_alpha = Image.fromarray(np.array([[[9, 255], [9, 0]]], dtype=np.uint8))
    assert through_file(grey_alpha, folder=bare).tolist() == [[[9, 9, 9]] * 2]
    assert np.asarray(bare.decode(png(16, 0, b"\0" + bytes(4), 2, 1, bytes(2)))).max() == 0


def test_grey_with_transparency_is_laid_on_white() -> None:
    image = Image.fromarray(np.array([[[9, 255], [9, 0], [55, 51]]], dtype=np.uint8))
    assert through_file(image).tolist() == [[[9] * 3, [255] * 3, [215] * 3]]


def palette(*indices: int) -> Image.Image:
    image = Image.new("P", (len(indices), 1))
    image.putpalette([0, 0, 255, 255, 0, 0, 0, 255, 0])
    image.putdata(indices)
    return image


@pytest.mark.parametrize(
    ("file_format", "transparency", "expected"),
    [
        ("PNG", None, [[0, 0, 255], [255, 0, 0], [0, 255, 0]]),
        ("PNG", 1, [[0, 0, 255], [255, 255, 255], [0, 255, 0]]),
        ("PNG", b"\xff\x80\x00", [[0, 0, 255], [255, 127, 127], [255, 255, 255]]),
        ("GIF", 1, [[0, 0, 255], [255, 255, 255], [0, 255, 0]]),
    ],
)
def test_palettes_with_transparency_are_laid_on_white(
    file_format: str, transparency: int | bytes | None, expected: list[list[int]]
) -> None:
    options: dict[str, Any] = {} if transparency is None else {"transparency": transparency}
    assert through_file(palette(0, 1, 2), file_format, **options).tolist() == [expected]


def test_a_palette_beside_an_alpha_channel_is_laid_on_white() -> None:
    image = palette(0, 1, 2).convert("PA")
    image.putalpha(Image.fromarray(np.array([[255, 0, 128]], dtype=np.uint8)))
    assert image.mode == "PA"
    assert through_file(image, "TIFF").tolist() == [[[0, 0, 255], [255, 255, 255], [127, 255, 127]]]


@pytest.mark.parametrize(
    ("bits", "colour", "row", "width", "key", "expected"),
    [
        (1, 0, b"\x40", 2, (1,), [0, 255]),
        (1, 0, b"\x40", 2, (0,), [255, 255]),
        (2, 0, b"\x1b", 4, (2,), [0, 85, 255, 255]),
        (4, 0, b"\x0a", 2, (10,), [0, 255]),
        (8, 0, b"\x0a\x0b", 2, (10,), [255, 11]),
        (16, 0, b"\x0a\x0a\x0a\x0b", 2, (0x0A0A,), [255, 10]),
    ],
)
def test_the_transparent_level_of_a_grey_png_becomes_white(
    bits: int, colour: int, row: bytes, width: int, key: tuple[int, ...], expected: list[int]
) -> None:
    file = png(bits, colour, b"\0" + row, width, 1, b"".join(value.to_bytes(2, "big") for value in key))
    assert np.asarray(ImageFolder().decode(file))[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("bits", "row"), [(8, bytes([1, 2, 3, 1, 2, 4])), (16, bytes([1, 1, 2, 2, 3, 3, 1, 1, 2, 2, 4, 4]))]
)
def test_the_transparent_colour_of_a_png_becomes_white(bits: int, row: bytes) -> None:
    key = bytes([0, 1, 0, 2, 0, 3]) if bits == 8 else bytes([1, 1, 2, 2, 3, 3])
    file = png(bits, 2, b"\0" + row, 2, 1, key)
    assert np.asarray(ImageFolder().decode(file)).tolist() == [[[255, 255, 255], [1, 2, 4]]]


def test_premultiplied_transparency_is_undone() -> None:
    assert through_file(rgba(RED, HALF_RED).convert("RGBa").convert("RGBA"), "TIFF").tolist() == [
        [ON_WHITE[0][0], ON_WHITE[0][2]]
    ]
    file = tiff(bytes([64, 128]), (1, 1), bits=(8, 8), photometric=1, samples=2, extra=1)
    assert np.asarray(ImageFolder().decode(file))[0, 0].tolist() == [191] * 3  # 64 of its own, 127 of white


OPAQUE: list[tuple[str, str]] = [
    ("1", "PNG"),
    ("L", "PNG"),
    ("L", "JPEG"),
    ("P", "PNG"),
    ("RGB", "PNG"),
    ("RGB", "JPEG"),
]
OPAQUE += [
    ("RGB", "BMP"),
    ("RGB", "PPM"),
    ("RGB", "WEBP"),
    ("RGBA", "PNG"),
    ("CMYK", "JPEG"),
    ("CMYK", "TIFF"),
    ("YCbCr", "TIFF"),
]


@pytest.mark.parametrize(("mode", "file_format"), OPAQUE)
def test_opaque_pictures_of_eight_bits_are_what_pillow_makes_of_them(mode: str, file_format: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    file = io.BytesIO()
    image.save(file, file_format)
    expected = np.asarray(Image.open(file).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(ImageFolder().decode(file)), expected)
    if mode == "RGB" and file_format in ("PNG", "BMP", "PPM"):
        np.testing.assert_array_equal(expected, pixels)


def test_lab_becomes_the_colours_it_stands_for() -> None:
    white_red = np.array([[[255, 128, 128], [138, 208, 195]]], dtype=np.uint8)  # L 0..255; a, b from -128
    image = Image.frombytes("LAB", (2, 1), (white_red - np.array([0, 128, 128], dtype=np.uint8)).tobytes())
    white, red = through_file(image, "TIFF")[0]
    assert white.min() >= 254
    assert np.abs(red - [255, 0, 0]).max() < 12


def frames(*colours: str) -> list[Image.Image]:
    return [Image.new("RGB", (4, 4), colour) for colour in colours]


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "TIFF", "WEBP"])
def test_of_several_pictures_in_a_file_the_first_is_taken(file_format: str) -> None:
    first, *others = frames("red", "lime", "blue")
    options: dict[str, Any] = {"lossless": True} if file_format == "WEBP" else {}
    pixels = through_file(first, file_format, save_all=True, append_images=others, **options)
    assert pixels.reshape(-1, 3).tolist() == [[255, 0, 0]] * 16


CORNERS = np.array([[[200, 0, 0], [0, 200, 0], [0, 0, 200]], [[9, 9, 9], [90, 90, 90], [200, 200, 0]]], dtype=np.uint8)
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a[::-1].transpose(1, 0, 2),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_pictures_are_turned_upright_or_left_as_stored(orientation: int, file_format: str) -> None:
    options: dict[str, Any] = {"lossless": True} if file_format == "WEBP" else {}
    if file_format == "TIFF":
        info = TiffImagePlugin.ImageFileDirectory_v2()
        info[0x0112] = orientation
        options["tiffinfo"] = info
    else:
        options["exif"] = oriented(orientation)
    image = Image.fromarray(CORNERS)
    np.testing.assert_array_equal(through_file(image, file_format, **options), UPRIGHT[orientation](CORNERS))
    stored = through_file(image, file_format, ImageFolder(orient=False), **options)
    np.testing.assert_array_equal(stored, CORNERS)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(orientation: int) -> None:
    pixels = through_file(Image.fromarray(CORNERS), exif=oriented(orientation))
    np.testing.assert_array_equal(pixels, CORNERS)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(
    "exif",
    [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01" * 50, b"?" * 99],
)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_a_picture_survives_broken_exif(file_format: str, exif: bytes) -> None:
    plain = through_file(Image.fromarray(CORNERS), file_format)
    np.testing.assert_array_equal(through_file(Image.fromarray(CORNERS), file_format, exif=exif), plain)


@pytest.mark.parametrize(("width", "height", "size"), [(50, 40, 16), (20, 30, 64), (64, 64, 64), (2300, 2000, 9)])
def test_resizing_is_pillows_bicubic_to_two_levels(width: int, height: int, size: int) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    expected = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC), dtype=int)
    assert abs(np.asarray(resize(image, size), dtype=int) - expected).max() <= 2


def test_levels_of_a_picture_are_its_pixels_however_pillow_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8))
    large = small.resize((2300, 2000), Image.Resampling.NEAREST)  # in several pieces of memory
    for image in (small, large):
        np.testing.assert_array_equal(levels(image)[..., :3].numpy(), np.asarray(image))
    assert levels(small).shape[-1] == 4
    resized = np.asarray(resize(small, 5))
    monkeypatch.delattr(Image.Image, "__arrow_c_array__", raising=False)  # as before Pillow 11.2
    np.testing.assert_array_equal(levels(small).numpy(), np.asarray(small))
    np.testing.assert_array_equal(np.asarray(resize(small, 5)), resized)
