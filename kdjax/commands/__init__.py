"""What one run does: a config in, a finished workdir out."""

from kdjax.commands.run import COMMANDS, run_command

__all__ = ["COMMANDS", "run_command"]
