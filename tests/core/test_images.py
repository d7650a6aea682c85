import io
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from gradcam_multi.errors import ImageError
from gradcam_multi.images import SUFFIXES, find_images, load_image

RNG = np.random.default_rng(0)
GREY_16 = np.array([[0, 128, 129, 511], [32768, 65535, 65280, 1000]], np.uint16)


@pytest.fixture(autouse=True)
def _no_warning_and_no_change_of_pillow():
    before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS) == before


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def one_line(error: pytest.ExceptionInfo[ImageError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert message
    return message


def test_every_kind_of_source_gives_the_same_picture(tmp_path):
    pixels = RNG.integers(0, 256, (97, 203, 3), np.uint8)
    data = encoded(Image.fromarray(pixels))
    path = tmp_path / "a.png"
    path.write_bytes(data)

    class Stream(io.RawIOBase):  # a pipe, which cannot be wound back
        def __init__(self):
            self.rest = data

        def readable(self):
            return True

        def read(self, size=-1):
            out, self.rest = self.rest, b""
            return out

    wound_on = io.BytesIO(data)
    wound_on.seek(0, io.SEEK_END)
    sources = [path, str(path), data, wound_on, Stream(), Image.open(path), pixels]
    for source in sources:
        loaded = load_image(source)
        assert loaded.dtype == np.uint8
        assert loaded.flags.c_contiguous
        assert loaded.flags.owndata
        assert loaded.flags.writeable
        np.testing.assert_array_equal(loaded, pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    upright = RNG.integers(0, 256, (5, 7, 3), np.uint8)
    # What a camera held so would store: the inverse of what a viewer has to do.
    turned = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation](upright)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(turned))
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(load_image(encoded(stored, kind, exif=exif)), upright)


@pytest.mark.parametrize("block", [b"Exif\0\0MM", b"Exif\0\0II*\0\xff\xff\xff\xff", b"?" * 40])
def test_a_damaged_exif_block_is_no_orientation_and_no_warning(block):
    pixels = np.full((4, 6, 3), 9, np.uint8)
    image = Image.fromarray(pixels)
    image.info["exif"] = block
    np.testing.assert_array_equal(load_image(image), pixels)


def test_greyscale_bilevel_and_palette():
    grey = RNG.integers(0, 256, (6, 5), np.uint8)
    expected = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(load_image(encoded(Image.fromarray(grey))), expected)
    np.testing.assert_array_equal(load_image(grey), expected)
    np.testing.assert_array_equal(load_image(grey[..., None]), expected)
    bilevel = load_image(encoded(Image.fromarray(grey > 99)))
    np.testing.assert_array_equal(bilevel[..., 0], np.where(grey > 99, 255, 0))
    palette = Image.fromarray(grey % 2, "L").convert("P")
    palette.putpalette([255, 0, 0, 0, 0, 255])
    colours = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)[grey % 2]
    np.testing.assert_array_equal(load_image(encoded(palette)), colours)


def test_cmyk():
    image = Image.new("CMYK", (3, 2), (255, 0, 0, 0))
    np.testing.assert_array_equal(load_image(encoded(image, "TIFF")), [[[0, 255, 255]] * 3] * 2)


def test_alpha_is_composited_over_the_background():
    rgba = RNG.integers(0, 256, (9, 8, 4), np.uint8)
    for background in ((255, 255, 255), (10, 200, 0)):
        expected = np.zeros((9, 8, 3))
        for y in range(9):
            for x in range(8):
                a = rgba[y, x, 3] / 255
                expected[y, x] = rgba[y, x, :3] * a + np.array(background) * (1 - a)
        # Rounded to nearest: 255 is odd, so that there are no ties.
        for source in (rgba, encoded(Image.fromarray(rgba)), Image.fromarray(rgba)):
            np.testing.assert_array_equal(
                load_image(source, background=background), expected.round()
            )


def test_transparent_colours_of_palette_grey_and_rgb_pictures():
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 9, 9, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    for transparency in (0, b"\x00\xff"):
        data = encoded(palette, transparency=transparency)
        np.testing.assert_array_equal(load_image(data), [[[255] * 3, [0, 0, 255]]])
    data = encoded(Image.new("RGB", (1, 1), (1, 2, 3)), transparency=(1, 2, 3))
    np.testing.assert_array_equal(load_image(data), [[[255] * 3]])
    np.testing.assert_array_equal(
        load_image(encoded(Image.new("LA", (1, 1), (7, 0)))), [[[255] * 3]]
    )


def test_16_bit_greyscale_is_scaled_and_not_clipped():
    expected = np.rint(GREY_16 / 257)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in GREY_16)
    big_endian = Image.frombytes("I;16B", (4, 2), GREY_16.astype(">u2").tobytes())
    wide = Image.fromarray(GREY_16.astype(np.int32))
    for source in (
        GREY_16,
        png(4, 2, 16, 0, rows),
        Image.fromarray(GREY_16),
        encoded(big_endian, "TIFF"),
        encoded(wide, "TIFF"),
        b"P5 4 2 65535\n" + GREY_16.astype(">u2").tobytes(),
    ):
        np.testing.assert_array_equal(load_image(source)[..., 1], expected)


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4)])
def test_16_bit_colour_files_lose_at_most_one_level(colour, channels):
    pixels = np.repeat(GREY_16[..., None], channels, axis=2)
    pixels[..., 3:] = 65535
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    loaded = load_image(png(4, 2, 16, colour, rows)).astype(int)
    # Pillow keeps the upper byte, value // 256, which is up to one level from value / 257.
    assert np.abs(loaded - pixels[..., :3] / 257).max() <= 1
    assert loaded.max() == 255


def test_floats_are_0_to_1():
    values = np.array([[0, 0.25, 1]], np.float32)
    for source in (values, values.astype(np.float16), encoded(Image.fromarray(values), "TIFF")):
        np.testing.assert_array_equal(load_image(source)[0, :, 0], [0, 64, 255])


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0, 2.0]]),
        np.array([[0, np.nan]]),
        np.array([[-0.5, 0]]),
        np.array([[0, 70000]], np.int32),
        np.zeros((2, 2, 2), np.uint8),
        np.zeros((1, 2, 2, 3), np.uint8),
        np.zeros(5, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_arrays_that_are_no_picture_are_refused(values):
    with pytest.raises(ImageError) as error:
        load_image(values)
    one_line(error)


def test_32_bit_values_out_of_range_are_refused():
    for source in (np.array([[-1, 5]], np.int32), np.array([[0, 70000]], np.int32)):
        with pytest.raises(ImageError, match="32-bit values"):
            load_image(encoded(Image.fromarray(source), "TIFF"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_a_file_with_a_broken_tail_is_refused(kind, share):
    data = encoded(Image.effect_noise((120, 90), 60), kind)
    with pytest.raises(ImageError) as error:
        load_image(data[: int(share * len(data))])
    one_line(error)


def test_a_file_that_is_no_picture_is_refused(tmp_path):
    for data, words in (
        (b"", "0 bytes"),
        (b"hello, world", "begins with b'hello"),
        (b"\xff", "no pic"),
    ):
        path = tmp_path / "a.jpg"
        path.write_bytes(data)
        for source in (path, data):
            with pytest.raises(ImageError, match=words) as error:
                load_image(source)
            one_line(error)
    with pytest.raises(ImageError, match="'rb'"):
        load_image(io.StringIO("hello"))
    with pytest.raises(ImageError, match="from int"):
        load_image(5)


def test_absent_files_folders_and_addresses(tmp_path):
    (tmp_path / "kitten.png").write_bytes(b"x")
    for path, words in (
        (tmp_path / "kiten.png", "did you mean 'kitten.png'"),
        (tmp_path / "no" / "a.png", "there is no folder"),
        (tmp_path, "is a folder"),
        ("https://example.org/a.png", "download"),
        ("a\0b", "cannot open"),
    ):
        with pytest.raises(ImageError, match=words) as error:
            load_image(path)
        one_line(error)


def test_the_pixel_limit_is_checked_before_decoding():
    # No pixel data at all: decoding would say "damaged", or take gigabytes.
    for side in (9_500, 20_000, 60_000):  # Pillow is silent, warns, and refuses
        with pytest.raises(ImageError, match="too large") as error:
            load_image(png(side, side, 8, 2, b""))
        assert f"{side}x{side}" in one_line(error)
    small = np.zeros((10, 10, 3), np.uint8)
    for source in (small, Image.fromarray(small), encoded(Image.fromarray(small))):
        assert load_image(source, max_pixels=100).shape == (10, 10, 3)
        with pytest.raises(ImageError, match="limit of 99"):
            load_image(source, max_pixels=99)


def test_animations_give_their_first_frame():
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(load_image(data)[0, 0], [255, 0, 0])


def test_threads_read_at_once():
    pixels = [np.full((64, 64, 3), value, np.uint8) for value in range(8)]
    data = [encoded(Image.fromarray(p), "PNG") for p in pixels]
    wrong = []

    def read(index: int) -> None:
        loaded = [load_image(data[index]) for _ in range(10)]
        wrong.extend(index for each in loaded if not np.array_equal(each, pixels[index]))

    threads = [threading.Thread(target=read, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_find_images_in_natural_order_without_repeats(tmp_path):
    for name in ("b10.png", "b2.PNG", "a.jpeg", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "sub.png").mkdir()
    names = ["a.jpeg", "b2.PNG", "b10.png"]
    assert [path.name for path in find_images(tmp_path)] == names
    assert [path.name for path in find_images([str(tmp_path / "b*")])] == names[1:]
    mixed = find_images([tmp_path / "b10.png", tmp_path, tmp_path / "notes.txt"])
    assert [path.name for path in mixed] == ["b10.png", "a.jpeg", "b2.PNG", "notes.txt"]
    assert all(isinstance(path, Path) for path in mixed)
    assert ".jpg" in SUFFIXES
    assert ".txt" not in SUFFIXES


def test_find_images_takes_names_with_brackets_as_they_are(tmp_path):
    (tmp_path / "a[1].png").touch()
    assert find_images([tmp_path / "a[1].png"]) == [tmp_path / "a[1].png"]


def test_find_images_refuses_what_stands_for_nothing(tmp_path):
    for given, words in (
        (tmp_path, "it is empty"),
        (tmp_path / "*.png", "no file matches"),
        (tmp_path / "no.png", "does not exist"),
        ([], "no picture was given"),
    ):
        with pytest.raises(ImageError, match=words) as error:
            find_images(given)
        one_line(error)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ImageError, match=r"only \.txt files"):
        find_images(tmp_path)
