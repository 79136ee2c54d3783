// What is shown, and how one moves through it.
const DATA = JSON.parse($("data").textContent);
const LEAST_BINS = 12;
const view = { arm: DATA.arms.at(-1), from: 0, to: DATA.arms.at(-1).bins, get binS() { return this.arm.bin_s; } };
let asked = false;

function redraw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    drawTime();
  });
}

function drawSpread() {
  drawDistribution($("queue"), DATA.arms, "queue", "Queue", $("spread-detail"));
  drawDistribution($("jct"), DATA.arms, "jct", "JCT", $("spread-detail"));
  $("arms-legend").replaceChildren(...DATA.arms.map((arm, at) => swatch(`key k${at % COLOURS}`, arm.name)));
}

function drawTime() {
  const arm = view.arm;
  const span = (view.to - view.from) * view.binS;
  $("range").textContent = `${moment(view.from * view.binS)} to ${moment(view.to * view.binS)} of ${arm.name}`;
  const has = arm.infer_gpus > 0;
  const areas = [{ series: arm.own, fill: "var(--train)" }];
  if (has) areas.push({ series: arm.lent, fill: "var(--lent)" }, { series: arm.need, fill: "var(--need)" });
  const all = arm.train_gpus + arm.infer_gpus;
  drawAreas($("pools"), view, areas, {
    height: 230, levels: has ? [arm.train_gpus, all] : [all],
    title: `GPUs in use over ${seconds(span)}, of ${number(all)}: training's own, lent, and inference's need`,
  });
  drawAreas($("waiting"), view, [{ series: arm.waiting, fill: "var(--soft)" }], { height: 100, title: "Jobs waiting" });
  for (const figure of document.querySelectorAll(".lending")) figure.hidden = !has;
  if (has) {
    const loans = arm.on_loan.map((gpus) => gpus / arm.gpus_per_infer);
    drawAreas($("loans"), view, [{ series: loans, fill: "var(--lent)" }], { height: 100, title: "Servers on loan" });
    drawCounts($("asked"), view, arm.asked_back, { height: 90, title: "Servers asked back", fill: "var(--lent)" });
  }
  drawCounts($("preempted"), view, arm.preempted, { height: 90, title: "Preemptions", fill: "var(--accent)" });
  drawServers($("servers"), arm, view);
}

function legends() {
  const has = DATA.arms.some((arm) => arm.infer_gpus > 0);
  $("pools-legend").replaceChildren(
    swatch("patch", "training on its own servers", "var(--train)"),
    ...(has ? [swatch("patch", "training on lent servers", "var(--lent)"), swatch("patch", "needed by inference", "var(--need)")] : []),
    swatch("dash", has ? "GPUs of training, of both clusters" : "GPUs there are"),
  );
  $("servers-legend").replaceChildren(
    swatch("patch", "idle", "var(--own)"),
    swatch("patch ramp", "in use", "linear-gradient(90deg, var(--own), var(--train))"),
    ...(has ? [swatch("patch ramp", "lent, in use", "linear-gradient(90deg, var(--own), var(--lent))"), swatch("patch", "inference's", "var(--need)")] : []),
  );
}

function chooser() {
  $("arms").replaceChildren(...DATA.arms.map((arm, at) => {
    const button = make("input", { type: "radio", name: "arm", value: String(at), checked: arm === view.arm });
    button.addEventListener("change", () => {
      // The same hours, whatever the width of its bins.
      const [from, to] = [view.from * view.binS, view.to * view.binS];
      view.arm = arm;
      show(from / view.binS, to / view.binS);
    });
    return make("label", {}, button, make("i", { className: `key k${at % COLOURS}` }), arm.name);
  }));
}

function show(from, to) {
  const bins = view.arm.bins;
  const width = Math.min(Math.max(to - from, LEAST_BINS), bins);
  view.from = Math.min(Math.max(from, 0), bins - width);
  view.to = view.from + width;
  redraw();
}

function zoom(factor, around = 0.5) {
  const width = view.to - view.from;
  const fixed = view.from + width * around;
  const made = Math.min(Math.max(width * factor, LEAST_BINS), view.arm.bins);
  show(fixed - made * around, fixed + made * (1 - around));
}

function move(share) {
  const by = (view.to - view.from) * share;
  show(view.from + by, view.to + by);
}

// How far across the charts, from 0 to 1.
function across(event) {
  const box = $("pools").getBoundingClientRect();
  return Math.min(Math.max((event.clientX - box.left - MARGIN.left) / (box.width - MARGIN.left - MARGIN.right), 0), 1);
}

function tell(event) {
  const arm = view.arm;
  const bin = Math.min(Math.floor(view.from + across(event) * (view.to - view.from)), arm.bins - 1);
  const parts = [moment(bin * view.binS), `${number(arm.own[bin])} GPUs of training in use`];
  if (arm.infer_gpus) parts.push(`${number(arm.lent[bin])} of ${number(arm.on_loan[bin])} lent ones`, `inference needs ${number(arm.need[bin])}`);
  parts.push(`${number(arm.waiting[bin])} jobs waiting`);
  const canvas = $("servers");
  const picture = pictures.get(arm);
  if (event.target === canvas && picture) {
    const row = Math.floor(arm.servers.names.length * event.offsetY / canvas.clientHeight);
    if (row >= 0 && row < arm.servers.names.length) parts.push(tellServer(arm, picture, row, bin));
  }
  $("time-detail").textContent = parts.join(" · ");
}

function listen() {
  const area = $("zoomable");
  let dragged = null;
  area.addEventListener("wheel", (turned) => {
    // Whoever only scrolls past is let through: the wheel zooms where the charts were clicked, or with Ctrl.
    if (!turned.ctrlKey && !area.contains(document.activeElement)) return;
    turned.preventDefault();
    if (Math.abs(turned.deltaX) > Math.abs(turned.deltaY)) move(turned.deltaX / 800);
    else zoom(1.0015 ** turned.deltaY, across(turned));
  }, { passive: false });
  area.addEventListener("pointerdown", (pressed) => {
    dragged = { at: across(pressed), from: view.from, to: view.to };
    area.setPointerCapture(pressed.pointerId);
    area.classList.add("dragging");
  });
  area.addEventListener("pointermove", (moved) => {
    if (!dragged) return tell(moved);
    const by = (dragged.at - across(moved)) * (dragged.to - dragged.from);
    show(dragged.from + by, dragged.to + by);
  });
  for (const end of ["pointerup", "pointercancel"]) area.addEventListener(end, () => {
    dragged = null;
    area.classList.remove("dragging");
  });
  area.addEventListener("dblclick", () => show(0, view.arm.bins));
  const keys = { "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1 / 0.6), "0": () => show(0, view.arm.bins),
    Home: () => show(0, view.arm.bins), ArrowLeft: () => move(-0.2), ArrowRight: () => move(0.2),
    Escape: () => document.activeElement.blur() };
  $("time").addEventListener("keydown", (pressed) => {
    if (pressed.target.type === "radio" && pressed.key.startsWith("Arrow")) return;
    const act = keys[pressed.key];
    if (!act || pressed.ctrlKey || pressed.metaKey || pressed.altKey) return;
    pressed.preventDefault();
    act();
  });
  $("in").addEventListener("click", () => zoom(0.6));
  $("out").addEventListener("click", () => zoom(1 / 0.6));
  $("reset").addEventListener("click", () => show(0, view.arm.bins));
  let width = 0;
  new ResizeObserver(([main]) => {
    if (main.contentRect.width === width) return;
    width = main.contentRect.width;
    drawSpread();
    redraw();
  }).observe(document.querySelector("main"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

legends();
chooser();
listen();  // and draws, as soon as the width is known
