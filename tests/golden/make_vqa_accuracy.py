"""Make tests/golden/vqa_accuracy.json: what two released evaluators say of odd answers.

Usage: python make_vqa_accuracy.py VQAEVAL M4C, where VQAEVAL is
PythonEvaluationTools/vqaEvaluation/vqaEval.py of github.com/GT-Vision-Lab/VQA and M4C
is mmf/utils/m4c_evaluators.py of github.com/facebookresearch/mmf.

The first is Python 2: its print statements become calls, and its tabs eight spaces.
It is asked for ten decimals. The questions are made up, each for a quirk or at random
from words, marks and spaces that the evaluators treat specially.
"""

import copy
import json
import random
import re
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

DECIMALS = 10
RANDOM_QUESTIONS = 300
TYPES = ("how many", "is the", "what color is the", "what does the sign say")
WORDS = (
    "a an the A The none Zero one two TEN eleven 2 10 3.5 1,000 12,345.67 dont Don't "
    "dont' isnt wouldnt've wouldn'tve couldntve somebody'd somebodyd lets let's its "
    "it's im Ive id've shes she's man's mans yes Yes NO red,blue red/blue t-shirt "
    "t_shirt a.m. p.m. U.S.A. mr. www.x.com 5.x .5 $5 50% 10:30 #1 rock'n'roll "
    "(left) [right] {both} <b> a+b=c c:\\d what? stop! \"quoted\" 'single' `tick` "
    "me@x.org café CAFÉ naïve 日本 １２ ١٢ ½ ñ ß İ ☺ – “curly” ’ … ; & | ~ ^ * "
)
SEPARATORS = (" ",) * 8 + ("  ", "\t", "\n", ",", ", ", " - ", "-", ". ", "/", "\u00a0")
EDITS = ("", "", "", "", " ", ".", "!", "?", ",", "\n", "\t", "the ", "a ", " - ", "'s")
# Prediction, then answers with how many annotators gave them.
BY_HAND: tuple[tuple[str, tuple[tuple[str, int], ...]], ...] = (
    ("Yes", (("yes", 10),)),
    ("Yes", (("yes", 9), ("no", 1))),
    ("yes!", (("yes", 10),)),
    ("yes ", (("yes\n", 10),)),
    ("yes", (("yes", 5), (" yes", 5))),
    ("Yes", (("yes", 5), ("yes\t", 5))),
    ("two", (("2", 10),)),
    ("two", (("2", 9), ("3", 1))),
    ("two dogs", (("2 dogs", 9), ("dog", 1))),
    ("none", (("0", 9), ("1", 1))),
    ("none", (("none", 2), ("0", 2), ("zero", 2), ("nothing", 4))),
    ("1,000", (("1000", 9), ("100", 1))),
    ("1,000 - a/b", (("1000 ab", 9), ("1000 b", 1))),
    ("1,000 - a/b", (("1000 b", 9), ("1000 ab", 1))),
    ("a.m.", (("am", 9), ("pm", 1))),
    ("5.x", (("5x", 9), ("5.x", 1))),
    ("red,blue", (("red blue", 9), ("redblue", 1))),
    ("red,blue", (("redblue", 9), ("red blue", 1))),
    ("red, blue", (("red blue", 9), ("red", 1))),
    ("man's", (("man 's", 9), ("man", 1))),
    ("let's go", (("let 's go", 9), ("lets go", 1))),
    ("a-b", (("b", 9), ("a b", 1))),
    ("." * 40 + "x", (("." * 8 + "x", 9), ("x", 1))),
    ("." * 40, (("." * 40, 9), ("", 1))),
    ("", (("", 10),)),
    ("the", (("", 3), ("a", 3), ("an", 4))),
    ("?", (("", 9), ("what", 1))),
    ("CAFÉ", (("café", 9), ("cafe", 1))),
    ("10:30", (("10:30", 5), ("10 30", 4), ("1030", 1))),
    ("cat", (("cat", 0), ("dog", 10))),
    *(("cat", (("cat", m), ("dog", 10 - m))) for m in range(1, 11)),
)


def official(path: str) -> type:
    source = Path(path).read_text().expandtabs(8)
    source = re.sub(r'print (".*")', r"print(\1)", source)
    module: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # escapes that Python 2 let pass
        exec(compile(source, path, "exec"), module)
    evaluator = module["VQAEval"]
    evaluator.updateProgress = lambda self, progress: None
    return evaluator


def m4c(path: str) -> dict[str, Any]:
    module: dict[str, Any] = {}
    exec(compile(Path(path).read_text(), path, "exec"), module)
    return module


def text(draw: random.Random) -> str:
    words = [draw.choice(WORDS.split()) for _ in range(draw.choice((1, 1, 2, 3)))]
    return "".join(word + draw.choice(SEPARATORS) for word in words[:-1]) + words[-1]


def edited(base: str, draw: random.Random) -> str:
    base = draw.choice((base, base, base, base.upper(), base.capitalize()))
    at = draw.randrange(len(base) + 1)
    middle = draw.choice(("", "", "", ".", "'", "-", " ", ","))
    before, after = draw.choice(EDITS), draw.choice(EDITS)
    return before + base[:at] + middle + base[at:] + after


def random_question(draw: random.Random) -> tuple[str, list[str]]:
    bases = [text(draw) for _ in range(draw.choice((1, 1, 2, 3)))]
    bases = bases[:1] * 2 + bases
    variants = [edited(draw.choice(bases), draw) for _ in range(6)] + bases[:1]
    return draw.choice(variants), [draw.choice(variants) for _ in range(10)]


def questions(contractions: dict[str, str]) -> list[dict[str, Any]]:
    draw = random.Random(0)
    given = [
        (said, [a for answer, count in answers for a in [answer] * count])
        for said, answers in BY_HAND
    ]
    for key, value in contractions.items():
        bare = value.replace("'", "")
        given.append((key, [value] * 4 + [key] * 3 + [bare] * 2 + ["other"]))
    given += [random_question(draw) for _ in range(RANDOM_QUESTIONS)]
    return [
        {
            "prediction": said,
            "answers": answers,
            "question_type": draw.choice(TYPES),
            "answer_type": draw.choice(("yes/no", "number", "other")),
            # Without answer_id, equal entries leave each other out.
            "answer_id": number % 7 > 0,
        }
        for number, (said, answers) in enumerate(given)
    ]


def entries(one: dict[str, Any]) -> list[dict[str, Any]]:
    answers = [{"answer": a, "answer_confidence": "yes"} for a in one["answers"]]
    if one["answer_id"]:
        answers = [e | {"answer_id": i} for i, e in enumerate(answers, 1)]
    return answers


def official_says(evaluator: type, given: list[dict[str, Any]]) -> dict[str, Any]:
    truth = {i: {**one, "answers": entries(one)} for i, one in enumerate(given)}
    said = {i: {"answer": one["prediction"]} for i, one in enumerate(given)}
    annotated = SimpleNamespace(qa=copy.deepcopy(truth), getQuesIds=lambda: list(truth))
    evaluation = evaluator(annotated, SimpleNamespace(qa=said), n=DECIMALS)
    evaluation.evaluate()
    return {
        "overall": evaluation.accuracy["overall"],
        "per_question_type": evaluation.accuracy["perQuestionType"],
        "per_answer_type": evaluation.accuracy["perAnswerType"],
        "per_question": [evaluation.evalQA[i] for i in truth],
    }


def evalai_says(module: dict[str, Any], given: list[dict[str, Any]]) -> dict[str, Any]:
    evaluator = module["TextVQAAccuracyEvaluator"]()

    def accuracy(some: list[dict[str, Any]]) -> float:
        pairs = [
            {"pred_answer": one["prediction"], "gt_answers": one["answers"]}
            for one in some
        ]
        return round(100 * evaluator.eval_pred_list(pairs), DECIMALS)

    def by(key: str) -> dict[str, float]:
        kinds = dict.fromkeys(one[key] for one in given)
        return {k: accuracy([one for one in given if one[key] == k]) for k in kinds}

    return {
        "overall": accuracy(given),
        "per_question_type": by("question_type"),
        "per_answer_type": by("answer_type"),
        "per_question": [accuracy([one]) for one in given],
    }


def normalized(
    evaluator: type, module: dict[str, Any], given: list[dict[str, Any]]
) -> dict[str, list[str]]:
    """Return what both make of every prediction: [official, evalai]."""
    ours = evaluator(SimpleNamespace(getQuesIds=list), None)
    theirs = module["EvalAIAnswerProcessor"]()

    def process(said: str) -> str:
        said = said.replace("\n", " ").replace("\t", " ").strip()
        return ours.processDigitArticle(ours.processPunctuation(said))

    said = dict.fromkeys(one["prediction"] for one in given)
    return {one: [process(one), theirs(one)] for one in said}


def main() -> None:
    evaluator, module = official(sys.argv[1]), m4c(sys.argv[2])
    given = questions(module["EvalAIAnswerProcessor"].CONTRACTIONS)
    parts = {
        "normalized": normalized(evaluator, module, given),
        "official": official_says(evaluator, given),
        "evalai": evalai_says(module, given),
    }
    lines = [json.dumps(one, ensure_ascii=False) for one in given]
    rest = [
        f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}"
        for k, v in parts.items()
    ]
    everything = ['"questions": [\n' + ",\n".join(lines) + "\n]", *rest]
    path = Path(__file__).with_name("vqa_accuracy.json")
    path.write_text("{" + ",\n".join(everything) + "}\n")


if __name__ == "__main__":
    main()
