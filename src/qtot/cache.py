"""A folder of compiled programs that outlives the process: JAX's persistent compilation cache.

JAX decides what to look up and by which key. Its own store writes entries in place, bounds its size
only with a lock and a further package, and keeps an entry that does not load; this one replaces
whole files, checks a digest, and bounds itself. Entries are code: the folder is its owner's alone.
Nothing here imports JAX at module level.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path

from qtot.errors import QtotWarning

LIMIT = 2**29
"""bytes kept; the least recently used entries go first"""
UNUSED_DAYS = 30
"""folders of other versions or machines go when no process has opened them for so long"""
DIGEST = 32
SUFFIX = ".program"
OURS = re.compile(r"jax[^-]+-jaxlib[^-]+-[0-9a-f]{12}")
"""names of the folders that ``open_folder`` makes"""


def home() -> Path:
    """Where all folders lie: ``QTOT_CACHE``, or ``qtot`` below the user's own cache folder."""
    own = os.environ.get("QTOT_CACHE", "")
    if own and not is_off(own):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "qtot" / "programs"


def is_off(value: str) -> bool:
    """Whether an environment variable says no."""
    return value.strip().lower() in ("0", "off", "no", "false")


def shown(folder: str) -> str:
    """A path as people write it."""
    own = str(Path.home())
    return folder.replace(own, "~", 1) if folder.startswith(own + os.sep) else folder


def fingerprint() -> str:
    """Of the machine: code compiled for one CPU may be illegal instructions to another."""
    facts = [platform.system(), platform.machine(), platform.processor()]
    with suppress(OSError):
        kinds = ("flags", "Features", "model name", "CPU part")
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts += sorted({line for line in lines if line.startswith(kinds)})
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]


def open_folder(versions: dict[str, str]) -> Path:
    """The folder of this machine and these versions, made if it is missing; prunes old ones.

    Raises:
        OSError: it cannot be made, or is not this user's to write.
    """
    name = "-".join(f"{package}{version}" for package, version in versions.items())
    folder = home() / f"{name}-{fingerprint()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    tempfile.TemporaryFile(dir=folder).close()  # a read-only file system says so now
    os.utime(folder)
    _prune(folder)
    return folder


def _prune(current: Path) -> None:
    """Only folders that carry such a name: QTOT_CACHE may lie among the user's own."""
    oldest = time.time() - UNUSED_DAYS * 86_400
    with suppress(OSError):
        for other in current.parent.iterdir():
            ours = other != current and OURS.fullmatch(other.name) and other.is_dir()
            if ours and other.stat().st_mtime < oldest:
                shutil.rmtree(other, ignore_errors=True)


class Store:
    """What JAX asks of a cache: ``get`` and ``put``. Any number of threads and processes may use
    one folder: files appear and vanish whole.
    """

    def __init__(self, folder: str | Path, limit: int = LIMIT):
        self._path = Path(folder)  # the name by which JAX logs it
        self.limit = limit
        self.warned = False

    def _file(self, key: str) -> Path:
        return self._path / f"{key}{SUFFIX}"

    def get(self, key: str) -> bytes | None:
        """The entry, or None if there is none; a damaged one is removed."""
        file = self._file(key)
        try:
            content = file.read_bytes()
            os.utime(file)  # used now
        except OSError:
            return None
        digest, value = content[:DIGEST], content[DIGEST:]
        if hashlib.sha256(value).digest() == digest:
            return value
        with suppress(OSError):
            file.unlink()
        return None

    def put(self, key: str, value: bytes) -> None:
        """Write an entry, whatever was there. A folder that takes no more is no error."""
        if len(value) > self.limit:
            return
        part = ""
        try:
            handle, part = tempfile.mkstemp(dir=self._path, suffix=".part")
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(value).digest() + value)
            Path(part).replace(self._file(key))
            self._evict()
        except OSError as error:
            with suppress(OSError):
                Path(part).unlink()
            if not self.warned:
                self.warned = True
                said = f"compiled programs are not kept: {error}"
                warnings.warn(said, QtotWarning, stacklevel=2)

    def _evict(self) -> None:
        files = []
        for entry in os.scandir(self._path):
            with suppress(OSError):  # another process was faster
                facts = entry.stat()
                if entry.name.endswith(".part") and facts.st_mtime < time.time() - 3600:
                    Path(entry.path).unlink()  # its writer was killed
                elif entry.name.endswith(SUFFIX):
                    files.append((facts.st_mtime_ns, facts.st_size, entry.path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.limit:
                break
            with suppress(OSError):
                Path(path).unlink()
            total -= size


def use(folder: Path) -> None:
    """Make JAX keep every program in ``folder``, however small. Before the first is compiled."""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    with suppress(ImportError, AttributeError):  # without it JAX's own store, which works, too
        from jax._src import compilation_cache

        own = compilation_cache.get_file_cache

        def store(path: str) -> tuple[object, str] | None:
            return (Store(path), path) if path == str(folder) else own(path)

        compilation_cache.get_file_cache = store  # pyright: ignore[reportAttributeAccessIssue]
