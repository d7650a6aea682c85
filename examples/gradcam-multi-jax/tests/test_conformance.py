"""The conformance kit on plain JAX functions and on Flax NNX modules."""

import jax
import jax.numpy as jnp
import numpy as np
import probe_function
import probe_nnx
from flax import nnx
from gradcam_multi_jax import JaxModel
from jax import lax

from gradcam_multi.testing import AdapterConformance, Variant, probe_inputs


def cast(tree, dtype):
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


class TestFunctions(AdapterConformance):
    backend = "jax"

    def build(self, network):
        return probe_function.build(network)

    def layer(self, name):
        return name.replace(".", "/")

    def snapshot(self, model):
        leaves, tree = jax.tree.flatten(model.params)
        return tree, [np.asarray(leaf).tobytes() for leaf in leaves], jax.config.jax_enable_x64

    def variants(self, network):
        model = self.build(network)
        half, bfloat = (
            JaxModel(model.function, cast(model.params, dtype))
            for dtype in (jnp.float16, jnp.bfloat16)
        )
        closed = JaxModel(lambda image: model.function(model.params, image))
        compiled = JaxModel(jax.jit(model.function), model.params)
        return {
            "parameters in a closure": Variant(closed, 1e-6, "the same numbers in the same order"),
            "jit": Variant(compiled, 1e-6, "the same numbers in the same order"),
            "disable_jit": Variant(model, 1e-5, "operations are not fused", jax.disable_jit),
            "float16": Variant(half, 1e-2, "11 bits of precision through two convolutions"),
            "bfloat16": Variant(bfloat, 6e-2, "8 bits of precision through two convolutions"),
        }

    def ignoring_model(self):
        kernel = np.ones((4, 3, 3, 3), np.float32)

        def function(image):
            with jax.named_scope("used"):
                used = image.mean((2, 3))
            with jax.named_scope("ignored"):
                ignored = lax.conv_general_dilated(image, kernel, (1, 1), "SAME")
            return used, ignored

        return JaxModel(function), "ignored", probe_inputs()


class TestModules(AdapterConformance):
    backend = "jax"

    def build(self, network):
        return probe_nnx.build(network)

    def layout(self, inputs):
        return np.moveaxis(inputs, 1, -1)

    def layer(self, name):
        return name.replace(".", "/")

    def snapshot(self, model):
        structure, state = nnx.split(model)
        leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]
        kinds = [(path, type(part)) for path, part in nnx.iter_modules(model)]
        return structure, leaves, kinds

    def variants(self, network):
        model = self.build(network)
        structure, state = nnx.split(model)
        half = nnx.merge(structure, cast(state, jnp.float16))
        for _, part in nnx.iter_modules(half):
            if hasattr(part, "dtype"):
                part.dtype = jnp.float16
        frozen = self.build(network)
        frozen.eval()
        return {
            "evaluation mode": Variant(frozen, 1e-6, "the same numbers in the same order"),
            "float16": Variant(half, 1e-2, "11 bits of precision through two convolutions"),
        }

    def ignoring_model(self):
        class Ignoring(nnx.Module):
            def __init__(self):
                self.used = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))
                self.ignored = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(1))

            def __call__(self, image):
                return self.used(image).mean((1, 2)), self.ignored(image)

        return Ignoring(), "ignored", self.layout(probe_inputs())
