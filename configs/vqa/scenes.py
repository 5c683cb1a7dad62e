"""Question answering on procedural scenes from any vision tower.

kdjax vqa --config=configs/vqa/scenes.py --workdir=runs/answers \
    --config.tower=runs/student
"""

from ml_collections import ConfigDict

from kdjax.config import training_defaults


def get_config() -> ConfigDict:
    """Return the config."""
    config = training_defaults()
    config.data = ConfigDict(
        {
            "name": "scenes",
            "seed": 0,
            "size": 10_000,
            "eval_size": 1000,
            "image_size": 64,
            "blank": False,
        }
    )
    config.tower = "tiny-8"
    config.tower_outputs = "computed"
    config.teacher = ""
    config.teacher_sharding = "replicated"
    config.teacher_dtype = "auto"
    config.objectives = ConfigDict({"bce": {}})
    config.tokenizer = "trained"
    config.question_length = 24
    config.questions_per_image = 12
    config.head = ConfigDict(
        {"question_layers": 2, "width": 64, "layers": 2, "num_heads": 4}
    )
    config.steps = 2000
    config.batch_size = 32
    config.optimizer.learning_rate = 4e-3
    config.optimizer.rates.vision = 0.3
    config.eval.evaluators = ("vqa",)
    return config
