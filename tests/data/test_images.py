"""Reading pictures, whole and broken."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from elip.data.images import ImageFolder
from elip.errors import DataError


@pytest.fixture
def jpeg(tmp_path: Path) -> Path:
    path = tmp_path / "cat.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(path)
    return path


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 3), color=1).save(tmp_path / "x.png")
    image = ImageFolder().open(str(tmp_path / "x.png"))
    assert (image.mode, image.size) == ("RGB", (4, 3))


def test_pixels_are_those_of_the_file(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    np.testing.assert_array_equal(np.asarray(ImageFolder().open(str(tmp_path / "x.png"))), pixels)


def test_a_read_picture_leaves_no_file_open(jpeg: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        ImageFolder().open(str(jpeg))
    jpeg.unlink()


def test_a_missing_picture_names_the_nearest_one(jpeg: Path) -> None:
    with pytest.raises(DataError, match=r"cat\.jpeg: no such file in .*Did you mean 'cat\.jpg'"):
        ImageFolder().open(str(jpeg.with_suffix(".jpeg")))


@pytest.mark.parametrize("kept", [100, 500])
def test_a_picture_cut_short_is_refused(jpeg: Path, kept: int) -> None:
    jpeg.write_bytes(jpeg.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"cat\.jpg: (the image is cut short or damaged|not an image)"):
        ImageFolder().open(str(jpeg))


def test_a_png_with_damaged_content_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (50, 50)).save(tmp_path / "x.png")
    content = (tmp_path / "x.png").read_bytes()
    start = content.index(b"IDAT") + 4
    (tmp_path / "x.png").write_bytes(content[:start] + bytes(20) + content[start + 20 :])
    with pytest.raises(DataError, match=r"x\.png: the image is cut short or damaged"):
        ImageFolder().open(str(tmp_path / "x.png"))


@pytest.mark.parametrize("content", [b"", b"<html>404 not found</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.jpg: not an image \(known formats: JPEG, PNG"):
        ImageFolder().open(str(tmp_path / "x.jpg"))


def test_a_picture_of_a_rare_format_is_not_opened(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "x.pcx")
    with pytest.raises(DataError, match=r"x\.pcx: not an image \(known formats: JPEG, PNG"):
        ImageFolder().open(str(tmp_path / "x.pcx"))


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        ImageFolder().open(str(tmp_path))


def test_a_picture_too_large_to_be_true_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    file = io.BytesIO()
    Image.new("RGB", (50, 50)).save(file, "PNG")
    with pytest.raises(DataError, match="the image is too large"):
        ImageFolder().decode(file)
