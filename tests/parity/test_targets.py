"""Targets of maps and of several outputs: the same weights, in three frameworks and two layouts."""

import keras
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import gradcam_multi as gm

# Float32 in three runtimes, through two convolutions, relative to the map's largest value.
SAME = 1e-5
IMAGES = np.random.default_rng(0).random((2, 3, 16, 12), np.float32)
LABELS = ["sky", "tree", "road"]


def drawn():
    rng = np.random.default_rng(32)  # of those that predict each class for many cells
    # More for than against, so that ReLU leaves something of every map.
    shapes = {"stem": (6, 3, 3, 3), "map": (3, 6, 1, 1), "scores": (4, 6)}
    means = {"stem": 0.0, "map": 0.2, "scores": 0.4}
    return {n: rng.normal(means[n], 0.4, s).astype(np.float32) for n, s in shapes.items()}


WEIGHTS = drawn()


def by_torch():
    class Both(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = torch.nn.Conv2d(3, 6, 3, padding=1, bias=False)
            self.classes = torch.nn.Conv2d(6, 3, 1, bias=False)
            self.linear = torch.nn.Linear(6, 4, bias=False)
            with torch.no_grad():
                self.stem.weight.copy_(torch.from_numpy(WEIGHTS["stem"]))
                self.classes.weight.copy_(torch.from_numpy(WEIGHTS["map"]))
                self.linear.weight.copy_(torch.from_numpy(WEIGHTS["scores"]))

        def forward(self, x):
            seen = torch.relu(self.stem(x))
            return {"map": self.classes(seen), "scores": self.linear(seen.mean((2, 3)))}

    return Both(), IMAGES


def by_keras():
    x = keras.Input((16, 12, 3))
    seen = keras.layers.Conv2D(6, 3, padding="same", use_bias=False, activation="relu")(x)
    maps = keras.layers.Conv2D(3, 1, use_bias=False, name="map")(seen)
    pooled = keras.layers.GlobalAveragePooling2D()(seen)
    scores = keras.layers.Dense(4, use_bias=False, name="scores")(pooled)
    model = keras.Model(x, {"map": maps, "scores": scores})
    turned = {n: np.moveaxis(w, (0, 1), (-1, -2)) for n, w in WEIGHTS.items()}
    stem, classes = (each for each in model.layers if isinstance(each, keras.layers.Conv2D))
    stem.set_weights([turned["stem"]])
    classes.set_weights([turned["map"]])
    model.get_layer("scores").set_weights([turned["scores"]])
    return model, IMAGES.transpose(0, 2, 3, 1)


def by_onnx():
    proto = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        both (float[N, 3, 16, 12] image) => (float[N, 3, 16, 12] map, float[N, 4] scores)
        {
            conv = Conv<pads = [1, 1, 1, 1]>(image, w_stem)
            seen = Relu(conv)
            map = Conv(seen, w_map)
            mean = GlobalAveragePool(seen)
            row = Flatten(mean)
            scores = Gemm<transB = 1>(row, w_scores)
        }
    """)
    proto.graph.initializer.extend(
        numpy_helper.from_array(w, f"w_{name}") for name, w in WEIGHTS.items()
    )
    return proto.SerializeToString(), IMAGES


TARGETS = {
    "score": 2,
    "difference": gm.ClassDifference(0, [1, 3]),
    "predicted region": gm.RegionScore("tree", output="map"),
    "mask": gm.RegionScore(0, np.arange(192).reshape(16, 12) % 5 == 0, output="map"),
    "cell": gm.RegionScore(2, (3, 9), output="map"),
    "embedding": gm.Similarity([1.0, -0.5, 0.25, 2.0], output="scores"),
    "two outputs": gm.FunctionScore(
        lambda found: float(found["scores"][1] ** 2 + np.square(found["map"]).mean()),
        lambda found: {
            "scores": np.array([0, 2 * found["scores"][1], 0, 0]),
            "map": 2 * found["map"] / found["map"].size,
        },
        ("scores", "map"),
    ),
}


@pytest.fixture(scope="module")
def explainers():
    opened = {}
    for make in (by_torch, by_keras, by_onnx):
        model, inputs = make()
        opened[make.__name__] = gm.Explainer(model, method="hirescam", labels=LABELS), inputs
    return opened


@pytest.mark.parametrize("name", TARGETS)
def test_every_framework_gives_one_map(explainers, name):
    found = {by: e(inputs, TARGETS[name]) for by, (e, inputs) in explainers.items()}
    expected = found.pop("by_torch")
    assert expected.status == ("ok", "ok")
    scale = np.abs(expected.cam).max()
    for by, each in found.items():
        assert each.cam.shape == expected.cam.shape == (2, 16, 12), by
        np.testing.assert_allclose(each.cam, expected.cam, rtol=0, atol=SAME * scale)
        np.testing.assert_allclose(each.scores, expected.scores, rtol=SAME)
        assert [each.name(i) for i in range(2)] == [expected.name(i) for i in range(2)]


def test_autograd_gives_the_same_gradient():
    """The map of a score over two outputs, by PyTorch's own differentiation of the same formula."""
    model, _ = by_torch()
    explanation = gm.explain(model, IMAGES, TARGETS["two outputs"], method="hirescam")
    x = torch.from_numpy(IMAGES)
    seen = torch.relu(model.stem(x)).detach().requires_grad_()
    scores = model.linear(seen.mean((2, 3)))
    total = (scores[:, 1] ** 2).sum() + (model.classes(seen) ** 2).mean((1, 2, 3)).sum()
    total.backward()
    cam = torch.relu((seen * seen.grad).sum(1)).detach().numpy()
    np.testing.assert_allclose(explanation.cam, cam, rtol=0, atol=SAME * cam.max())
