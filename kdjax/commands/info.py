"""`kdjax info`: what is installed, what is here, and what can be named in a config."""

from kdjax.commands.workdir import environment
from kdjax.data.registry import source_names
from kdjax.models.zoo import architecture_names
from kdjax.objectives import objective_names


def info() -> str:
    """Return a few lines for people, and for bug reports."""
    here = environment()
    packages = ", ".join(f"{k} {v}" for k, v in here["packages"].items())
    return "\n".join(
        (
            f"python      {here['python']} on {here['platform']}",
            f"packages    {packages}",
            f"revision    {here['git_revision']}",
            f"devices     {', '.join(here['devices'])}",
            f"models      {', '.join(architecture_names())}",
            f"data sets   {', '.join(source_names())}",
            f"objectives  {', '.join(objective_names())}",
        )
    )
