"""What every test runs under: shapes and types checked, full float32, hypothesis repeatable."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

import qtot

# A shell that starts us in the background has us ignore Ctrl-C, and so would what tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# One device, unless a test asks for more in a process of its own.
os.environ["QTOT_TUNE"] = "0"

# Before any of it is imported: every annotated shape in qtot.core is checked at every call. Not
# its configuration: a user's wrong type there is for qtot.validation.validate to explain.
SRC = Path(qtot.__file__).parent
MODULES = {
    ".".join(("qtot", *path.relative_to(SRC).with_suffix("").parts))
    for path in (SRC / "core").rglob("*.py")
}
install_import_hook(
    sorted(m for m in MODULES if not m.endswith(("__init__", "config"))), "beartype.beartype"
)

# The oracles are float64; on a GPU, JAX's default float32 products are TF32.
jax.config.update("jax_default_matmul_precision", "highest")

# The same program is built by several tests: compile it once per session.
CACHE = tempfile.TemporaryDirectory(prefix="qtot-tests-")
jax.config.update("jax_compilation_cache_dir", CACHE.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

settings.register_profile("qtot", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("qtot")


@pytest.fixture
def quick_compile() -> Iterator[None]:
    """For tests of values that compile much and run little."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
