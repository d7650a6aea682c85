"""The guided rule in graphs that TensorFlow traced: raw operations, SavedModels, loops."""

import pytest

tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
keras = pytest.importorskip("keras", reason="Keras is not installed")
if keras.backend.backend() != "tensorflow":
    pytest.skip("only the TensorFlow backend traces graphs", allow_module_level=True)

import numpy as np
from guided_keras import COTANGENT, FLOAT32, X, by_hand, gradient, net

from gradcam_multi.errors import UnsupportedError
from gradcam_multi.plugins import installed


class Own(keras.Model):
    """The layers of a `net`, and TensorFlow's own functions between them."""

    def __init__(self, model, relu):
        super().__init__()
        self.first, self.second, self.third = map(model.get_layer, ("first", "second", "third"))
        self.relu = relu

    def call(self, x):
        return self.third(self.relu(self.second(self.relu(self.first(x)))))


def test_raw_operations_are_guided():
    model = net(keras.ops.relu)
    (found,) = gradient(Own(model, tf.nn.relu), ["input"], relu="guided")
    np.testing.assert_allclose(found, by_hand(model), **FLOAT32)
    (found,) = gradient(Own(model, tf.nn.relu6), ["input"], relu="guided")
    np.testing.assert_allclose(found, by_hand(model, 6), **FLOAT32)


def test_a_saved_model_is_guided(tmp_path):
    model = net(keras.ops.relu)
    model.export(str(tmp_path / "saved"), verbose=False)
    opened = installed().open(str(tmp_path / "saved"))
    for rule in ("guided", "plain", "guided"):
        with opened.trace(X, [opened.inputs[0].name], relu=rule) as trace:
            (found,) = trace.vjp({next(iter(trace.logits)): COTANGENT})
        expected = by_hand(model) if rule == "guided" else gradient(model)[0]
        np.testing.assert_allclose(found, expected, **FLOAT32)


@pytest.mark.parametrize("kind", ["function", "loop"])
def test_a_relu_in_a_graph_of_its_own_is_refused(kind):
    inner = tf.function(tf.nn.relu)

    def loop(x):
        return tf.while_loop(lambda n, _: n < 2, lambda n, x: (n + 1, tf.nn.relu(x)), (0, x))[1]

    own = Own(net(keras.ops.relu), inner if kind == "function" else loop)
    with pytest.raises(UnsupportedError, match="runs a ReLU inside the loop, branch") as refused:
        gradient(own, ["input"], relu="guided")
    assert "\n" not in str(refused.value)
    assert gradient(own, ["input"])[0].shape == X.shape


def test_the_graph_is_not_marked_for_later_gradients():
    """Also where writing the guided gradient fails half way."""
    model = net(keras.ops.relu)
    opened = installed().open(model)
    with opened.trace(X, ["x"], relu="guided"):
        pass
    graph = opened._latest().graph
    assert len(opened._latest().relus) == 2
    assert not [op.name for op in graph.get_operations() if "_gradient_op_type" in op.node_def.attr]
