"""The page in a browser: Debian's Chromium without a screen, driven by Playwright."""

from __future__ import annotations

import json
import re
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qtot
from extras import package, program
from made_runs import made_run
from qtot.config import nested_replace
from qtot.presets import preset_config
from qtot.reporting.page import make_report, render
from qtot.reporting.watch import HERE, _Latest, _Server
from qtot.space import parse_space
from qtot.store.sweep_folder import Sweep, Trial, write_sweep
from small import small_config
from untrained import MEMORY, untrained

playwright = package("playwright.sync_api", "test")
CHROMIUM = program("chromium")
HUNT = "predator_prey/4x4-2v1-p2-t6"


class Opened:
    """A page in a browser, and what went wrong there or was asked for elsewhere."""

    def __init__(self, page: Any):
        self.page, self.wrong, self.asked = page, list[str](), list[str]()
        page.on("console", lambda m: self.wrong.append(m.text) if m.type != "log" else None)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def open(self, url: str) -> Any:
        self.page.goto(url)
        until(self.page, "document.querySelectorAll('#charts .main-svg').length > 0")
        return self.page


def until(page: Any, true: str) -> None:
    """Waits for it; by hand, since Playwright's own way is one that the page's policy forbids."""
    for _ in range(200):
        if page.evaluate(true):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never {true}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Opened]:
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    yield Opened(context.new_page())
    context.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods on a hunt, of which one has episodes; one on a matrix game."""
    home = tmp_path_factory.mktemp("page")
    made_run(home / "qmix", "qmix", HUNT, seeds=[0, 1, 2])
    made_run(home / "vdn", "vdn", HUNT, seeds=[0, 1])
    made_run(home / "game", "qmix", "matrix/climbing", won=True)
    for name, env in (("qmix", HUNT), ("game", "matrix/climbing")):
        config = nested_replace(small_config(env, **MEMORY), {"seeds": 3 if env == HUNT else 1})
        run = untrained(home / f"of-{name}", config)
        for file in ("metrics.jsonl", "result.json"):
            shutil.copy(home / name / file, run.path / file)
        shutil.rmtree(home / name)
        qtot.record(run, 2)
    return home


@pytest.fixture(scope="module")
def report(folder: Path) -> Path:
    path = folder / "report.html"
    path.write_text(render(make_report([folder])), encoding="utf-8")
    return path


def data_of(page: Any) -> dict[str, Any]:
    return json.loads(page.evaluate("document.getElementById('data').textContent"))


def traces(page: Any, task: str) -> list[dict[str, Any]]:
    return page.evaluate(
        "(task) => [...document.querySelectorAll('#charts .chart')]"
        ".find((c) => c.dataset.task === task).data"
        ".map(({meta, name, x, y}) => ({meta, name, x, y}))",
        task,
    )


def test_it_opens_offline_and_nothing_goes_wrong(opened: Opened, report: Path):
    page = opened.open(report.as_uri())
    page.wait_for_timeout(300)
    assert opened.wrong == []
    assert opened.asked == [report.as_uri()]
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
    page.wait_for_timeout(200)
    assert opened.wrong == []


def test_charts_have_a_line_and_a_band_for_each_method(opened: Opened, report: Path, folder: Path):
    page = opened.open(report.as_uri())
    page.select_option("#metric", "eval/return")
    shown = traces(page, HUNT)
    assert [t["meta"] for t in shown] == ["interval", "mean", "interval", "mean"]
    assert [t["name"] for t in shown if t["meta"] == "mean"] == ["qmix", "vdn"]
    rows = [row for row in qtot.load(folder / "vdn").metrics() if row["env_steps"] == 500]
    at = shown[3]["x"].index(500)
    assert shown[3]["y"][at] == pytest.approx(np.mean([r["eval/return"] for r in rows]), rel=1e-3)
    page.check("#single")
    assert sum(t["meta"] == "seed" for t in traces(page, HUNT)) == 5
    page.check("input[value=wall_s]")
    assert max(traces(page, HUNT)[-1]["x"]) == pytest.approx(10.5)
    assert [t["meta"] for t in traces(page, "matrix/climbing")] == ["seed", "mean"]  # of one seed
    assert page.locator("#sure tbody tr").count() > 3
    assert opened.wrong == []


def test_hovering_over_a_chart_says_the_numbers_of_the_metrics(
    opened: Opened, report: Path, folder: Path
):
    page = opened.open(report.as_uri())
    page.select_option("#metric", "eval/return")
    page.wait_for_timeout(300)
    place = page.locator("#charts .chart[data-task='matrix/climbing'] .nsewdrag")
    place.scroll_into_view_if_needed()
    box = place.bounding_box()
    for share in np.linspace(0.3, 0.5, 12):  # as a hand moves; what is too quick is not heard
        page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
        page.wait_for_timeout(40)
    layer = "#charts .chart[data-task='matrix/climbing'] .hoverlayer"
    until(page, f"document.querySelector({layer!r}).textContent.includes('qmix')")
    said = re.fullmatch(r"(\d+)qmix : ([\d.]+)", page.locator(layer).text_content())
    rows = qtot.load(folder / "of-game").metrics()
    (row,) = (row for row in rows if row["env_steps"] == int(said[1]))
    assert float(said[2]) == pytest.approx(row["eval/return"], rel=1e-3)


def test_an_episode_plays_and_says_what_the_networks_say(
    opened: Opened, report: Path, folder: Path
):
    """Numbers beside the stage are those that the parameters give, acting step by step."""
    page = opened.open(report.as_uri())
    names = page.locator("#episode option").all_inner_texts()
    page.select_option("#episode", str(next(i for i, n in enumerate(names) if HUNT in n)))
    run = qtot.load(folder / "of-qmix")
    record = run._folder.read_record(0)[1]
    agents = [run.agent(name) for name in run.spec.agents]
    memories = [agent.reset() for agent in agents]
    length = int(record["lengths"][0])
    for t in range(length):
        page.evaluate("(t) => viewer.to(t)", t)
        for i, agent in enumerate(agents):
            obs, legal = (record[f"slots/{x}"][t, 0, i] for x in ("obs", "avail_actions"))
            q, _ = agent.q_values(obs, memories[i])
            action, memories[i] = agent.act(obs, legal, memories[i])
            row = page.locator(".team tbody tr").nth(i)
            cells = row.locator("td").all_inner_texts()
            assert cells[0].startswith(run.spec.action_meanings[i][action])
            assert float(cells[2]) == pytest.approx(q[action], rel=2e-3, abs=1e-4)
            if t == 1:
                bar = row.locator(".values i").nth(action)
                bar.scroll_into_view_if_needed()
                bar.hover()
                tip = page.locator(".tip").inner_text()
                assert f"{agent.name}, {run.spec.action_meanings[i][action]}" in tip
                assert float(tip.split("Q ")[1].split()[0]) == pytest.approx(
                    q[action], rel=2e-3, abs=1e-4
                )
                assert "taken" in tip
                assert "lit" in row.get_attribute("class")
        numbers = page.evaluate("viewer.episode")
        credit = [float(x) for x in numbers["credit"][t]]
        taken = [numbers["q"][t][i][numbers["action"][t][i]] for i in range(len(agents))]
        total = np.dot(credit, taken) + numbers["bias"][t]
        assert total == pytest.approx(numbers["q_tot"][t], rel=1e-2, abs=1e-2)
    page.evaluate("viewer.to(0)")
    page.select_option(".player select", "30")
    page.get_by_role("button", name="play").click()
    until(page, "viewer.t === viewer.episode.length")
    assert page.get_by_role("button", name="play").count() == 1
    page.locator("#viewer").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator(".player .at").inner_text() == f"step 2 of {length}"
    page.keyboard.press(" ")
    until(page, "viewer.t > 2")
    assert opened.wrong == []


def test_pointing_at_one_thing_shows_it_everywhere(opened: Opened, report: Path):
    page = opened.open(report.as_uri())
    names = page.locator("#episode option").all_inner_texts()
    page.select_option("#episode", str(next(i for i, n in enumerate(names) if HUNT in n)))
    canvas = page.locator(".stage canvas")
    canvas.scroll_into_view_if_needed()
    spot = page.evaluate("viewer.canvas.things.find((s) => s.k === 1)")
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + spot["x"], box["y"] + spot["y"])
    assert "lit" in page.locator(".team tbody tr").nth(1).get_attribute("class")
    assert "agent_1" in page.locator(".tip").inner_text()
    faded = page.locator("svg.lines polyline[data-name=agent_0]").first.get_attribute("opacity")
    assert float(faded) < 1
    lines = page.locator("#viewer svg.lines")
    box = lines.bounding_box()
    page.mouse.move(box["x"] + 0.98 * box["width"], box["y"] + 30)
    t = page.evaluate("viewer.t")
    assert t == page.evaluate("viewer.episode.length") - 1
    said = page.evaluate("(t) => short(viewer.episode.q_tot[t])", t)
    assert f"Q_tot {said}" in page.locator(".tip").inner_text()


def test_a_matrix_game_shows_payoffs_and_what_was_learned(
    opened: Opened, report: Path, folder: Path
):
    page = opened.open(report.as_uri())
    names = page.locator("#episode option").all_inner_texts()
    page.select_option("#episode", str(next(i for i, n in enumerate(names) if "climbing" in n)))
    payoff, learned = (page.locator(".payoffs table").nth(i) for i in (0, 1))
    assert payoff.locator("td").all_inner_texts()[1:] == [
        *("11", "-30", "0"),
        *("-30", "7", "0"),
        *("0", "6", "5"),
    ]
    table = qtot.load(folder / "of-game")._folder.read_record(0)[1]["said/table"][0, 0]
    shown = [float(x) for x in learned.locator("td").all_inner_texts()[1:]]
    np.testing.assert_allclose(shown, table, rtol=2e-3, atol=1e-4)
    assert float(learned.locator("td.greedy").inner_text()) == max(shown)


def test_a_sweep_has_a_line_for_each_finished_trial(opened: Opened, tmp_path: Path):
    base = preset_config("matrix/two_step")
    space = parse_space(["optimiser.lr=1e-4..1e-2:log", "mixer.embed=16,32"], base)
    params = [{"optimiser.lr": 10.0**-k, "mixer.embed": 16 * (1 + k % 2)} for k in (2, 3, 4)]
    trials = [Trial(i, p, "finished", 0.1 * i, 5.0) for i, p in enumerate(params)]
    trials.append(Trial(3, params[0], "impossible", reason="<b>excluded</b>"))
    sweep = Sweep(tmp_path, base, space, "eval/return", trials=tuple(trials), importance={})
    write_sweep(sweep)
    for trial in trials[:3]:
        made_run(tmp_path / trial.name, optimiser={"lr": trial.params["optimiser.lr"]})
    page = tmp_path / "page" / "r.html"
    qtot.report(tmp_path, page, episodes=0)
    shown = opened.open(page.as_uri())
    lines = shown.evaluate(
        "document.querySelector('.parallel').data.map(({y, name, line}) => [name, y, line.width])"
    )
    assert [name for name, _, _ in lines] == ["trial 1", "trial 0", "trial 2"]  # the best on top
    heights = {name: y for name, y, _ in lines}
    np.testing.assert_allclose(heights["trial 0"], [1.0, 0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(heights["trial 1"], [0.5, 1.0, 0.5], atol=1e-6)
    np.testing.assert_allclose(heights["trial 2"], [0.0, 0.0, 1.0], atol=1e-6)
    assert max(lines, key=lambda one: one[2])[0] == "trial 2"
    rows = shown.locator(".sweep tbody tr").all_inner_texts()
    assert len(rows) == 4
    assert rows[0].split()[:2] == ["2", "0.2"]
    assert "<b>excluded</b>" in rows[3]
    assert opened.wrong == []


def test_an_axis_of_kinds_names_each_where_it_lies(opened: Opened, tmp_path: Path):
    base = preset_config("matrix/two_step")
    algos = ("iql", "qatten", "qmix", "vdn")
    space = parse_space(["optimiser.lr=1e-4..1e-2:log", f"algo={','.join(algos)}"], base)
    rates = (1e-4, 1e-3, 1e-2, 5e-3)
    trials = [
        Trial(i, {"optimiser.lr": rate, "algo": algo}, "finished", 0.1 * i, 5.0)
        for i, (rate, algo) in enumerate(zip(rates, algos, strict=True))
    ]
    write_sweep(Sweep(tmp_path, base, space, "eval/return", trials=tuple(trials), importance={}))
    made_run(tmp_path / trials[0].name)
    page = tmp_path / "page" / "r.html"
    qtot.report(tmp_path, page, episodes=0)
    said = opened.open(page.as_uri()).evaluate(
        "document.querySelector('.parallel').layout.annotations.map(({x, y, text}) => [x, y, text])"
    )
    assert [(x, y, text) for x, y, text in said if x != 1] == [
        *((0, 0, "0.0001"), (0, 1, "0.01"), (2, 0, "0"), (2, 1, "0.3"))
    ]
    heights = [(round(y, 6), text) for x, y, text in said if x == 1]
    assert heights == [(round(i / 3, 6), algo) for i, algo in enumerate(algos)]
    assert opened.wrong == []


def test_it_fits_a_phone_and_is_legible_there(browser: Any, report: Path):
    context = browser.new_context(viewport={"width": 360, "height": 740}, color_scheme="dark")
    page = Opened(context.new_page()).open(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator("#viewer .stage").is_visible()
    contrast = """() => {
      const light = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number).map((v) => {
        v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const paper = light(getComputedStyle(document.body).backgroundColor);
      return [...document.querySelectorAll("p, td, th, h2, label, summary")].map((x) => {
        const ink = light(getComputedStyle(x).color);
        return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05); });
    }"""
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        assert min(page.evaluate(contrast)) >= 4.5  # WCAG AA
    context.close()


# Watching -------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    path = made_run(tmp_path / "run", rows=6, finished=False)
    server = _Server(0, _Latest([path]))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://{HERE}:{server.server_address[1]}/", path
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_page_that_watches_shows_what_comes(opened: Opened, served: tuple[str, Path]):
    url, path = served
    page = opened.open(url)
    page.select_option("#metric", "eval/return")
    page.check("#single")
    row = json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])
    with (path / "metrics.jsonl").open("a") as file:
        file.write(
            json.dumps({**row, "env_steps": 2000, "wall_s": 99.0, "eval/return": 77.0}) + "\n"
        )
    until(
        page,
        "document.querySelector('#charts .chart').data.find((t) => t.meta === 'mean')"
        ".y.at(-1) === 77",
    )
    assert page.input_value("#metric") == "eval/return"
    assert page.is_checked("#single")
    assert "live" in page.locator("#pulse").inner_text()
    assert opened.wrong == []
    assert all(asked.startswith(url) for asked in opened.asked)


def asked(url: str, **headers: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_only_this_machine_is_answered(served: tuple[str, Path]):
    url, _ = served
    port = url.split(":")[-1].strip("/")
    assert asked(url)[0] == 200
    assert asked(url, Host=f"localhost:{port}")[0] == 200
    for host in ("evil.example", f"evil.example:{port}", HERE, ""):
        assert asked(url, Host=host)[0] == 403
    assert asked(url + "../../etc/passwd")[0] == 404
    assert asked(url + "config.json")[0] == 404


def test_what_is_the_same_is_not_sent_again(served: tuple[str, Path]):
    url, path = served
    with urllib.request.urlopen(url + "report.json") as answer:
        tag = answer.headers["ETag"]
    assert asked(url + "report.json", **{"If-None-Match": tag})[0] == 304
    (path / "metrics.jsonl").write_text((path / "metrics.jsonl").read_text()[:-30])  # cut
    status, body = asked(url + "report.json")
    assert status == 200
    assert not json.loads(body)["trouble"]
    config, metrics = ((path / name).read_text() for name in ("config.json", "metrics.jsonl"))
    (path / "config.json").write_text("garbage\n")  # the last good one stays
    (path / "metrics.jsonl").write_text(metrics[: metrics.rindex("\n") + 1])
    after = json.loads(asked(url + "report.json")[1])
    assert "config.json" in after["trouble"]
    assert after["data"] == json.loads(body)["data"]
    (path / "config.json").write_text(config)
    assert not json.loads(asked(url + "report.json")[1])["trouble"]
