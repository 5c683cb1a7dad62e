"""The training step: forward, backward, update, as one compiled program."""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float

from kdjax.models import Params
from kdjax.parallel import BATCH_AXES, replicated, state_shardings, unsplit
from kdjax.training.diagnostics import logit_scale_of, norms_of
from kdjax.training.optimizer import (
    OptimizerConfig,
    begin_average,
    clamp_logit_scale,
    learning_rate,
    make_optimizer,
    move_average,
    stop_frozen,
)
from kdjax.training.rates import check_rates, moves
from kdjax.training.tasks import Batch, Frozen, Task


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that a step changes; also the tree of its shapes or shardings.

    Attributes:
        step: updates made so far, an int32 scalar.
        steps: updates in all, which the learning rate follows.
        params: nested dicts of what is trained, the objective's parameters included.
        opt_state: the optimiser's.
        skipped: updates that were not made, for their loss or gradient was not finite.
        skipped_in_a_row: those of the last steps.
        ema: the parameters' average, of the same form, or None.
    """

    step: Any
    steps: Any
    params: Any
    opt_state: Any
    skipped: Any
    skipped_in_a_row: Any
    ema: Any = None

    @property
    def evaluated(self) -> Any:
        """What is evaluated and saved as a model: the average where there is one."""
        return self.params if self.ema is None else self.ema

    def begin_at(self, params: Any) -> "TrainState":
        """Return this state with other parameters before the first update."""
        ema = None if self.ema is None else begin_average(params)
        return replace(self, params=params, ema=ema)


@dataclass(frozen=True)
class Program:
    """A task's compiled functions on a mesh.

    Attributes:
        task: that they are of.
        optimizer: that they are of.
        mesh: that they are for.
        frozen: shardings of the step's argument of that name, or None.
        init: (seed, steps) -> state, sharded by the table.
        step: (state, frozen, batch) -> (state, metrics); the state is donated.
        shapes: of the state.
        shardings: of the state.
        unsplit: what of the state is whole because the mesh does not divide it.
    """

    task: Task
    optimizer: OptimizerConfig
    mesh: Mesh
    frozen: Any
    init: Callable[[int, int], TrainState]
    step: Callable[[TrainState, Frozen, Batch], tuple[TrainState, Any]]
    shapes: TrainState
    shardings: TrainState
    unsplit: tuple[str, ...]


def build_program(
    task: Task, optimizer: OptimizerConfig, mesh: Mesh, frozen: Any = None
) -> Program:
    """Return the functions of a run; equal arguments give the same compiled ones.

    The step may be lowered with shapes alone, on a mesh of devices that are not there.

    Args:
        task: what is trained.
        optimizer: how it moves.
        mesh: where the arrays live.
        frozen: shardings of the step's argument of that name; None to take it as it
            lies.

    Raises:
        UserError: a pattern of the optimiser's rates matches no parameter.
    """
    leaves, structure = jax.tree.flatten(frozen)
    return _build(task, optimizer, mesh, structure, tuple(leaves))


@functools.lru_cache(maxsize=64)
def structure_of(task: Task) -> tuple[nnx.GraphDef, nnx.State]:
    """Return the structure of what a task trains, and its parameters as shapes."""
    graph, abstract = nnx.split(nnx.eval_shape(lambda: task.init(nnx.Rngs(0))))
    return graph, abstract


def check_program(task: Task, optimizer: OptimizerConfig) -> None:
    """Check early what `build_program` would refuse.

    Raises:
        UserError: a pattern of the optimiser's rates matches no parameter.
    """
    check_rates(nnx.to_pure_dict(structure_of(task)[1]), optimizer.rates)


@functools.lru_cache(maxsize=64)
def _build(
    task: Task,
    optimizer: OptimizerConfig,
    mesh: Mesh,
    structure: Any,
    leaves: tuple[NamedSharding, ...],
) -> Program:
    """Return the functions of `build_program`, whose arguments can all be hashed."""
    check_program(task, optimizer)
    places = jax.tree.unflatten(structure, leaves)
    _, abstract = structure_of(task)
    transform = make_optimizer(optimizer)

    def init(seed: Array, steps: Array) -> TrainState:
        state = nnx.state(task.init(nnx.Rngs(jax.random.key(seed))))
        params = nnx.to_pure_dict(state)
        ema = begin_average(params) if optimizer.ema else None
        moments, zero = transform.init(params), jnp.int32(0)
        return TrainState(zero, steps, params, moments, zero, zero, ema)

    number = jax.ShapeDtypeStruct((), jnp.int32)
    shapes = jax.eval_shape(init, number, number)
    shardings = state_shardings(shapes, abstract, mesh)
    rows = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    jitted_init = jax.jit(
        init, out_shardings=shardings, compiler_options=_compiler_options(mesh, 0)
    )
    return Program(
        task=task,
        optimizer=optimizer,
        mesh=mesh,
        frozen=places,
        init=lambda seed, steps: jitted_init(jnp.uint32(seed), jnp.int32(steps)),
        step=jax.jit(
            _step_of(task, optimizer, transform, mesh),
            in_shardings=(shardings, places, rows),
            out_shardings=(shardings, replicated(mesh)),
            donate_argnums=0,
            compiler_options=_compiler_options(mesh, 1),
        ),
        shapes=shapes,
        shardings=shardings,
        unsplit=unsplit(abstract, mesh),
    )


def _step_of(
    task: Task,
    optimizer: OptimizerConfig,
    transform: optax.GradientTransformation,
    mesh: Mesh,
) -> Callable[[TrainState, Frozen, Batch], tuple[TrainState, dict[str, Array]]]:
    """Return the step: forward, backward, update, and what is told of it."""
    graph, _ = structure_of(task)

    def step(
        state: TrainState, frozen: Frozen, batch: Batch
    ) -> tuple[TrainState, dict[str, Array]]:
        progress = state.step / jnp.maximum(1, state.steps)

        def loss(params: Params) -> tuple[Array, dict[str, Array]]:
            moving = stop_frozen(params, optimizer)
            # What is quadratic in the batch asks the context how rows are split.
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return task.loss(nnx.merge(graph, moving), frozen, batch, progress)

        (value, terms), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        rate = learning_rate(optimizer, state.step, state.steps)
        norms = norms_of(grads, "grad_norm")
        finite = jnp.isfinite(value) & jnp.isfinite(norms["grad_norm"])
        moved = _moved(state, grads, rate, optimizer, transform)
        after = _unless_skipped(finite, moved, state)
        metrics = {
            "loss": value,
            **terms,
            **norms,
            **norms_of(after.params, "param_norm"),
            **logit_scale_of(after.params),
            "learning_rate": rate,
            "skipped": after.skipped,
            "skipped_in_a_row": after.skipped_in_a_row,
        }
        return after, metrics

    return step


def _moved(
    state: TrainState,
    grads: Params,
    rate: Float[Array, ""],
    optimizer: OptimizerConfig,
    transform: optax.GradientTransformation,
) -> TrainState:
    """Return the state after an update: its parameters, their moments and average."""
    updates, opt_state = transform.update(grads, state.opt_state, state.params)
    updates = optax.tree.scale(rate, updates)
    updated = optax.apply_updates(state.params, updates)
    # What is frozen keeps its bits: a logit scale may lie above the limit.
    params = jax.tree.map(
        lambda learns, new, old: new if learns else old,
        moves(state.params, optimizer.rates),
        clamp_logit_scale(updated, optimizer.max_logit_scale),
        state.params,
    )
    ema = state.ema
    if ema is not None:
        ema = move_average(ema, params, state.step, optimizer)
    return replace(state, params=params, opt_state=opt_state, ema=ema)


def _compiler_options(mesh: Mesh, level: int) -> dict[str, int] | None:
    """Return how hard to optimise on a CPU, where small programs mostly wait for LLVM.

    At level 1 a step compiles a quarter faster than at the default and runs as fast; an
    initialisation, which runs once, is best not optimised at all. What the environment
    tells XLA goes before this.
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    if not on_cpu:
        return None
    options = {
        "xla_backend_optimization_level": level,
        "xla_cpu_copy_insertion_use_region_analysis": True,
    }
    said = os.environ.get("XLA_FLAGS", "")
    return {name: value for name, value in options.items() if name not in said}


def _unless_skipped(
    finite: Bool[Array, ""], moved: TrainState, state: TrainState
) -> TrainState:
    """Return the state after an update, or that before it; the step counts anyway."""
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, state)
    return replace(
        kept,
        step=state.step + 1,
        skipped=state.skipped + ~finite,
        skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
    )
