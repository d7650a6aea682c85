"""The methods that run the model again on every kind of network, against the references."""

import numpy as np
import pytest
from cam_references import OF_PROBES, Item

import gradcam_multi as gm
from gradcam_multi.image_input import ImageInput
from gradcam_multi.spec import TensorSpec
from gradcam_multi.testing import NETWORKS, Reference, inputs_of

METHODS = ["ablationcam", "recipro-cam", "rise", "scorecam"]  # replays, and changed inputs
TOLERANCE = 1e-4  # the adapter rounds to float32; weights may be differences of scores


def items_of(network, output, layer, inputs, targets):
    image = next(name for name, shape in network.inputs.items() if len(shape) == 3 or network.fold
                 or len(network.inputs) == 1)  # fmt: skip
    prefix, grid = network.fold or (0, None)
    for i, chosen in enumerate(targets):
        own = {name: array[i : i + 1] for name, array in inputs.items()}
        alone = Reference(network, own)
        row = alone.to_core(layer, alone.tensors[layer])[0]
        folded = row[:, prefix:].reshape(len(row), *grid) if grid else row

        def image_logits(changed, own=own):
            return Reference(network, {**own, image: changed[None].astype(np.float32)}).scores[
                output
            ][0]

        def layer_logits(a, alone=alone, row=row):
            if grid:
                tokens = np.concatenate([row[:, :prefix], a.reshape(len(a), -1)], 1)
                a = tokens.T
            return alone.replayed(layer, a[None])[output][0]

        yield Item(
            own[image][0].astype(float), folded, chosen, image_logits, layer_logits, None, None,
            samples=4,
        )  # fmt: skip


@pytest.mark.filterwarnings("ignore::gradcam_multi.CamWarning")  # some items have no evidence
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "fp16"])
def test_every_kind_of_network(name, method):
    network = NETWORKS[name]()
    inputs, targets = inputs_of(network, 2), [0, 1]
    output, layer = next(iter(network.defaults.items()))
    found = gm.explain(network, inputs, targets, method=method, output=output, samples=4)
    assert found.layer == layer or method == "rise"
    items = items_of(network, output, layer, inputs, targets)
    for item, status, map_ in zip(items, found.status, found.cam, strict=True):
        expected = OF_PROBES[method](item)
        scale = np.abs(expected).max()
        assert (status == "all_negative") == (scale == 0)
        np.testing.assert_allclose(map_, expected, rtol=0, atol=TOLERANCE * scale)


SPECS = (
    TensorSpec("age", (None, 1), "float32"),
    TensorSpec("photo", (None, 4, 5, 3), "uint8", layout="channels_last"),
)


@pytest.mark.parametrize("named", [True, False])
def test_the_image_among_several_inputs(named):
    rng = np.random.default_rng(0)
    age, photo = rng.random((2, 1), np.float32), rng.integers(0, 256, (2, 4, 5, 3), np.uint8)
    inputs = {"photo": photo, "age": age} if named else (age, photo)
    image = ImageInput(inputs, SPECS, 2)
    assert image.name == "photo"
    assert image.array.shape == (2, 3, 4, 5)
    np.testing.assert_array_equal(np.moveaxis(image.array, 1, -1), photo)
    made = np.concatenate([image.array * 0.5 + 0.2, image.array + 300, image.array - 300])
    changed = image.replaced(made, 3)
    got = changed if not named else (changed["age"], changed["photo"])
    np.testing.assert_array_equal(got[0], np.concatenate([age] * 3))
    assert got[1].dtype == np.uint8
    np.testing.assert_array_equal(got[1][:2], np.rint(photo * np.float32(0.5) + np.float32(0.2)))
    assert (got[1][2:4] == 255).all()  # clipped, not wrapped around
    assert (got[1][4:] == 0).all()
    twice = image.repeated(2)
    np.testing.assert_array_equal((twice["photo"] if named else twice[1])[2:], photo)


def test_inputs_without_an_image():
    image = ImageInput(np.zeros((2, 7), np.float32), (), 2)
    with pytest.raises(gm.InputError, match="none of the 1 has the map's 2 spatial axes"):
        image.array  # noqa: B018, it is looked up when asked for


class Elsewhere:
    """A tensor on another device, as its framework refuses to hand it out."""

    shape = (2, 3, 4, 4)

    def __array__(self, dtype=None, copy=None):
        raise TypeError("cannot convert a tensor on device gpu:0")


def test_inputs_on_another_device_are_said_to_be():
    image = ImageInput(Elsewhere(), (), 2)
    with pytest.raises(gm.InputError, match=r"gpu:0\): give NumPy arrays"):
        image.array  # noqa: B018, it is read when asked for
