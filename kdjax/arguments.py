"""What can be typed: `kdjax <command>` and its options, with their help."""

import argparse
from typing import NamedTuple, NoReturn

from kdjax import hosts


class Command(NamedTuple):
    """A command in its help.

    Attributes:
        text: what it does.
        example: a config of the package that it takes, if there is one.
    """

    text: str
    example: str = ""


HELP = {
    "pretrain": Command(
        "train a CLIP model from captions: a teacher, or a baseline student",
        "pretrain/easy_vqa",
    ),
    "distill": Command(
        "train a student CLIP model from captions and a teacher", "distill/easy_vqa"
    ),
    "vqa": Command(
        "fine-tune a vision tower on questions, and score it", "vqa/easy_vqa"
    ),
    "eval": Command("score a finished run or a CLIP model", "eval/easy_vqa"),
    "chain": Command("distil in stages, each from the stage before", "chain/assistant"),
    "calibrate": Command(
        "find the scale of a teacher's soft targets, and store it with it",
        "calibrate/easy_vqa",
    ),
    "study": Command(
        "run a grid of all of these, and answer with statistics in a report",
        "study/quickstart",
    ),
    "plan": Command("say what a run takes of TPUs or GPUs that are not here"),
    "export": Command("write a model for other people's tools, with its card"),
    "info": Command("show versions, devices, and what is registered"),
}
EPILOG = """\
FILE may be followed by :argument, which get_config(argument) receives. A FILE that
is not there is looked up among the configs of the package. Any key of the config
can be set: --config.seed=1 --config.optimizer.learning_rate=1e-3. The same command
on a workdir goes on where it stopped.

example: kdjax {command} --config=configs/{example}.py --workdir=runs/mine
"""
PLANNED = """\
It takes a config of pretrain, distill or vqa, compiles its real step for the topology,
and prints memory, work, what devices say to each other, and how long that takes at the
chips' full rates. No data, weights, hub or folder is opened, and nothing is written but
what --json names and, while it works, a temporary folder. TPUs need the extra
kdjax[plan], which is their compiler.

example: kdjax plan --config=configs/distill/clip_kd_vitl14_vitt16.py \\
    --topology=v5e:16x16
"""


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        """Exit with one line."""
        self.exit(2, f"kdjax: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of everything but the overrides."""
    top = Parser(
        prog="kdjax",
        description="Distil CLIP teachers into small students, score them on visual "
        "question answering, and ask whether the stronger teacher helped.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    for name, (text, example) in HELP.items():
        epilog = EPILOG.format(command=name, example=example) if example else None
        command = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=PLANNED if name == "plan" else epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        if name == "info":
            continue
        if name == "plan":
            _add_plan(command)
            continue
        if name == "export":
            command.add_argument(
                "--checkpoint", required=True, metavar="RUN|DIR|NAME",
                help="the workdir of a run, a directory or a name on the hub",
            )  # fmt: skip
            command.add_argument(
                "--format", default="safetensors", metavar="FORMAT",
                help="safetensors, msgpack, open_clip or stablehlo",
            )  # fmt: skip
        else:
            command.add_argument("--config", required=True, metavar="FILE[:argument]")
            _add_hosts(command)
        command.add_argument(
            "--workdir", required=True, metavar="DIR", help="may be a gs:// path"
        )
    return top


def _add_plan(command: argparse.ArgumentParser) -> None:
    """Add what a plan takes: no workdir, and a machine."""
    command.add_argument("--config", required=True, metavar="FILE[:argument]")
    command.add_argument(
        "--topology", required=True, metavar="CHIP:SHAPE",
        help="such as v5e:16x16, v5p:4x4x4 or h100:8; with --fit a chip will do",
    )  # fmt: skip
    command.add_argument(
        "--slices", type=int, default=1, metavar="N",
        help="how many of that shape, joined by the network (%(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--fit", action="store_true",
        help="look for the smallest shape of the chip, up to the one that is given, "
        "and for the microbatch and remat with which the step fits there",
    )  # fmt: skip
    command.add_argument(
        "--json", metavar="FILE", help="where to write the same for programs"
    )


def _add_hosts(command: argparse.ArgumentParser) -> None:
    """Add what says where the other processes are, with JAX's names."""
    group = command.add_argument_group(
        "many hosts",
        "The same command on each; needed only where the environment (TPU pods, Slurm, "
        "Open MPI, indexed jobs of Kubernetes) does not say who there is.",
    )
    group.add_argument(
        "--coordinator_address", metavar="HOST:PORT", help="of the first process"
    )
    group.add_argument(
        "--num_processes", type=int, metavar="N", help="how many there are"
    )
    group.add_argument(
        "--process_id", type=int, metavar="I", help="which of them this is, from 0"
    )
    group.add_argument(
        "--heartbeat_timeout_seconds", type=int, metavar="S",
        default=hosts.HEARTBEAT_TIMEOUT,
        help="after which a host that says nothing is gone, and all stop (%(default)s)",
    )  # fmt: skip
