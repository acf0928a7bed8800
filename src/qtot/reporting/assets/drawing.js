"use strict";
// One step of an episode on a canvas: a plane or a grid with things on it, or bars of what is seen.

const MARKS = { enemy: "#8a8f96", landmark: "#8a8f96", prey: "#b5651d", food: "#4d8a3a", shelf: "#8a8f96", goal: "#8a8f96" };

function drawStep(canvas, stage, episode, t, lit) {
  const scene = stage.scene, box = canvas.getBoundingClientRect();
  const ratio = devicePixelRatio || 1, size = Math.max(box.width, 50);
  const [left, bottom, right, top] = scene ? episode.bounds : [0, 0, 1, 1];
  const height = scene ? size * Math.abs((top - bottom) / (right - left)) : barsHeight(stage);
  canvas.width = size * ratio;
  canvas.height = height * ratio;
  canvas.style.height = `${height}px`;
  const g = canvas.getContext("2d");
  g.setTransform(ratio, 0, 0, ratio, 0, 0);
  g.clearRect(0, 0, size, height);
  canvas.things = [];
  if (!scene) return drawObservations(g, stage, episode, t, lit, size, canvas);
  const unit = size / Math.abs(right - left);
  const px = (x) => ((x - left) / (right - left)) * size;
  const py = (y) => ((top - y) / (top - bottom)) * height;
  if (scene.ground === "grid") drawCells(g, px, py, episode.bounds);
  const looks = episode.looks, n = stage.agents.length;
  const at = (name, k) => (looks[name] ? looks[name][t][k] : null);
  const order = scene.things.map((_, k) => k).sort((a, b) => rank(scene.things[a]) - rank(scene.things[b]));
  const spots = scene.things.map((thing, k) => ({
    thing, k, x: px(at("x", k)), y: py(at("y", k)), r: Math.max(thing.radius * unit, 3), shown: at("shown", k) !== 0,
  }));
  if (looks.target) for (const spot of spots) {
    const aim = at("target", spot.k);
    if (spot.shown && aim >= 0 && spots[aim] && at("health", spot.k) > 0) drawAim(g, spot, spots[aim], tint(spot, n));
  }
  for (const k of order) if (spots[k].shown) {
    drawThing(g, spots[k], tint(spots[k], n), at, lit === k);
    if (spots[k].thing.kind !== "goal") canvas.things.push(spots[k]);
  }
}

const rank = (thing) => ["goal", "landmark", "shelf", "food", "prey", "enemy", "agent"].indexOf(thing.kind);
const tint = (spot, n) => (spot.k < n ? colour(spot.k) : MARKS[spot.thing.kind] || "#8a8f96");

function drawCells(g, px, py, [left, bottom, right, top]) {
  g.strokeStyle = css("--line");
  g.lineWidth = 1;
  g.beginPath();
  for (let x = left; x <= right + 1e-9; x++) { g.moveTo(px(x), py(bottom)); g.lineTo(px(x), py(top)); }
  const step = bottom > top ? -1 : 1;
  for (let y = bottom; step * (top - y) >= -1e-9; y += step) { g.moveTo(px(left), py(y)); g.lineTo(px(right), py(y)); }
  g.stroke();
}

function drawAim(g, from, to, tone) {
  g.strokeStyle = faint(tone, 0.75);
  g.lineWidth = 1.5;
  g.setLineDash([4, 3]);
  g.beginPath(); g.moveTo(from.x, from.y); g.lineTo(to.x, to.y); g.stroke();
  g.setLineDash([]);
}

function drawThing(g, { thing, k, x, y, r }, tone, at, lit) {
  const kind = thing.kind, marked = at("marked", k);
  g.lineWidth = 2;
  g.fillStyle = faint(tone, 0.85);
  g.strokeStyle = tone;
  g.beginPath();
  if (kind === "shelf" || kind === "goal") {
    g.rect(x - r, y - r, 2 * r, 2 * r);
    g.fillStyle = kind === "goal" ? "rgba(0,0,0,0)" : faint(marked ? "#c44f00" : tone, marked ? 0.9 : 0.45);
  } else if (kind === "landmark") {
    g.moveTo(x, y - r * 1.3); g.lineTo(x + r * 1.2, y + r * 0.9); g.lineTo(x - r * 1.2, y + r * 0.9); g.closePath();
    if (marked) g.fillStyle = "#c44f00";
  } else if (kind === "food" || kind === "prey") {
    g.moveTo(x, y - r); g.lineTo(x + r, y); g.lineTo(x, y + r); g.lineTo(x - r, y); g.closePath();
  } else if (kind === "enemy") {
    g.rect(x - r * 0.9, y - r * 0.9, 1.8 * r, 1.8 * r);
  } else {
    g.arc(x, y, r, 0, 7);
  }
  g.fill();
  if (kind === "goal") { g.setLineDash([3, 3]); g.stroke(); g.setLineDash([]); }
  if (marked && kind === "agent") { g.strokeStyle = css("--ink"); g.stroke(); }
  if (lit) { g.strokeStyle = css("--ink"); g.lineWidth = 2.5; g.beginPath(); g.arc(x, y, r + 5, 0, 7); g.stroke(); }
  const heading = at("heading", k);
  if (heading !== null) {
    g.strokeStyle = css("--paper"); g.lineWidth = 2.5; g.beginPath(); g.moveTo(x, y);
    g.lineTo(x + r * Math.cos(heading), y - r * Math.sin(heading)); g.stroke();
  }
  const level = at("level", k), says = at("says", k);
  const text = level !== null ? String(level) : says !== null && says >= 0 ? `“${says}”` : "";
  if (text) { g.fillStyle = css("--paper"); g.font = `600 ${Math.max(10, r)}px system-ui`; g.textAlign = "center"; g.textBaseline = "middle"; g.fillText(text, x, y); }
  bar(g, x, y - r - 6, r, at("health", k), "#2c9a5b");
  bar(g, x, y - r - 2.5, r, at("wait", k), "#8a8f96");
}

function bar(g, x, y, r, share, tone) {
  if (share === null || share === undefined) return;
  const wide = Math.max(2 * r, 12);
  g.fillStyle = css("--line"); g.fillRect(x - wide / 2, y, wide, 2.5);
  g.fillStyle = tone; g.fillRect(x - wide / 2, y, wide * Math.max(0, Math.min(1, share)), 2.5);
}

// What everyone sees, a row of bars each: for environments that show themselves in no other way.
const ROW = 46;
const barsHeight = (stage) => ROW * stage.agents.length + 8;

function drawObservations(g, stage, episode, t, lit, size, canvas) {
  const seen = episode.obs[t], largest = seen.flat().reduce((most, v) => Math.max(most, Math.abs(v)), 1e-9);
  seen.forEach((values, i) => {
    const middle = 8 + ROW * i + ROW / 2, wide = (size - 16) / values.length;
    canvas.things.push({ k: i, x: size / 2, y: middle, r: size / 2, row: true });
    g.fillStyle = lit === i ? css("--ground") : css("--panel");
    g.fillRect(0, middle - ROW / 2 + 2, size, ROW - 4);
    g.fillStyle = colour(i);
    values.forEach((v, j) => {
      const high = (v / largest) * (ROW / 2 - 5);
      g.fillRect(8 + j * wide, Math.min(middle, middle - high), Math.max(wide - 1, 1), Math.max(Math.abs(high), 0.75));
    });
  });
}
