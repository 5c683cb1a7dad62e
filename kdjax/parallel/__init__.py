"""Where arrays live: meshes, sharding rules, global batches."""

from kdjax.parallel.mesh import check_rows, host_rows, make_mesh, to_global
from kdjax.parallel.sharding import BATCH_AXES, parameter_shardings, replicated

__all__ = [
    "BATCH_AXES",
    "check_rows",
    "host_rows",
    "make_mesh",
    "parameter_shardings",
    "replicated",
    "to_global",
]
