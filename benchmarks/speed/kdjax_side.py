"""kdjax's side of the comparison: the forward pass, and the real training step."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

import kdjax
from benchmarks.speed.cases import OBJECTIVES, OPTIMIZER, Case, inputs, serve
from kdjax.commands.compute import Compute
from kdjax.models import CLIP, CLIPConfig, Params, abstract_of, architecture, graph_of
from kdjax.models.clip import preprocess
from kdjax.models.flops import caption_flops, image_flops
from kdjax.parallel import make_mesh, replicated, to_global
from kdjax.parallel.chips import chip_of
from kdjax.process import prepare
from kdjax.training.flops import step_flops
from kdjax.training.optimizer import OptimizerConfig
from kdjax.training.steps import Program, build_program
from kdjax.training.tasks import ContrastiveTask

MESH = {"data": -1, "fsdp": 1, "tensor": 1}


def save_models(case: Case) -> None:
    """Write the models that both sides begin with."""
    for seed, (role, name) in enumerate(roles(case).items()):
        if not case.model(role).exists():
            clip = CLIP(architecture(name), rngs=nnx.Rngs(seed))
            kdjax.save_clip(clip, case.model(role))


def roles(case: Case) -> dict[str, str]:
    """Return the architectures that take part."""
    taught = {"teacher": case.teacher} if case.kind == "distill" else {}
    return {"student": case.student, **taught}


def batch_of(case: Case, config: CLIPConfig) -> dict[str, Any]:
    """Return a batch as the loader gives it."""
    text = config.text
    found = inputs(case, config.vision.image_size, text.context_length, text.eos_id)
    ids = found["ids"]
    readers = ["student", "teacher_0"] if case.kind == "distill" else ["student"]
    return {"image": found["image"], "text": dict.fromkeys(readers, ids)}


def task_of(case: Case) -> ContrastiveTask:
    """Return what a step trains."""
    remat = case.remat
    student = Compute(case.dtype, "xla", vision_remat=remat, text_remat=remat)
    teacher = Compute(case.dtype, "xla", param_dtype=case.dtype)
    distilled = case.kind == "distill"
    objectives = OBJECTIVES if distilled else {"clip": 1.0}
    return ContrastiveTask(
        student.of(architecture(case.student)),
        (teacher.of(architecture(case.teacher)),) if distilled else (),
        tuple((name, (("weight", x),)) for name, x in sorted(objectives.items())),
    )


def program_of(case: Case) -> Program:
    """Return the step that `kdjax distill` or `kdjax pretrain` makes."""
    optimizer = OptimizerConfig(warmup=0.0, schedule="constant", **OPTIMIZER)
    mesh = make_mesh(MESH)
    task = task_of(case)
    shapes = [nnx.to_pure_dict(abstract_of(CLIP, teacher)) for teacher in task.teachers]
    places = jax.tree.map(lambda _: replicated(mesh), tuple(shapes))
    return build_program(task, optimizer, mesh, places or None)


def steps_of(case: Case) -> tuple[float, Callable[[int], None], float | None]:
    """Return the first loss, what makes steps, and the model FLOPs of one."""
    program = program_of(case)
    mesh, task = program.mesh, program.task
    batch = to_global(batch_of(case, task.student), mesh)
    frozen = tuple(load(case, "teacher", teacher) for teacher in task.teachers)
    frozen = jax.device_put(frozen, replicated(mesh)) if frozen else None
    state = program.init(0, 1000)
    params = {**state.params, "model": load(case, "student", task.student)}
    state = jax.device_put(state.begin_at(params), program.shardings)
    state, metrics = program.step(state, frozen, batch)
    holder = [state]

    def run(steps: int) -> None:
        for _ in range(steps):
            holder[0], _ = program.step(holder[0], frozen, batch)
        jax.block_until_ready(holder[0])

    return float(metrics["loss"]), run, step_flops(task, program.optimizer, batch)


def load(case: Case, role: str, config: CLIPConfig) -> Params:
    """Return the parameters of a saved model."""
    clip = kdjax.load_clip(
        case.model(role), dtype=config.dtype, param_dtype=config.param_dtype
    )
    return nnx.to_pure_dict(nnx.state(clip))


def forward_of(case: Case) -> tuple[float, Callable[[int], None], int]:
    """Return the sum of the first logits, what computes them again, and its FLOPs."""
    config = Compute(case.dtype, "xla", case.dtype).of(architecture(case.student))
    graph, batch = graph_of(CLIP, config), batch_of(case, config)

    @jax.jit
    def forward(params: Params, image: Any, ids: Any) -> Any:
        clip = nnx.merge(graph, params)
        return clip(preprocess(image, config.vision), ids).logits_per_image

    given = (load(case, "student", config), batch["image"], batch["text"]["student"])
    given = jax.device_put(given)

    def run(times: int) -> None:
        for _ in range(times):
            found = forward(*given)
        jax.block_until_ready(found)

    flops = image_flops(config) + caption_flops(config, config.text.context_length)
    return float(forward(*given).sum()), run, case.batch * flops


def compile_seconds(case: Case) -> float:
    """Return how long a distillation's step takes to compile, from shapes alone."""
    program = program_of(case)
    batch = jax.eval_shape(lambda: batch_of(case, program.task.student))
    frozen = tuple(
        nnx.to_pure_dict(abstract_of(CLIP, teacher))
        for teacher in program.task.teachers
    )
    step: Any = program.step
    started = time.perf_counter()
    step.lower(program.shapes, frozen or None, batch).compile()
    return time.perf_counter() - started


def main() -> None:
    """Serve the case that the command line gives."""
    what, case = sys.argv[1], Case.from_json(sys.argv[2])
    prepare()  # as the command line does
    if what == "compile":
        print(json.dumps({"seconds": compile_seconds(case)}))
        return
    save_models(case)
    loss, run, flops = (forward_of if case.kind == "forward" else steps_of)(case)
    serve({"loss": loss, "flops": flops, **machine()}, run)


def machine() -> dict[str, Any]:
    """Return what the side runs on."""
    device = jax.devices()[0]
    chip = chip_of(device.device_kind)
    return {
        "device": device.device_kind,
        "peak": chip.peak if chip else None,
        "versions": {"jax": jax.__version__, "kdjax": kdjax.__version__},
    }


if __name__ == "__main__":
    main()
