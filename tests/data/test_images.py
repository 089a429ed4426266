"""Reading pictures, whole and broken."""

import io
import os
import random
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from elip.config.schema import DataConfig
from elip.data.images import ImageFolder, View
from elip.data.pixels import Crop
from elip.data.transforms import EvalTransform, TrainTransform, draw_crop
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


def scene(width: int, height: int) -> Image.Image:
    """Return what a photograph has: slow changes of light, grain, and things with sharp edges."""
    rng = np.random.default_rng(0)
    light = Image.fromarray(rng.integers(40, 216, (5, 6, 3), dtype=np.uint8)).resize((width, height))
    drawing = ImageDraw.Draw(light)
    for _ in range(25):
        x, y, w, h = (int(rng.uniform(0, side)) for side in (width, height, width / 5, height / 5))
        drawing.ellipse((x, y, x + w, y + h), fill=tuple(rng.integers(0, 256, 3).tolist()))
    grainy = np.asarray(light) + rng.normal(0, 4, (height, width, 1))
    return Image.fromarray(grainy.clip(0, 255).astype(np.uint8))


def stored(image: Image.Image, file_format: str = "JPEG", orientation: int = 1, **options: Any) -> io.BytesIO:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    image.save(file, file_format, exif=exif, **options)
    return file


def levels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def show(crop: Crop, size: int, fast: bool = False) -> View:
    return View(lambda _width, _height: crop, size, fast)


@pytest.mark.parametrize("orient", [True, False])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("mode", "file_format"), [("RGB", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("RGB", "TIFF")])
def test_a_view_is_that_of_the_whole_picture(mode: str, file_format: str, orientation: int, orient: bool) -> None:
    image = scene(50, 30)
    if mode == "RGBA":
        image.putalpha(image.getchannel(0))
    file, folder = stored(image.convert(mode), file_format, orientation), ImageFolder(orient=orient)
    sizes = []

    def choose(width: int, height: int) -> Crop:
        sizes.append((width, height))
        return 3, 2, width - 10, height - 1

    whole, view = folder.decode(file), View(choose, 16)
    np.testing.assert_array_equal(levels(folder.decode(file, view)), levels(view.of(whole)))
    assert sizes == [whole.size] * 2


def test_levels_of_floats_are_told_from_the_whole_picture() -> None:
    file = io.BytesIO()
    Image.fromarray(np.array([[0, 1, 1, 200]], dtype=np.float32)).save(file, "TIFF")
    assert levels(ImageFolder().decode(file, show((1, 0, 2, 1), 1)))[0, 0].tolist() == [1] * 3


def drafted(file: io.BytesIO, size: int) -> Image.Image:
    """Return a JPEG as libjpeg decodes it at a size it can."""
    image = Image.open(file)
    image.draft(None, (size, size))
    assert image.size == (size, size)
    return image


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_fast_decoding_takes_the_smallest_scale_that_the_crop_allows(scale: int) -> None:
    size, side = 24, 24 * scale
    file = stored(scene(side, side))
    square = ImageFolder().decode(file, show((0, 0, side, side), size, fast=True))
    np.testing.assert_array_equal(levels(square), levels(drafted(file, size)))


def test_fast_decoding_of_a_crop_a_pixel_too_low_takes_the_next_scale() -> None:
    file, folder = stored(scene(96, 96)), ImageFolder()
    half = drafted(file, 48).resize((24, 24), Image.Resampling.BICUBIC, box=(0, 0, 48, 47.5))
    np.testing.assert_array_equal(levels(folder.decode(file, show((0, 0, 96, 95), 24, fast=True))), levels(half))
    exact, fast = (levels(folder.decode(file, show((0, 0, 96, 95), 48, fast))) for fast in (False, True))
    np.testing.assert_array_equal(fast, exact)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(("width", "height", "size"), [(640, 480, 64), (641, 483, 100), (1000, 750, 64)])
def test_fast_decoding_changes_levels_by_little(width: int, height: int, size: int, mode: str) -> None:
    file, rng = stored(scene(width, height).convert(mode)), random.Random(0)
    apart = []
    for _ in range(8):
        crop = draw_crop(width, height, (0.3, 1.0), rng)
        exact, fast = (levels(ImageFolder().decode(file, show(crop, size, fast))) for fast in (False, True))
        apart.append(abs(fast - exact))
    assert 0 < np.mean(apart) < 2
    assert np.max(apart) < 64


@pytest.mark.parametrize("orientation", range(1, 9))
def test_fast_decoding_finds_the_crop_in_turned_pictures(orientation: int) -> None:
    file = stored(scene(333, 247), orientation=orientation)  # no multiples of 8: the last pixel at scale 1/8 is a part
    exact, fast = (levels(ImageFolder().decode(file, show((20, 10, 230, 225), 25, fast))) for fast in (False, True))
    assert 0 < abs(exact - fast).mean() < 2.5


def test_fast_decoding_is_of_jpeg_alone_and_of_those_with_several_pictures() -> None:
    image, crop = scene(160, 120), (10, 20, 150, 110)
    several = stored(image, "MPO", save_all=True, append_images=[image])
    for file, same in ((stored(image, "PNG"), True), (several, False)):
        exact, fast = (levels(ImageFolder().decode(file, show(crop, 20, fast))) for fast in (False, True))
        assert np.array_equal(exact, fast) == same
        assert abs(exact - fast).mean() < 2.5


def test_fast_decoding_refuses_what_exact_decoding_refuses(jpeg: Path) -> None:
    view = show((0, 0, 30, 40), 4, fast=True)
    with pytest.raises(DataError, match=r"has 1,200 pixels \(30 x 40\), more than data\.max_image_pixels=1199"):
        ImageFolder(max_pixels=1199).open(str(jpeg), view=view)
    jpeg.write_bytes(jpeg.read_bytes()[:900])
    with pytest.raises(DataError, match=r"cat\.jpg: the image is cut short or damaged"):
        ImageFolder().open(str(jpeg), view=view)


def test_random_choices_are_the_same_under_fast_decoding() -> None:
    file = stored(scene(400, 300))
    for seed in range(20):
        drawn = []
        for fast in (False, True):
            rng, transform = random.Random(seed), TrainTransform(32, fast_decode=fast)
            crops: list[Crop] = []
            view = transform.view(rng)
            assert view.fast == fast

            def choose(width: int, height: int, view: View = view, crops: list[Crop] = crops) -> Crop:
                crops.append(view.choose(width, height))
                return crops[-1]

            transform.finish(ImageFolder().decode(file, replace(view, choose=choose)), rng)
            drawn.append((crops, rng.getstate()))
        assert drawn[0] == drawn[1]
