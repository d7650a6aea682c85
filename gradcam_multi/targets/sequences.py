"""A target for models that return a row of scores a position: captions, text, speech."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from gradcam_multi.errors import TargetError
from gradcam_multi.targets.classes import class_name, log_softmax, settled_class
from gradcam_multi.targets.protocol import Item, Vector


@dataclass(frozen=True)
class TokenLogProbability:
    """The logarithm of the probability of tokens, softmax over (positions, vocabulary) logits.

    `tokens` are one token a position, by index or, with labels, by name; left out, the likeliest
    ones. `positions` are theirs, negative ones counted from the end; left out, the first ones, or
    all of them where tokens are left out too. Over several the sum is taken: the logarithm of the
    probability of the words together, each given those before it. `output` names the output.
    """

    tokens: int | str | Sequence[int | str] | None = None
    positions: int | Sequence[int] | None = None
    output: str | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The output's name, or () for the one that is explained."""
        return () if self.output is None else (self.output,)

    def resolve_item(self, item: Item) -> Self:
        """Settle tokens and positions; raise TargetError where they do not fit the output."""
        logits = self._logits(item)
        count, words = logits.shape
        tokens = [self.tokens] if isinstance(self.tokens, int | str | np.integer) else self.tokens
        if self.positions is None:
            places = list(range(count if tokens is None else len(tokens)))
        elif isinstance(self.positions, int | np.integer):
            places = [int(self.positions)]
        else:
            places = [int(n) for n in self.positions]
        wrong = [n for n in places if not -count <= n < count]
        if wrong or not places:
            raise TargetError(
                f"position {wrong[0] if wrong else None} was asked for; the output has {count}: "
                f"give some from 0 to {count - 1}"
            )
        if tokens is None:
            found = np.nan_to_num(logits[places], nan=-np.inf).argmax(1).tolist()
        else:
            found = [settled_class(token, words, item.labels) for token in tokens]
        if len(found) != len(places):
            raise TargetError(
                f"{len(found)} tokens were given for {len(places)} positions: give one for each"
            )
        return replace(self, tokens=tuple(found), positions=tuple(n % count for n in places))

    def score_item(self, item: Item) -> tuple[float, Mapping[str, Vector]]:
        """Return the sum of logarithms, and its derivative by the logits."""
        if not isinstance(self.tokens, tuple) or not isinstance(self.positions, tuple):
            return self.resolve_item(item).score_item(item)
        name, logits = item.called(self.output), self._logits(item)
        places, tokens = list(self.positions), list(self.tokens)
        logs = log_softmax(logits[places])
        slopes = -np.exp(logs)
        slopes[np.arange(len(tokens)), tokens] += 1
        derivative = np.zeros_like(logits)
        np.add.at(derivative, places, slopes)
        total = float(logs[np.arange(len(tokens)), tokens].sum())
        return total, {name: derivative.reshape(item[name].shape)}

    def describe(self, labels: Sequence[str] | None) -> str:
        """Return the tokens' names, where there are labels, and their positions."""
        if not isinstance(self.tokens, tuple) or not isinstance(self.positions, tuple):
            return "tokens"
        known = [class_name(token, labels) if labels else f"token {token}" for token in self.tokens]
        shown = " ".join(known[:4]) + " ..." * (len(known) > 4)
        return f"{shown} at {', '.join(map(str, self.positions[:4]))}"

    def _logits(self, item: Item) -> Vector:
        """(positions, vocabulary), axes of extent one dropped where there are more."""
        name = item.called(self.output)
        found = item[name]
        axes = found.shape if found.ndim == 2 else tuple(n for n in found.shape if n != 1)
        if not 1 <= len(axes) <= 2:
            raise TargetError(
                f"tokens of output {name!r} were asked for, which has the shape {found.shape} an "
                "item: they need (positions, vocabulary); name an output with output=..."
            )
        return found.reshape(-1, axes[-1])
