"""Reading pictures, whole and broken."""

import io
import os
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from elip.config.schema import DataConfig
from elip.data.images import ImageFolder
from elip.data.transforms import EvalTransform, TrainTransform
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
    with pytest.raises(DataError, match=r"field 'left': .*: cannot be read: it is a folder, not a file"):
        ImageFolder().open(str(tmp_path), "left")


def test_a_pipe_is_no_image_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"field 'image': .*x\.png: cannot be read: it is a pipe, not a file"):
        ImageFolder(tmp_path).open("x.png")


def test_a_name_with_nul_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"field 'image': '.*x\\x00\.png': no file can have this name"):
        ImageFolder(tmp_path).open("x\0.png")


def black_png(width: int, height: int) -> bytes:
    """Return a black picture, one bit a pixel: small as a file however large it is."""
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(file_format: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (50, 30)).save(file, file_format)
    message = r"has 1,500 pixels \(50 x 30\), more than data\.max_image_pixels=1499; make it smaller, or raise"
    with pytest.raises(DataError, match=message):
        ImageFolder(max_pixels=1499).decode(file)
    assert ImageFolder(max_pixels=1500).decode(file).size == (50, 30)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("side", [13_000, 60_000])
def test_the_default_limit_is_100_million_pixels(side: int) -> None:
    head = b"P5 %d %d 255\n" % (side, side)  # of a file without content: decoding it would say "cut short"
    message = rf"has {side**2:,} pixels.*, more than data\.max_image_pixels=100000000"
    with pytest.raises(DataError, match=message):
        ImageFolder().decode(io.BytesIO(head))


def test_pillows_own_limit_neither_matters_nor_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = ImageFolder().decode(io.BytesIO(black_png(50, 50)))
        assert TrainTransform(8)(image, random.Random(0)).shape == (3, 8, 8)
        assert EvalTransform(8)(image).shape == (3, 8, 8)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_settings_of_the_config_reach_the_reader() -> None:
    data = DataConfig(image_root="/x", background="albef", max_image_pixels=9, exif_orientation=False)
    assert ImageFolder.configured(data) == ImageFolder("/x", "albef", 9, orient=False)
    assert ImageFolder.configured(DataConfig()) == ImageFolder()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_whatever_is_wrong_with_a_file_it_is_read_or_refused(file_format: str) -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(
        file, file_format, exif=exif
    )
    sound, rng, folder = file.getvalue(), random.Random(0), ImageFolder(max_pixels=10_000)
    refused: list[DataError] = []
    for _ in range(300):
        content = bytearray(sound)
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(min(len(content), 200))] = rng.randrange(256)
        del content[rng.randint(len(content) // 2, 2 * len(content)) :]
        try:
            assert folder.decode(io.BytesIO(content)).mode == "RGB"
        except DataError as error:
            refused.append(error)
    assert len(refused) > 30
    assert all("\n" not in str(error) for error in refused)
