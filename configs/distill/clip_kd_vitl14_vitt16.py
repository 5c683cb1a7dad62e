"""CLIP-KD's student ViT-T/16 from a ViT-L/14, on CC3M and CC12M: a run to plan.

The recipe is that of CLIP-KD (Yang 2024, arXiv:2307.12732) and its released scripts:
the teacher is OpenCLIP's ViT-L/14 of LAION-400M; 12.86 M pairs (2.89 M of CC3M and
9.97 M of CC12M, as its authors had them) at 224 pixels for 32 epochs; AdamW at 1e-3
with decay 0.1 and no clipping; 10,000 of 401,875 steps are warm-up. There a batch has
1,024 pairs. Here it has 32,768, enough for a pod, and so 12,559 steps; the warm-up is
the same share of them, and the rate is the same, which at such a batch is a guess.

It is not all of that recipe: images are not cropped at random, and computing is in
bfloat16 where theirs was in float16.

kdjax plan --config=configs/distill/clip_kd_vitl14_vitt16.py --topology=v5e:16x16
kdjax plan --config=configs/distill/clip_kd_vitl14_vitt16.py:1024 --topology=v5e:4x4

kdjax distill cannot run it yet: there is no reader of these data sets, and it says so.
"""

from ml_collections import ConfigDict

from kdjax.config import training_defaults

PAIRS, EPOCHS = 12_860_000, 32
WARMUP = 10_000 / 401_875


def get_config(batch_size: str = "32768") -> ConfigDict:
    """Return the config, for a batch of so many pairs."""
    config = training_defaults()
    config.data = ConfigDict({"name": "cc3m_cc12m", "size": PAIRS, "image_size": 224})
    config.student = "vit-t-16"
    config.teacher = "timm/vit_large_patch14_clip_224.laion400m_e32"
    config.teacher_sharding = "replicated"
    config.teacher_dtype = "auto"
    config.parts = "all"
    config.inherit = "none"
    config.inherit_from = "teacher"
    config.text_tower = "own"
    config.teacher_outputs = "computed"
    config.teacher_scale = "own"
    config.teacher_entropy = 1.8
    config.tokenizer = "timm/vit_large_patch14_clip_224.laion400m_e32"
    config.caption_length = 77
    config.objectives = "clip_kd_legacy"
    config.batch_size = int(batch_size)
    config.steps = round(EPOCHS * PAIRS / config.batch_size)
    config.optimizer.rates.text = 1.0
    config.remat.text = "none"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.1
    config.optimizer.warmup = WARMUP
    config.optimizer.clip_norm = 0.0
    config.eval.evaluators = ("zero_shot",)
    return config
