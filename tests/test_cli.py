"""What people type, and what they are told when it is wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PRETRAIN = "--config=configs/pretrain/easy_vqa.py"


def kdjax(*arguments, cwd=None):
    command = [sys.executable, "-m", "kdjax", *map(str, arguments)]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env=environment
    )


@pytest.mark.parametrize(
    "command", ["pretrain", "distill", "chain", "vqa", "eval", "calibrate", "study"]
)
def test_help_says_what_a_command_takes(command):
    done = kdjax(command, "--help")
    assert done.returncode == 0
    hosts = ("--coordinator_address", "--num_processes", "--process_id")
    for word in (
        "--config",
        "--workdir",
        "--config.seed=1",
        f"kdjax {command}",
        *hosts,
    ):
        assert word in done.stdout


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from kdjax.cli import parser; parser().format_help(); "
        "heavy = ('jax', 'flax', 'numpy', 'transformers'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config=configs/pretrain/nope.py"], "there is no config file"),
        ([PRETRAIN, "--config.stesp=3"], "no key 'stesp'; did you mean 'steps'?"),
        ([PRETRAIN, "--config.steps=many"], "--config.steps=many"),
        (
            [PRETRAIN, "--config.optimizer.learning_rat=1"],
            "did you mean 'learning_rate'",
        ),
        ([PRETRAIN, "--config.model=tiny-9"], "did you mean 'tiny-8'?"),
        ([PRETRAIN, "--config.data.name=easy_vga"], "easy_vqa"),
        ([PRETRAIN, "--config.mesh.data=3"], "does not fit"),
        ([PRETRAIN, "--config.mesh.data=-2"], "mesh.data is -2; give a whole number"),
        ([PRETRAIN, "--config.zzz=1"], "there is no key 'zzz'"),
        ([PRETRAIN, "--config.log_every=0"], "log_every is 0; give a whole number"),
        ([PRETRAIN, "--workdir=/dev/null/run"], "the folder /dev/null/run cannot"),
        ([PRETRAIN, "--num_processes=2"], "give all of them, or none"),
        ([PRETRAIN, "--process_id=first"], "invalid int value: 'first'"),
        ([PRETRAIN, "stray"], "'stray' is not understood"),
        (["--config=configs/vqa/easy_vqa.py"], "a config of pretrain has no key"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_a_failure(arguments, said, tmp_path):
    done = kdjax("pretrain", f"--workdir={tmp_path / 'run'}", *arguments)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("kdjax: ")
    assert said in lines[0]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "teacher"
    done = kdjax("pretrain", PRETRAIN, f"--workdir={workdir}", "--config.steps=4",
                 "--config.batch_size=8", "--config.log_every=2",
                 "--config.model=tiny-16")  # fmt: skip
    assert done.returncode == 0, done.stderr
    return workdir


def test_a_finished_run_has_everything_in_its_workdir(teacher):
    config = json.loads((teacher / "config.json").read_text())
    assert config["steps"] == 4
    assert config["command"] == "pretrain"
    environment = json.loads((teacher / "environment.json").read_text())
    assert environment["packages"]["jax"]
    assert environment["devices"]
    rows = [json.loads(x) for x in (teacher / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    results = json.loads((teacher / "results.json").read_text())
    assert 0 <= results["zero_shot_accuracy"] <= 100
    assert (teacher / "model" / "model.safetensors").exists()
    assert list((teacher / "tensorboard").glob("events.out.tfevents*"))
    assert (teacher / "checkpoints" / "4").is_dir()


def test_the_same_command_on_a_finished_run_says_so(teacher):
    started = time.time()
    done = kdjax("pretrain", PRETRAIN, f"--workdir={teacher}", "--config.steps=4",
                 "--config.batch_size=8", "--config.model=tiny-16")  # fmt: skip
    assert done.returncode == 0
    assert "is finished already" in done.stderr
    metrics = teacher / "metrics.jsonl"
    assert metrics.stat().st_mtime < started


def test_a_workdir_of_another_config_is_refused(teacher):
    done = kdjax("pretrain", PRETRAIN, f"--workdir={teacher}", "--config.steps=4",
                 "--config.batch_size=16", "--config.model=tiny-16")  # fmt: skip
    assert done.returncode == 2
    assert "batch_size was 8 and is now 16" in done.stderr


def test_more_steps_go_on_from_the_last(teacher):
    done = kdjax("pretrain", PRETRAIN, f"--workdir={teacher}", "--config.steps=6",
                 "--config.batch_size=8", "--config.log_every=2",
                 "--config.model=tiny-16")  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = (teacher / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [2, 4, 6]


def test_configs_are_found_from_any_folder(tmp_path):
    done = kdjax(
        "pretrain", PRETRAIN, "--workdir=run", "--config.stesp=1", cwd=tmp_path
    )
    assert "did you mean 'steps'" in done.stderr


def test_distil_and_ask_from_a_runs_workdir(teacher):
    student = teacher.parent / "student"
    small = ["--config.steps=2", "--config.batch_size=8"]
    done = kdjax("distill", "--config=configs/distill/easy_vqa.py", *small,
                 f"--workdir={student}", f"--config.teacher={teacher}",
                 "--config.student=tiny-16")  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = (student / "metrics.jsonl").read_text().splitlines()
    last = json.loads(rows[-1])
    assert {"clip", "crd", "icl", "fd", "loss", "step"} <= last.keys()
    answers = teacher.parent / "answers"
    done = kdjax("vqa", "--config=configs/vqa/easy_vqa.py", *small,
                 f"--workdir={answers}", "--config.tower=student")  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads((answers / "results.json").read_text())
    assert 0 < results["vqa_accuracy"] < 100
    scored = teacher.parent / "scored"
    done = kdjax("eval", "--config=configs/eval/easy_vqa.py", f"--workdir={scored}",
                 "--config.model=answers")  # fmt: skip
    assert done.returncode == 0, done.stderr
    again = json.loads((scored / "results.json").read_text())
    assert again["vqa_accuracy"] == results["vqa_accuracy"]


def test_info_names_what_can_be_chosen():
    done = kdjax("info")
    assert done.returncode == 0, done.stderr
    for word in ("vit-t-16", "easy_vqa", "scenes", "crd", "jax", "cpu"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["info"], 128 + signal.SIGPIPE, ""),
        (["--help"], 0, ""),
        (["info", "--no"], 2, "kdjax: '--no' is not an option of kdjax info\n"),
    ],
)
def test_where_nobody_reads_on_it_ends_in_silence(words, status, said):
    """As of `kdjax info | true`; what is wrong with the input is told in any case."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "kdjax", *words]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (status, said)


def test_what_is_compiled_is_kept_from_python_too(tmp_path):
    """In a notebook that has compiled something before, and unless JAX knows where."""
    code = (
        "import jax, kdjax; jax.jit(lambda x: x + 1)(1.0)\n"
        "try: kdjax.run('pretrain', 'nothing.py', 'run')\n"
        "except kdjax.errors.UserError: pass\n"
        "jax.jit(lambda x: x * 2)(1.0); print(jax.config.jax_compilation_cache_dir)"
    )
    folder = tmp_path / "cache" / "kdjax" / "xla"
    given = {"XDG_CACHE_HOME": f"{tmp_path / 'cache'}", "JAX_COMPILATION_CACHE_DIR": ""}
    for more in ({}, {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "own")}):
        everything = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        environment = {**os.environ, **given, **everything, **more}
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == str(tmp_path / "own" if more else folder), done
    assert [path for path in folder.iterdir() if "jit" in path.name]


def test_the_public_names_are_there():
    import kdjax as package

    assert set(package.__all__) >= {"load_clip", "load_processor", "save_clip", "run"}
    assert Path(package.__file__).name == "__init__.py"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # noqa: B018


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_that_has_nothing_to_save(signum, tmp_path):
    """While it sets itself up, where an exception could be lost in a library."""
    waiting = "import time; print('here', flush=True); time.sleep(60)"
    config = tmp_path / "slow.py"
    config.write_text(f"def get_config():\n    {waiting}\n")
    arguments = ["pretrain", f"--config={config}", f"--workdir={tmp_path / 'run'}"]
    with subprocess.Popen(
        [sys.executable, "-m", "kdjax", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout.readline() == "here\n"
        run.send_signal(signum)
        _, said = run.communicate(timeout=30)
    assert run.returncode == 128 + signum
    assert said.strip() == "kdjax: stopped; the same command goes on from here"


@pytest.mark.parametrize(
    ("key", "value"), [("tokenizer", "3"), ("pretrain", "3"), ("data", "3")]
)
def test_a_value_of_another_kind_is_one_line(key, value, tmp_path):
    command = "study" if key == "pretrain" else "pretrain"
    example = "study/smoke" if key == "pretrain" else "pretrain/easy_vqa"
    config = tmp_path / "odd.py"
    config.write_text(
        "from kdjax.config import load_config\n"
        "def get_config():\n"
        f"    config = load_config('configs/{example}.py')\n"
        "    with config.ignore_type():\n"
        f"        config.{key} = {value}\n"
        "    return config\n"
    )
    done = kdjax(command, f"--config={config}", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"kdjax: {key} is 3; give ")
