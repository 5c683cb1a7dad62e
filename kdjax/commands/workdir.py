"""A run's workdir: what it was asked to do, where, and whether it is done."""

import json
import platform
import subprocess
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

import kdjax
from kdjax import hosts
from kdjax.config import config_hash, differences, to_plain
from kdjax.errors import UserError
from kdjax.files import held, make_folder, write_whole
from kdjax.hub import CONFIG, ENVIRONMENT

PACKAGES = (
    "kdjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain",
    "transformers", "tokenizers", "numpy",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Return what a run's numbers depend on besides its config."""
    return {
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "devices": [str(device) for device in jax.devices()],
        "backend": jax.default_backend(),
    }


def _git_revision() -> str:
    """Return the revision of the checkout that the package is in, or "unknown"."""
    package = Path(kdjax.__file__).parent
    command = ["git", "-C", str(package), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    top, revision = done.stdout.splitlines()
    return revision if Path(top).resolve() == package.parent.resolve() else "unknown"


def folder_of(path: epath.PathLike) -> epath.Path:
    """Return the path of a workdir, where there may be a folder.

    Raises:
        UserError: there may be none, or what reads the bucket is not installed.
    """
    if not str(path):
        raise UserError("the workdir is empty; give a folder as --workdir")
    folder = epath.Path(path)
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"the workdir {folder} is a file; give a folder")
    except ImportError as error:
        raise UserError(
            f"the workdir {folder} needs a package that is not installed: run pip "
            "install 'kdjax[gcs]' for gs:// paths"
        ) from error
    return folder


class Workdir:
    """The folder of one run of one command."""

    def __init__(
        self,
        path: epath.PathLike,
        command: str,
        config: ConfigDict,
        made_from: Mapping[str, Any] | None = None,
    ) -> None:
        """Look at the folder; nothing is written before `begin`.

        Args:
            path: of the folder.
            command: that the run is of.
            config: of the run.
            made_from: what is known of the runs that the config names, so that a run
                is another, and does not go on, where they are others.

        Raises:
            UserError: it belongs to another command or to another config.
        """
        self.path = folder_of(path)
        self.run = config_hash(command, config, made_from)
        self._config = {"command": command, **to_plain(config)}
        if made_from:
            self._config["made_from"] = dict(made_from)
        if found := differences(self._begun() or self._config, self._config):
            raise UserError(
                f"the workdir {self.path} holds a run of another config "
                f"({'; '.join(found[:3])}); give another --workdir, or remove this one"
            )

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Make the folder, write what is asked for and where it runs, and work there.

        Of several hosts the first does so, when all have looked at what was there.

        Raises:
            UserError: it cannot be written, or another process works there, or not all
                hosts see it, or they are not asked for the same.
        """
        asked = zlib.crc32(json.dumps(self._config, sort_keys=True).encode())
        if len(set(hosts.each(asked % 2**31))) > 1:
            raise UserError(
                "the hosts are asked for different things: give all of them the same "
                "command, config and files"
            )
        with ExitStack() as stack:
            taken = False
            try:
                make_folder(self.path)
                taken = not stack.enter_context(held(self.path))
                if not taken:
                    self.write_json(CONFIG, self._config)
                    self.write_json(ENVIRONMENT, environment())
            except OSError as error:
                raise UserError(
                    f"the workdir {self.path} cannot be written "
                    f"({error.strerror or error}); give another --workdir"
                ) from error
            self._check_begun(taken)
            yield

    def _check_begun(self, taken: bool) -> None:
        """Let all hosts know whether the first has begun; all ask."""
        if hosts.first_says(taken):
            raise UserError(
                f"another process works in the workdir {self.path}: wait for it or "
                "stop it, or give another --workdir"
            )
        if not (self.path / ENVIRONMENT).exists():
            raise UserError(
                f"the workdir {self.path} is not one folder for all hosts: give one on "
                "a file system that they share, or in a bucket"
            )

    def _begun(self) -> dict[str, Any] | None:
        """Return the config of the run that has made something here, or None.

        Until then the config may change: a typo does not cost the folder.
        """
        config = self.read_json(CONFIG)
        if not isinstance(config, dict | None):
            raise UserError(f"{self.path / CONFIG} holds no config: remove it")
        about = (CONFIG, ENVIRONMENT)
        made = config and any(p.name not in about for p in self.path.iterdir())
        return config if made else None

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file atomically."""
        text = json.dumps(content, indent=2) + "\n"
        write_whole(self.path / name, text.encode())

    def read_json(self, name: str) -> Any | None:
        """Return a JSON file's content, or None when there is no such file.

        Raises:
            UserError: it cannot be read.
        """
        file = self.path / name
        if not file.exists():
            return None
        try:
            return json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise UserError(
                f"{file} cannot be read ({error}): remove it, and the same command "
                "makes it again"
            ) from error

    def finished(self, steps: int) -> dict[str, Any] | None:
        """Return the results of a run that has made all its steps, or None."""
        results = self.read_json("results.json")
        if results is None:
            return None
        if not isinstance(results, dict) or not isinstance(results.get("steps"), int):
            raise UserError(
                f"{self.path / 'results.json'} holds no results: remove it, and the "
                "same command makes it again"
            )
        return results if results["steps"] >= steps else None
