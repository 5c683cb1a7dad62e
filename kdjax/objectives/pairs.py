"""Losses that are sums over all pairs of a batch, evaluated together.

An objective says what it sums as terms over matrices of logits, which it does not make.
`evaluate` goes through the pairs for the terms of all objectives at once, so that those
which ask for the same logits share them.

The normaliser of a softmax is taken beforehand, and is then a constant. With
q = exp(z - c), c that logsumexp, the derivative of q - p log q by z is q - p: that of
the cross-entropy -p log softmax(z). So the sum of q, which is one, stands in a term for
what the normaliser passes on to the logits.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kdjax.objectives.blocks import (
    Added,
    column_peaks,
    layout_of,
    over_rows,
    peaks,
)
from kdjax.objectives.cosines import normalize
from kdjax.objectives.schedules import Scalar

# Instead of minus infinity, whose difference with itself is not a number.
MASKED = -1e9

Way = Literal["rows", "columns"]


@dataclass(frozen=True, eq=False)
class Logits:
    """The matrix scale n(rows) n(columns)^T + bias, which is not made.

    Attributes:
        rows: [B, D], not normalised.
        columns: [B, D], not normalised.
        scale: of the cosines.
        bias: added to them; None for none.
    """

    rows: Float[Array, "B D"]
    columns: Float[Array, "B D"]
    scale: Scalar
    bias: Scalar | None = None


@dataclass(frozen=True)
class Matches:
    """Which pairs match, and which say nothing; the diagonal always matches.

    Attributes:
        texts: [B, K], equal where the texts of two rows are; None to take no two for
            equal.
        spread: whether pairs of equal texts match too; if not they are left out.
    """

    texts: Any = None
    spread: bool = False

    @property
    def left_out(self) -> Any:
        """The texts whose equals are left out, or None."""
        return None if self.spread else self.texts


@runtime_checkable
class Term(Protocol):
    """A sum over pairs; of `Logits` where it is said, of their places in the plan."""

    def of_block(self, block: "Block") -> Float[Array, ""]:
        """Return a block's share of the sum."""
        ...


@dataclass(frozen=True)
class Softmax:
    """The cross-entropy of softmaxes over rows or columns, the mean over these.

    Attributes:
        logits: of the softmax.
        targets: whose mean softmax is the target; none for the matches.
        way: "rows", each row sums to one; or "columns".
        divergence: whether the entropy of the target is taken away.
        matches: of the batch.
        others: whether the diagonal is left out.
    """

    logits: Any
    targets: tuple[Any, ...] = ()
    way: Way = "rows"
    divergence: bool = False
    matches: Matches = Matches()
    others: bool = False

    def view(self, logits: Any) -> "View":
        """Return what the softmax is of."""
        return View(logits, self.others, self.matches.left_out)

    def of_block(self, block: "Block") -> Float[Array, ""]:
        """Return a block's share of the mean."""
        said = block.log_softmax(self.view(self.logits), self.way)
        found = jnp.exp(said)
        carried = found - jax.lax.stop_gradient(found)
        if not self.targets:
            right = block.right(self.matches)
            return jnp.sum(carried - right * said) / block.batch
        each = [block.log_softmax(self.view(x), self.way) for x in self.targets]
        target = jax.lax.stop_gradient(_log_mean_exp(each))
        share = jnp.exp(target)
        if not self.divergence:
            return jnp.sum(carried - share * said) / block.batch
        # The second part adds nothing but what rounding takes from a small divergence.
        return jnp.sum(share * (target - said) + (found - share)) / block.batch


def _log_mean_exp(logarithms: list[Array]) -> Array:
    if len(logarithms) == 1:
        return logarithms[0]
    return jax.nn.logsumexp(jnp.stack(logarithms), axis=0) - jnp.log(len(logarithms))


@dataclass(frozen=True)
class Sigmoid:
    """The cross-entropy of every pair by itself, summed and divided by B.

    Attributes:
        logits: of the pairs.
        targets: whose mean sigmoid is the target; none for the matches.
        signed: whether -log sigmoid((2 y - 1) z) stands for the cross-entropy of z
            against y.
        matches: of the batch.
    """

    logits: Any
    targets: tuple[Any, ...] = ()
    signed: bool = False
    matches: Matches = Matches()

    def of_block(self, block: "Block") -> Float[Array, ""]:
        """Return a block's share of the sum."""
        z = block.logits(View(self.logits))
        if not self.targets:
            signs = jnp.where(block.right(self.matches) > 0, 1.0, -1.0)
            terms = jax.nn.softplus(-signs * z)
            if self.matches.left_out is not None:
                terms = jnp.where(block.repeats(self.matches.left_out), 0.0, terms)
            return jnp.sum(terms) / block.batch
        each = [jax.lax.stop_gradient(block.logits(View(x))) for x in self.targets]
        if self.signed:
            signs = jnp.mean(jnp.stack([jnp.tanh(x / 2) for x in each]), axis=0)
            return jnp.sum(jax.nn.softplus(-signs * z)) / block.batch
        # Not one less the other, which rounds to nothing where a teacher is sure.
        yes = jnp.mean(jnp.stack([jax.nn.sigmoid(x) for x in each]), axis=0)
        no = jnp.mean(jnp.stack([jax.nn.sigmoid(-x) for x in each]), axis=0)
        terms = yes * jax.nn.softplus(-z) + no * jax.nn.softplus(z)
        return jnp.sum(terms) / block.batch


@dataclass(frozen=True)
class Squares:
    """The mean squared difference of two matrices' pairs off the diagonal.

    Attributes:
        logits: one matrix.
        target: the other.
    """

    logits: Any
    target: Any

    def of_block(self, block: "Block") -> Float[Array, ""]:
        """Return a block's share of the mean."""
        ours, theirs = (block.logits(View(x)) for x in (self.logits, self.target))
        squares = jnp.where(block.diagonal, 0.0, (ours - theirs) ** 2)
        return jnp.sum(squares) / max(block.batch * (block.batch - 1), 1)


class View(NamedTuple):
    """A matrix of logits, of which some pairs may be left out.

    Attributes:
        logits: its place in the plan.
        others: whether the diagonal is left out.
        texts: place of the texts whose equals are left out, off the diagonal; or None.
    """

    logits: Any
    others: bool = False
    texts: Any = None


class Places(NamedTuple):
    """Where the arrays of a matrix are in the plan.

    Attributes:
        rows: among the features.
        columns: among the features.
        scale: among the scalars.
        bias: among the scalars, or None.
    """

    rows: int
    columns: int
    scale: int
    bias: int | None


class Block:
    """What terms read of some rows of the batch with all columns."""

    def __init__(
        self,
        plan: "Plan",
        index: Int[Array, " b"],
        rows: Mapping[str, Any],
        columns: Mapping[str, Any],
        scalars: list[Array],
    ) -> None:
        self._plan = plan
        self._rows, self._columns, self._scalars = rows, columns, scalars
        self._made: dict[Any, Array] = {}
        self.batch = len(jax.tree.leaves(columns)[0])
        self.diagonal = index[:, None] == jnp.arange(self.batch)

    def logits(self, view: View) -> Float[Array, "b B"]:
        """Return a matrix's block."""
        return self._once(view, lambda: self._logits(view))

    def log_softmax(self, view: View, way: Way) -> Float[Array, "b B"]:
        """Return a block of log-probabilities, whose normaliser is a constant."""

        def make() -> Array:
            logits = self.logits(view)
            if way == "rows":
                found = peaks(jax.lax.stop_gradient(logits), axis=1)
            else:
                found = self._columns["peaks"][self._plan.by_column.index(view)]
            return found.log_softmax(logits)

        return self._once((view, way), make)

    def right(self, matches: Matches) -> Float[Array, "b B"]:
        """Return the share of every pair in its row's matches."""
        if not matches.spread or matches.texts is None:
            return self.diagonal.astype(jnp.float32)
        same = self._same(matches.texts).astype(jnp.float32)
        return same / same.sum(1, keepdims=True)

    def _logits(self, view: View) -> Array:
        if view.others or view.texts is not None:
            whole = self.logits(View(view.logits))
            left = self.diagonal if view.others else self.repeats(view.texts)
            return jnp.where(left, MASKED, whole)
        places = self._plan.matrices[view.logits]
        cosines = jnp.matmul(
            self._rows["features"][places.rows],
            self._columns["features"][places.columns].T,
            precision=jax.lax.Precision.HIGHEST,
        )
        logits = self._scalars[places.scale] * cosines
        return logits if places.bias is None else logits + self._scalars[places.bias]

    def repeats(self, texts: int) -> Bool[Array, "b B"]:
        """Return whether the texts of a pair are equal, off the diagonal."""
        return self._same(texts) & ~self.diagonal

    def _same(self, texts: int) -> Bool[Array, "b B"]:
        own, all_ = (x["texts"][texts] for x in (self._rows, self._columns))
        return (own[:, None] == all_).all(-1)

    def _once(self, key: Any, make: Callable[[], Array]) -> Array:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


@dataclass(frozen=True)
class Plan:
    """What is summed, without the arrays: a static value.

    Attributes:
        matrices: of logits, each there once.
        terms: sums, in which places stand for matrices and texts.
    """

    matrices: tuple[Places, ...]
    terms: tuple[Term, ...]

    @property
    def by_column(self) -> tuple[View, ...]:
        """What is wanted of the softmax over columns, each there once."""
        views = [
            term.view(logits)
            for term in self.terms
            if isinstance(term, Softmax) and term.way == "columns"
            for logits in (term.logits, *term.targets)
        ]
        return tuple(dict.fromkeys(views))

    def used(self, features: list[Array], way: Way) -> list[Array | None]:
        """Return features, of which those that no matrix has so are None."""
        places = {getattr(matrix, way) for matrix in self.matrices}
        return [x if i in places else None for i, x in enumerate(features)]


class _Table:
    """Gives every array that is put into it a place, the same array the same."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._places: dict[Any, int] = {}

    def place(self, item: Any, key: Any = None) -> int:
        """Return an item's place; it is the same item if its key is, or its id."""
        key = id(item) if key is None else key
        if key not in self._places:
            self._places[key] = len(self.items)
            self.items.append(item)
        return self._places[key]


class _Planner:
    """Puts places where terms have arrays."""

    def __init__(self) -> None:
        self.features, self.scalars, self.texts = _Table(), _Table(), _Table()
        self.matrices = _Table()

    def placed(self, value: Any) -> Any:
        """Return a term, or a part of it, with places instead of arrays."""
        if isinstance(value, Logits):
            places = Places(
                self.features.place(value.rows),
                self.features.place(value.columns),
                self._scalar(value.scale),
                None if value.bias is None else self._scalar(value.bias),
            )
            return self.matrices.place(places, places)
        if isinstance(value, Matches) and value.texts is not None:
            return replace(value, texts=self.texts.place(value.texts))
        if isinstance(value, tuple):
            return tuple(map(self.placed, value))
        if is_dataclass(value) and not isinstance(value, type):
            parts = {f.name: self.placed(getattr(value, f.name)) for f in fields(value)}
            return replace(value, **parts)
        return value

    def _scalar(self, number: Scalar) -> int:
        key = ("number", number) if isinstance(number, int | float) else None
        return self.scalars.place(number, key)


@dataclass(frozen=True, eq=False)
class PairSum:
    """Terms times weights, to be evaluated together with those of other objectives.

    Attributes:
        terms: weight and term.
    """

    terms: tuple[tuple[Scalar, Term], ...]

    def __add__(self, other: "PairSum") -> "PairSum":
        return PairSum(self.terms + other.terms)

    def __mul__(self, weight: Scalar) -> "PairSum":
        return PairSum(tuple((weight * w, term) for w, term in self.terms))

    __rmul__ = __mul__

    def __truediv__(self, number: Scalar) -> "PairSum":
        return self * (1 / number)

    def value(self) -> Float[Array, ""]:
        """Return the sum, evaluated by itself."""
        return evaluate({"": self})[""]


def evaluate(
    sums: Mapping[str, PairSum], block_rows: int | None = None
) -> dict[str, Float[Array, ""]]:
    """Return the values of sums over the pairs of one batch.

    Where the batch is large, or JAX's context has a mesh that splits it, no more than
    blocks of the matrices are ever held.

    Args:
        sums: by name.
        block_rows: rows of a block; None for what suits the batch.
    """
    planner = _Planner()
    each = {
        name: [(weight, planner.placed(term)) for weight, term in found.terms]
        for name, found in sums.items()
    }
    terms = tuple(dict.fromkeys(term for found in each.values() for _, term in found))
    if not terms:
        return {}
    plan = Plan(tuple(planner.matrices.items), terms)
    values = _evaluate(plan, planner, block_rows)
    by_term = dict(zip(terms, values, strict=True))
    zero = jnp.float32(0)
    return {
        name: sum((weight * by_term[term] for weight, term in found), zero)
        for name, found in each.items()
    }


def _evaluate(plan: Plan, planner: _Planner, block_rows: int | None) -> list[Array]:
    features = [normalize(x) for x in planner.features.items]
    texts = planner.texts.items
    rows = {"features": plan.used(features, "rows"), "texts": texts}
    columns = {"features": plan.used(features, "columns"), "texts": texts}
    scalars = [jnp.asarray(x, jnp.float32) for x in planner.scalars.items]
    layout = layout_of(len(features[0]), block_rows)

    def views(*block: Any) -> list[Array]:
        found = Block(plan, *block)
        return [found.logits(view) for view in plan.by_column]

    def shares(*block: Any) -> Added:
        found = Block(plan, *block)
        return Added(total=[term.of_block(found) for term in plan.terms])

    if plan.by_column:
        columns["peaks"] = column_peaks(views, rows, columns, scalars, layout)
    return over_rows(shares, rows, columns, scalars, layout).total
