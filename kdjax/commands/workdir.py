"""A run's workdir: what it was asked to do, where, and whether it is done."""

import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

import kdjax
from kdjax.config import config_hash, differences, to_plain
from kdjax.errors import UserError

PACKAGES = (
    "kdjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain",
    "transformers", "tokenizers", "numpy",
)  # fmt: skip

CONFIG = "config.json"
ENVIRONMENT = "environment.json"


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
    top, revision = done.stdout.split()
    return revision if Path(top).resolve() == package.parent.resolve() else "unknown"


class Workdir:
    """The folder of one run of one command."""

    def __init__(self, path: epath.PathLike, command: str, config: ConfigDict) -> None:
        """Open or make the folder.

        Raises:
            UserError: it belongs to another command or to another config.
        """
        self.path = epath.Path(path)
        self.run = config_hash(command, config)
        mine = {"command": command, **to_plain(config)}
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"the workdir {self.path} is a file; give a folder")
        if found := differences(self._begun() or mine, mine):
            raise UserError(
                f"the workdir {self.path} holds a run of another config "
                f"({'; '.join(found[:3])}); give another --workdir"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.write_json(CONFIG, mine)
            self.write_json(ENVIRONMENT, environment())
        except OSError as error:
            raise UserError(
                f"the workdir {self.path} cannot be written "
                f"({error.strerror or error}); give another --workdir"
            ) from error

    def _begun(self) -> dict[str, Any] | None:
        """Return the config of the run that has made something here, or None.

        Until then the config may change: a typo does not cost the folder.
        """
        config = self.read_json(CONFIG)
        about = (CONFIG, ENVIRONMENT)
        made = config and any(p.name not in about for p in self.path.iterdir())
        return config if made else None

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file atomically."""
        partial = self.path / f"{name}.partial"
        partial.write_text(json.dumps(content, indent=2) + "\n")
        partial.replace(self.path / name)

    def read_json(self, name: str) -> Any | None:
        """Return a JSON file's content, or None when there is no such file."""
        file = self.path / name
        return json.loads(file.read_text()) if file.exists() else None

    def finished(self, steps: int) -> dict[str, Any] | None:
        """Return the results of a run that has made all its steps, or None."""
        results = self.read_json("results.json")
        return results if results and results["steps"] >= steps else None
