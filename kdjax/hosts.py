"""The processes of one run on many hosts: they meet, wait for each other, end together.

All of them do the same; the first one alone writes and speaks. JAX's own runtime finds
them, passes arrays between them and watches over them.
"""

import ctypes
import errno
import functools
import itertools
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any, TypeVar

from kdjax.errors import Transient, UserError

Tree = TypeVar("Tree")

# Seconds, as JAX has them.
HEARTBEAT_TIMEOUT = 100
# Where JAX looks for the first process.
ADDRESS = "JAX_COORDINATOR_ADDRESS"
# How long one that ends waits for others to end with it, where something is wrong and
# where nothing is, and how long the first, which they would miss, ends after them.
BARRIER_SECONDS, END_SECONDS, GRACE_SECONDS = 10, 300, 1
# How errors begin of what goes between hosts: in sums, and in what the runtime asks.
OF_SUMS = re.compile("[A-Z_]+: .*(Gloo|NCCL|(closed|reset) by peer)")
OF_RUNTIME = re.compile("(UNAVAILABLE|DEADLINE_EXCEEDED): ")
GONE = (
    "kdjax: another host is gone or cannot be reached, or this one broke ({why}); the "
    "same command on all hosts goes on from the last checkpoint\n"
)


def start(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    heartbeat_timeout_seconds: int = HEARTBEAT_TIMEOUT,
) -> None:
    """Meet the other processes, if there are any; before JAX has looked for devices.

    Args:
        coordinator_address: HOST:PORT of the first process; with the next two, or with
            neither of them where the environment says who there is (TPU pods, Slurm,
            Open MPI, indexed jobs of Kubernetes) or where there is one process alone.
        num_processes: how many there are.
        process_id: which of them this is, from 0.
        heartbeat_timeout_seconds: after which one that says nothing is gone.

    Raises:
        UserError: only some are given, or they cannot be.
        Transient: the others do not come; they may when all are started again.
    """
    if heartbeat_timeout_seconds < 1:
        raise UserError(
            f"heartbeat_timeout_seconds is {heartbeat_timeout_seconds}; give a whole "
            "number from 1"
        )
    if (coordinator_address, num_processes, process_id) == (None, None, None):
        count = _detected()
    else:
        coordinator_address = coordinator_address or os.environ.get(ADDRESS)
        count = _checked(coordinator_address, num_processes, process_id)
    if count == 1:
        return
    import jax

    ctypes.CDLL(None).signal(signal.SIGABRT, _end)
    try:
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=heartbeat_timeout_seconds,
        )
    # What hinders it is of many kinds.
    except Exception as error:
        raise Transient(
            f"the processes of this run do not meet ({error}): start all of them at "
            "once, each with the address of the first as --coordinator_address, with "
            "--num_processes and with its own --process_id"
        ) from error


def _checked(address: str | None, count: int | None, place: int | None) -> int:
    """Return how many processes there are, if what is said of them can be."""
    if address is None or count is None or place is None:
        raise UserError(
            "--coordinator_address, --num_processes and --process_id say together "
            "where the processes are; give all of them, or none where the environment "
            "says it or there is one process"
        )
    host, _, port = address.rpartition(":")
    if not host or not re.fullmatch(r"\d{1,5}", port) or not 0 < int(port) < 2**16:
        raise UserError(f"coordinator_address is {address!r}; give HOST:PORT")
    if not 0 <= place < count:
        raise UserError(
            f"process_id is {place} and num_processes {count}; count processes from 0"
        )
    if place == 0 and count > 1:
        _check_port(int(port))
    return count


def _check_port(port: int) -> None:
    """Check that the first process can wait for others at a port; JAX would crash."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        # What holds it may be a process of a run that was killed, and end.
        kind = Transient if error.errno == errno.EADDRINUSE else UserError
        raise kind(
            f"coordinator_address has the port {port}, at which the first process "
            f"cannot wait for the others ({os.strerror(error.errno or 0)}): give one "
            "that is free on its host"
        ) from error


def _detected() -> int:
    """Return how many processes JAX's own detection finds; 1 where it finds none.

    What it would do on finding a cluster of one may be wrong, such as to take but one
    of a Slurm job's GPUs, or a port that another job has.
    """
    from jax._src.clusters import ClusterEnv  # there is no public name

    in_job = "JOB_COMPLETION_INDEX" in os.environ
    for cluster in ClusterEnv._cluster_types:
        # A pod outside of an indexed job, such as a notebook's, has no others.
        if cluster.__name__ == "K8sCluster" and not in_job:
            continue
        if not cluster.opt_in_only_method and cluster.is_env_present():
            return cluster.get_process_count()
    return 1


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _end(signum: int) -> None:
    """End with a line after JAX's, whose client knows no other end than to abort.

    It does so where a host has not come, and in a thread of its own as soon as one is
    gone, while this process may wait for ever for that host's part of a sum. What
    breaks in this process itself aborts too, and has said so.
    """
    os.write(2, GONE.format(why="what is above says which").encode())
    os._exit(1)


def several() -> bool:
    """Return whether there are other processes."""
    import jax

    return jax.process_count() > 1


def is_first() -> bool:
    """Return whether this is the process that writes and speaks."""
    import jax

    return jax.process_index() == 0


def wait(where: str) -> None:
    """Wait until all processes are here, so that what was written can be read."""
    if several():
        from jax.experimental.multihost_utils import sync_global_devices

        sync_global_devices(where)


def each(number: int) -> list[int]:
    """Return the number that each process has, in their order; all must ask."""
    if not several():
        return [number]
    from jax.experimental.multihost_utils import process_allgather

    return [int(x) for x in process_allgather(number)]


def first_says(yes: bool) -> bool:
    """Return what the first process says; all of them must ask."""
    if not several():
        return yes
    from jax.experimental.multihost_utils import broadcast_one_to_all

    return bool(broadcast_one_to_all(yes))


def told_to_stop() -> bool:
    """Return whether SIGTERM has come to one of several processes; all must ask.

    All hear of it once, each in the same of its questions.
    """
    from jax.experimental.multihost_utils import reached_preemption_sync_point

    return reached_preemption_sync_point(next(_questions()))


@functools.cache
def _questions() -> Iterator[int]:
    """Return what counts the questions of this process, over all of its runs.

    JAX says yes to one number alone: that after the last with which any process has
    asked, or 1. A run's own steps may begin after it.
    """
    return itertools.count(1)


def whole(tree: Tree) -> Tree:
    """Return arrays that are spread over hosts as arrays that each host has itself.

    All hosts must ask for it. Where there is one host, what is there is returned.
    """
    import jax
    import jax.numpy as jnp
    from jax.experimental.multihost_utils import process_allgather

    def gather(x: object) -> object:
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            return x
        if x.is_fully_replicated:
            return x.addressable_data(0)
        return jnp.asarray(process_allgather(x, tiled=True))

    return jax.tree.map(gather, tree)


def beside(tree: Any, rows: Tree) -> Tree:
    """Return arrays that each host has so that a function takes them with a tree.

    Where the tree is spread over hosts they are whole on all of its devices.

    Args:
        tree: of arrays, such as parameters.
        rows: the same on every host.
    """
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    arrays = [x for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)]
    spread = next((x for x in arrays if not x.is_fully_addressable), None)
    if spread is None or not isinstance(spread.sharding, NamedSharding):
        return rows
    everywhere = NamedSharding(spread.sharding.mesh, PartitionSpec())
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(everywhere, x), rows
    )


def met() -> bool:
    """Return whether this process has met others, without looking for devices."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def gone(error: Exception) -> str:
    """Return what is to be said of an error that a lost host may leave; else nothing.

    Where a connection breaks, the error of what went over it may come before JAX ends
    the process. A sum may also fail of what is wrong here.
    """
    from jax.errors import JaxRuntimeError

    why = " ".join(str(error).split())
    of_runtime = isinstance(error, JaxRuntimeError) and OF_RUNTIME.match(why)
    # What fetches an array that is not there yet makes a ValueError of it.
    of_sums = isinstance(error, JaxRuntimeError | ValueError) and OF_SUMS.match(why)
    return GONE.format(why=why[:200]) if of_runtime or of_sums else ""


def leave(status: int, at_once: bool = False) -> int:
    """Return an exit status, or end with it where others have been met, or at once.

    Each process waits for all. What is wrong for all is known to all soon, and none
    must hear of the end of the first before. A signal that comes now changes nothing
    any more; JAX's own end would wait for minutes until all have heard of it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if met():
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.SIG_IGN)
    if met() and not at_once:
        _wait_to_leave(BARRIER_SECONDS if status else END_SECONDS)
    if at_once or met():
        os._exit(status)
    return status


def _wait_to_leave(seconds: int) -> None:
    """Wait for those that leave too, but not for longer than that."""
    from jax._src.distributed import global_state  # there is no public name
    from jax.errors import JaxRuntimeError

    client: Any = global_state.client
    try:
        client.wait_at_barrier("leaving", seconds * 1000)
    except JaxRuntimeError:  # what was wrong was wrong here alone
        return
    if global_state.process_id == 0:
        time.sleep(GRACE_SECONDS)
