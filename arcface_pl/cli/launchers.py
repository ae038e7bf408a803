"""Surroundings in which torch or lightning could not even be imported: variables of launchers, a limit on memory."""

import os
import re
from contextlib import suppress

from arcface_pl.errors import SettingsError, expected

_NUMBERS = (
    "RANK",
    "LOCAL_RANK",
    "GROUP_RANK",
    "NODE_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_PORT",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    "SLURM_NTASKS",
    "JSM_NAMESPACE_RANK",
    "JSM_NAMESPACE_LOCAL_RANK",
    "JSM_NAMESPACE_SIZE",
    "PL_GLOBAL_SEED",
)
_LARGEST_PORT = 65_535
_LEAST_ADDRESS_SPACE = 4 << 30


def check_launcher() -> None:
    """Refuse variables of launchers that are no numbers.

    Raises:
        SettingsError: Names the variable.
    """
    remedy = "Unset it, unless a launcher sets it for this process"
    for name in _NUMBERS:
        value = os.environ.get(name, "0")
        if not re.fullmatch(r"\s*[0-9]+\s*", value, re.ASCII):
            raise SettingsError(expected(f"${name}", value, "a whole number", remedy))
        if name == "MASTER_PORT" and int(value) > _LARGEST_PORT:
            raise SettingsError(expected(f"${name}", value, f"a port up to {_LARGEST_PORT}", remedy))
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    if not re.fullmatch(r"\s*[1-9][0-9]*(\s*,\s*[1-9][0-9]*)*\s*", threads, re.ASCII):
        raise SettingsError(expected("$OMP_NUM_THREADS", threads, "a whole number of at least 1", "Or unset it"))


def check_address_space() -> None:
    """Refuse a limit on address space that torch's libraries alone exceed: the process would be aborted.

    Raises:
        SettingsError: Names the limit.
    """
    with suppress(ImportError):  # there is none on Windows
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY and limit < _LEAST_ADDRESS_SPACE:
            accepted = f"at least {_LEAST_ADDRESS_SPACE >> 10} kB, for torch's libraries alone"
            raise SettingsError(expected("ulimit -v", f"{limit >> 10} kB", accepted))
