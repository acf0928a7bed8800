"""The annotated shapes of qtot.core hold, and the other tests check them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import typing

import jax.numpy as jnp
import jaxtyping
import pytest

import qtot.core
from qtot.core.masks import pick


def test_wrong_shapes_and_types_are_caught():
    q, action = jnp.zeros((2, 3)), jnp.zeros(2, jnp.int8)
    assert pick(q, action).shape == (2,)
    for wrong in (jnp.zeros(2), jnp.zeros(3, jnp.int8)):
        with pytest.raises(jaxtyping.TypeCheckError):
            pick(q, wrong)


CORE = [m.name for m in pkgutil.walk_packages(qtot.core.__path__, "qtot.core.")]


@pytest.mark.parametrize("name", CORE)
def test_every_annotation_is_one_that_jaxtyping_understands(name: str):
    """A string that cannot be evaluated would silently check nothing."""
    module = importlib.import_module(name)
    known = {"Mixer": object, "Loss": object}  # imported for the type checker only
    for _, member in inspect.getmembers(module):
        if getattr(member, "__module__", None) != name:
            continue
        methods = list(vars(member).values()) if inspect.isclass(member) else []
        for annotated in (member, *methods):
            if inspect.isfunction(annotated) or inspect.isclass(annotated):
                typing.get_type_hints(annotated, localns=known)
