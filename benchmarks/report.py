"""How large a report is, and how soon it is there: 10 runs of 10 million steps, logged every
10,000, with recorded episodes of another.

    python benchmarks/report.py [--short]

Opening is timed in Debian's Chromium (pip install playwright; no browser is downloaded), from the
request to the last chart being drawn, the median of five.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import qtot
from qtot.config import nested_replace
from qtot.envs import make_env
from qtot.presets import preset_config
from qtot.reporting.page import plotly
from qtot.store.run_folder import RunFolder

METHODS = ("qmix", "vdn", "iql", "qmix_lin", "qplex")


def made(path: Path, algo: str, seed: int, rows: int) -> None:
    """A run folder with metrics of that many logs, drawn by chance."""
    env = "smax/3m"
    config = nested_replace(preset_config(env, algo), {"steps": 10_000_000, "seed": seed})
    facts = {"config": config.to_dict(), "env": make_env(env).spec.to_dict()}
    folder, rng = RunFolder.create(path, facts), np.random.default_rng(seed)
    names = ("loss", "q_tot", "target", "td_error_abs", "grad_norm", "lr", "steps_per_s")
    written = []
    for i in range(rows):
        row: dict[str, Any] = {"seed": seed, "env_steps": i * 10_000, "wall_s": i * 1.7}
        row |= {name: float(rng.normal()) for name in names}
        row |= {f"train/{name}": float(rng.random()) for name in ("return", "length", "win_rate")}
        if i % 10 == 0:
            row |= {f"eval/{name}": float(rng.random()) for name in ("return", "win_rate")}
        written.append(row)
    folder.append(written)
    folder.close([written[-1]])


def opening(page: Path, times: int) -> float | None:
    """Seconds, the median; None where there is no browser."""
    chromium = shutil.which("chromium")
    if chromium is None or importlib.util.find_spec("playwright") is None:
        return None
    sync_playwright = importlib.import_module("playwright.sync_api").sync_playwright
    seconds = []
    drawn = "document.querySelectorAll('#charts .main-svg, #profile .main-svg').length > 3"
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(times):
            context = browser.new_context()
            tab = context.new_page()
            began = time.perf_counter()
            tab.goto(page.as_uri())
            tab.wait_for_function(drawn)
            seconds.append(time.perf_counter() - began)
            context.close()
        browser.close()
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description="size and opening of a report")
    parser.add_argument("--short", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as elsewhere:
        home = Path(folder)
        for i in range(10):
            made(home / f"run-{i}", METHODS[i % 5], i // 5, 1001)
        trained = qtot.train("smax/3m", steps=2_000, out=home / "trained", quiet=True)
        qtot.record(trained, 4)
        began = time.perf_counter()
        (page, *beside) = qtot.report(home, Path(elsewhere) / "report.html", episodes=0)
        made_s = time.perf_counter() - began
        result = {
            "runs": 10,
            "rows": 10 * 1001,
            "made_s": round(made_s, 2),
            "page_bytes": page.stat().st_size,
            "plotly_bytes": len(plotly().encode()),
            "beside_bytes": {path.name: path.stat().st_size for path in beside},
            "opened_s": opening(page, 2 if args.short else 5),
        }
    print(json.dumps(result, indent=1))
    opened = result["opened_s"]
    print(
        f"page of {result['page_bytes'] / 1e6:.1f} MB (limit 15), made in {made_s:.1f} s, "
        f"opened in {'-' if opened is None else f'{opened:.2f}'} s (limit 2)"
    )


if __name__ == "__main__":
    main()
