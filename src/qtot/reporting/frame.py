"""One step of an episode, drawn without a screen."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from qtot.reporting.wording import number

SIDE, PANEL, FOOT = 480, 330, 34
"""pixels of the stage, of what is beside and below it"""
FINER = 2
"""drawn so much larger, then made smaller: smooth edges"""
PAPER, GROUND, INK, SOFT, LINE = "#fbfaf8", "#f1efe9", "#1d1f21", "#5b6066", "#dcd9d2"
AGENTS = ("#0072b2", "#c44f00", "#007d5c", "#a8508a", "#8f6a00", "#2f8fd0", "#6b6b6b", "#7a3fb0")
OTHERS = {"prey": "#b5651d", "food": "#4d8a3a", "enemy": "#8a8f96"}
GREY, MARKED, HEALTH = "#8a8f96", "#c44f00", "#2c9a5b"
ROW = 34


class Frame:
    """One step, being drawn."""

    def __init__(self, where: dict[str, Any], shown: dict[str, Any], t: int, size: tuple[int, int]):
        self.where, self.shown, self.t, self.size = where, shown, t, size
        self.image = Image.new("RGB", (size[0] * FINER, size[1] * FINER), PAPER)
        self.pen = ImageDraw.Draw(self.image, "RGBA")
        self.final = t >= shown["length"]
        self.pictured: Image.Image | None = None
        self.box(0, 0, SIDE, SIDE, GROUND)

    def done(self) -> Image.Image:
        """The picture."""
        small = self.image.resize(self.size, Image.Resampling.LANCZOS)
        if self.pictured is not None:
            small.paste(self.pictured, (0, 0))
        return small

    # With a pen ---------------------------------------------------------------------------

    def text(self, x: float, y: float, words: str, tone: str = INK, size: int = 13, **more: Any):
        """Words at a place."""
        font = ImageFont.load_default(size * FINER)
        self.pen.text((x * FINER, y * FINER), words, fill=tone, font=font, **more)

    def box(self, left: float, top: float, right: float, bottom: float, tone: Any, **more: Any):
        """A filled rectangle."""
        corners = [FINER * x for x in (left, top, max(right, left), max(bottom, top))]
        self.pen.rectangle(corners, fill=tone, **more)

    def line(self, points: list[tuple[float, float]], tone: str, width: float = 1.0):
        """A stroke."""
        at = [(x * FINER, y * FINER) for x, y in points]
        self.pen.line(at, fill=tone, width=max(round(width * FINER), 1))

    # Stages -------------------------------------------------------------------------------

    def picture(self, pixels: np.ndarray) -> None:
        """What the environment drew of itself."""
        image = Image.fromarray(pixels)
        image.thumbnail((SIDE, SIDE))
        scale = SIDE / max(image.size)
        self.pictured = image.resize((round(image.width * scale), round(image.height * scale)))

    def scene(self) -> None:
        """Things on a plane or a grid."""
        scene, looks, t = self.where["scene"], self.shown["looks"], self.t
        left, bottom, right, top = self.shown["bounds"]
        unit = SIDE / max(abs(right - left), abs(top - bottom))

        def at(name: str, k: int) -> Any:
            return looks[name][t][k] if name in looks else None

        def place(k: int) -> tuple[float, float]:
            x, y = at("x", k), at("y", k)
            return (x - left) * unit, abs(top - y) * unit

        if scene["ground"] == "grid":
            for i in range(round(abs(right - left)) + 1):
                self.line([(i * unit, 0), (i * unit, abs(top - bottom) * unit)], LINE)
            for i in range(round(abs(top - bottom)) + 1):
                self.line([(0, i * unit), (abs(right - left) * unit, i * unit)], LINE)
        things = scene["things"]
        for k in range(len(things)):
            target = at("target", k)
            if target is not None and 0 <= target < len(things) and at("shown", k):
                self.line([place(k), place(target)], GREY)
        order = ("goal", "landmark", "shelf", "food", "prey", "enemy", "agent")
        ranks = {kind: i for i, kind in enumerate(order)}
        for k in sorted(range(len(things)), key=lambda k: ranks.get(things[k]["kind"], 0)):
            if at("shown", k):
                self.thing(k, things[k], place(k), max(things[k]["radius"] * unit, 3.0), at)

    def thing(
        self, k: int, thing: dict[str, Any], place: tuple[float, float], r: float, at: Any
    ) -> None:
        """One of them, with what it says of itself."""
        x, y, kind, marked = *place, thing["kind"], at("marked", k)
        n = len(self.where["agents"])
        tone = AGENTS[k % len(AGENTS)] if k < n else OTHERS.get(kind, GREY)
        tone = MARKED if marked and kind in ("shelf", "landmark") else tone
        if kind in ("shelf", "enemy"):
            self.box(
                x - r, y - r, x + r, y + r, tone + ("cc" if marked or kind == "enemy" else "70")
            )
        elif kind == "goal":
            self.box(x - r, y - r, x + r, y + r, None, outline=GREY, width=FINER)
        elif kind in ("food", "prey", "landmark"):
            corners = [(x, y - r), (x + r, y), (x, y + r), (x - r, y)]
            if kind == "landmark":
                corners = [(x, y - 1.3 * r), (x + 1.2 * r, y + 0.9 * r), (x - 1.2 * r, y + 0.9 * r)]
            self.pen.polygon([(a * FINER, b * FINER) for a, b in corners], fill=tone)
        else:
            round_ = [FINER * v for v in (x - r, y - r, x + r, y + r)]
            self.pen.ellipse(round_, fill=tone, outline=INK if marked else None, width=2 * FINER)
        heading, level, says = at("heading", k), at("level", k), at("says", k)
        if heading is not None:
            end = (x + r * math.cos(heading), y - r * math.sin(heading))
            self.line([place, end], PAPER, 2.5)
        words = (
            str(level) if level is not None else str(says) if says is not None and says >= 0 else ""
        )
        if words:
            self.text(x, y, words, PAPER, max(11, round(r)), anchor="mm")
        for up, name, colour in ((6, "health", HEALTH), (2, "wait", GREY)):
            share = at(name, k)
            if share is not None:
                wide = max(2 * r, 12)
                self.box(x - wide / 2, y - r - up, x + wide / 2, y - r - up + 2, LINE)
                self.box(
                    x - wide / 2, y - r - up, x - wide / 2 + wide * share, y - r - up + 2, colour
                )

    def observations(self) -> None:
        """What everyone sees, as bars."""
        seen = self.shown["obs"][self.t]
        largest = max((abs(v) for row in seen for v in row if v is not None), default=0.0) or 1.0
        high = SIDE / len(seen)
        for i, row in enumerate(seen):
            middle, wide = (i + 0.5) * high, (SIDE - 16) / max(len(row), 1)
            for j, value in enumerate(row):
                tall = (value or 0.0) / largest * (high / 2 - 4)
                x, tone = 8 + j * wide, AGENTS[i % len(AGENTS)]
                self.box(
                    x,
                    min(middle, middle - tall),
                    x + max(wide - 1, 0.5),
                    max(middle, middle - tall),
                    tone,
                )

    def table(self) -> None:
        """The payoffs, and the learned Q_tot, of two agents' joint actions."""
        sizes = self.where["n_actions"]
        if self.final or len(sizes) != 2:
            self.text(16, 16, "the game is over" if self.final else "a game of more than two", SOFT)
            return
        wide = max(sizes)
        tables = [("payoff", self.shown["looks"]["payoffs"][self.t])]
        if "table" in self.shown:
            tables.append(("learned Q_tot", self.shown["table"][self.t]))
        step = min(56.0, (SIDE - 40) / (2 * (wide + 1)))
        greedy = self.shown["greedy"][self.t]
        for place, (title, flat) in enumerate(tables):
            top = 16 + place * (step * wide + 48)
            self.text(16, top, title, SOFT)
            for u in range(sizes[0]):
                for v in range(sizes[1]):
                    x, y = 16 + v * 1.6 * step, top + 24 + u * step
                    chosen = [u, v] == list(greedy)
                    self.box(
                        x,
                        y,
                        x + 1.6 * step - 3,
                        y + step - 3,
                        PAPER,
                        outline=AGENTS[0] if chosen else LINE,
                        width=FINER * (2 if chosen else 1),
                    )
                    self.text(
                        x + 0.8 * step,
                        y + step / 2,
                        number(flat[u * wide + v], 3),
                        INK,
                        13,
                        anchor="mm",
                    )

    # Beside it ----------------------------------------------------------------------------

    def panel(self) -> None:
        """Agents, what they do, and who is credited."""
        shown, t, left = self.shown, self.t, SIDE + 16
        agents, meanings = self.where["agents"], self.where["action_meanings"]
        credit = shown.get("credit")
        most = (
            max((abs(c) for row in credit or [] for c in row if c is not None), default=1.0) or 1.0
        )
        self.text(left, 8, "agent", SOFT, 11)
        self.text(left + 118, 8, "action, Q", SOFT, 11)
        self.text(left + 235, 8, "credit" if credit else "", SOFT, 11)
        for i, name in enumerate(agents):
            y, u = 26 + ROW * i, shown["action"][t][i]
            alive = shown["alive"][t][i]
            self.box(
                left, y + 3, left + 10, y + 13, AGENTS[i % len(AGENTS)] + ("" if alive else "55")
            )
            self.text(left + 16, y, name[:13], INK if alive else SOFT)
            if self.final:
                continue
            words = meanings[i][u] if meanings else f"action {u}"
            self.text(left + 118, y, words[:15], INK if alive else SOFT)
            self.text(left + 118, y + 15, number(shown["q"][t][i][u], 3), SOFT, 11)
            if credit and credit[t][i] is not None:
                self.box(
                    left + 235,
                    y + 4,
                    left + 235 + 60 * max(credit[t][i], 0.0) / most,
                    y + 12,
                    AGENTS[i % len(AGENTS)],
                )
                self.text(left + 235, y + 15, number(credit[t][i], 3), SOFT, 11)
        so_far = sum(reward or 0.0 for reward in shown["reward"][:t])
        words = f"step {t} of {shown['length']}    return {so_far:.4g}"
        if "q_tot" in shown and not self.final:
            words += f"    Q_tot {number(shown['q_tot'][t], 3)}"
        self.text(8, SIDE + 9, words, SOFT)
