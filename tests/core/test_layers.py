"""The rule of the default layer on the operation graphs of known architectures."""

import pytest

from gradcam_multi import Layer, final_feature_map
from gradcam_multi.errors import LayerError, NoDefaultLayerError
from gradcam_multi.layers import check_channels, mark_default


def graph(text):
    """Read operations, one a line: `name role grid < inputs`; the last one makes the output."""
    lines = [line.split() for line in text.strip().splitlines()]
    layers = []
    for words in lines:
        name, role, grid = words[:3]
        sides = tuple(int(n) for n in grid.split("x")) if grid != "-" else ()
        layers.append(
            Layer(
                name,
                role,
                role,
                (None, 8, *sides),
                channel_axis=1 if sides else None,
                inputs=tuple(words[4:]),
                output="y" if words is lines[-1] else None,
            )
        )
    return layers


NETWORKS = {
    "vgg": ("relu", """
        conv conv 14x14 < x
        relu other 14x14 < conv
        pool pool 7x7 < relu
        flat other - < pool
        fc linear - < flat"""),
    "resnet block, normalisation not folded": ("out", """
        first conv 7x7 < x
        short other 7x7 < first
        conv conv 7x7 < short
        bn other 7x7 < conv
        add other 7x7 < bn short
        out other 7x7 < add
        gap pool 1x1 < out
        flat other - < gap
        fc linear - < flat"""),
    "densenet: concatenation, final normalisation, ReLU": ("relu", """
        a conv 7x7 < x
        b conv 7x7 < a
        cat other 7x7 < a b
        bn other 7x7 < cat
        relu other 7x7 < bn
        gap pool - < relu
        fc linear - < gap"""),
    "squeezenet: the last convolution is the classifier": ("cat", """
        squeeze conv 13x13 < x
        left conv 13x13 < squeeze
        leftrelu other 13x13 < left
        right conv 13x13 < squeeze
        rightrelu other 13x13 < right
        cat other 13x13 < leftrelu rightrelu
        drop identity 13x13 < cat
        classes conv 13x13 < drop
        relu other 13x13 < classes
        gap pool 1x1 < relu
        flat other - < gap
        softmax other - < flat"""),
    "efficientnet: squeeze and excite on a 1x1 grid, swish as two operations": ("swish", """
        dw conv 7x7 < x
        gap pool 1x1 < dw
        se conv 1x1 < gap
        gate other 1x1 < se
        scaled other 7x7 < dw gate
        head conv 7x7 < scaled
        sigmoid other 7x7 < head
        swish other 7x7 < head sigmoid
        mean pool - < swish
        fc linear - < mean"""),
    "mobilenet v4: a convolution behind the pooling": ("relu", """
        conv conv 7x7 < x
        relu other 7x7 < conv
        gap pool 1x1 < relu
        hidden conv 1x1 < gap
        act other 1x1 < hidden
        fc linear - < act"""),
    "channel attention by a 1-D convolution over channels": ("mul", """
        conv conv 7x7 < x
        gap pool - < conv
        eca conv 512 < gap
        gate other 512 < eca
        mul other 7x7 < conv gate
        mean pool - < mul
        fc linear - < mean"""),
    "pooling of stride 1 keeps the grid, and is pooling": ("relu", """
        conv conv 7x7 < x
        relu other 7x7 < conv
        max pool 7x7 < relu
        flat other - < max
        fc linear - < flat"""),
    "segmentation: the class map is left out": ("relu", """
        conv conv 32x32 < x
        relu other 32x32 < conv
        classes conv 32x32 < relu
        softmax other 32x32 < classes"""),
    "classifier applied cell by cell as a dense layer": ("relu", """
        conv conv 32x32 < x
        relu other 32x32 < conv
        classes linear 32x32 < relu
        gap pool - < classes"""),
    "pointwise dense layers inside a block are followed": ("add", """
        stem conv 7x7 < x
        dw conv 7x7 < stem
        up linear 7x7 < dw
        gelu other 7x7 < up
        down linear 7x7 < gelu
        add other 7x7 < down stem
        gap pool - < add
        fc linear - < gap"""),
    "a later convolution off the path": ("relu", """
        conv conv 7x7 < x
        relu other 7x7 < conv
        aside conv 7x7 < relu
        gap pool - < relu
        fc linear - < gap"""),
    "only the classifier: its own map": ("conv", """
        conv conv 7x7 < x
        gap pool - < conv"""),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_final_feature_map(name):
    expected, text = NETWORKS[name]
    layers = graph(text)
    assert final_feature_map(layers).name == expected
    marked = mark_default(layers)
    assert marked.default.name == expected
    assert sum(layer.default for layer in marked) == 1


def test_the_chosen_output_decides():
    layers = graph(NETWORKS["a later convolution off the path"][1])
    aside = next(i for i, layer in enumerate(layers) if layer.name == "aside")
    layers.insert(aside + 1, Layer("scores", "fc", "linear", (None, 3), None, ("aside",), "second"))
    assert final_feature_map(layers, "y").name == "relu"
    assert final_feature_map(layers, "second").name == "aside"


def test_free_extents_count_as_a_grid():
    layers = [
        Layer("conv", "conv", "conv", (None, 8, None, None), 1, ("x",)),
        Layer("relu", "relu", "other", (None, 8, None, None), 1, ("conv",)),
        Layer("gap", "gap", "pool", (None, 8), None, ("relu",)),
        Layer("fc", "fc", "linear", (None, 8), None, ("gap",), "y"),
    ]
    assert final_feature_map(layers).name == "relu"


def test_channels_last():
    layers = [
        Layer("conv", "Conv2D", "conv", (None, 7, 7, 512), -1, ("x",)),
        Layer("fc", "Dense", "linear", (None, 10), None, ("conv",), "y"),
    ]
    assert layers[0].grid == (7, 7)
    assert final_feature_map(layers).name == "conv"


def test_a_result_without_known_channels_is_refused():
    """Whatever axis were taken, the map would look sound."""
    tokens = Layer("norm", "LayerNorm", "other", (None, 197, 768), None, ("x",))
    with pytest.raises(LayerError, match=r"layer 'norm' makes \(N, 197, 768\).*name a layer"):
        check_channels([tokens], "norm")
    check_channels([tokens], "another")
    check_channels(graph(NETWORKS["vgg"][1]), "relu")
    check_channels(graph(NETWORKS["vgg"][1]), "flat")  # too few axes: said when it has run


def test_nothing_qualifies():
    layers = graph("tokens other 14x14 < x\nfc linear - < tokens")
    with pytest.raises(NoDefaultLayerError, match=r"name one with layer=.*tokens"):
        final_feature_map(layers)
    assert mark_default(layers).default is None


def test_table_marks_the_default():
    table = str(mark_default(graph(NETWORKS["vgg"][1]))).splitlines()
    assert table[0].split() == ["layer", "kind", "shape", "grid"]
    assert [line for line in table if line.startswith("*")] == [table[2]]
    assert "(N, 8, 14, 14)" in table[2]
    assert "14x14" in table[2]
