import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gradcam_multi.errors import PreprocessError
from gradcam_multi.preprocess import PRESETS, Geometry, Preprocess
from gradcam_multi.resize import resize

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SHAPES = [(97, 203), (203, 97), (64, 64), (500, 334)]


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def restored_slowly(geometry, grid, fill):
    """Sample the grid at the centre of each pixel of the picture, one by one, in float64."""
    (height, width), (top, left, bottom, right) = geometry.size, geometry.box
    rows, columns = grid.shape
    out = np.full((height, width), fill, np.float64)
    for y, x in np.ndindex(height, width):
        if not (top <= y + 0.5 < bottom and left <= x + 0.5 < right):
            continue
        v = min(max((y + 0.5 - top) / (bottom - top) * rows - 0.5, 0), rows - 1)
        u = min(max((x + 0.5 - left) / (right - left) * columns - 0.5, 0), columns - 1)
        y0, x0 = int(v), int(u)
        y1, x1, b, a = min(y0 + 1, rows - 1), min(x0 + 1, columns - 1), v - y0, u - x0
        upper = grid[y0, x0] * (1 - a) + grid[y0, x1] * a
        lower = grid[y1, x0] * (1 - a) + grid[y1, x1] * a
        out[y, x] = upper * (1 - b) + lower * b
    return out


@pytest.mark.parametrize("shape", SHAPES)
def test_imagenet_is_torchvisions_resize_and_centre_crop(shape):
    image = picture(*shape)
    # Written from torchvision's documentation: Resize(256) sets the shorter side and truncates the
    # longer; CenterCrop(224) rounds its offsets; ToTensor divides by 255; Normalize follows.
    h, w = shape
    h2, w2 = (256, int(256 * w / h)) if h <= w else (int(256 * h / w), 256)
    resized = np.asarray(Image.fromarray(image).resize((w2, h2), Image.Resampling.BILINEAR))
    top, left = round((h2 - 224) / 2.0), round((w2 - 224) / 2.0)
    crop = resized[top : top + 224, left : left + 224].astype(np.float64) / 255
    expected = (crop - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    array, geometry = PRESETS["imagenet"].apply(image)
    assert array.dtype == np.float32
    assert array.flags.c_contiguous
    # One rounding to float32 of values up to 2.7.
    np.testing.assert_allclose(array, expected.transpose(2, 0, 1), rtol=0, atol=2e-7)
    box = (top * h / h2, left * w / w2, (top + 224) * h / h2, (left + 224) * w / w2)
    assert geometry.size == shape
    assert geometry.box == pytest.approx(box, abs=1e-9)  # float64, values below 1000


def test_the_crop_scales_with_the_size():
    for side, resized in ((299, 341), (384, 438), (32, 36), (1, 1)):
        array, geometry = PRESETS["imagenet"].apply(picture(400, 600), size=(side, side))
        assert array.shape == (3, side, side)
        top, _, bottom, _ = geometry.box
        assert bottom - top == pytest.approx(side / resized * 400)
    # Not square: the picture just covers (256, 512), so that the height decides here.
    array, geometry = PRESETS["imagenet"].apply(picture(100, 300), size=(224, 448))
    assert array.shape == (3, 224, 448)
    assert geometry.box[2] - geometry.box[0] == pytest.approx(100 * 224 / 256)
    full = dataclasses.replace(PRESETS["imagenet"], crop_ratio=1)
    assert full.apply(picture(300, 300))[1].box == (0, 0, 300, 300)


@pytest.mark.parametrize("name", ["caffe", "tf", "unit"])
@pytest.mark.parametrize("shape", SHAPES)
def test_presets_of_the_whole_picture(name, shape):
    image = picture(*shape)
    resized = np.asarray(Image.fromarray(image).resize((224, 224), Image.Resampling.BILINEAR))
    pixels = resized.astype(np.float64)
    expected = {
        "caffe": pixels[..., ::-1] - (104, 117, 123),
        "tf": pixels / 127.5 - 1,
        "unit": pixels / 255,
    }[name]
    array, geometry = PRESETS[name].apply(image, layout="channels_last")
    assert array.shape == (224, 224, 3)
    # One rounding to float32 of values up to 1 (caffe: whole numbers, which are exact).
    np.testing.assert_allclose(array, expected, rtol=0, atol=1e-7)
    assert geometry == Geometry(shape, (0, 0, *shape))
    first, _ = PRESETS[name].apply(image, layout="channels_first")
    np.testing.assert_array_equal(first, array.transpose(2, 0, 1))


def test_caffe_reproduces_the_documented_preprocessing():
    if not DATA.is_dir():
        pytest.skip("../shared/data, with real photographs, is absent")
    photos = sorted((DATA / "photos").iterdir())
    assert photos
    from gradcam_multi.images import load_image

    for photo in photos:
        with Image.open(photo) as file:
            whole = file.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
        bgr = np.asarray(whole)[..., ::-1].astype(np.float32)
        expected = (bgr - np.float32([104, 117, 123])).transpose(2, 0, 1)
        array, _ = PRESETS["caffe"].apply(load_image(photo), size=(224, 224))
        np.testing.assert_array_equal(array, expected)  # whole numbers: exact


def test_one_channel_is_pillows_luma():
    image = picture(40, 30)
    array, _ = Preprocess(channels="L", size=(20, 10), mean=0.5, std=0.25).apply(image)
    grey = np.asarray(
        Image.fromarray(image).convert("L").resize((10, 20), Image.Resampling.BILINEAR)
    )
    assert array.shape == (1, 20, 10)
    # One rounding to float32 of values up to 2.
    np.testing.assert_allclose(array[0], (grey / 255 - 0.5) / 0.25, rtol=0, atol=2e-7)


@pytest.mark.parametrize("shape", [(97, 203), (203, 97)])
@pytest.mark.parametrize("fit", ["whole", "crop"])
@pytest.mark.parametrize("grid", [(7, 7), (13, 5), (1, 1), (224, 224)])
def test_restore_against_the_slow_reference(shape, fit, grid):
    _, geometry = Preprocess(fit=fit).apply(picture(*shape))
    cells = np.random.default_rng(1).random(grid).astype(np.float32)
    for fill in (0.0, np.nan):
        fast, slow = geometry.restore(cells, fill=fill), restored_slowly(geometry, cells, fill)
        assert fast.shape == shape
        assert fast.dtype == np.float32
        # Two float32 products of values and weights in [0, 1]: a few roundings of 6e-8 each.
        np.testing.assert_allclose(fast, slow, rtol=0, atol=5e-7)
    seen = ~np.isnan(fast)
    assert seen.all() if fit == "whole" else 0.1 < seen.mean() < 0.9


def test_restore_of_a_whole_picture_is_the_resize():
    maps = np.random.default_rng(2).random((2, 3, 13, 11)).astype(np.float32)
    restored = Geometry((97, 203), (0.0, 0.0, 97.0, 203.0)).restore(maps)
    expected = resize(maps.reshape(6, 13, 11), (97, 203)).reshape(2, 3, 97, 203)
    # The same weights in products of another order: a few roundings of 6e-8 each.
    np.testing.assert_allclose(restored, expected, rtol=0, atol=5e-7)


@pytest.mark.parametrize("shape", [(97, 203), (203, 97)])
@pytest.mark.parametrize("fit", ["whole", "crop"])
def test_a_mark_in_the_picture_comes_back_to_its_place(shape, fit):
    """Forth by Pillow, back by the geometry: independent of both sets of formulas."""
    for dy, dx in ((0, 0), (-15, 20), (11, -17)):
        y, x = shape[0] // 2 + dy, shape[1] // 2 + dx
        image = np.zeros((*shape, 3), np.uint8)
        image[y - 4 : y + 5, x - 4 : x + 5] = 255
        array, geometry = Preprocess(fit=fit).apply(image)
        restored = geometry.restore(array[0])
        rows, columns = np.mgrid[: shape[0], : shape[1]]
        # The blur is symmetric, so its centre of mass is the mark's, but for the phase of the
        # pixels (0.05 here). A grid taken by its corners or a crop one pixel off gives 0.3 or more.
        assert np.average(rows, weights=restored) == pytest.approx(y, abs=0.1)
        assert np.average(columns, weights=restored) == pytest.approx(x, abs=0.1)


def test_restore_refuses_what_is_no_map():
    with pytest.raises(PreprocessError, match="shape"):
        Geometry((4, 4), (0, 0, 4, 4)).restore(np.zeros(3))


@pytest.mark.parametrize(
    "preprocess",
    [
        *PRESETS.values(),
        Preprocess(size=(224, 192), mean=[1, 2, 3], std=2, layout="channels_last"),
        Preprocess(channels="L", fit="crop", crop_ratio=0.9, interpolation="bicubic", scale=1 / 3),
    ],
)
def test_json_round_trip(preprocess, tmp_path):
    text = preprocess.to_json()
    assert Preprocess.from_json(text) == preprocess
    assert set(json.loads(text)) == {field.name for field in dataclasses.fields(Preprocess)}
    path = tmp_path / "preprocess.json"
    path.write_text(text, encoding="utf-8")
    assert Preprocess.from_json(path) == Preprocess.named(str(path)) == preprocess
    assert hash(preprocess) == hash(Preprocess.from_json(text))


def test_named():
    for name, preset in PRESETS.items():
        assert Preprocess.named(name) is preset
    assert list(PRESETS) == ["imagenet", "caffe", "tf", "unit"]
    with pytest.raises(PreprocessError, match="did you mean 'imagenet'"):
        Preprocess.named("imagnet")
    with pytest.raises(PreprocessError, match=r"cannot read .*absent\.json"):
        Preprocess.named("absent.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"sise": [224, 224]}', "unknown key 'sise'; did you mean 'size'"),
        ('{"fit": "hole"}', "fit is 'hole'; did you mean 'whole'"),
        ('{"channels": "rgb"}', "give one of RGB, BGR, L"),
        ('{"layout": "NCHW"}', "channels_first, channels_last"),
        ('{"interpolation": 2}', "interpolation is 2"),
        ('{"size": 224}', "size is 224"),
        ('{"size": [224, 0]}', "height, width"),
        ('{"size": [224.0, 224]}', "whole numbers"),
        ('{"mean": [1, 2]}', "mean has 2 numbers for 3 channels"),
        ('{"std": [1, 0, 1]}', "cannot be 0"),
        ('{"std": null}', "std is None"),
        ('{"scale": true}', "scale is True"),
        ('{"scale": NaN}', "finite"),
        ('{"scale": 0}', "scale is 0"),
        ('{"crop_ratio": 1.5}', "crop_ratio is 1.5"),
        ('{"fit": "whole"', "is not JSON"),
    ],
)
def test_a_wrong_description_is_refused_by_name(text, words):
    with pytest.raises(PreprocessError, match=words) as error:
        Preprocess.from_json(text)
    assert "\n" not in str(error.value)


def test_json_that_is_no_object_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[1]", encoding="utf-8")
    with pytest.raises(PreprocessError, match="give an object"):
        Preprocess.from_json(path)


def test_the_model_fills_in_what_is_left_open_and_contradictions_are_refused():
    image, free = picture(30, 40), Preprocess()
    assert free.apply(image)[0].shape == (3, 224, 224)
    assert free.apply(image, size=(96, 64))[0].shape == (3, 96, 64)
    assert free.apply(image, size=(None, None))[0].shape == (3, 224, 224)
    assert free.apply(image, size=(96, None))[0].shape == (3, 96, 96)
    fixed = Preprocess(size=(96, 64), layout="channels_last")
    assert fixed.apply(image)[0].shape == (96, 64, 3)
    assert fixed.apply(image, size=(96, 64), layout="channels_last")[0].shape == (96, 64, 3)
    with pytest.raises(PreprocessError, match="gives 96x64, the model takes 224x224"):
        fixed.apply(image, size=(224, 224))
    with pytest.raises(PreprocessError, match="the model takes channels_first"):
        fixed.apply(image, layout="channels_first")
    with pytest.raises(PreprocessError, match="load_image"):
        free.apply(image.astype(np.float32))
