"use strict";
// An episode: the stage, its player, what every agent values, and who is credited with what. One
// step and one agent are looked at; pointing at either anywhere shows it everywhere.

const el = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in made) made[key] = value; else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
};
const svg = (name, attributes = {}, text) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
};

// Smallest and largest; of nothing 0.
const extent = (values) => values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], values.length ? [values[0], values[0]] : [0, 0]);

class Tip {
  constructor() { this.box = el("div", { className: "tip", hidden: true }); document.body.append(this.box); }
  show(event, text) {
    this.box.textContent = text;
    this.box.hidden = false;
    const { innerWidth: w, innerHeight: h } = window, own = this.box.getBoundingClientRect();
    this.box.style.left = `${Math.max(4, Math.min(event.clientX + 14, w - own.width - 6))}px`;
    this.box.style.top = `${Math.max(4, Math.min(event.clientY + 14, h - own.height - 6))}px`;
  }
  hide() { this.box.hidden = true; }
}

class Viewer {
  constructor(home, data) {
    this.home = home;
    this.data = data;
    this.tip = new Tip();
    this.lit = null;
    this.playing = null;
    this.build();
    this.open(0);
  }

  build() {
    this.canvas = el("canvas");
    this.canvas.setAttribute("role", "img");
    this.picture = el("img", { alt: "", hidden: true });
    this.payoffs = el("div", { className: "payoffs wide" });
    this.play = el("button", { type: "button", onclick: () => this.toggle() }, "play");
    this.back = el("button", { type: "button", onclick: () => this.to(this.t - 1, true), title: "one step back (←)" }, "‹");
    this.on = el("button", { type: "button", onclick: () => this.to(this.t + 1, true), title: "one step on (→)" }, "›");
    this.back.setAttribute("aria-label", "one step back");
    this.on.setAttribute("aria-label", "one step on");
    this.scrub = el("input", { type: "range", min: 0, step: 1, oninput: () => this.to(Number(this.scrub.value), true) });
    this.scrub.setAttribute("aria-label", "step");
    this.speed = el("select", { onchange: () => this.playing && this.start() });
    this.speed.setAttribute("aria-label", "speed");
    for (const [value, text] of [[1, "1/s"], [4, "4/s"], [8, "8/s"], [16, "16/s"], [30, "30/s"]]) this.speed.append(el("option", { value, selected: value === 8 }, text));
    this.at = el("span", { className: "at" });
    this.words = el("p", { className: "said" });
    this.table = el("table", { className: "team" });
    this.lines = svg("svg", { class: "lines", role: "img" });
    const stage = el("div", { className: "stage" }, this.canvas, this.picture, this.payoffs,
      el("div", { className: "player" }, this.back, this.play, this.on, this.scrub, this.speed, this.at), this.words);
    const inspector = el("div", {}, el("div", { className: "wide" }, this.table), this.lines);
    this.home.replaceChildren(el("div", { className: "viewer" }, stage, inspector));
    this.home.tabIndex = 0;
    this.home.setAttribute("aria-label", "episode: space plays, arrow keys step");
    this.home.onkeydown = (event) => this.key(event);
    this.canvas.onmousemove = (event) => this.pointAtStage(event);
    this.canvas.onmouseleave = () => { this.light(null); this.tip.hide(); };
    this.lines.onmousemove = (event) => this.pointAtLines(event);
    this.lines.onmouseleave = () => { this.tip.hide(); this.light(null); };
    this.lines.onclick = (event) => this.to(this.stepAt(event), true);
    this.watcher = new ResizeObserver(() => this.show());
    this.watcher.observe(stage);
  }

  // Another viewer takes its place.
  leave() { this.stop(); this.watcher.disconnect(); this.tip.box.remove(); }
  // The colours have changed.
  redress() { this.tabulate(); this.show(); }

  open(index) {
    this.stop();
    this.episode = this.data.episodes[index];
    this.stage = this.data.stages[this.episode.stage];
    const scene = this.stage.scene;
    this.hasCanvas = !this.episode.frames && (!scene || scene.ground !== "table");
    this.canvas.hidden = !this.hasCanvas;
    this.picture.hidden = !this.episode.frames;
    this.payoffs.hidden = !(scene && scene.ground === "table");
    this.scrub.max = this.episode.length;
    this.tabulate();
    this.to(0);
  }

  key(event) {
    const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -1e9, End: 1e9 };
    if (event.target !== this.home) return;
    if (event.key === " ") { event.preventDefault(); this.toggle(); }
    if (event.key in moves) { event.preventDefault(); this.to(this.t + moves[event.key], true); }
  }

  toggle() { if (this.playing) this.stop(); else this.start(); }
  start() {
    clearInterval(this.playing);
    if (this.t >= this.episode.length) this.to(0);
    this.play.textContent = "pause";
    this.playing = setInterval(() => {
      this.to(this.t + 1);
      if (this.t >= this.episode.length) this.stop();
    }, 1000 / Number(this.speed.value));
  }
  stop() { clearInterval(this.playing); this.playing = null; this.play.textContent = "play"; }

  to(t, by = false) {
    if (by) this.stop();
    this.t = Math.max(0, Math.min(this.episode.length, t));
    this.show();
  }
  light(agent) {
    if (this.lit === agent) return;
    this.lit = agent;
    this.show();
  }

  action(i, u) {
    const words = this.stage.action_meanings[i];
    return words && words[u] !== undefined ? words[u] : `action ${u}`;
  }
  get final() { return this.t >= this.episode.length; }

  // What is looked at ------------------------------------------------------------------------

  show() {
    if (!this.episode) return;
    const { episode: e, t } = this;
    this.scrub.value = t;
    this.at.textContent = `step ${t} of ${e.length}`;
    const so_far = e.reward.slice(0, t).reduce((a, b) => a + b, 0);
    const said = [`return so far ${short(so_far)} of ${short(e.return)}`];
    if (!this.final) said.push(`reward ${short(e.reward[t])}`); else said.push("the end");
    const info = Object.entries(e.info).map(([name, value]) => `${name} ${short(value)}`);
    this.words.textContent = said.join(" · ") + (info.length ? ` · ends with ${info.join(", ")}` : "");
    if (this.hasCanvas) {
      drawStep(this.canvas, this.stage, e, t, this.lit);
      this.canvas.setAttribute("aria-label", `step ${t}`);
    }
    if (e.frames) this.picture.src = e.frames[Math.min(t, e.frames.length - 1)];
    if (!this.payoffs.hidden) this.showPayoffs();
    this.fill();
    this.drawLines();
  }

  get first() { return this.stage.on_policy ? "policy" : "q"; }

  tabulate() {
    const { episode: e, stage } = this;
    const heads = ["agent", "action"];
    if (stage.on_policy) heads.push("policy", "probability", "critic", "advantage");
    else if (e.credit) heads.push("Q of every action", "Qₐ", "credit", "credit·Qₐ");
    else heads.push("Q of every action", "Qₐ");
    const row = el("tr");
    heads.forEach((h, k) => row.append(el("th", { scope: "col", className: k > 2 ? "n" : "" }, h)));
    const titles = { credit: "∂Q_tot/∂Q_a: how much Q_tot rises with this agent's value", advantage: "counterfactual: the action's value minus the policy's own mean, the others' actions as they are" };
    for (const th of row.children) if (titles[th.textContent]) th.title = titles[th.textContent];
    this.rows = stage.agents.map((name, i) => {
      const swatch = el("i", { className: "swatch" });
      swatch.style.background = colour(i);
      const values = el("div", { className: "values" });
      for (let u = 0; u < stage.n_actions[i]; u++) {
        const bar = el("i");
        bar.onmousemove = (event) => { event.stopPropagation(); this.light(i); this.tip.show(event, this.valueText(i, u)); };
        bar.onmouseleave = () => this.tip.hide();
        values.append(bar);
      }
      const cells = [el("th", { scope: "row" }, swatch, name), el("td"), el("td", {}, values)];
      while (cells.length < heads.length) cells.push(el("td", { className: "n" }));
      const made = el("tr", { tabIndex: 0 }, ...cells);
      made.onfocus = () => this.light(i);
      made.onblur = () => this.light(null);
      made.onmouseenter = () => this.light(i);
      made.onmouseleave = () => this.light(null);
      return made;
    });
    const body = el("tbody", {}, ...this.rows);
    this.sums = [];
    const sum = (label, column) => {
      const cells = heads.map((_, k) => (k ? el("td", { className: k > 2 ? "n" : "" }) : el("th", { scope: "row" }, label)));
      body.append(el("tr", {}, ...cells));
      this.sums.push([cells[heads.length - 1], column]);
    };
    if (e.credit) { sum("bias of the state", "bias"); sum("Q_tot", "q_tot"); }
    if (e.q_joint) sum("joint critic", "q_joint");
    if (e.td_error && !Array.isArray(e.td_error[0])) sum("TD error", "td_error");
    this.table.replaceChildren(el("thead", {}, row), body);
  }

  valueText(i, u) {
    const { episode: e, t } = this;
    const legal = e.legal[t][i][u], lines = [`${this.stage.agents[i]}, ${this.action(i, u)}`];
    if (!legal) lines.push("not legal here");
    lines.push(`${this.stage.on_policy ? "logit" : "Q"} ${short(e.q[t][i][u])}`);
    if (e.policy) lines.push(`probability ${short(e.policy[t][i][u])}`, `critic ${short(e.q_critic[t][i][u])}`);
    if (e.greedy[t][i] === u && legal) lines.push("greedy");
    if (e.action[t][i] === u && !this.final) lines.push("taken");
    return lines.join("\n");
  }

  fill() {
    const { episode: e, t, stage } = this, shown = e[this.first][t];
    const legal = shown.flatMap((q, i) => q.filter((_, u) => e.legal[t][i][u] && q[u] !== null));
    const [low, high] = stage.on_policy ? [0, 1] : extent(legal);
    this.rows.forEach((row, i) => {
      const u = e.action[t][i], cells = row.children, alive = e.alive[t][i];
      row.classList.toggle("lit", this.lit === i);
      row.classList.toggle("dead", !alive);
      cells[1].textContent = this.final ? "–" : this.action(i, u) + (alive ? "" : " †");
      [...cells[2].firstChild.children].forEach((bar, k) => {
        const may = Boolean(e.legal[t][i][k]), q = shown[i][k];
        bar.className = may ? "" : "illegal";
        if (may && e.greedy[t][i] === k) bar.classList.add("greedy");
        if (may && u === k && !this.final) bar.classList.add("taken");
        bar.style.height = may && q !== null ? `${8 + 92 * (high > low ? (q - low) / (high - low) : 0.5)}%` : "8%";
      });
      const all = shown[i].map((q, k) => (e.legal[t][i][k] ? `${this.action(i, k)} ${short(q)}` : "")).filter((x) => x);
      cells[2].firstChild.setAttribute("role", "img");
      cells[2].firstChild.setAttribute("aria-label", all.join(", "));
      const own = e.q[t][i][u];
      let numbers;
      if (stage.on_policy) numbers = [e.policy[t][i][u], e.q_critic[t][i][u], e.advantage[t][i]];
      else if (e.credit) numbers = [own, e.credit[t][i], e.credit[t][i] * own];
      else numbers = [own];
      numbers.forEach((v, k) => { cells[3 + k].textContent = this.final ? "" : short(v); });
    });
    for (const [cell, name] of this.sums) cell.textContent = this.final ? "" : short(e[name][t]);
  }

  showPayoffs() {
    const { episode: e, stage, t } = this;
    if (this.final) { this.payoffs.replaceChildren(el("p", {}, "The game is over.")); return; }
    const tables = [["payoff", e.looks.payoffs[t]]];
    if (e.table) tables.push(["learned Q_tot", e.table[t]]);
    const greedy = e.greedy[t], sizes = stage.n_actions;
    if (sizes.length !== 2) { this.payoffs.replaceChildren(this.listed(tables, greedy)); return; }
    this.payoffs.replaceChildren(...tables.map(([title, flat]) => {
      const made = el("table", {}, el("caption", {}, title));
      const head = el("tr", {}, el("td"));
      const wide = Math.max(...sizes);
      for (let v = 0; v < sizes[1]; v++) head.append(el("th", { className: "n", scope: "col" }, this.action(1, v)));
      made.append(head);
      for (let u = 0; u < sizes[0]; u++) {
        const row = el("tr", {}, el("th", { scope: "row" }, this.action(0, u)));
        for (let v = 0; v < sizes[1]; v++) {
          const cell = el("td", {}, short(flat[u * wide + v]));
          if (!e.legal[t][0][u] || !e.legal[t][1][v]) cell.className = "illegal";
          if (greedy[0] === u && greedy[1] === v) { cell.className = "greedy"; cell.title = "the greedy joint action"; }
          row.append(cell);
        }
        made.append(row);
      }
      return made;
    }));
  }

  listed(tables, greedy) {
    const wide = Math.max(...this.stage.n_actions), n = this.stage.n_actions.length;
    const made = el("table", {}, el("tr", {}, el("th", {}, "joint action"), ...tables.map(([title]) => el("th", { className: "n" }, title))));
    const joint = tables[0][1].map((_, k) => Array.from({ length: n }, (_, i) => Math.floor(k / wide ** (n - 1 - i)) % wide));
    const best = joint.map((_, k) => k).sort((a, b) => tables[0][1][b] - tables[0][1][a]);
    const chosen = joint.findIndex((u) => u.every((x, i) => x === greedy[i]));
    for (const k of [...new Set([chosen, ...best.slice(0, 8)])]) {
      const row = el("tr", {}, el("th", { scope: "row" }, joint[k].map((u, i) => this.action(i, u)).join(", ")));
      for (const [, flat] of tables) row.append(el("td", { className: k === chosen ? "greedy" : "" }, short(flat[k])));
      made.append(row);
    }
    return made;
  }

  // Over time --------------------------------------------------------------------------------

  strips() {
    const { episode: e, stage } = this, n = stage.agents.length, out = [];
    const agents = (values) => stage.agents.map((name, i) => ({ name, agent: i, values: values.map((row) => row[i]), tone: colour(i) }));
    if (e.q_tot) out.push({ title: "Q_tot", lines: [{ name: "Q_tot", values: e.q_tot, tone: css("--ink"), wide: 2 }, { name: "bias", values: e.bias, tone: css("--soft"), dash: "4 3" }, ...(e.q_joint ? [{ name: "joint critic", values: e.q_joint, tone: css("--accent"), dash: "2 2" }] : [])] });
    else if (!stage.on_policy) out.push({ title: "Qₐ of the action taken", lines: agents(e.q.map((row, t) => row.map((q, i) => q[e.action[t][i]]))) });
    if (e.credit) out.push({ title: "credit ∂Q_tot/∂Qₐ", lines: agents(e.credit), zero: true });
    if (e.advantage) out.push({ title: "counterfactual advantage", lines: agents(e.advantage), zero: true });
    if (e.td_error) out.push({ title: "TD error", zero: true, lines: Array.isArray(e.td_error[0]) ? agents(e.td_error) : [{ name: "TD error", values: e.td_error, tone: css("--warn") }] });
    out.push({ title: "reward", zero: true, lines: [{ name: "reward", values: e.reward, tone: css("--accent") }] });
    return out;
  }

  drawLines() {
    const wide = Math.max(this.lines.parentElement.clientWidth, 200), strips = this.strips();
    const high = 74, gap = 24, left = 58, right = 8, { length } = this.episode;
    this.scale = (t) => left + (t / Math.max(length - 1, 1)) * (wide - left - right);
    this.geometry = { wide, left, right };
    this.drawn = [];
    const tall = strips.length * (high + gap) + 14;
    this.lines.setAttribute("viewBox", `0 0 ${wide} ${tall}`);
    this.lines.setAttribute("aria-label", strips.map((s) => s.title).join(", ") + " over the episode");
    const parts = [];
    strips.forEach((strip, s) => {
      const top = s * (high + gap) + 16;
      const all = strip.lines.flatMap((l) => l.values.slice(0, length)).filter((v) => v !== null);
      let [low, most] = extent(all);
      if (strip.zero) { low = Math.min(low, 0); most = Math.max(most, 0); }
      if (!(most > low)) { low -= 0.5; most += 0.5; }
      const y = (v) => top + high - ((v - low) / (most - low)) * high;
      parts.push(svg("text", { x: left, y: top - 5 }, strip.title));
      for (const v of [low, most]) parts.push(svg("text", { x: left - 5, y: y(v) + 4, "text-anchor": "end" }, short(v)));
      if (strip.zero) parts.push(svg("line", { x1: left, x2: wide - right, y1: y(0), y2: y(0), stroke: css("--line") }));
      for (const l of strip.lines) {
        const pen = l.values.slice(0, length).map((v, t) => (v === null ? null : `${this.scale(t).toFixed(1)},${y(v).toFixed(1)}`));
        if (l.agent !== undefined) this.drawn.push({ agent: l.agent, at: (t) => (l.values[t] === null ? Infinity : y(l.values[t])) });
        const faded = this.lit !== null && l.agent !== undefined && l.agent !== this.lit;
        parts.push(svg("polyline", { points: pen.filter((p) => p).join(" "), fill: "none", stroke: l.tone, "stroke-width": l.agent === this.lit && this.lit !== null ? 2.6 : l.wide || 1.5, "stroke-dasharray": l.dash || "none", opacity: faded ? 0.25 : 1, "data-name": l.name }));
        if (length === 1 && pen[0]) { const [cx, cy] = pen[0].split(","); parts.push(svg("circle", { cx, cy, r: 3, fill: l.tone })); }
      }
    });
    const x = this.scale(Math.min(this.t, length - 1));
    parts.push(svg("line", { x1: x, x2: x, y1: 4, y2: tall - 8, stroke: css("--accent"), "stroke-width": 1.2 }));
    this.lines.replaceChildren(...parts);
  }

  stepAt(event) {
    const box = this.lines.getBoundingClientRect(), { wide, left, right } = this.geometry;
    const x = ((event.clientX - box.left) / box.width) * wide;
    const t = Math.round(((x - left) / (wide - left - right)) * Math.max(this.episode.length - 1, 1));
    return Math.max(0, Math.min(this.episode.length - 1, t));
  }

  pointAtLines(event) {
    const t = this.stepAt(event), lines = [`step ${t}`];
    for (const strip of this.strips()) {
      for (const l of strip.lines) lines.push(`${strip.lines.length > 1 || l.name !== strip.title ? `${strip.title}, ` : ""}${l.name} ${short(l.values[t])}`);
    }
    if (!this.playing && t !== this.t) this.to(t);
    const box = this.lines.getBoundingClientRect();
    const y = (event.clientY - box.top) * (this.lines.viewBox.baseVal.height / box.height);
    const near = this.drawn.map((d) => [Math.abs(d.at(t) - y), d.agent]).sort((a, b) => a[0] - b[0])[0];
    this.light(near && near[0] < 8 ? near[1] : null);
    this.tip.show(event, lines.slice(0, 22).join("\n"));
  }

  pointAtStage(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    const near = (this.canvas.things || []).filter((s) => (s.row ? Math.abs(s.y - y) < ROW / 2 : Math.hypot(s.x - x, s.y - y) < s.r + 6)).pop();
    const n = this.stage.agents.length;
    this.light(near && near.k < n ? near.k : null);
    if (!near) { this.tip.hide(); return; }
    const { episode: e, t } = this, lines = [near.thing ? near.thing.name : this.stage.agents[near.k]];
    for (const name of ["health", "wait", "level"]) if (e.looks[name]) lines.push(`${name} ${short(e.looks[name][t][near.k])}`);
    if (near.k < n && !this.final) {
      lines.push(this.action(near.k, e.action[t][near.k]), `Q ${short(e.q[t][near.k][e.action[t][near.k]])}`);
      if (e.credit) lines.push(`credit ${short(e.credit[t][near.k])}`);
    }
    this.tip.show(event, lines.join("\n"));
  }
}
