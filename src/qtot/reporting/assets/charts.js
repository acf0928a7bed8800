"use strict";
// Learning curves, profiles and the sweep, by Plotly; colours that colour-blind readers can tell.

const PALETTE = {
  light: ["#0072b2", "#c44f00", "#007d5c", "#a8508a", "#8f6a00", "#2f8fd0", "#6b6b6b", "#7a3fb0"],
  dark: ["#56b4e9", "#f08a4b", "#3fc29a", "#e19bc6", "#e6b94d", "#8fd0ff", "#b5b5b5", "#bb94ea"],
};
const DASHES = ["solid", "dash", "dot", "dashdot"];
const darkly = matchMedia("(prefers-color-scheme: dark)");

function colour(i) {
  const all = PALETTE[darkly.matches ? "dark" : "light"];
  return all[i % all.length];
}
const dash = (i) => DASHES[Math.floor(i / PALETTE.light.length) % DASHES.length];
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Plotly reads a little HTML in its texts; names from run folders are to be read as they are.
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function faint(hex, alpha) {
  const n = parseInt(hex.slice(1), 16);
  return `rgba(${n >> 16},${(n >> 8) & 255},${n & 255},${alpha})`;
}

function layout(x, y, more) {
  const axis = { gridcolor: css("--line"), zerolinecolor: css("--line"), automargin: true, fixedrange: false };
  return Object.assign({
    margin: { l: 48, r: 8, t: 34, b: 40 },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 12, color: css("--ink") },
    hoverlabel: { bgcolor: css("--panel"), bordercolor: css("--line"), font: { color: css("--ink") } },
    hovermode: "x unified",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--soft"), activecolor: css("--ink") },
    legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom" },
    xaxis: Object.assign({}, axis, { title: { text: x, standoff: 8 } }),
    yaxis: Object.assign({}, axis, { title: { text: y, standoff: 8 } }),
  }, more);
}
const CONFIG = { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "resetScale2d"]] };

function band(x, low, high, i) {
  return {
    x: x.concat(x.slice().reverse()), y: high.concat(low.slice().reverse()), type: "scatter",
    fill: "toself", fillcolor: faint(colour(i), 0.18), line: { width: 0 }, mode: "lines",
    hoverinfo: "skip", showlegend: false, meta: "interval",
  };
}

function line(x, y, i, name, more) {
  return Object.assign({
    x, y, type: "scatter", mode: x.length > 1 ? "lines" : "markers", name: plain(name), meta: "mean",
    line: { color: colour(i), dash: dash(i), width: 2.2 }, marker: { color: colour(i) },
    hovertemplate: "%{y:.4~g}",
  }, more);
}

function drawCurves(data) {
  const home = document.getElementById("charts");
  if (!home) return;
  const metric = document.getElementById("metric").value;
  const axis = document.querySelector("input[name=axis]:checked").value;
  const single = document.getElementById("single").checked;
  const facts = data.metrics.find((m) => m.name === metric);
  document.getElementById("about-metric").textContent = facts.about;
  const tasks = [...new Set(data.curves.map((c) => c.task))];
  const shown = tasks.filter((t) => data.curves.some((c) => c.task === t && c.lines[metric]));
  for (const old of [...home.children]) if (!shown.includes(old.dataset.task)) { Plotly.purge(old); old.remove(); }
  for (const task of shown) if (![...home.children].some((c) => c.dataset.task === task)) {
    const place = home.appendChild(document.createElement("div"));
    place.className = "chart";
    place.dataset.task = task;
    place.setAttribute("role", "img");
    new ResizeObserver(() => { if (place.data) Plotly.Plots.resize(place); }).observe(place);
  }
  // All places are there before the first is drawn: a chart takes the width that it finds.
  for (const task of shown) {
    const place = [...home.children].find((c) => c.dataset.task === task);
    place.setAttribute("aria-label", `${facts.title} on ${task}`);
    const traces = [];
    for (const c of data.curves.filter((c) => c.task === task && c.lines[metric] && c.lines[metric][axis])) {
      const l = c.lines[metric][axis], i = data.colours[c.label];
      if (l.seeds.length > 1) traces.push(band(l.x, l.low, l.high, i));
      if (single) l.seeds.forEach((y, s) => traces.push(line(l.x, y, i, `${c.label}, seed`, {
        line: { color: faint(colour(i), 0.55), width: 1 }, showlegend: false, hoverinfo: "skip",
        hovertemplate: null, meta: "seed" })));
      const sure = l.x.map((_, k) => l.seeds.length > 1 ? ` [${short(l.low[k])}, ${short(l.high[k])}]` : "");
      traces.push(line(l.x, l.iqm, i, c.label, { customdata: sure, hovertemplate: "%{y:.4~g}%{customdata}" }));
    }
    Plotly.react(place, traces, layout(data.axes[axis], plain(facts.title), {
      title: { text: plain(task), font: { size: 13 }, x: 0.01, xanchor: "left" },
      showlegend: data.curves.length > 1,
    }), CONFIG);
  }
}

function drawProfile(data) {
  const place = document.getElementById("profile");
  if (!place) return;
  const traces = [];
  for (const p of data.profiles) {
    const i = data.colours[p.label];
    if (p.low) traces.push(band(p.x, p.low, p.high, i));
    traces.push(line(p.x, p.share, i, p.label));
  }
  Plotly.react(place, traces, layout("threshold", "share of runs above", {}), CONFIG);
}

const MOST_NAMES = 20; // that fit above each other
// One line a trial over the axes of its settings, the best in the accent's colour.
function drawSweep(place, sweep) {
  const { names, trials, metric } = sweep;
  if (!trials.length) return;
  const axes = names.concat([metric]);
  const column = (k) => trials.map((t) => (k < names.length ? t.values[k] : t.value));
  const scales = axes.map((_, k) => scaleOf(column(k), sweep.log[k]));
  const values = trials.map((t) => t.value).filter((v) => v !== null);
  const best = sweep.goal === "min" ? Math.min(...values) : Math.max(...values);
  const order = trials.map((t, i) => i).sort((a, b) => (trials[a].value === best) - (trials[b].value === best));
  const traces = order.map((i) => {
    const t = trials[i], own = t.values.concat([t.value]);
    return {
      type: "scatter", mode: "lines+markers", x: axes.map((_, k) => k), y: own.map((v, k) => scales[k](v)),
      line: { color: t.value === best ? css("--accent") : faint(colour(6), 0.45), width: t.value === best ? 3 : 1.3 },
      marker: { size: 5 }, name: `trial ${t.number}`, showlegend: false, meta: "trial",
      text: own.map((v, k) => `${plain(axes[k])}: ${plain(v === null ? "–" : v)}`), hovertemplate: "%{text}",
    };
  });
  Plotly.react(place, traces, layout("", "", {
    hovermode: "closest",
    xaxis: { tickvals: axes.map((_, k) => k), ticktext: axes.map(plain), gridcolor: css("--soft"), fixedrange: true, zeroline: false },
    yaxis: { visible: false, range: [-0.08, 1.08], fixedrange: true },
    annotations: axes.flatMap((_, k) => scales[k].marks.map((mark) => Object.assign({
      x: k, showarrow: false, font: { size: 10, color: css("--soft") } }, mark))),
  }), CONFIG);
}

// Where a value lies on its axis; a range says its ends, kinds each say their name where they lie.
function scaleOf(column, log) {
  const there = column.filter((v) => v !== null);
  let f;
  if (there.every((v) => typeof v === "number")) {
    const map = log ? Math.log : (v) => v;
    const low = Math.min(...there), high = Math.max(...there);
    f = (v) => (v === null ? null : high > low ? (map(v) - map(low)) / (map(high) - map(low)) : 0.5);
    f.marks = [{ y: 0, text: short(low), yshift: -12 }, { y: 1, text: short(high), yshift: 12 }];
  } else {
    const kinds = [...new Set(there.map(String))].sort();
    f = (v) => (v === null ? null : kinds.length > 1 ? kinds.indexOf(String(v)) / (kinds.length - 1) : 0.5);
    const every = Math.ceil(kinds.length / MOST_NAMES);
    f.marks = kinds.filter((_, i) => i % every === 0).map((kind) => ({
      y: f(kind), text: plain(kind.length > 24 ? `${kind.slice(0, 23)}…` : kind),
      xanchor: "left", xshift: 7, bgcolor: faint(css("--panel"), 0.75) }));
  }
  return f;
}

const short = (v) => (v === null || v === undefined ? "–" : Number(Number(v).toPrecision(4)).toString());

function drawCharts(data) {
  for (const swatch of document.querySelectorAll(".swatch")) {
    swatch.style.background = colour(data.colours[data.labels[swatch.dataset.group]]);
  }
  drawCurves(data);
  drawProfile(data);
  for (const place of document.querySelectorAll(".parallel")) drawSweep(place, data.sweeps[place.dataset.sweep]);
}
