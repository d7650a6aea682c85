"""What a method that runs the model again may ask of it."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.spec import Array, ReluRule

Scores = NDArray[np.float64]
Make = Callable[[range], Array]
"""Makes variants of a batch, those numbered: returns (variants, N, ...)."""


class FullGradients(NamedTuple):
    """Contributions to a score: value times gradient.

    `image` are those of the input, (N, channels, *size), `layers` those of each biased layer's
    channels, (N, C, *grid) or (N, C), the bias spread over the cells. `others` (N,) is the sum over
    further inputs. `score` (N,) is what they add up to where the network is linear but for ReLU and
    maxima.
    """

    image: Array
    layers: tuple[Array, ...]
    others: Scores
    score: Scores


class Attended(NamedTuple):
    """The gradient of a block's score at what its attention makes, and the values.

    `gradient` is (N, heads, queries, D), `values` (N, heads, keys, D).
    """

    gradient: Array
    values: Array


class Probe(Protocol):
    """One explained batch of N items, its layer and targets, and the model to run it through again.

    `activations` are (N, C, *grid), `image` (N, channels, *size): the input that the map lies over.
    `logits` are (N, classes). `seed` is that of random numbers, `samples` how many masks or noisy
    copies to take, None for the method's own number. `attribution` is where a method leaves what
    it found for each value of the image, (N, channels, *size), if it did.
    """

    seed: int
    samples: int | None
    attribution: Array | None

    @property
    def activations(self) -> Array:
        """The layer's result, (N, C, *grid)."""

    @property
    def image(self) -> Array:
        """The input that the map lies over, (N, channels, *size); InputError without one."""

    @property
    def baseline(self) -> Array:
        """The image that says nothing, (channels, *size)."""

    @property
    def logits(self) -> Scores:
        """The explained output, (N, classes), before softmax or sigmoid."""

    @property
    def classes(self) -> list[int]:
        """The class that each item's target is about; TargetError where one is about none."""

    @property
    def of_classes(self) -> bool:
        """Whether every target is the logit of a class, and no function of it or of several."""

    def gradients(self) -> Array:
        """Return the derivative of the targets' scores with respect to the layer."""

    def pulled(self, cotangents: Scores) -> Array:
        """Multiply (N, classes) cotangents of the logits back to the layer."""

    def once(self, fact: str, tried: Callable[[], bool]) -> None:
        """Try whether a fact is true of the network, unless it was found so before.

        `tried` raises where it is not, and returns whether it was tried with every item.
        """

    def gradients_at(self, count: int, make: Make) -> Iterator[Array]:
        """Yield the derivative of the scores with respect to the layer, for variants of the image.

        One array (N, C, *grid) for each of `count` variants, which are made in order.
        """

    def image_gradients(
        self, count: int = 1, make: Make | None = None, *, relu: ReluRule = "plain"
    ) -> Array:
        """Return the derivative of the scores with respect to the image, (N, channels, *size).

        With `make`, it is the mean over `count` variants of the image, made in order. `relu` is the
        rule by which the gradient passes ReLU. InputError for an image of integers.
        """

    def full_gradients(self) -> "FullGradients":
        """Return what input and biases each contribute to the score (Srinivas 2019).

        Raises UnsupportedError for a model whose adapter gives no biases, InputError for an image
        of integers.
        """

    def attended(self) -> Iterator[Attended]:
        """Yield, block by block, what the score given to a block's tokens says of its attention.

        That score is what the model's head makes of these tokens in place of the last block's.
        Raises UnsupportedError for a model without blocks of attention, and for one whose adapter
        does not differentiate with respect to it.
        """

    def on_grid(self, rows: Scores) -> Array:
        """Lay a value for each of a block's tokens, (N, tokens), over the image, (N, *grid)."""

    def image_scores(self, count: int, make: Make, *, probability: bool = False) -> Scores:
        """Run the model on `count` variants of the image; return the scores, (count, N).

        They are the targets' scores, or the probabilities of their classes. No more than one batch
        of variants is made at a time.
        """

    def replayed_scores(self, count: int, make: Make, *, probability: bool = False) -> Scores:
        """Run on from the layer with `count` variants of the activations; like `image_scores`."""

    def replayed_logits(self, count: int, make: Make) -> Scores:
        """Run on from the layer likewise; return the logits, (count, N, classes)."""
