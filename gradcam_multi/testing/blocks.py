"""Gradients inside the blocks of a token model, and of its head, each against the reference."""

from typing import Any

import numpy as np
import pytest

from gradcam_multi.blocks import token_blocks
from gradcam_multi.explainer import Explainer
from gradcam_multi.spec import Attentive
from gradcam_multi.testing.adapter import AdapterCase
from gradcam_multi.testing.network import Network
from gradcam_multi.testing.networks import inputs_of
from gradcam_multi.testing.reference import Reference

ENDS = ("a_add2", "b_add2")
"""What leaves the blocks of the network of tokens."""


class BlocksConformance(AdapterCase):
    """Blocks are found, kept and differentiated."""

    def test_blocks_of_attention(self) -> None:
        network, feed, model, reference = self._tokens()
        blocks = token_blocks(model.layers(feed))
        assert len(blocks) == len(ENDS)
        cotangent = np.eye(5, dtype=np.float32)[:4]
        products = [node for node in network.nodes if node.op == "attention"]
        with model.trace_blocks(feed, blocks) as trace:
            for place, (end, product) in enumerate(zip(ENDS, products, strict=True)):
                tokens = trace.tokens[place]
                self.close(tokens, reference.to_core(end, reference.tensors[end]))
                assert tokens.dtype == np.float32
                seen: list[Any] = []

                def derivatives(logits: Any, seen: list[Any] = seen) -> Any:
                    seen.append(logits)
                    return {next(iter(logits)): cotangent}

                given = trace.head(tokens, derivatives)
                other = reference.exchanged(ENDS[-1], reference.tensors[end])
                self.close(next(iter(seen[0].values())), other.logits)
                pulled = other.vjp(cotangent, ENDS[-1])
                self.close(given, reference.to_core(end, pulled))
                gradient, values = trace.attended(place, given)
                assert gradient.dtype == values.dtype == np.float32
                heads, whole = product.attributes["heads"], reference.pulled
                expected = [
                    np.stack(np.split(x, heads, -1), 1)
                    for x in (
                        whole({end: pulled}, product.name), reference.tensors[product.inputs[2]]
                    )
                ]  # fmt: skip
                # The product alone is settled: what D is scaled by may be in either.
                self.close(
                    gradient @ np.swapaxes(values, -1, -2),
                    expected[0] @ np.swapaxes(expected[1], -1, -2),
                )

    def test_01_blocks_of_a_batch_are_those_of_its_items(self) -> None:
        network, feed, *_ = self._tokens()
        explainer = Explainer(self.build(network), backend=self.backend, method="legrad")
        targets = [0, 1, 2, 3]
        whole = explainer(feed, targets)
        assert whole.status == ("ok",) * 4
        for i in range(2):
            self.close(explainer(feed[i : i + 1], targets[i]).cam[0], whole.cam[i])

    def test_02_blocks_leave_the_model_as_found(self) -> None:
        network = self.network("token")
        built, feed = self.build(network), self.feed(inputs_of(network))
        before = self.snapshot(built)
        model = Explainer(built, backend=self.backend).model
        if not isinstance(model, Attentive):
            pytest.skip(f"{self.backend} gives no gradients of attention")
        blocks = token_blocks(model.layers(feed))
        with pytest.raises(ZeroDivisionError), model.trace_blocks(feed, blocks) as trace:
            trace.head(trace.tokens[0], _raising)
        assert self.snapshot(built) == before

    def _tokens(self) -> tuple[Network, Any, Any, Reference]:
        """The network of tokens, its inputs, the opened model and the reference."""
        network = self.network("token")
        inputs = inputs_of(network)
        feed = self.feed(inputs)
        model = Explainer(self.build(network), backend=self.backend).model
        if not isinstance(model, Attentive):
            pytest.skip(f"{self.backend} gives no gradients of attention")
        return network, feed, model, Reference(network, inputs)


def _raising(logits: Any) -> Any:
    raise ZeroDivisionError
