"use strict";
// The page asks for /v1/status every second and draws what it says. All text is set as text, never as markup.
const EVERY_MS = 1000;
const $ = (id) => document.getElementById(id);
let key = sessionStorage.getItem("quiltwork-key");
let drawn = "";

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (n >= 1000 && at < units.length - 1) { n /= 1000; at += 1; }
  return `${n.toFixed(n < 10 && at ? 1 : 0)} ${units[at]}`;
}
function seconds(s) { return s < 1 ? `${Math.round(s * 1000)} ms` : `${s.toFixed(2)} s`; }
// Neighbouring shared blocks get colours far apart: steps of the golden angle.
function colour(number) { return `hsl(${(18 + number * 137.508) % 360} 46% var(--hue-light))`; }

function authorization() { return key ? { Authorization: `Bearer ${key}` } : {}; }

function figure(name, value, unit = "") {
  return make("dl", {}, make("dt", { textContent: name }), make("dd", {}, String(value), make("small", { textContent: unit })));
}

function drawFigures(status, parts) {
  const rows = parts.flatMap((part) => part.models || []);
  const held = parts.reduce((sum, part) => sum + (part.weights?.bytes || 0), 0);
  const apart = parts.reduce((sum, part) => sum + (part.weights?.without_sharing || 0), 0);
  const running = parts.reduce((sum, part) => sum + (part.queue?.running || 0), 0);
  const waiting = parts.reduce((sum, part) => sum + (part.queue?.waiting || 0), 0);
  const kv = parts.reduce((sum, part) => sum + (part.kv?.used_bytes || 0), 0);
  $("figures").replaceChildren(
    figure("Models", rows.length),
    figure("Weights held", bytes(held), apart ? `not ${bytes(apart)}` : ""),
    figure("Saved by sharing", apart ? `${Math.round(100 * (1 - held / apart))} %` : "–"),
    figure("Running", running, waiting ? `${waiting} waiting` : ""),
    figure("KV cache", bytes(kv)),
    figure("Answered", status.latency.requests, "lately"),
  );
}

function describe(row, cell, owners) {
  const others = owners.get(cell.block);
  const who = others.length > 1 ? `shared by ${others.length}: ${others.join(", ")}` : `only ${row.model} has it`;
  const hung = cell.attachments.map((a) => `${a.kind} ${bytes(a.bytes)}`).join(", ");
  return `${row.model} · ${cell.part} · ${cell.kind} block ${cell.block.slice(0, 12)} · ${bytes(cell.bytes)} · ${who}${hung ? ` · attached: ${hung}` : ""}`;
}

function drawQuilt(parts) {
  const rows = parts.flatMap((part) => part.models || []);
  const fingerprint = JSON.stringify(rows);
  // Drawing again would take the focus from whoever is reading a cell.
  if (fingerprint === drawn) return;
  drawn = fingerprint;
  if (!rows.length) {
    $("quilt").replaceChildren(make("p", { className: "none", textContent: "No model is loaded yet." }));
    $("legend").replaceChildren();
    return;
  }
  const owners = new Map();
  for (const row of rows) for (const cell of row.cells) {
    if (!owners.has(cell.block)) owners.set(cell.block, []);
    if (!owners.get(cell.block).includes(row.model)) owners.get(cell.block).push(row.model);
  }
  const colours = new Map();
  for (const [block, models] of owners) if (models.length > 1) colours.set(block, colour(colours.size));
  const columns = [];
  for (const row of rows) for (const cell of row.cells) if (!columns.includes(cell.part)) columns.push(cell.part);
  const short = (name) => name.replace(/^layers\.(\d+)\./, "$1 ");
  const head = make("tr", {}, make("th"), ...columns.map((name) => make("th", { scope: "col", textContent: short(name), title: name })));
  const body = rows.map((row) => {
    const link = make("a", { href: `/v1/explain/${encodeURIComponent(row.model)}`, textContent: "explain" });
    link.setAttribute("aria-label", `explain ${row.model}`);
    link.addEventListener("click", (clicked) => {
      clicked.preventDefault();  // a link cannot bring the key
      explain(row.model, link);
    });
    const label = make("th", { scope: "row", textContent: row.model }, make("small", { textContent: row.parent ? `of ${row.parent}` : row.family || "" }), link);
    const substituted = row.substituted || [];
    const where = [row.pinned ? "pinned" : "", row.resident === false ? "on disk" : ""].filter(Boolean).join(", ");
    if (where) label.append(make("small", { textContent: where }));
    if (substituted.length) label.append(make("small", { className: "substituted", textContent: `${substituted.length} substituted`, title: substituted.join(", ") }));
    const cells = columns.map((name) => {
      const cell = row.cells.find((candidate) => candidate.part === name);
      if (!cell) return make("td");
      const alone = owners.get(cell.block).length < 2;
      const text = describe(row, cell, owners);
      const button = make("button", { type: "button", className: "cell", title: text });
      button.setAttribute("aria-label", text);
      button.dataset.block = cell.block;
      button.classList.toggle("alone", alone);
      button.classList.toggle("attached", cell.attachments.length > 0);
      if (!alone) button.style.background = colours.get(cell.block);
      const light = () => {
        $("detail").textContent = text;
        for (const other of document.querySelectorAll(".quilt .cell")) other.classList.toggle("lit", other.dataset.block === cell.block);
      };
      button.addEventListener("mouseenter", light);
      button.addEventListener("focus", light);
      return make("td", {}, button);
    });
    return make("tr", {}, label, ...cells);
  });
  $("quilt").replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
  const swatch = (classes, text) => {
    const sample = make("i", { className: `cell ${classes}` });
    if (!classes.includes("alone")) sample.style.background = colour(0);
    return make("span", {}, sample, text);
  };
  $("legend").replaceChildren(swatch("", "shared: same colour, same block"), swatch("alone", "this model's own"), swatch("attached", "with an attachment (LoRA, norm, prefix …)"));
}

// Who else has something: names where they may be told, else a number.
function others(shared) {
  const named = shared.models.slice(0, 6);
  const more = shared.models.length - named.length + shared.hidden;
  return [...named, ...(more ? [`${more} more`] : [])].join(", ") || "no other";
}

async function explain(model, opener) {
  let told;
  try {
    told = await (await fetch(`/v1/explain/${encodeURIComponent(model)}`, { headers: authorization() })).json();
  } catch (error) {
    told = { error: { message: "the server does not answer" } };
  }
  $("explained").hidden = false;
  $("explained-title").textContent = model;
  $("explained-body").replaceChildren();
  $("explained-close").onclick = () => {
    $("explained").hidden = true;
    opener.focus();
  };
  if (told.error) {
    $("explained-facts").textContent = told.error.message;
  } else {
    const base = told.base ? `, made from ${told.base}` : "";
    $("explained-facts").textContent = `${told.family}${base}, version ${told.version.slice(0, 12)}: ${bytes(told.own_bytes)} of its ${bytes(told.bytes)} are in blocks that no other model served here has`;
    const row = (tag, ...cells) => make("tr", {}, ...cells.map((text) => make(tag, { textContent: text })));
    const runs = told.segments.map((s) => row("td", s.segment, s.first === s.last ? s.first : `${s.first} .. ${s.last}`, s.blocks, bytes(s.bytes), others(s.shared_with)));
    $("explained-body").replaceChildren(make("table", { className: "facts" },
      make("thead", {}, row("th", "Segment", "Parts", "Blocks", "Size", "Also runs")), make("tbody", {}, ...runs)));
    const swaps = (told.substitutions || []).map((s) => row("td", s.part, s.source || "another model", s.delta_loss.toFixed(4), s.total_delta_loss.toFixed(4), s.budget.toFixed(4)));
    if (swaps.length) $("explained-body").append(make("table", { className: "facts swaps" },
      make("thead", {}, row("th", "Substituted", "By the block of", "Costs, nats per token", "With those above", "Allowed")), make("tbody", {}, ...swaps)));
  }
  $("explained-title").focus();
}

function drawLatency(latency) {
  const box = $("latency");
  if (!latency.requests) {
    box.replaceChildren(make("p", { className: "none", textContent: "No requests yet." }));
    return;
  }
  const most = Math.max(...latency.trail, 0.001);
  const ns = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(ns, "svg");
  svg.setAttribute("class", "trail");
  svg.setAttribute("viewBox", "0 0 600 90");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `the last ${latency.trail.length} requests, up to ${seconds(most)}`);
  latency.trail.forEach((value, at) => {
    const bar = document.createElementNS(ns, "rect");
    const height = Math.max(2, 88 * value / most);
    for (const [name, v] of Object.entries({ x: at * 10, y: 90 - height, width: 7, height, rx: 2 })) bar.setAttribute(name, v);
    svg.append(bar);
  });
  const row = (name, p) => make("p", { className: "none", textContent: `${name}: median ${seconds(p.p50)}, 95 % within ${seconds(p.p95)}` });
  const first = latency.first ? [row("First token, streamed", latency.first)] : [];
  box.replaceChildren(...first, row("Whole answer", latency.total), svg);
}

function drawBatches(parts) {
  const batches = parts.flatMap((part) => part.batches || []);
  if (!batches.length) {
    $("batches").replaceChildren(make("p", { className: "none", textContent: "Nothing is running." }));
    return;
  }
  const most = Math.max(...batches.map((batch) => batch.sequences), 1);
  $("batches").replaceChildren(...batches.slice(0, 12).map((batch) => {
    const meter = make("progress", { max: most, value: batch.sequences });
    const text = `${batch.sequences} sequences of ${batch.models} ${batch.models === 1 ? "model" : "models"}`;
    meter.setAttribute("aria-label", text);
    return make("div", { className: "bar" }, `${batch.blocks} blocks`, meter, text);
  }));
}

async function refresh() {
  try {
    const reply = await fetch("/v1/status", { headers: authorization() });
    $("key").hidden = reply.status !== 401;
    if (!reply.ok) {
      $("state").textContent = reply.status === 401 ? "a key is needed" : `the server answers ${reply.status}`;
    } else {
      const status = await reply.json();
      const parts = Object.values(status.servables);
      $("state").textContent = status.draining ? "shutting down" : "serving";
      drawFigures(status, parts);
      drawQuilt(parts);
      drawLatency(status.latency);
      drawBatches(parts);
    }
  } catch (error) {
    $("state").textContent = "the server does not answer";
  }
  setTimeout(refresh, EVERY_MS);
}

$("key").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  key = $("key-text").value.trim();
  sessionStorage.setItem("quiltwork-key", key);
  $("key").hidden = true;
});
refresh();
