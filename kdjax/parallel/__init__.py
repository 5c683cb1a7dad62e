"""Where arrays live: meshes, sharding rules, global batches."""

from kdjax.parallel.mesh import check_rows, host_rows, make_mesh, to_global
from kdjax.parallel.sharding import (
    BATCH_AXES,
    FROZEN,
    SPLIT,
    parameter_shardings,
    placed,
    replicated,
    state_shardings,
    unsplit,
)

__all__ = [
    "BATCH_AXES",
    "FROZEN",
    "SPLIT",
    "check_rows",
    "host_rows",
    "make_mesh",
    "parameter_shardings",
    "placed",
    "replicated",
    "state_shardings",
    "to_global",
    "unsplit",
]
