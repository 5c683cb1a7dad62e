"""The training step: forward, backward, update, as one compiled program."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool

from kdjax.models import Params
from kdjax.parallel import BATCH_AXES, parameter_shardings, replicated
from kdjax.training.diagnostics import logit_scale_of, norms_of
from kdjax.training.optimizer import (
    OptimizerConfig,
    clamp_logit_scale,
    learning_rate,
    make_optimizer,
    stop_frozen,
)
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
    """

    step: Any
    steps: Any
    params: Any
    opt_state: Any
    skipped: Any
    skipped_in_a_row: Any


@dataclass(frozen=True)
class Program:
    """A task's compiled functions on a mesh.

    Attributes:
        task: that they are of.
        optimizer: that they are of.
        mesh: that they are for.
        init: (seed, steps) -> state, sharded by the table.
        step: (state, frozen, batch) -> (state, metrics); the state is donated.
        shapes: of the state.
        shardings: of the state.
    """

    task: Task
    optimizer: OptimizerConfig
    mesh: Mesh
    init: Callable[[int, int], TrainState]
    step: Callable[[TrainState, Frozen, Batch], tuple[TrainState, Any]]
    shapes: TrainState
    shardings: TrainState


@functools.lru_cache(maxsize=64)
def build_program(task: Task, optimizer: OptimizerConfig, mesh: Mesh) -> Program:
    """Return the functions of a run; equal arguments give the same compiled ones."""
    transform = make_optimizer(optimizer)
    module = nnx.eval_shape(lambda: task.init(nnx.Rngs(0)))
    graph, abstract = nnx.split(module)

    def init(seed: Array, steps: Array) -> TrainState:
        state = nnx.state(task.init(nnx.Rngs(jax.random.key(seed))))
        params = nnx.to_pure_dict(state)
        zero = jnp.int32(0)
        return TrainState(zero, steps, params, transform.init(params), zero, zero)

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
        updates, opt_state = transform.update(grads, state.opt_state, state.params)
        rate = learning_rate(optimizer, state.step, state.steps)
        updates = optax.tree.scale(rate, updates)
        params = clamp_logit_scale(optax.apply_updates(state.params, updates))
        moved = replace(state, params=params, opt_state=opt_state)
        norms = norms_of(grads, "grad_norm")
        finite = jnp.isfinite(value) & jnp.isfinite(norms["grad_norm"])
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

    shapes = jax.eval_shape(init, 0, 0)
    shardings = _state_shardings(
        shapes, transform, parameter_shardings(abstract, mesh), mesh
    )
    rows = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    jitted_init = jax.jit(
        init, out_shardings=shardings, compiler_options=_compiler_options(0)
    )
    return Program(
        task=task,
        optimizer=optimizer,
        mesh=mesh,
        init=lambda seed, steps: jitted_init(jnp.uint32(seed), jnp.int32(steps)),
        step=jax.jit(
            step,
            in_shardings=(shardings, None, rows),
            out_shardings=(shardings, replicated(mesh)),
            donate_argnums=0,
            compiler_options=_compiler_options(1),
        ),
        shapes=shapes,
        shardings=shardings,
    )


def _compiler_options(level: int) -> dict[str, int] | None:
    """Return how hard to optimise on a CPU, where small programs mostly wait for LLVM.

    At level 1 a step compiles a quarter faster than at the default and runs as fast; an
    initialisation, which runs once, is best not optimised at all.
    """
    on_cpu = jax.default_backend() == "cpu"
    return {"xla_backend_optimization_level": level} if on_cpu else None


def _state_shardings(
    state: TrainState, transform: optax.GradientTransformation, params: Any, mesh: Mesh
) -> TrainState:
    """Return shardings in which moments lie where their parameters do."""
    whole = replicated(mesh)
    opt_state = optax.tree_map_params(
        transform,
        lambda _, sharding: sharding,
        state.opt_state,
        params,
        transform_non_params=lambda _: whole,
    )
    return TrainState(whole, whole, params, opt_state, whole, whole)


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


def trained_model(state: TrainState) -> Params:
    """Return the parameters that a run scores and saves."""
    return state.params["model"]
