"""Rows of tokens: the default layer of token models, and how a row lies over the image."""

import numpy as np
import pytest

from gradcam_multi import Layer, final_feature_map
from gradcam_multi.choice import choose, moved, on_grid
from gradcam_multi.errors import LayerError
from gradcam_multi.layers import Layers, mark_default, residual_stream
from gradcam_multi.spec import Folding
from gradcam_multi.tokens import FoldedTrace, fold, fold_rows, folding_of, grids_behind, unfold


def graph(text):
    """Read operations, one a line: `name role grid < inputs`; the last one makes the output.

    A grid of one number is a row of tokens, channels last.
    """
    lines = [line.split() for line in text.strip().splitlines()]
    layers = []
    for words in lines:
        name, role, grid = words[:3]
        sides = tuple(int(n) for n in grid.split("x")) if grid != "-" else ()
        row = len(sides) == 1
        shape = (None, *sides, 8) if row else (None, 8, *sides)
        axis = (2 if row else 1) if sides else None
        output = "y" if words is lines[-1] else None
        layers.append(Layer(name, role, role, shape, axis, tuple(words[4:]), output))
    return layers


def block(name, source, tokens, attention="attention"):
    """One encoder block: normalise, attend, add; normalise, two dense layers, add."""
    return f"""
        {name}.norm1 other {tokens} < {source}
        {name}.q linear {tokens} < {name}.norm1
        {name}.k linear {tokens} < {name}.norm1
        {name}.v linear {tokens} < {name}.norm1
        {name}.qk {attention} - < {name}.q {name}.k
        {name}.softmax other - < {name}.qk
        {name}.av {attention} {tokens} < {name}.softmax {name}.v
        {name}.proj linear {tokens} < {name}.av
        {name}.add1 other {tokens} < {source} {name}.proj
        {name}.norm2 other {tokens} < {name}.add1
        {name}.mlp linear {tokens} < {name}.norm2
        {name}.add2 other {tokens} < {name}.add1 {name}.mlp"""


STEM = """
        patches conv 4x4 < x
        row other 16 < patches
        cat other 17 < row
        pos other 17 < cat
        drop identity 17 < pos"""
CLASS_HEAD = """
        cls other - < {0}
        head linear - < cls"""

NETWORKS = {
    "class token: what enters the last block, not the last block's result": (
        ["b2.add2", "b1.add2", "pos"],
        STEM + block("b1", "drop", 17) + block("b2", "b1.add2", 17) + block("b3", "b2.add2", 17)
        + "\n norm other 17 < b3.add2" + CLASS_HEAD.format("norm"),
    ),
    "one block: the embedded tokens, named before the dropout": (
        ["pos"], STEM + block("b1", "drop", 17) + CLASS_HEAD.format("b1.add2"),
    ),
    "blocks on (N, H, W, C), windows inside the branch": (
        ["add", "patches"], """
        patches conv 4x4 < x
        norm1 other 4x4 < patches
        part other - < norm1
        qk attention - < part part
        av attention - < qk part
        back other 4x4 < av
        add other 4x4 < patches back
        norm2 other 4x4 < add
        part2 other - < norm2
        qk2 attention - < part2 part2
        av2 attention - < qk2 part2
        back2 other 4x4 < av2
        add2 other 4x4 < add back2
        mean pool - < add2
        head linear - < mean""",
    ),
    "normalisation after the addition": (
        ["n1b", "row"], """
        patches conv 4x4 < x
        row other 16 < patches
        mha1 attention 16 < row
        add1 other 16 < row mha1
        n1a other 16 < add1
        ff1 linear 16 < n1a
        add1b other 16 < n1a ff1
        n1b other 16 < add1b
        mha2 attention 16 < n1b
        add2 other 16 < n1b mha2
        n2a other 16 < add2
        mean pool - < n2a
        head linear - < mean""",
    ),
    "attention and dense layers side by side read one normalisation": (
        ["row"], """
        patches conv 4x4 < x
        row other 16 < patches
        norm other 16 < row
        mha attention 16 < norm
        mlp linear 16 < norm
        add other 16 < row mha mlp
        mean pool - < add
        head linear - < mean""",
    ),
    "class attention (CaiT): the patch tokens before both class blocks": (
        ["b1.add2", "row"], """
        patches conv 4x4 < x
        row other 16 < patches""" + block("b1", "row", 16) + """
        cat1 other 17 < b1.add2
        n1 other 17 < cat1
        q1 linear 1 < n1
        v1 linear 17 < n1
        ca1 attention 1 < q1 v1
        cls1 other 1 < ca1
        cat2 other 17 < cls1 b1.add2
        n2 other 17 < cat2
        q2 linear 1 < n2
        v2 linear 17 < n2
        ca2 attention 1 < q2 v2
        cls2 other 1 < cls1 ca2
        flat other - < cls2
        head linear - < flat""",
    ),
    "attention pooling behind blocks: what enters the last block": (
        ["row"], """
        patches conv 4x4 < x
        row other 16 < patches""" + block("b1", "row", 16) + """
        pool attention 1 < b1.add2
        flat other - < pool
        head linear - < flat""",
    ),
    "attention pooling behind convolutions: no residual, the rule of convolutions": (
        None, """
        conv conv 7x7 < x
        relu other 7x7 < conv
        row other 49 < relu
        mean pool 1 < row
        cat other 50 < mean row
        qk attention - < cat cat
        av attention 1 < qk cat
        flat other - < av
        head linear - < flat""",
    ),
    "a convolution behind the attention (MobileViT): the rule of convolutions": (
        None, """
        conv0 conv 7x7 < x
        row other 49 < conv0""" + block("b1", "row", 49) + """
        grid other 7x7 < b1.add2
        conv conv 7x7 < grid
        relu other 7x7 < conv
        mean pool - < relu
        head linear - < mean""",
    ),
    "convolutions for query and key inside the block (CvT)": (
        ["add0"], """
        patches conv 4x4 < x
        q0 conv 4x4 < patches
        qk0 attention - < q0 patches
        av0 attention 4x4 < qk0 patches
        add0 other 4x4 < patches av0
        norm other 4x4 < add0
        q conv 4x4 < norm
        qk attention - < q norm
        av attention 4x4 < qk norm
        add other 4x4 < add0 av
        mean pool - < add
        head linear - < mean""",
    ),
}  # fmt: skip
CONVOLUTIONAL = {
    "attention pooling behind convolutions: no residual, the rule of convolutions": "relu",
    "a convolution behind the attention (MobileViT): the rule of convolutions": "relu",
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_default_layer_of_token_models(name):
    stream, text = NETWORKS[name]
    layers = graph(text)
    if stream is None:
        assert residual_stream(layers) == []
        assert final_feature_map(layers).name == CONVOLUTIONAL[name]
    else:
        assert [layer.name for layer in residual_stream(layers)] == stream
        assert final_feature_map(layers).name == stream[0]


def test_attention_of_another_output_does_not_count():
    layers = graph(NETWORKS["normalisation after the addition"][1])
    scores = Layer("aside", "fc", "linear", (None, 3), None, ("n1b",), "aside")
    assert final_feature_map([*layers, scores], "aside").name == "row"
    assert final_feature_map([*layers, scores], "y").name == "n1b"


def test_choice_knows_where_to_move():
    layers = graph(NETWORKS[next(iter(NETWORKS))][1])
    choice = choose(layers, None, "y")
    assert (choice.name, choice.upstream) == ("b2.add2", ("b1.add2", "pos"))
    assert (moved(choice).name, moved(choice).upstream) == ("b1.add2", ("pos",))
    assert choice.grids["pos"] == ((4, 4),)
    named = choose(layers, "b3.add2", "y")
    assert (named.name, named.upstream, named.default) == ("b3.add2", (), "b2.add2")


# How a row lies over the image.

IMAGE = [(224, 224)]


@pytest.mark.parametrize(
    ("tokens", "grids", "sizes", "expected"),
    [
        (197, [(14, 14)], IMAGE, Folding((14, 14), 1)),
        (198, [(14, 14)], IMAGE, Folding((14, 14), 2)),  # DeiT
        (201, [(14, 14)], IMAGE, Folding((14, 14), 5)),  # four registers
        (196, [(14, 14)], IMAGE, Folding((14, 14), 0)),
        (393, [(14, 28)], [(224, 448)], Folding((14, 28), 1)),
        (49, [(56, 56)], IMAGE, Folding((7, 7), 0)),  # patches merged three times
        (50, [(7, 7), (56, 56)], IMAGE, Folding((7, 7), 1)),
        (35, [(13, 9)], [(208, 144)], Folding((7, 5), 0)),  # halved, rounded up
        (24, [(13, 9)], [(208, 144)], Folding((6, 4), 0)),  # halved, rounded down
        (197, [], IMAGE, Folding((14, 14), 1)),  # patches cut by reshaping
        (578, [], [(384, 384)], Folding((24, 24), 2)),
        (1568, [(8, 14, 14)], [(16, 224, 224)], Folding((8, 14, 14), 0)),  # tubelets
        (392, [(8, 14, 14)], [(16, 224, 224)], Folding((8, 7, 7), 0)),  # merged, time kept
        (17, [(4, 4)], [(None, None)], Folding((4, 4), 1)),
        (77, [], [], None),  # a model of text or signals
    ],
)
def test_folding(tokens, grids, sizes, expected):
    assert folding_of("layer", tokens, grids, sizes) == expected


@pytest.mark.parametrize(
    ("tokens", "grids", "sizes", "words"),
    [
        (151, [(14, 14)], IMAGE, ["151 tokens", "224x224", "14x14", "grid=(rows, columns)"]),
        (145, [(8, 18), (12, 12)], [(64, 144)], ["8x18 and 12x12", "grid=(8, 18)"]),
        (300, [(14, 14)], IMAGE, ["300 tokens"]),  # 104 prompts: perhaps, but not to be guessed
        (2, [(4, 4)], [(64, 64)], ["2 tokens"]),  # two class tokens alone
    ],
)
def test_what_is_ambiguous_is_asked_for(tokens, grids, sizes, words):
    with pytest.raises(LayerError) as error:
        folding_of("blocks.11", tokens, grids, sizes)
    for word in ["'blocks.11'", *words]:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_the_grid_asked_for_decides():
    assert folding_of("layer", 300, [(14, 14)], IMAGE, (14, 14)) == Folding((14, 14), 104)
    assert folding_of("layer", 145, [], IMAGE, (12, 12)) == Folding((12, 12), 1)
    assert folding_of("text", 77, [(14, 14)], IMAGE, (77,)) == Folding((77,), 0)
    with pytest.raises(LayerError, match=r"grid=\(15, 15\).*makes 197 tokens.*at most"):
        folding_of("layer", 197, [(14, 14)], IMAGE, (15, 15))


def test_only_convolutions_before_the_layer_count():
    layers = graph("""
        a conv 8x8 < x
        b conv 4x4 < a
        row other 17 < b
        aside conv 2x2 < a
        line conv 16 < row
        both other 17 < row aside""")
    grids = grids_behind(layers)
    assert grids["row"] == grids["line"] == ((4, 4), (8, 8))
    assert grids["both"] == ((2, 2), (8, 8), (4, 4))


def test_table_shows_the_folded_grid():
    layers = mark_default(graph(NETWORKS[next(iter(NETWORKS))][1]))
    table = str(fold_rows(layers, [(64, 64)])).splitlines()
    assert [line.split()[-1] for line in table if "b2.add2" in line] == ["4x4+1"]
    assert [line.split()[-1] for line in table if " row " in line] == ["4x4"]
    # Nothing to fold over: the row stays a row, and what does not fit is shown as it is.
    assert "4x4+1" not in str(fold_rows(layers, []))
    odd = fold_rows(Layers([Layer("row", "add", "other", (None, 151, 8), 2, ())]), IMAGE)
    assert odd[0].folding is None


def test_unfold_undoes_fold():
    row = np.random.default_rng(0).normal(size=(2, 3, 13)).astype(np.float32)
    folding = Folding((3, 4), 1)
    folded = fold(row, folding)
    assert folded.shape == (2, 3, 3, 4)
    assert folded[1, 2, 1, 3] == row[1, 2, 1 + 1 * 4 + 3]
    np.testing.assert_array_equal(unfold(folded, folding, row), row)
    # One item replayed many times keeps that item's prefix.
    many = np.repeat(folded[:1], 5, 0)
    np.testing.assert_array_equal(
        unfold(many, folding, row[:1])[:, :, 0], np.repeat(row[:1, :, 0], 5, 0)
    )


class Linear:
    """A trace of tokens (N, C, T) whose score is a weighted sum, so that its gradient is known."""

    def __init__(self, weights):
        self.weights = weights
        self.activations = (
            np.arange(2 * weights.size, dtype=np.float32).reshape(2, *weights.shape),
        )
        self.logits = self.outputs = self.replay("layer", self.activations[0])

    def vjp(self, cotangents):
        return (cotangents["y"][:, :1, None] * self.weights[None],)

    def replay(self, layer, activation):
        return {"y": (activation * self.weights).sum((1, 2))[:, None]}


def test_a_folded_trace_keeps_the_contract():
    weights = np.random.default_rng(1).normal(size=(3, 7)).astype(np.float32)
    plain, folding = Linear(weights), Folding((2, 3), 1)
    trace = FoldedTrace(plain, folding)
    (a,) = trace.activations
    (g,) = trace.vjp({"y": np.ones((2, 1), np.float32)})
    assert a.shape == g.shape == (2, 3, 2, 3)
    np.testing.assert_array_equal(g[0, 1, 1, 2], weights[1, 6])
    assert not trace.dead
    # The same activation gives the same score; a changed cell changes it by its own weight.
    np.testing.assert_array_equal(trace.replay("layer", a)["y"], plain.logits["y"])
    changed = a.copy()
    changed[:, 2, 0, 1] += 1
    difference = trace.replay("layer", changed)["y"] - plain.logits["y"]
    np.testing.assert_allclose(difference, weights[2, 2], atol=1e-5)  # of sums of about 100


def test_a_dead_last_block_shows():
    weights = np.zeros((3, 7), np.float32)
    weights[:, 0] = 1
    trace = FoldedTrace(Linear(weights), Folding((2, 3), 1))
    trace.vjp({"y": np.ones((2, 1), np.float32)})
    assert trace.dead
    trace.vjp({"y": np.zeros((2, 1), np.float32)})  # no score, no saying
    assert not trace.dead


def test_a_layer_with_a_grid_of_its_own_takes_no_other():
    layers = graph("conv conv 4x4 < x\nfc linear - < conv")
    trace = Linear(np.ones((8, 16), np.float32))
    trace.activations = (trace.activations[0].reshape(2, 8, 4, 4),)
    choice = choose(layers, "conv", "y")
    assert on_grid(trace, choice, [(64, 64)], None) is trace
    assert on_grid(trace, choice, [(64, 64)], (4, 4)) is trace
    with pytest.raises(LayerError, match=r"grid=\(2, 8\).*'conv'.*\(4, 4\) already"):
        on_grid(trace, choice, [(64, 64)], (2, 8))
