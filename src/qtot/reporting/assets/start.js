"use strict";
// What happens when the page is opened, and with 'qtot watch' whenever there is more to show.

let report = JSON.parse(document.getElementById("data").textContent);
let viewer = null;

function begin() {
  const home = document.getElementById("viewer");
  viewer = home && report.episodes.length ? new Viewer(home, report) : null;
  window.qtotViewer = viewer;
  const choice = document.getElementById("episode");
  if (choice) choice.onchange = () => viewer.open(Number(choice.value));
  for (const input of document.querySelectorAll("#learned select, #learned input")) input.onchange = () => drawCurves(report);
  drawCharts(report);
}

darkly.addEventListener("change", () => { drawCharts(report); if (viewer) viewer.show(); });
begin();

// A page that watches asks again; what the reader has chosen stays.
async function again() {
  const pulse = document.getElementById("pulse");
  try {
    const answer = await fetch("report.json", { cache: "no-store", headers: { "If-None-Match": again.tag || "" } });
    if (answer.status === 200) {
      again.tag = answer.headers.get("ETag");
      const fresh = await answer.json();
      const kept = ["metric", "single", "episode"].map((id) => [id, document.getElementById(id)]).filter(([, x]) => x);
      const values = kept.map(([id, x]) => [id, x.type === "checkbox" ? x.checked : x.value]);
      const axis = (document.querySelector("input[name=axis]:checked") || {}).value;
      const sections = fresh.sections;
      const same = JSON.stringify(fresh.data.episodes) === JSON.stringify(report.episodes);
      const old = document.getElementById("viewer"), charts = document.getElementById("charts");
      report = fresh.data;
      document.getElementById("main").innerHTML = sections;
      for (const [id, value] of values) {
        const x = document.getElementById(id);
        if (x && x.type === "checkbox") x.checked = value; else if (x && [...x.options].some((o) => o.value === value)) x.value = value;
      }
      const wanted = axis && document.querySelector(`input[name=axis][value=${axis}]`);
      if (wanted) wanted.checked = true;
      if (same && old && document.getElementById("viewer")) document.getElementById("viewer").replaceWith(old);
      if (charts && document.getElementById("charts")) document.getElementById("charts").replaceWith(charts);
      const was = viewer;
      if (same && was) { const V = Viewer; window.Viewer = V; beginWith(was); } else begin();
    }
    pulse.className = "";
    pulse.textContent = `live, as of ${new Date().toLocaleTimeString()}`;
  } catch (error) {
    pulse.className = "lost";
    pulse.textContent = "the server of this page is gone; what is shown stays";
  }
}

function beginWith(was) {
  viewer = was;
  viewer.data = report;
  const choice = document.getElementById("episode");
  if (choice) choice.onchange = () => viewer.open(Number(choice.value));
  for (const input of document.querySelectorAll("#learned select, #learned input")) input.onchange = () => drawCurves(report);
  drawCharts(report);
}

if (document.body.dataset.live) setInterval(again, 1000 * Number(document.body.dataset.live));
