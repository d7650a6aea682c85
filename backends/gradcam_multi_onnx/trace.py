"""One run of an ONNX model with some activations kept."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradcam_multi.backward import check_outputs
from gradcam_multi.errors import InputError, LayerNotOnPathError, suggest
from gradcam_multi.spec import Array
from gradcam_multi_onnx.feeds import Feeds
from gradcam_multi_onnx.plan import Failure, Plan, Values

AnyArray = NDArray[Any]
Axes = tuple[int, int | None]


class OnnxTrace:
    """Values of one run, batch by batch; valid until its context ends.

    `runs` are the values of the forward runs of `batches`. `targets` are the layers' values in the
    order asked for, `axes` their batch and channel axes.
    """

    def __init__(
        self, plan: Plan, batches: Sequence[tuple[Feeds, int]], runs: Sequence[Values],
        targets: Sequence[str], axes: Sequence[Axes], resolve: Callable[[str], str],
        guided: bool = False,
    ) -> None:  # fmt: skip
        self._plan, self._targets, self._axes = plan, tuple(targets), tuple(axes)
        self._resolve, self._guided = resolve, guided
        self._counts = [count for _, count in batches]
        self._feeds = [feeds for feeds, _ in batches]
        self._runs = [{**feeds, **run} for feeds, run in zip(self._feeds, runs, strict=True)]
        self._beside: dict[str, list[Feeds]] = {}

    def close(self) -> None:
        """Free everything that the run kept."""
        self._runs, self._feeds, self._beside = [], [], {}

    def _whole(self, parts: Sequence[AnyArray]) -> Array:
        if not parts:
            raise RuntimeError("the trace is closed; use it inside its with block")
        if len(parts) == 1 and self._counts[0] == (len(parts[0]) if parts[0].ndim else 1):
            return np.asarray(parts[0], dtype=np.float32, order="C")
        if any(part.ndim == 0 for part in parts):
            raise InputError(
                f"the model has no batch axis in a result and is fixed to {len(parts[0].shape)} "
                "axes; give the items one by one"
            )
        kept = [part[:count] for part, count in zip(parts, self._counts, strict=True)]
        return np.concatenate(kept).astype(np.float32, copy=False)

    def _parts(self, array: Array, like: Sequence[AnyArray], what: str) -> list[AnyArray]:
        """Cut an array like the runs, filling the last one with zeros."""
        shape = self._whole(like).shape
        if array.shape != shape:
            raise InputError(f"{what} must have shape {shape}, got {array.shape}")
        if len(like) == 1 and like[0].shape == shape:
            return [array]
        parts, start = [], 0
        for whole, count in zip(like, self._counts, strict=True):
            part = np.zeros(whole.shape, np.float32)
            part[:count] = array[start : start + count]
            parts.append(part)
            start += count
        return parts

    @property
    def outputs(self) -> Mapping[str, Array]:
        """What the model returned, float32, in the model's own layout and order."""
        return {name: self._whole([run[name] for run in self._runs]) for name in self._plan.logits}

    @property
    def logits(self) -> Mapping[str, Array]:
        """The same, but before a final softmax or sigmoid where an output ends in one."""
        return {name: self._whole(self._logits(name)) for name in self._plan.logits}

    def _logits(self, output: str) -> list[AnyArray]:
        value = self._plan.logits[output]
        return [run[value].reshape(run[output].shape) for run in self._runs]

    @property
    def activations(self) -> tuple[Array, ...]:
        """(N, C, *grid) float32, channels first, one per layer asked for."""
        pairs = zip(self._targets, self._axes, strict=True)
        return tuple(
            self._whole([channels_first(run[name], axes) for run in self._runs])
            for name, axes in pairs
        )

    def vjp(self, cotangents: Mapping[str, Array]) -> tuple[Array, ...]:
        """Multiply cotangents of the logits back to the layers."""
        check_outputs(self._guided, cotangents)
        sums: dict[str, list[AnyArray]] = {}
        for output, cotangent in cotangents.items():
            if output not in self._plan.logits:
                known = list(self._plan.logits)
                raise InputError(
                    f"no output is called {output!r}; the model has {', '.join(known)}"
                    f"{suggest(output, known)}"
                )
            for target, parts in self._back(output, np.asarray(cotangent)).items():
                before = sums.get(target)
                sums[target] = parts if before is None else [
                    one + other for one, other in zip(before, parts, strict=True)
                ]  # fmt: skip
        missing = [name for name in self._targets if name not in sums]
        if missing:
            raise LayerNotOnPathError(
                f"{' and '.join(map(repr, cotangents)) or 'no output'} does not depend on layer "
                f"{missing[0]!r}; name a layer on the way to it"
            )
        return tuple(
            self._whole([channels_first(part, axes) for part in sums[name]])
            for name, axes in zip(self._targets, self._axes, strict=True)
        )

    def _back(self, output: str, cotangent: Array) -> dict[str, list[AnyArray]]:
        backward = self._plan.backward[output]
        like = self._logits(output)
        parts = self._parts(cotangent, like, f"the cotangent of {output!r}")
        if isinstance(backward, Failure):
            if issubclass(backward.kind, LayerNotOnPathError):
                return {}
            raise backward.error()
        value = self._plan.logits[output]
        results = [
            backward(part.reshape(run[value].shape), run)
            for part, run in zip(parts, self._runs, strict=True)
        ]
        return {name: [result[name] for result in results] for name in results[0]}

    def replay(self, layer: str, activation: Array) -> Mapping[str, Array]:
        """Run forward from the layer on with another activation, (N, C, *grid); return logits."""
        target = self._resolve(layer)
        if target not in self._targets:
            raise InputError(f"layer {layer!r} is not traced; name it when the trace is entered")
        axes = self._axes[self._targets.index(target)]
        tail, around = self._plan.tail(target)
        if around is not None and layer not in self._beside:
            self._beside[layer] = [around(feeds) for feeds in self._feeds]
        extra = self._beside.get(layer, [{}] * len(self._runs))
        own = [channels_first(run[target], axes) for run in self._runs]
        expected = self._whole(own)
        if activation.shape != expected.shape:
            raise InputError(
                f"the activation of {layer!r} must have shape {expected.shape}, "
                f"got {activation.shape}"
            )
        parts = self._parts(np.asarray(activation), own, repr(layer))
        found = [
            {**run, **tail(channels_back(part, axes), {**run, **more})}
            for part, run, more in zip(parts, self._runs, extra, strict=True)
        ]
        return {
            output: self._whole([f[value].reshape(f[output].shape) for f in found])
            for output, value in self._plan.logits.items()
        }


def channels_first(array: AnyArray, axes: Axes) -> AnyArray:
    """Return an array as (N, C, *grid), given its batch and channel axes."""
    batch, channel = axes
    if channel is None or axes == (0, 1):
        return array
    return np.moveaxis(array, (batch, channel), (0, 1))


def channels_back(array: AnyArray, axes: Axes) -> AnyArray:
    """Return (N, C, *grid) as the model lays it out."""
    batch, channel = axes
    return array if channel is None else np.moveaxis(array, (0, 1), (batch, channel))
