"""`python -m kdjax`."""

from kdjax.cli import typed

raise SystemExit(typed())
