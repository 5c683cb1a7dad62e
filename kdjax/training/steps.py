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
from jaxtyping import Array

from kdjax.models import Params
from kdjax.parallel import BATCH_AXES, parameter_shardings, replicated
from kdjax.training.optimizer import (
    OptimizerConfig,
    begin_average,
    clamp_logit_scale,
    learning_rate,
    make_optimizer,
    move_average,
    stop_frozen,
)
from kdjax.training.rates import check_rates
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
        ema: the parameters' average, of the same form, or None.
    """

    step: Any
    steps: Any
    params: Any
    opt_state: Any
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
        init: (seed, steps) -> state, sharded by the table.
        step: (state, frozen, batch) -> (state, metrics); the state is donated.
        shardings: of the state.
    """

    init: Callable[[int, int], TrainState]
    step: Callable[[TrainState, Frozen, Batch], tuple[TrainState, Any]]
    shardings: TrainState


@functools.lru_cache(maxsize=64)
def build_program(task: Task, optimizer: OptimizerConfig, mesh: Mesh) -> Program:
    """Return the functions of a run; equal arguments give the same compiled ones.

    Raises:
        UserError: a pattern of the optimiser's rates matches no parameter.
    """
    transform = make_optimizer(optimizer)
    module = nnx.eval_shape(lambda: task.init(nnx.Rngs(0)))
    graph, abstract = nnx.split(module)
    check_rates(nnx.to_pure_dict(abstract), optimizer.rates)

    def init(seed: Array, steps: Array) -> TrainState:
        state = nnx.state(task.init(nnx.Rngs(jax.random.key(seed))))
        params = nnx.to_pure_dict(state)
        ema = begin_average(params) if optimizer.ema else None
        return TrainState(jnp.int32(0), steps, params, transform.init(params), ema)

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
        params = optax.apply_updates(state.params, updates)
        params = clamp_logit_scale(params, optimizer.max_logit_scale)
        ema = state.ema
        if ema is not None:
            ema = move_average(ema, params, state.step, optimizer)
        metrics = {
            "loss": value,
            **terms,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": rate,
        }
        state = TrainState(state.step + 1, state.steps, params, opt_state, ema)
        return state, metrics

    shardings = _state_shardings(
        jax.eval_shape(init, 0, 0), transform, parameter_shardings(abstract, mesh), mesh
    )
    rows = NamedSharding(mesh, PartitionSpec(BATCH_AXES))
    jitted_init = jax.jit(
        init, out_shardings=shardings, compiler_options=_compiler_options(0)
    )
    return Program(
        init=lambda seed, steps: jitted_init(jnp.uint32(seed), jnp.int32(steps)),
        step=jax.jit(
            step,
            in_shardings=(shardings, None, rows),
            out_shardings=(shardings, replicated(mesh)),
            donate_argnums=0,
            compiler_options=_compiler_options(1),
        ),
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
    """Return shardings in which moments and the average lie where parameters do.

    A moment of another form than its parameter's lies whole on every device.
    """
    whole = replicated(mesh)

    def place(moment: Any, parameter: Any, sharding: Any) -> Any:
        if isinstance(moment, optax.MaskedNode):  # there is none of what is frozen
            return moment
        return sharding if moment.shape == parameter.shape else whole

    opt_state = optax.tree_map_params(
        transform,
        place,
        state.opt_state,
        state.params,
        params,
        transform_non_params=lambda _: whole,
        is_leaf=lambda x: isinstance(x, optax.MaskedNode),
    )
    return TrainState(
        whole, whole, params, opt_state, None if state.ema is None else params
    )
