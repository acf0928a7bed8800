"""Playing an environment with random legal actions; a part of ``check``."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from jaxtyping import Key as Keys

from qtot.envs.base import JaxEnv
from qtot.envs.check_record import Record, real_entries
from qtot.types import PyTree


def play(env: JaxEnv, keys: Keys[Array, "T E 2"], luck: Float[Array, "T E N A"]) -> Record:
    """T slots of E copies, taking the luckiest legal actions. Can be jitted.

    The two keys of a slot are to reset with and to step with.
    """

    def slot(
        carry: PyTree, chance: tuple[Keys[Array, "2"], Float[Array, "N A"]]
    ) -> tuple[PyTree, Record]:
        (state, time, valid), (key, luck) = carry, chance
        seen = env.observe(state)
        legal = seen.avail_actions & jnp.asarray(real_entries(env.spec.n_actions))
        action = jnp.argmax(jnp.where(legal, luck, -jnp.inf), axis=-1)
        stepped, result = env.step(key[1], state, action.astype(jnp.int32))
        after = jax.tree.map(partial(jnp.where, valid), stepped, env.reset(key[0]))
        ended = valid & (result.terminated | result.truncated)
        carry = after, jnp.where(valid, time + 1, 0), ~ended
        return carry, Record(seen, result, time, valid)

    def stream(keys: Keys[Array, "T 2"], luck: Float[Array, "T N A"]) -> Record:
        start = env.reset(keys[0, 0]), jnp.int32(0), jnp.array(True)
        return jax.lax.scan(slot, start, (keys, luck))[1]

    return jax.vmap(stream, in_axes=1, out_axes=1)(keys, luck)
