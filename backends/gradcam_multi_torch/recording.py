"""What one recorded run knows of a model: its operations, their names, and where to catch them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gradcam_multi.errors import LayerNotReachedError, UnknownLayerError, suggest
from gradcam_multi.spec import Layer, Role, TensorSpec


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run makes a tensor: the k-th call of a module, or a function called inside it.

    `function` is None where the tensor is what the module returned. Else `after` is the child
    module, and which call of it, that was left last before (None: none was), `count` numbers the
    calls of functions of that name since then, and `index` picks from a function's tuple. `given`
    is the name of an input of the model, which no module makes.
    """

    module: str
    call: int
    function: str | None = None
    count: int = 1
    index: int = 0
    after: tuple[str, int] | None = None
    given: str | None = None


@dataclass(slots=True)
class Step:
    """One operation as it was seen; a finished recording turns it into an `Operation`."""

    kind: str
    role: Role
    place: Place
    shape: tuple[int | None, ...]
    channel_axis: int | None
    inputs: tuple[int, ...]
    in_place: bool
    owner: str | None = None  # the module it is named for, where that is not the one that calls it
    caught: Place | None = None  # the innermost module that returns the tensor and nothing else
    calls: list[Place] = field(default_factory=list)  # all that return it, the innermost first
    others: list[str] = field(default_factory=list)
    batch_axis: int = 0

    def returned(self, place: Place) -> None:
        """Note a module that returns the tensor, bare."""
        self.caught = self.caught or place
        self.calls.append(place)


@dataclass(frozen=True, slots=True)
class Operation:
    """A layer, and how to catch its tensor; `call` is the function that made it."""

    layer: Layer
    place: Place
    in_place: bool
    call: Place | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor that the model returns, and the call of the final activation that made it."""

    spec: TensorSpec
    activation: Place | None = None
    in_place: bool = False


@dataclass(frozen=True, slots=True)
class Recording:
    """A run of a model, as plain data."""

    operations: tuple[Operation, ...]
    names: dict[str, int]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[Output, ...]
    calls: dict[str, int]

    def find(self, name: str) -> Operation:
        """Return an operation by one of its names.

        Raises LayerNotReachedError for a module that did not run, UnknownLayerError else.
        """
        if name in self.names:
            return self.operations[self.names[name]]
        module = name.partition("#")[0].partition(":")[0]
        if module in self.names and self.calls.get(module):
            raise LayerNotReachedError(
                f"layer {name!r} was asked for, but {module!r} ran {self.calls[module]} time(s) "
                f"for these inputs; use {module!r} or '{module}#{self.calls[module]}'"
            )
        if module in self.calls:
            raise LayerNotReachedError(
                f"layer {name!r} is a module of the model, but for these inputs no floating-point "
                "tensor that depends on them came out of it; choose a layer that ran"
            )
        hint = suggest(name, self.names) or "; list the model's layers and choose one"
        raise UnknownLayerError(f"the model has no layer {name!r}{hint}")

    def reaches(self, operation: Operation) -> bool:
        """Whether an output of the run depends on an operation, as far as the edges tell."""
        if operation.place.given is not None:
            return True
        reached = {operation.layer.name}
        for layer in (each.layer for each in self.operations):
            if reached.intersection(layer.inputs):
                reached.add(layer.name)
        return any(op.layer.output for op in self.operations if op.layer.name in reached)


def input_operation(name: str) -> Operation:
    """Describe an input of the model as something to catch."""
    return Operation(Layer(name, "Input", "other", None), Place("", 0, given=name), False)


def name_steps(steps: Sequence[Step], calls: Counter[str]) -> tuple[list[str], dict[str, int]]:
    """Name every step once, and map all its names to its number.

    A step is named for the innermost module that returns its tensor and ran only once (so a
    block whose ReLU is reused gives its name to its last result), else for the innermost call
    (`relu#2`), else for its function inside the module that called it (`layer1.0.add`).
    """
    chosen: list[str] = []
    names: dict[str, int] = {}
    repeats: Counter[str] = Counter()
    seen: set[Place] = set()
    for number, step in enumerate(steps):
        base = _function_base(step, calls)
        called = ""
        if step.place.function is not None:
            first = replace(step.place, index=0)
            repeats[base] += first not in seen
            seen.add(first)
            called = numbered(base, repeats[base])
            called += f":{step.place.index}" if step.place.index else ""
        once = [place.module for place in step.calls if calls[place.module] == 1]
        inner = [numbered(place.module, place.call) for place in step.calls]
        name = [*once, *inner, called][0]
        chosen.append(name)
        names[name] = number
        exact = [f"{place.module}#{place.call}" for place in step.calls]
        step.others += [*once, *inner, *exact, *([called] if called else [])]
    for number, step in enumerate(steps):
        for other in step.others:
            names.setdefault(other, number)
    return chosen, names


def _function_base(step: Step, modules: Counter[str]) -> str:
    function = step.place.function or step.kind
    module = step.place.module if step.owner is None else step.owner
    base = f"{module}.{function}" if module else function
    while base in modules:  # a module of that name: names must stay apart
        base += "_"
    return base


def numbered(base: str, call: int) -> str:
    """Name the k-th call of a module or function; the first goes by the bare name."""
    return base if call == 1 else f"{base}#{call}"
