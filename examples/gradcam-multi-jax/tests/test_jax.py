"""What is JAX's own: names, programs within programs, logits, layouts, state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from gradcam_multi_jax import JaxModel
from jax import lax

import gradcam_multi as gm
from gradcam_multi.errors import InputError, UnknownModelError

RNG = np.random.default_rng(0)
IMAGES = RNG.random((2, 3, 8, 6), np.float32)
KERNEL, DENSE = (RNG.normal(size=shape).astype(np.float32) for shape in ((4, 3, 3, 3), (4, 5)))


def scores(images):
    maps = jax.nn.relu(lax.conv_general_dilated(images, KERNEL, (1, 1), "SAME"))
    return maps.mean((2, 3)) @ DENSE


def gradients(model, layer, cotangent, inputs=IMAGES):
    opened = gm.Explainer(model, backend="jax").model
    with opened.trace(inputs, [layer]) as trace:
        (output,) = trace.logits
        return trace.activations[0], trace.vjp({output: cotangent})[0]


def test_operations_without_names_are_numbered():
    listed = gm.layers(JaxModel(scores), IMAGES)
    assert [(each.name, each.role) for each in listed][:2] == [
        ("conv_general_dilated_0", "conv"),
        ("relu_0", "other"),
    ]
    assert listed[-1].role == "linear"
    assert listed[-1].output == "output"
    assert listed.default.name == "relu_0"


def test_a_gradient_is_jaxs_own():
    """Against jax.grad of the rest of the function, written out by hand."""
    cotangent = RNG.normal(size=(2, 5)).astype(np.float32)
    maps, pulled = gradients(JaxModel(scores), "relu_0", cotangent)
    expected = jax.grad(lambda maps: ((maps.mean((2, 3)) @ DENSE) * cotangent).sum())(maps)
    np.testing.assert_allclose(pulled, expected, rtol=1e-6)  # the same operations in float32


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint], ids=["jit", "checkpoint"])
def test_what_only_groups_is_looked_into(wrap):
    names = [each.name for each in gm.layers(JaxModel(scores), IMAGES)]
    assert [each.name for each in gm.layers(JaxModel(wrap(scores)), IMAGES)] == names


def test_a_loop_is_one_operation_and_differentiated():
    def function(images):
        def step(maps, _):
            return jnp.tanh(lax.conv_general_dilated(maps, KERNEL[:3], (1, 1), "SAME")), None

        maps = lax.conv_general_dilated(images, KERNEL[:3], (1, 1), "SAME")
        maps, _ = lax.scan(step, maps, length=3)
        return maps.mean((2, 3)) @ DENSE[:3]

    listed = gm.layers(JaxModel(function), IMAGES)
    assert {each.name: each.role for each in listed}["scan_0"] == "conv"
    cotangent = RNG.normal(size=(2, 5)).astype(np.float32)
    maps, pulled = gradients(JaxModel(function), "conv_general_dilated_0", cotangent)

    def rest(maps):
        for _ in range(3):
            maps = jnp.tanh(lax.conv_general_dilated(maps, KERNEL[:3], (1, 1), "SAME"))
        return ((maps.mean((2, 3)) @ DENSE[:3]) * cotangent).sum()

    expected = jax.grad(rest)(maps)
    # The loop and its three steps written out are compiled, and so rounded, apart.
    np.testing.assert_allclose(pulled, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("end", "activation"),
    [
        (jax.nn.softmax, "softmax"),
        (jax.nn.log_softmax, "softmax"),
        (jax.nn.sigmoid, "sigmoid"),
        (jax.jit(lambda x: jax.nn.softmax(x).astype(jnp.float32)), "softmax"),
        (lambda x: jnp.exp(x - x.max(-1, keepdims=True)) / jnp.exp(x).sum(-1, keepdims=True), None),
        (lambda x: x / (1 + abs(x)), None),
    ],
    ids=["softmax", "log_softmax", "sigmoid", "jit", "not quite a softmax", "other"],
)
def test_logits_lie_behind_the_final_function(end, activation):
    model = gm.Explainer(JaxModel(lambda images: end(scores(images))), backend="jax").model
    with model.trace(IMAGES, ["relu_0"]) as trace:
        expected = scores(IMAGES) if activation else end(scores(IMAGES))
        # One operation more or less is compiled with its neighbours: some roundings of float32.
        np.testing.assert_allclose(trace.logits["output"], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(trace.outputs["output"], end(scores(IMAGES)), atol=1e-6)
    assert model.outputs[0].activation == activation


def test_the_layout_is_that_of_the_convolution():
    def last(images):
        dimensions = ("NHWC", "OIHW", "NHWC")
        maps = lax.conv_general_dilated(
            images, KERNEL, (1, 1), "SAME", dimension_numbers=dimensions
        )
        return jax.nn.relu(maps).mean((1, 2)) @ DENSE

    first = gm.explain(JaxModel(scores), IMAGES, 1)
    swapped = gm.explain(JaxModel(last), np.moveaxis(IMAGES, 1, -1), 1)
    assert first.size == swapped.size == (8, 6)
    # Two kernels for two layouts: some roundings of float32.
    np.testing.assert_allclose(swapped.cam, first.cam, rtol=0, atol=1e-5 * first.cam.max())


def test_parameters_are_read_at_each_run():
    params = {"dense": jnp.asarray(DENSE)}
    function = lambda params, images: (  # noqa: E731, a model as users write it
        lax.conv_general_dilated(images, KERNEL, (1, 1), "SAME").mean((2, 3)) @ params["dense"]
    )
    explainer = gm.Explainer(JaxModel(function, params))
    before = explainer(IMAGES, 0).cam
    params["dense"] = params["dense"].at[:, 0].multiply(2)
    np.testing.assert_allclose(explainer(IMAGES, 0).cam, 2 * before, rtol=1e-6)


class Reused(nnx.Module):
    """One module that is called twice, and a dropout that training would let fall."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(3, 3, (3, 3), rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.dense = nnx.Linear(3, 5, rngs=rngs)

    def __call__(self, images):
        maps = self.conv(nnx.relu(self.conv(images)))
        return self.dense(self.dropout(maps.mean((1, 2))))


def test_a_module_that_is_called_twice_has_two_layers():
    names = [each.name for each in gm.layers(Reused(), np.moveaxis(IMAGES, 1, -1))]
    assert [name for name in names if "/" not in name and "_" not in name] == [
        "conv", "conv#2", "dense",
    ]  # fmt: skip


def numbers(module):
    leaves = jax.tree.leaves(nnx.state(module))
    keys = [jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    assert any(keys)
    pairs = zip(leaves, keys, strict=True)
    return [np.asarray(jax.random.key_data(x) if key else x).tobytes() for x, key in pairs]


def test_dropout_does_nothing_and_leaves_its_random_state():
    model, images = Reused(), np.moveaxis(IMAGES, 1, -1)
    before = numbers(model)
    first, again = (gm.explain(model, images, 1).cam for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not model.dropout.deterministic
    assert before == numbers(model)


def test_a_half_precision_cotangent_does_not_vanish():
    """1e-7 is no number of float16, where gradients of it are looked for."""
    function = lambda params, images: (  # noqa: E731
        lax.conv_general_dilated(images, params["kernel"], (1, 1), "SAME").mean((2, 3))
    )
    model = JaxModel(function, {"kernel": jnp.asarray(KERNEL, jnp.float16)})
    _, pulled = gradients(model, "conv_general_dilated_0", np.full((2, 4), 1e-7, np.float32))
    np.testing.assert_allclose(pulled, 1e-7 / 48, rtol=1e-3)  # 11 bits


def test_several_batch_sizes_and_a_replay_of_a_larger_batch():
    model = gm.Explainer(JaxModel(scores), backend="jax").model
    with model.trace(IMAGES[:1], ["relu_0"]) as trace:
        stacked = np.concatenate([trace.activations[0], 0 * trace.activations[0]])
        replayed = trace.replay("relu_0", stacked)["output"]
        # The same sum, with or without the second item.
        np.testing.assert_allclose(replayed[0], trace.logits["output"][0], rtol=1e-6)
        assert not replayed[1].any()


def test_what_has_no_derivative_is_said():
    def function(images):
        maps = lax.conv_general_dilated(images, KERNEL, (1, 1), "SAME")
        return lax.while_loop(lambda x: x.sum() > 1e3, lambda x: x / 2, maps).mean((2, 3)) @ DENSE

    with pytest.raises(gm.UnsupportedError, match=r"conv_general_dilated_0.*while_loop"):
        gm.explain(JaxModel(function), IMAGES, layer="conv_general_dilated_0")


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        (None, "give an array"),
        (["a"], "no array of numbers"),
        (IMAGES[:, :2], r"\(2, 2, 8, 6\)"),
    ],
)
def test_inputs_that_do_not_fit_are_named(inputs, told):
    with pytest.raises(InputError, match=told) as raised:
        gm.layers(JaxModel(scores), inputs)
    assert "\n" not in str(raised.value)


def test_a_bare_function_is_nobodys():
    with pytest.raises(UnknownModelError):
        gm.explain(scores, IMAGES)


@pytest.mark.parametrize(
    ("activation", "guided"),
    [(jax.nn.relu, True), (jax.nn.relu6, True), (jax.nn.hard_sigmoid, False), (jax.nn.silu, False)],
)
def test_which_activations_are_guided(activation, guided):
    """By hand: a scaling, the activation, and a sum with weights of both signs."""
    x = np.linspace(-4, 9, 14, dtype=np.float32).reshape(2, 7)
    weights = np.array([1, -1, 2, -2, 1, 3, -1], np.float32)
    model = JaxModel(lambda x: jax.nn.relu(2 * activation(x) @ jnp.diag(weights)))
    opened = gm.Explainer(model, backend="jax").model
    cotangent = np.ones((2, 7), np.float32)
    with opened.trace(x, ["x"], relu="guided") as trace:
        (found,) = trace.vjp({"output": cotangent})
    slope = np.asarray(jax.vmap(jax.vmap(jax.grad(activation)))(x))
    g = 2 * weights * (np.asarray(activation(x)) * weights > 0)
    expected = (np.maximum(g, 0) if guided else g) * slope
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
