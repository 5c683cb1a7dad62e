"""Tables of name rules: how one checkpoint's tensors are our parameters, and back."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from kdjax.errors import UserError

Shape = tuple[int, ...]
Path = tuple[str, ...]
Place = Callable[[Path, np.ndarray], jax.Array]

LAYER = re.compile(r"\.\d+\.")


class Form(NamedTuple):
    """How one tensor of theirs is some of our parameters.

    Attributes:
        to_ours: takes their tensor apart.
        to_theirs: the inverse.
    """

    to_ours: Callable[[np.ndarray], Sequence[np.ndarray]]
    to_theirs: Callable[..., np.ndarray]


SAME = Form(lambda x: [x], lambda x: x)
TRANSPOSED = Form(lambda x: [x.T], lambda x: x.T)


def joined(count: int, *, transposed: bool = False) -> Form:
    """Return the form of `count` parameters that are one tensor, by its first axis."""

    def turn(x: np.ndarray) -> np.ndarray:
        return x.T if transposed else x

    return Form(
        lambda x: [turn(part) for part in np.split(x, count)],
        lambda *parts: np.concatenate([turn(part) for part in parts]),
    )


def wrapped(ones: int) -> Form:
    """Return the form of a tensor that has so many dimensions of one more in front."""
    return Form(
        lambda x: [x.reshape(x.shape[ones:])],
        lambda x: x.reshape((1,) * ones + x.shape),
    )


def patches(size: int) -> Form:
    """Return the form of a patch embedding: [W, 3, p, p] there, [p p 3, W] here."""
    return Form(
        lambda x: [x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0])],
        lambda x: x.reshape(size, size, 3, -1).transpose(3, 2, 0, 1),
    )


class Rule(NamedTuple):
    """A tensor there and the parameters that it is here.

    Attributes:
        theirs: its name; "{}" stands for the layer in those of stacked blocks.
        ours: where its parts lie in our parameters.
        form: how it is taken apart.
        layers: of the stack; None for what is not in a block.
    """

    theirs: str
    ours: tuple[Path, ...]
    form: Form = SAME
    layers: int | None = None

    def names(self) -> list[str]:
        """Return the name of every tensor that the rule is about."""
        if self.layers is None:
            return [self.theirs]
        return [self.theirs.format(layer) for layer in range(self.layers)]


def same(theirs: str, *ours: str, form: Form = SAME) -> Rule:
    """Return the rule of a tensor that is one parameter."""
    return Rule(theirs, (ours,), form)


def norm(theirs: str, *ours: str) -> list[Rule]:
    """Return the rules of a layer norm."""
    return [
        same(f"{theirs}.weight", *ours, "scale"),
        same(f"{theirs}.bias", *ours, "bias"),
    ]


def linear(theirs: str, *ours: str, bias: bool = True) -> list[Rule]:
    """Return the rules of a linear layer, whose kernel is [out, in] there."""
    kernel = same(f"{theirs}.weight", *ours, "kernel", form=TRANSPOSED)
    return [kernel, same(f"{theirs}.bias", *ours, "bias")] if bias else [kernel]


def fused(theirs: str, ours: Path, parts: Sequence[str]) -> list[Rule]:
    """Return the rules of linear layers that are one there, `theirs` up to its end."""
    kernels = tuple((*ours, part, "kernel") for part in parts)
    biases = tuple((*ours, part, "bias") for part in parts)
    count = len(parts)
    return [
        Rule(f"{theirs}weight", kernels, joined(count, transposed=True)),
        Rule(f"{theirs}bias", biases, joined(count)),
    ]


def stacked(rules: Iterable[Rule], prefix: str, ours: Path, layers: int) -> list[Rule]:
    """Return a block's rules for a whole stack of them; `prefix` holds the "{}"."""
    return [
        Rule(
            prefix + rule.theirs,
            tuple((*ours, *path) for path in rule.ours),
            rule.form,
            layers,
        )
        for rule in rules
    ]


def leaf_of(tree: Any, path: Path) -> Any:
    """Return what lies at a path of nested dicts."""
    for key in path:
        tree = tree[key]
    return tree


def shapes_of_theirs(rules: Iterable[Rule], ours: Any) -> dict[str, Shape]:
    """Return the name and shape of every tensor that a checkpoint has.

    Args:
        rules: the table.
        ours: our parameters, nested, or their shapes.
    """
    shapes: dict[str, Shape] = {}
    for rule in rules:
        skip = 0 if rule.layers is None else 1
        # Zeros that take no memory: only where they end up is wanted.
        parts = [
            np.broadcast_to(np.float32(0), leaf_of(ours, path).shape[skip:])
            for path in rule.ours
        ]
        shape = rule.form.to_theirs(*parts).shape
        shapes |= dict.fromkeys(rule.names(), shape)
    return shapes


def check_tensors(given: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> None:
    """Check that a checkpoint has just the tensors that its config says.

    Raises:
        UserError: some are missing, unexpected or of another shape; they are listed.
    """
    problems = [
        *(f"{name} {wanted[name]} is missing" for name in wanted if name not in given),
        *(
            f"{name} is {given[name]} and not {wanted[name]}"
            for name in wanted
            if name in given and given[name] != wanted[name]
        ),
        *(
            f"{name} {given[name]} is unexpected"
            for name in given
            if name not in wanted
        ),
    ]
    if problems:
        # A line for all layers of a stack, or a wrong depth would fill a screen.
        alike: dict[str, list[str]] = {}
        for problem in problems:
            alike.setdefault(LAYER.sub(".*.", problem, count=1), []).append(problem)
        listed = "; ".join(
            found[0] if len(found) == 1 else f"{many} ({len(found)} times)"
            for many, found in alike.items()
        )
        raise UserError(f"the weights do not fit the config: {listed}")


def to_ours(
    read: Callable[[str], np.ndarray], rules: Iterable[Rule], ours: Any, place: Place
) -> dict[str, Any]:
    """Return our parameters, nested, reading and placing a few tensors at a time.

    Args:
        read: gives their tensor of a name.
        rules: the table.
        ours: shapes and dtypes of our parameters, nested.
        place: puts a parameter where it belongs.
    """
    params: dict[str, Any] = {}
    for rule in rules:
        for path, value in zip(rule.ours, _parts(read, rule, ours), strict=True):
            inner = params
            for key in path[:-1]:
                inner = inner.setdefault(key, {})
            inner[path[-1]] = place(path, value)
    return params


def _parts(
    read: Callable[[str], np.ndarray], rule: Rule, ours: Any
) -> list[np.ndarray]:
    """Return the parameters of one rule; the layers of a stack are filled in turn."""
    wanted = [leaf_of(ours, path) for path in rule.ours]
    if rule.layers is None:
        parts = rule.form.to_ours(read(rule.theirs))
        return [p.astype(w.dtype) for p, w in zip(parts, wanted, strict=True)]
    whole = [np.empty(w.shape, w.dtype) for w in wanted]
    for layer, name in enumerate(rule.names()):
        for stack, part in zip(whole, rule.form.to_ours(read(name)), strict=True):
            stack[layer] = part
    return whole


def to_theirs(params: Any, rules: Iterable[Rule]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield a checkpoint's tensors from our parameters; the inverse of `to_ours`."""
    for rule in rules:
        parts = [np.asarray(jax.device_get(leaf_of(params, p))) for p in rule.ours]
        for layer, name in enumerate(rule.names()):
            mine = parts if rule.layers is None else [part[layer] for part in parts]
            yield name, np.asarray(rule.form.to_theirs(*mine), order="C")
