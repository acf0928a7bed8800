"""How the seeds of a run lie on devices, and how those of one device go on together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from qtot.config import TrainConfig, products
from qtot.training.devices import SEED
from qtot.training.state import SEED_AXES, SEED_SPECS, RunState, SeedState
from qtot.types import PyTree


class Layout(NamedTuple):
    """``spread`` over devices, and there ``side_by_side``."""

    config: TrainConfig
    mesh: Mesh
    """devices ``[seed, data]``"""
    stored: bool
    """whether seeds have a replay"""

    @property
    def axes(self) -> SeedState:
        """Where each part of a seed's state has its leading axis."""
        return SEED_AXES if self.stored else SEED_AXES._replace(replay=None)

    @property
    def specs(self) -> RunState:
        """Where each part of the state lies on the mesh."""
        seeds = SEED_SPECS if self.stored else SEED_SPECS._replace(replay=None)
        return RunState(seeds, P(), P(SEED))  # pyright: ignore[reportArgumentType]

    def spread(self, f: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
        """``f`` on every device, each with its part, in the precision that was asked for."""

        def precise(*args: Any) -> Any:
            with jax.default_matmul_precision(products(self.config)):
                return f(*args)

        return jax.shard_map(
            precise, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )

    @property
    def on_cpu(self) -> bool:
        """Whether caches are what counts."""
        return self.mesh.devices.flat[0].platform == "cpu"

    @property
    def abreast(self) -> int:
        """Seeds of a device that go on at the same time. A CPU's cache has room for one; but a
        replay is not to be carried through a loop over seeds, which would copy it.
        """
        here = self.config.seeds // self.mesh.shape[SEED]
        return 1 if self.on_cpu and not self.stored else here

    def side_by_side(
        self, f: Callable[..., Any], in_axes: Any = 0, out_axes: Any = 0
    ) -> Callable[..., Any]:
        """``f`` of one seed, for those of a device: under ``vmap``, or one after another. One alone
        needs neither, and ``vmap`` takes long to trace through loops.

        Args:
            f: of one seed.
            in_axes: as in ``vmap``; an argument is either whole the same for all, None, or not.
            out_axes: the same of the results.
        """
        alone = self.config.seeds == self.mesh.shape[SEED]
        if self.abreast > 1:
            return jax.vmap(f, in_axes, out_axes)

        def one_by_one(*args: Any) -> Any:
            axes = in_axes if isinstance(in_axes, tuple) else (in_axes,) * len(args)
            if alone:
                result = f(*along(axes, args, lambda x: x[0]))
                return along(out_axes, result, lambda x: x[None])

            def one(own: tuple[Any, ...]) -> Any:
                rest = iter(own)
                given = zip(axes, args, strict=True)
                return f(*(x if axis is None else next(rest) for axis, x in given))

            each = zip(axes, args, strict=True)
            return jax.lax.map(one, tuple(x for axis, x in each if axis is not None))

        return one_by_one


def along(axes: Any, tree: PyTree, f: Callable[[Array], Array]) -> PyTree:
    """``f`` of every array below an axis; what is below None stays. ``axes`` is a prefix."""
    return jax.tree.map(
        lambda axis, part: part if axis is None else jax.tree.map(f, part),
        axes,
        tree,
        is_leaf=lambda x: x is None,
    )
