"""Predator-prey with a miscapture penalty, as in Böhmer et al. 2020 (DCG) and Rashid et al. 2020.

N agents hunt P prey on a bounded grid; no two share a cell. At every step

    1. the agents move, one after another in a random order: right, down, left, up or stay. A
       cell that is taken cannot be entered: the agent stays where it is. Those that catch stay.
    2. the prey take turns in a random order. A prey beside which two agents or more catch (up,
       down, left or right of it) is captured: it and these agents are removed, and 10 is paid.
       If just one agent does, ``penalty`` is paid. A prey that is not captured moves to one of
       its free neighbours, each as likely, and stays only where there is none.

An agent that catches beside two prey counts for both, unless the first has already removed it: a
lone one pays twice. Moving off the grid is illegal, as is catching without a prey beside; moving
into a taken cell is not. The episode ends truly once all prey or all agents are gone; a lone
agent that is left over plays on until the time limit.

An agent sees the 5x5 cells around it (itself in the middle): agents in one channel, prey in the
other. Neither walls nor its place on the grid are shown. The state is the whole grid, likewise.
The published code carries a third channel, for a kind of prey that the experiments leave out.

    pK                     the published task: 10x10, 8 agents, 8 prey, 200 steps, penalty -K.
                           Published for K of 0, 0.5, 1, 1.5 and 2. Best return 40.
    small-pK               6x6, 4 agents, 4 prey, 50 steps. Best return 20.
    RxC-NvP-pK-tL          any: R rows, C columns, N agents, P prey, L steps.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from qtot.envs.spec import EnvSpec
from qtot.errors import QtotError
from qtot.types import Key, Observation, StepResult

STAY, CATCH, ACTIONS = 4, 5, 6  # 0 to 3 move right, down, left, up
SIGHT = 2  # cells to each side
GONE = 0  # the cell of whoever was removed: in the border, so nothing is beside it or enters it
CAPTURE_REWARD = 10.0
_NUMBER = r"\d{1,9}(?:\.\d{1,9})?"


class Hunt(NamedTuple):
    """Where an episode stands. Cells are numbered row by row on the grid with a border around
    it, ``SIGHT`` wide: a step to a neighbour adds a constant, and no view leaves the grid.
    """

    agents: Int[Array, "N"]
    """their cells; ``GONE`` for the removed"""
    prey: Int[Array, "P"]
    """their cells; ``GONE`` for the captured"""
    miscaptures: Int[Array, ""]
    """how often one agent caught alone"""
    time: Int[Array, ""]
    """transitions since the reset"""


class Draws(NamedTuple):
    """The chance in one step."""

    agent_order: Int[Array, "N"]
    prey_order: Int[Array, "P"]
    wish: Float[Array, "P 4"]
    """how much a prey wants to go right, down, left, up, from 0 to 1"""


class PredatorPrey:
    """One task. All draws of a step come from ``draw``; ``play`` is the rules.

    Args:
        name: ``family/task``.
        rows: of the grid.
        columns: of the grid.
        agents: N.
        prey: P.
        penalty: what is lost when one agent catches alone, 0 or more.
        limit: transitions after which an episode that has not ended is truncated.
    """

    def __init__(
        self,
        name: str,
        *,
        rows: int,
        columns: int,
        agents: int,
        prey: int,
        penalty: float,
        limit: int,
    ):
        # NumPy, not JAX: making an environment must not start a device.
        width = columns + 2 * SIGHT
        self.penalty = penalty
        self.inside = np.pad(np.ones((rows, columns), bool), SIGHT)
        self.cells = np.flatnonzero(self.inside).astype(np.int32)
        self.beside = np.array([1, width, -1, -width], np.int32)
        self.moves = np.append(self.beside, [0, 0]).astype(np.int32)
        reach = np.arange(-SIGHT, SIGHT + 1, dtype=np.int32)
        self.view = (reach[:, None] * width + reach).ravel()
        self._prey = prey
        self.spec = EnvSpec(
            name=name,
            agents=tuple(f"agent_{i}" for i in range(agents)),
            n_actions=(ACTIONS,) * agents,
            obs_sizes=(2 * self.view.size,) * agents,
            state_size=2 * rows * columns,
            episode_limit=limit,
            action_meanings=(("right", "down", "left", "up", "stay", "catch"),) * agents,
            obs_shape=(reach.size, reach.size, 2),
            info=("captures", "miscaptures"),
            about=f"{agents} agents, {prey} prey, {rows}x{columns}; two capture (10), "
            f"one alone loses {penalty:g}",
        )

    def reset(self, key: Key) -> Hunt:
        """Agents and prey on different cells, all as likely."""
        n, free = self.spec.n_agents, self.cells.size
        luck = jax.random.uniform(key, (n + self._prey,))
        taken = jnp.arange(n + self._prey)

        def place(cells: Array, one: tuple[Array, Array]) -> tuple[Array, Array]:
            """Fisher-Yates: one of those from i on is taken, and the one at i moves there."""
            i, luck = one
            j = i + (luck * (free - i)).astype(jnp.int32)
            return jnp.where(jnp.arange(free) == j, cells[i], cells), cells[j]

        cells = jax.lax.scan(place, jnp.asarray(self.cells), (taken, luck))[1]
        return Hunt(cells[:n], cells[n:], jnp.int32(0), jnp.int32(0))

    def draw(self, key: Key) -> Draws:
        """All that is random in one step."""
        n, p = self.spec.n_agents, self._prey
        agents, prey, wish = jnp.split(jax.random.uniform(key, (n + 5 * p,)), (n, n + p))
        return Draws(_order(agents), _order(prey), wish.reshape(p, 4))

    def step(self, key: Key, state: Hunt, actions: Int[Array, "N"]) -> tuple[Hunt, StepResult]:
        """The agents' moves, then the turns of the prey."""
        return self.play(self.draw(key), state, actions)

    def play(self, draws: Draws, state: Hunt, actions: Int[Array, "N"]) -> tuple[Hunt, StepResult]:
        """A step, its chance given."""
        agents = self._move(draws.agent_order, state, actions)
        agents, prey, missed = self._hunt(draws, agents, state.prey, actions == CATCH)
        captured = (state.prey != GONE).sum() - (prey != GONE).sum()
        after = Hunt(agents, prey, state.miscaptures + missed, state.time + 1)
        terminated = (agents == GONE).all() | (prey == GONE).all()
        return after, StepResult(
            reward=CAPTURE_REWARD * captured - self.penalty * missed,
            terminated=terminated,
            truncated=(after.time >= self.spec.episode_limit) & ~terminated,
            info={
                "captures": (prey == GONE).sum().astype(jnp.float32),
                "miscaptures": after.miscaptures.astype(jnp.float32),
            },
        )

    def _move(
        self, order: Int[Array, "N"], state: Hunt, actions: Int[Array, "N"]
    ) -> Int[Array, "N"]:
        """The agents' cells after they moved."""
        goal = state.agents + jnp.asarray(self.moves)[actions]
        # One's own cell is taken, by oneself: who wants to go there stays.
        goal = jnp.where(self._is_inside(goal), goal, state.agents)

        def turn(agents: Array, one: tuple[Array, Array]) -> tuple[Array, None]:
            i, to = one
            taken = (to == agents).any() | (to == state.prey).any()
            return jnp.where((jnp.arange(agents.size) == i) & ~taken, to, agents), None

        return jax.lax.scan(turn, state.agents, (order, goal[order]))[0]

    def _hunt(
        self, draws: Draws, agents: Int[Array, "N"], prey: Int[Array, "P"], catch: Array
    ) -> tuple[Int[Array, "N"], Int[Array, "P"], Int[Array, ""]]:
        """The cells of the agents and the prey after the prey's turns; the miscaptures."""
        around = prey[:, None] + self.beside
        wish = jnp.where(self._is_inside(around), draws.wish, -1.0)

        def turn(
            carry: tuple[Array, Array, Array], one: tuple[Array, ...]
        ) -> tuple[tuple[Array, Array, Array], None]:
            (agents, prey, missed), (p, at, around, wish) = carry, one
            catching = catch & (agents[:, None] == around).any(-1)
            captured = catching.sum() >= 2
            taken = (around[:, None] == agents).any(-1) | (around[:, None] == prey).any(-1)
            wish = jnp.where(taken, -1.0, wish)
            to = jnp.where(wish.max() >= 0, around[jnp.argmax(wish)], at)
            return (
                jnp.where(captured & catching, GONE, agents),
                jnp.where(jnp.arange(prey.size) == p, jnp.where(captured, GONE, to), prey),
                missed + (catching.sum() == 1),
            ), None

        order = draws.prey_order
        turns = order, prey[order], around[order], wish[order]
        return jax.lax.scan(turn, (agents, prey, jnp.int32(0)), turns)[0]

    def observe(self, state: Hunt) -> Observation:
        """Views, the grid, and what is legal. Whoever was removed sees nothing and may stay."""
        nobody = jnp.zeros(self.inside.size)
        planes = [
            nobody.at[cells].set((cells != GONE).astype(jnp.float32))
            for cells in (state.agents, state.prey)
        ]
        grid = jnp.stack(planes, axis=-1)
        alive = state.agents != GONE
        views = grid[state.agents[:, None] + self.view]

        around = state.agents[:, None] + self.beside
        prey_beside = (around[..., None] == state.prey).any((1, 2))
        masks = [self._is_inside(around), jnp.ones_like(alive)[:, None], prey_beside[:, None]]
        return Observation(
            obs=jnp.where(alive[:, None], views.reshape(alive.size, -1), 0.0),
            state=grid[self.cells].ravel(),
            avail_actions=jnp.concatenate(masks, axis=1),
            alive=alive,
        )

    def _is_inside(self, cells: Int[Array, "*c"]) -> Array:
        return jnp.asarray(self.inside.ravel())[cells]


def _order(luck: Float[Array, "X"]) -> Int[Array, "X"]:
    """``argsort`` by comparing each with each: XLA sorts many short rows slowly."""
    i = jnp.arange(luck.size)
    behind = (luck[:, None] > luck) | ((luck[:, None] == luck) & (i[:, None] > i))
    return jnp.argmax(behind.sum(1) == i[:, None], axis=1)


def tasks() -> tuple[str, ...]:
    """The published tasks and a small one; any other ``pK``, ``small-pK`` and ``RxC-NvP-pK-tL``
    can be made too.
    """
    return ("p0", "p0.5", "p1", "p1.5", "p2", "small-p2")


def make(task: str) -> PredatorPrey:
    """The task of that name.

    Raises:
        KeyError: no such task.
        QtotError: the name begins like the full form, but is not one or cannot be played.
    """
    full = task
    if short := re.fullmatch(rf"(small-)?p({_NUMBER})", task):
        full = f"6x6-4v4-p{short[2]}-t50" if short[1] else f"10x10-8v8-p{short[2]}-t200"
    size = r"(\d{1,2})x(\d{1,2})-(\d{1,3})v(\d{1,3})"
    form = re.fullmatch(rf"{size}-p({_NUMBER})-t(\d{{1,6}})", full)
    if form is None:
        if not task[:1].isdigit():
            raise KeyError(task)
        raise QtotError(
            f"predator_prey/{task}: expected ROWSxCOLUMNS-AGENTSvPREY-pPENALTY-tSTEPS, "
            "such as '10x10-8v8-p2-t200', with a grid of at most 99x99"
        )
    rows, columns, agents, prey, limit = (int(form[i]) for i in (1, 2, 3, 4, 6))
    if agents < 2 or prey < 1 or limit < 1 or agents + prey > rows * columns:
        raise QtotError(
            f"predator_prey/{task}: expected 2 agents or more, since it takes two to capture, a "
            f"prey and a step or more, and a cell for everyone; got {agents} agents and {prey} "
            f"prey on {rows * columns} cells for {limit} steps"
        )
    return PredatorPrey(
        f"predator_prey/{task}",
        rows=rows,
        columns=columns,
        agents=agents,
        prey=prey,
        penalty=float(form[5]),
        limit=limit,
    )
