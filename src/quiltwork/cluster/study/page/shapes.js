// Elements, scales and words that all charts share. All text is set as text, never as markup.
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { left: 56, right: 8, top: 8, bottom: 22 };
const COLOURS = 8;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// A chart's frame: its title is read aloud, its size is that of its place.
function frame(place, height, title) {
  const width = Math.max(place.clientWidth, 240);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": title });
  return { svg, width, height, right: width - MARGIN.right, bottom: height - MARGIN.bottom };
}

function seconds(s) {
  if (s < 1) return "0 s";
  if (s < 60) return `${Math.round(s)} s`;
  if (s < 3600) return `${trim(s / 60)} min`;
  if (s < 86400) return `${trim(s / 3600)} h`;
  return `${trim(s / 86400)} d`;
}
function trim(n) { return n >= 10 || Number.isInteger(n) ? Math.round(n) : n.toFixed(1); }
function number(n) { return n >= 100 || Number.isInteger(n) ? Math.round(n).toLocaleString("en") : n.toFixed(1); }
function percent(share) { return `${(100 * share).toFixed(share > 0.9995 || share < 0.0005 ? 0 : 1)} %`; }

// A moment, counted from the first submission.
function day(s) { return `day ${Math.floor(s / 86400) + 1}`; }
function clock(s) {
  const minutes = Math.floor((s % 86400) / 60);
  return `${String(Math.floor(minutes / 60)).padStart(2, "0")}:${String(minutes % 60).padStart(2, "0")}`;
}
function moment(s) { return `${day(s)}, ${clock(s)}`; }

// Round steps that cut a range into about so many parts.
function ticks(low, high, about, least = 0) {
  const rough = Math.max((high - low) / about, least) || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const found = [];
  for (let at = Math.ceil(low / step); at * step <= high * (1 + 1e-9); at += 1) found.push(at * step);
  return found;
}

const STEPS = [300, 600, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 432000, 864000, 2592000, 8640000];
function timeTicks(low, high, about) {
  const step = STEPS.find((s) => s >= (high - low) / about) || STEPS.at(-1);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high; at += step) found.push(at);
  return found;
}

function swatch(kind, text, style = "") {
  const sample = make("i", { className: kind });
  if (style) sample.style.background = style;
  return make("span", {}, sample, text);
}
