"use strict";
// What happens when the page is opened, and with 'qtot watch' whenever there is more to show.

let report = JSON.parse(document.getElementById("data").textContent);
let viewer = null;

function listen() {
  const choice = document.getElementById("episode");
  if (choice) choice.onchange = () => viewer.open(Number(choice.value));
  for (const input of document.querySelectorAll("#learned select, #learned input")) input.onchange = () => drawCurves(report);
  drawCharts(report);
}

function begin() {
  const home = document.getElementById("viewer"), choice = document.getElementById("episode");
  viewer = home && report.episodes.length ? new Viewer(home, report) : null;
  if (viewer && choice && Number(choice.value)) viewer.open(Number(choice.value));
  listen();
}

darkly.addEventListener("change", () => { drawCharts(report); if (viewer) viewer.redress(); });
begin();

// A page that watches asks again; what the reader has chosen stays.
function replace(fresh) {
  const kept = ["metric", "single", "episode"].map((id) => document.getElementById(id)).filter((x) => x);
  const values = kept.map((x) => [x.id, x.type === "checkbox" ? x.checked : x.value]);
  const axis = (document.querySelector("input[name=axis]:checked") || {}).value;
  const open = [...document.querySelectorAll("details")].map((x) => x.open);
  const focus = document.activeElement && document.activeElement.id;
  const same = JSON.stringify(fresh.data.episodes) === JSON.stringify(report.episodes);
  const old = document.getElementById("viewer"), charts = document.getElementById("charts");
  for (const chart of document.querySelectorAll("#profile, .parallel")) Plotly.purge(chart);
  report = fresh.data;
  document.getElementById("main").innerHTML = fresh.sections; // escaped where it was made
  for (const [id, value] of values) {
    const x = document.getElementById(id);
    if (x && x.type === "checkbox") x.checked = value;
    else if (x && [...x.options].some((o) => o.value === value)) x.value = value;
  }
  const wanted = axis && document.querySelector(`input[name=axis][value=${axis}]`);
  if (wanted) wanted.checked = true;
  document.querySelectorAll("details").forEach((x, i) => { x.open = open[i]; });
  const place = document.getElementById("viewer");
  if (charts && document.getElementById("charts")) document.getElementById("charts").replaceWith(charts);
  if (viewer && same && place) {
    place.replaceWith(old);
    viewer.data = report;
    listen();
  } else {
    if (viewer) viewer.leave();
    begin();
  }
  if (focus && document.getElementById(focus)) document.getElementById(focus).focus({ preventScroll: true });
}

async function again() {
  const pulse = document.getElementById("pulse");
  let answer = null;
  try {
    answer = await fetch("report.json", { cache: "no-store", headers: { "If-None-Match": again.tag || "" } });
  } catch (error) {
    pulse.className = "lost";
    pulse.textContent = "the server of this page is gone; what is shown stays";
  }
  if (answer && answer.status === 200) {
    const fresh = await answer.json();
    again.trouble = fresh.trouble;
    if (again.tag || JSON.stringify(fresh.data) !== JSON.stringify(report)) replace(fresh);
    again.tag = answer.headers.get("ETag");
  }
  if (answer) {
    pulse.className = again.trouble ? "lost" : "";
    pulse.textContent = again.trouble || `live, as of ${new Date().toLocaleTimeString()}`;
  }
  setTimeout(again, 1000 * Number(document.body.dataset.live));
}

if (document.body.dataset.live) setTimeout(again, 1000 * Number(document.body.dataset.live));
