"""Where arrays live: meshes, sharding rules, global batches."""

from kdjax.parallel.mesh import check_rows, host_rows, make_mesh, to_global
from kdjax.parallel.sharding import (
    BATCH_AXES,
    FROZEN,
    SPLIT,
    by_rows,
    parameter_shardings,
    placed,
    replicated,
    row_shares,
    state_shardings,
    unsplit,
    whole_rows,
)

__all__ = [
    "BATCH_AXES",
    "FROZEN",
    "SPLIT",
    "by_rows",
    "check_rows",
    "host_rows",
    "make_mesh",
    "parameter_shardings",
    "placed",
    "replicated",
    "row_shares",
    "state_shardings",
    "to_global",
    "unsplit",
    "whole_rows",
]
