"""The peer's side: `transformers.CLIPModel` in PyTorch, the same loss, AdamW."""

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from transformers import CLIPModel
from transformers.utils.logging import disable_progress_bar

from benchmarks.speed.cases import OBJECTIVES, OPTIMIZER, Case, inputs, serve

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def load(case: Case, role: str, dtype: torch.dtype) -> CLIPModel:
    """Return a saved model."""
    return CLIPModel.from_pretrained(case.model(role), dtype=dtype).to(DEVICE)


def batch_of(case: Case, model: CLIPModel) -> dict[str, torch.Tensor]:
    """Return uint8 images [B, 3, H, W] and token ids on the device."""
    text = model.config.text_config
    found = inputs(
        case,
        model.config.vision_config.image_size,
        text.max_position_embeddings,
        text.eos_token_id,
    )
    image = torch.from_numpy(found["image"]).permute(0, 3, 1, 2).contiguous()
    ids = torch.from_numpy(found["ids"]).long()
    return {"image": image.to(DEVICE), "ids": ids.to(DEVICE)}


def pixels(image: torch.Tensor) -> torch.Tensor:
    """Return normalised images."""
    mean, std = (torch.tensor(x, device=DEVICE).view(3, 1, 1) for x in (MEAN, STD))
    return (image.float() / 255 - mean) / std


def embed(model: CLIPModel, batch: dict[str, torch.Tensor]) -> Any:
    """Return what the model says of a batch."""
    return model(pixel_values=pixels(batch["image"]), input_ids=batch["ids"])


def cross_entropy(logits: torch.Tensor) -> torch.Tensor:
    """Return InfoNCE, the mean of both ways."""
    target = torch.arange(len(logits), device=logits.device)
    ways = F.cross_entropy(logits, target), F.cross_entropy(logits.T, target)
    return (ways[0] + ways[1]) / 2


def divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return KL(softmax teacher | softmax student), the mean of both ways."""
    ways = (
        F.kl_div(
            F.log_softmax(s, -1),
            F.log_softmax(t, -1),
            log_target=True,
            reduction="batchmean",
        )
        for s, t in ((student, teacher), (student.T, teacher.T))
    )
    return sum(ways) / 2


def distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the squared distance of unit rows, summed over the width."""
    return (student.float() - teacher.float()).square().sum(-1).mean()


class Loss(torch.nn.Module):
    """A student, and the projections to its teacher's width where that is another."""

    def __init__(self, student: CLIPModel, teacher: CLIPModel | None) -> None:
        super().__init__()
        self.student, self.taught = student, teacher is not None
        widths = {m.config.projection_dim for m in (student, teacher) if m is not None}
        if len(widths) == 2:
            dims = student.config.projection_dim, teacher.config.projection_dim
            self.image, self.text = torch.nn.Linear(*dims), torch.nn.Linear(*dims)
        else:
            self.image = self.text = torch.nn.Identity()

    def forward(self, batch: dict[str, torch.Tensor], said: Any) -> torch.Tensor:
        """Return the loss of a batch of which the teacher has said this."""
        out = embed(self.student, batch)
        loss = OBJECTIVES["clip"] * cross_entropy(out.logits_per_image.float())
        if not self.taught:
            return loss
        logits = (x.logits_per_image.float() for x in (out, said))
        loss = loss + OBJECTIVES["crd"] * divergence(*logits)
        far = sum(
            distance(F.normalize(map_(mine), dim=-1), theirs)
            for map_, mine, theirs in (
                (self.image, out.image_embeds, said.image_embeds),
                (self.text, out.text_embeds, said.text_embeds),
            )
        )
        return loss + OBJECTIVES["fd"] * far


def groups_of(model: torch.nn.Module) -> list[dict[str, Any]]:
    """Return parameters that are decayed, as kdjax's are, and those that are not."""
    groups = [
        {"params": [], "weight_decay": x} for x in (OPTIMIZER["weight_decay"], 0.0)
    ]
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim > 1 and "position_embedding" not in name
        groups[0 if matrix else 1]["params"].append(parameter)
    return groups


def steps_of(case: Case, faster: bool) -> tuple[float, Callable[[int], None]]:
    """Return the first loss, and what makes steps."""
    dtype = getattr(torch, case.dtype)
    teacher = load(case, "teacher", dtype) if case.kind == "distill" else None
    student = load(case, "student", torch.float32)
    if case.remat == "full":
        student.gradient_checkpointing_enable()
    model = Loss(student, teacher).to(DEVICE).train()
    batch = batch_of(case, student)
    optimizer = torch.optim.AdamW(
        groups_of(model),
        lr=OPTIMIZER["learning_rate"],
        betas=(0.9, OPTIMIZER["b2"]),
        eps=1e-8,
        fused=DEVICE == "cuda",
    )
    half = torch.autocast(DEVICE, dtype, enabled=dtype != torch.float32)

    def loss_of() -> torch.Tensor:
        with half:
            said = None
            if teacher is not None:
                with torch.no_grad():
                    said = embed(teacher, batch)
            return model(batch, said)

    compute = torch.compile(loss_of) if faster else loss_of

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = compute()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER["clip_norm"])
        optimizer.step()
        with torch.no_grad():
            student.logit_scale.clamp_(max=4.605170185988092)
        return loss.detach()

    return float(step()), lambda count: waited(step, count)


def forward_of(case: Case, faster: bool) -> tuple[float, Callable[[int], None]]:
    """Return the sum of the first logits, and what computes them again."""
    model = load(case, "student", getattr(torch, case.dtype)).eval()
    batch = batch_of(case, model)
    compute = torch.compile(embed) if faster else embed

    def forward() -> torch.Tensor:
        with torch.inference_mode():
            return compute(model, batch).logits_per_image

    return float(forward().sum()), lambda count: waited(forward, count)


def matmul_flops(dtype: torch.dtype, size: int = 2048, tries: int = 10) -> float:
    """Return how many FLOPs a second a large matrix product of this machine reaches."""
    left, right = torch.randn(2, size, size, device=DEVICE, dtype=dtype)
    times = []
    for _ in range(tries):
        started = time.perf_counter()
        waited(lambda: left @ right, 1)
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times)


def waited(step: Callable[[], torch.Tensor], count: int) -> None:
    """Make steps and wait for them."""
    for _ in range(count):
        step()
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Serve the case that the command line gives."""
    disable_progress_bar()
    faster, case = sys.argv[1] == "compiled", Case.from_json(sys.argv[2])
    if DEVICE == "cpu":
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    make = forward_of if case.kind == "forward" else steps_of
    first, run = make(case, faster)
    run(2)  # what is compiled or allocated at first
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    rate = matmul_flops(getattr(torch, case.dtype))
    serve({"loss": first, "versions": versions, "matmul": rate}, run)


if __name__ == "__main__":
    main()
