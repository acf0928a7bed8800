"""Settings of the process that pay: devices, allocator, time-outs, compiled programs kept.

They are made once, before JAX starts: by the command, or when ``qtot``'s functions are first
imported. A JAX that runs already is left as it is. What the user has set goes first.

    setting                          switched off by           why (measured on 2 cores)
    one CPU device per core          --no-tune, QTOT_TUNE=0    XLA hardly uses several cores for one
    glibc keeps freed memory         --no-tune, QTOT_TUNE=0    a gradient takes 36 ms, not 48
    patience at collectives          --no-tune, QTOT_TUNE=0    8 devices on 2 cores wait long
    compiled programs kept on disk   --no-cache, QTOT_CACHE=0  the next start compiles nothing

``QTOT_CACHE=DIR`` keeps them in ``DIR`` instead of ``~/.cache/qtot/programs``. Nothing here imports
JAX at module level.
"""

from __future__ import annotations

import ctypes
import os
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qtot import cache

MAX_DEVICES = 8
"""logical shards are a multiple of 2, 4 and 8; more devices would not all have one"""

# XLA ends the process when a device comes too late to a collective (after 40 s), and when it does
# not know a flag; these it knows from jaxlib 0.8 to 0.12, looked up in the wheels.
XLA_FLAGS = {
    "xla_cpu_collective_call_warn_stuck_timeout_seconds": 120,
    "xla_cpu_collective_call_terminate_timeout_seconds": 1200,
}
XLA_FLAGS_SINCE, XLA_FLAGS_BEFORE = (0, 8), (0, 13)

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
LARGEST = 2**31 - 1


@dataclass(frozen=True)
class Settings:
    """What was made of this process."""

    devices: int | None = None
    """CPU devices asked for; None: left as they were"""
    allocator: bool = False
    """freed memory is kept for the next array"""
    patience: bool = False
    """time-outs of collectives raised"""
    cache: str | None = None
    """folder of compiled programs"""
    lost: str = ""
    """what was not done, and why"""

    def __str__(self) -> str:
        """For the header of a run."""
        kept = cache.shown(self.cache) if self.cache else ""
        parts = (
            f"{self.devices} CPU device{'s' * (self.devices > 1)}" if self.devices else "",
            "freed memory kept" if self.allocator else "",
            f"compiled programs kept in {kept}" if kept else "",
            self.lost,
        )
        return " · ".join(part for part in parts if part)

    def to_dict(self) -> dict[str, Any]:
        """For ``config.json``."""
        return asdict(self)


_made: Settings | None = None


def prepare(*, tune: bool = True, keep: bool = True) -> Settings:
    """Make the settings; later calls only return what the first has made.

    Args:
        tune: devices, allocator and time-outs; ``QTOT_TUNE=0`` forbids them.
        keep: compiled programs; ``QTOT_CACHE=0`` forbids it.
    """
    global _made
    if _made is None:
        tune = tune and not cache.is_off(os.environ.get("QTOT_TUNE", ""))
        keep = keep and not cache.is_off(os.environ.get("QTOT_CACHE", ""))
        _made = _prepare(tune, keep)
    return _made


def _prepare(tune: bool, keep: bool) -> Settings:
    import jax

    if _running():
        if not (tune or keep):
            return Settings(lost="untouched, as asked")
        wanted = ["a device per core", "freed memory kept"] * tune + [
            "compiled programs kept"
        ] * keep
        return Settings(lost=f"untouched, since JAX ran before qtot; lost: {', '.join(wanted)}")
    folder, lost = None, []
    if not tune:
        lost.append("not tuned, as asked")
    if not keep:
        lost.append("no compiled programs kept, as asked")
    elif _config("jax_compilation_cache_dir"):
        folder = _config("jax_compilation_cache_dir")  # the user's own
    else:
        try:
            found = cache.open_folder({"jax": jax.__version__, "jaxlib": _jaxlib()})
            cache.use(found)
            folder = str(found)
        except (OSError, RuntimeError) as error:  # RuntimeError: no home folder
            lost.append(f"compiled programs are not kept: {error}")
    return Settings(
        devices=_set_devices() if tune else None,
        patience=_set_patience() if tune else False,
        allocator=_set_allocator() if tune else False,
        cache=folder,
        lost=" · ".join(lost),
    )


def _config(name: str) -> Any:
    """What the user, or the environment, has told JAX."""
    import jax

    return getattr(jax.config, name)  # unknown to its types


def _running() -> bool:
    """Whether JAX has started its backends, which no public name says."""
    from jax._src import xla_bridge

    return xla_bridge.backends_are_initialized()


def _jaxlib() -> str:
    from jaxlib import version

    return version.__version__


def cores() -> int:
    """CPUs that this process may use, a container's quota counted."""
    count = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, max(1, int(quota) // int(period)))  # "max" is no number
    return count


def default_devices(n: int) -> int:
    """The largest power of 2 among ``n`` cores, so that shards divide evenly; at most 8."""
    return min(MAX_DEVICES, 1 << (n.bit_length() - 1))


def _set_devices() -> int | None:
    import jax

    platforms = _config("jax_platforms") or "cpu"
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if chosen or _config("jax_num_cpu_devices") != -1 or "cpu" not in platforms.split(","):
        return None
    count = default_devices(cores())
    jax.config.update("jax_num_cpu_devices", count)
    return count


def _set_patience() -> bool:
    """XLA reads its flags when it starts, and so do this process's children."""
    version = tuple(int(x) for x in re.findall(r"\d+", _jaxlib())[:2])
    if not XLA_FLAGS_SINCE <= version < XLA_FLAGS_BEFORE:
        return False
    given = os.environ.get("XLA_FLAGS", "")
    new = [f"--{name}={value}" for name, value in XLA_FLAGS.items() if name not in given]
    os.environ["XLA_FLAGS"] = " ".join([*given.split(), *new])
    return True


def _set_allocator() -> bool:
    """Glibc gives every large block back at once, and every array of the next step is then paid for
    page by page: 8,456 page faults per gradient of a GRU scan, 211 with this.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get(
        "GLIBC_TUNABLES", ""
    ):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):  # macOS, musl
        return False
    large = libc.mallopt(M_MMAP_THRESHOLD, LARGEST) or libc.mallopt(M_MMAP_MAX, 0)  # old glibc
    return bool(large and libc.mallopt(M_TRIM_THRESHOLD, LARGEST))
