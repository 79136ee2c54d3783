"use strict";
// The page asks for the cluster and its jobs every second and draws what they say. All text is set as text.
const EVERY_MS = 1000;
const MOST_ROWS = 200;
const $ = (id) => document.getElementById(id);
let key = sessionStorage.getItem("quiltwork-key");
let drawn = "";
let opened = null;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
function authorization() { return key ? { Authorization: `Bearer ${key}` } : {}; }
function figure(name, value, unit = "") {
  return make("dl", {}, make("dt", { textContent: name }), make("dd", {}, String(value), make("small", { textContent: unit })));
}
// A job keeps its colour however many come and go, and those that came one after the other differ: its number (a hash of
// its name, where that has none at its end) is in steps of the golden angle.
function colour(job) {
  let number = Number((/\d+$/.exec(job) || [NaN])[0]);
  if (Number.isNaN(number)) {
    number = 0;
    for (const letter of job) number = (number * 31 + letter.codePointAt(0)) % 9973;
  }
  return `hsl(${(18 + number * 137.508) % 360} 46% var(--hue-light))`;
}
function lasting(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}
const POOLS = { train: "training", infer: "inference", onloan: "on loan", draining: "going back" };

function drawFigures(status, jobs) {
  const mine = status.servers.filter((server) => server.pool === "train" || server.pool === "onloan");
  const gpus = mine.reduce((sum, server) => sum + server.gpus, 0);
  const free = mine.reduce((sum, server) => sum + server.free, 0);
  const lent = status.servers.filter((server) => server.pool === "onloan").length;
  const inference = status.servers.filter((server) => server.pool !== "train").length;
  $("figures").replaceChildren(
    figure("Running", status.jobs.running || 0, "jobs"),
    figure("Waiting", status.jobs.queued || 0, status.held_up.length ? `${status.held_up.length} held up` : "jobs"),
    figure("GPUs in use", gpus - free, `of ${gpus}`),
    figure("On loan", lent, inference ? `of ${inference} servers` : ""),
    figure("Ended", (status.jobs.done || 0) + (status.jobs.failed || 0) + (status.jobs.cancelled || 0), status.jobs.failed ? `${status.jobs.failed} failed` : ""),
  );
}

function drawServers(status) {
  const seen = new Set();
  $("servers").replaceChildren(...status.servers.map((server) => {
    const cells = Array.from({ length: server.gpus }, () => make("span", { className: "gpu", title: "free" }));
    for (const worker of server.workers) for (const slot of worker.gpus) {
      const cell = cells[slot];
      if (!cell) continue;
      seen.add(worker.job);
      cell.style.background = colour(worker.job);
      cell.title = `GPU ${slot}: ${worker.job}, worker ${worker.id}${worker.leaving ? ", leaving" : ""}`;
      if (worker.leaving) cell.classList.add("leaving");
    }
    const used = server.workers.reduce((sum, worker) => sum + worker.gpus.length, 0);
    const head = make("h3", {}, server.id, make("small", { textContent: `${server.gpus} x ${server.gpu_type}` }),
      make("span", { className: "pool", textContent: POOLS[server.pool] || server.pool }));
    const grid = make("div", { className: "gpus" }, ...cells);
    grid.setAttribute("role", "img");
    grid.setAttribute("aria-label", `${used} of ${server.gpus} GPUs in use${server.jobs.length ? `: ${server.jobs.join(", ")}` : ""}`);
    const card = make("div", { className: `server ${server.pool}` }, head, grid);
    if (server.closed) card.append(make("p", { className: "note", textContent: server.closed }));
    return card;
  }));
  $("legend").replaceChildren(...[...seen].slice(0, 24).map((job) => {
    const dot = make("span", { className: "dot" });
    dot.style.background = colour(job);
    return make("span", {}, dot, job);
  }));
}

function drawJobs(jobs, now) {
  const order = { running: 0, stopping: 1, queued: 2, failed: 3, done: 4, cancelled: 5 };
  const sorted = [...jobs].sort((a, b) => order[a.state] - order[b.state] || b.submitted - a.submitted);
  const shown = sorted.slice(0, MOST_ROWS);
  $("jobs-facts").textContent = sorted.length > shown.length ? `the first ${shown.length} of ${sorted.length}` : "";
  const fingerprint = JSON.stringify(shown);
  // Drawing again would take the focus from whoever is at a button.
  if (fingerprint === drawn) return;
  drawn = fingerprint;
  if (!shown.length) {
    $("jobs").replaceChildren(make("p", { className: "none", textContent: "No job has been submitted yet: quiltwork cluster submit job.yaml" }));
    return;
  }
  const rows = shown.map((job) => {
    const dot = make("span", { className: "dot" });
    if (job.members.length) dot.style.background = colour(job.id);
    const range = job.workers.min === job.workers.max ? job.workers.min : `${job.workers.min}–${job.workers.max}`;
    const ran = job.started === null ? "" : lasting((job.ended ?? now) - job.started);
    const waited = lasting((job.started ?? job.ended ?? now) - job.submitted);
    const steps = job.steps ? (job.steps[1] ? `${Math.round(100 * job.steps[0] / job.steps[1])} %` : `${job.steps[0]}`) : "";
    const why = make("button", { type: "button", textContent: "explain" });
    why.setAttribute("aria-label", `explain ${job.id}`);
    why.addEventListener("click", () => explain(job.id));
    return make("tr", {}, make("td", {}, dot, job.id), make("td", { textContent: job.team }),
      make("td", { className: `state-${job.state}`, textContent: job.state }),
      make("td", { textContent: `${job.members.length} of ${range}` }), make("td", { textContent: steps }),
      make("td", { textContent: waited }), make("td", { textContent: ran }),
      make("td", { className: "said", textContent: job.error }), make("td", {}, why));
  });
  const head = ["job", "team", "state", "workers", "steps", "waited", "ran", "", ""].map((name) => make("th", { scope: "col", textContent: name }));
  $("jobs").replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows)));
}

function drawTeams(teams) {
  const most = Math.max(...Object.values(teams).map((team) => team.gpu_hours), 1e-9);
  const rows = Object.entries(teams).map(([name, team]) => {
    const bar = make("progress", { max: most, value: team.gpu_hours });
    bar.setAttribute("aria-label", name);
    const held = team.quota === null ? `${team.held} GPUs` : `${team.held} of ${team.quota} GPUs`;
    const borrowed = team.borrowed ? `, ${team.borrowed} borrowed` : "";
    return make("div", { className: "bar" }, make("span", { textContent: name }), bar,
      make("span", { textContent: `${team.gpu_hours.toFixed(2)} h; now ${held}${borrowed}` }));
  });
  $("teams").replaceChildren(...(rows.length ? rows : [make("p", { className: "none", textContent: "Nothing has run yet." })]));
}

function drawTroubles(troubles) {
  const lines = Object.entries(troubles).map(([what, said]) => make("p", { textContent: `${what}: ${said}` }));
  $("troubles").hidden = !lines.length;
  $("troubles").replaceChildren(...lines);
}

async function explain(job) {
  const answer = await fetch(`/v1/cluster/jobs/${encodeURIComponent(job)}/explain`, { headers: authorization() });
  if (!answer.ok) return;
  const said = await answer.json();
  opened = job;
  $("explained-title").textContent = job;
  $("explained-facts").textContent = said.waits || said.error || said.state;
  const lines = [...(said.details || []), ...said.history];
  $("explained-body").replaceChildren(...lines.map((line) => make("li", { textContent: line })));
  $("explained").hidden = false;
  $("explained-title").focus();
}
$("explained-close").addEventListener("click", () => { opened = null; $("explained").hidden = true; });

$("key").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  key = $("key-text").value.trim();
  sessionStorage.setItem("quiltwork-key", key);
  $("key").hidden = true;
  tick();
});

async function ask(path) {
  const answer = await fetch(path, { headers: authorization(), cache: "no-store" });
  if (answer.status === 401) { $("key").hidden = false; throw new Error("an API key is needed"); }
  if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
  return answer.json();
}

let ticking = false;
async function tick() {
  if (ticking || document.hidden) return;
  ticking = true;
  try {
    const [status, listed] = await Promise.all([ask("/v1/cluster"), ask("/v1/cluster/jobs")]);
    drawFigures(status, listed.jobs);
    drawTroubles(status.troubles);
    drawServers(status);
    drawJobs(listed.jobs, status.now);
    drawTeams(status.teams);
    $("state").textContent = "live";
  } catch (error) {
    $("state").textContent = error.message;
  } finally {
    ticking = false;
  }
}
tick();
setInterval(tick, EVERY_MS);
