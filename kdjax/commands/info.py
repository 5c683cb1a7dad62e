"""`kdjax info`: what is installed, what is here, and what can be named in a config."""

from kdjax.commands.workdir import environment
from kdjax.data.registry import source_names
from kdjax.models import architecture, architecture_names, parameter_counts
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
            f"data sets   {', '.join(source_names())}",
            f"objectives  {', '.join(objective_names())}",
            "",
            *_models(),
        )
    )


def _models() -> list[str]:
    """Return a table of the architectures; parameters in millions."""
    rows: list[tuple[str, ...]] = [
        ("models", "image", "patch", "joint", "vision M", "text M", "all M")
    ]
    for name in architecture_names():
        config = architecture(name)
        counts = parameter_counts(config)
        sizes = (config.vision.image_size, config.vision.patch_size, config.embed_dim)
        towers = (counts.vision, counts.text, counts.total)
        rows.append((name, *map(str, sizes), *(f"{n / 1e6:.3f}" for n in towers)))
    return ["".join([row[0].ljust(16), *(x.rjust(9) for x in row[1:])]) for row in rows]
