// The share of jobs that waited, or took, at most so long. Time runs in powers of ten, from a second on.
const DECADES = 20;

function limit(at) { return 10 ** (at / DECADES); }

function drawDistribution(place, arms, field, title, detail) {
  const box = frame(place, 250, `${title}. ${arms.map((arm) => `${arm.name}: half within ${seconds(limit(firstAt(arm[field], 0.5)))}`).join("; ")}`);
  // Up to where all jobs of all arms are.
  const last = Math.max(DECADES, ...arms.map((arm) => firstAt(arm[field], 0.99999))) + 2;
  const x = (at) => MARGIN.left + (box.right - MARGIN.left) * at / last;
  const y = (share) => box.bottom - (box.bottom - MARGIN.top) * share;
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    box.svg.append(draw("line", { class: "grid", x1: MARGIN.left, x2: box.right, y1: y(share), y2: y(share) }));
    box.svg.append(label(MARGIN.left - 8, y(share) + 4, `${share * 100} %`, "end"));
  }
  for (const [at, text] of [[1, "1 s"], [10, "10 s"], [60, "1 min"], [600, "10 min"], [3600, "1 h"], [36000, "10 h"], [345600, "4 d"], [3456000, "40 d"]]) {
    const place = Math.log10(at) * DECADES;
    if (place > last) break;
    box.svg.append(draw("line", { class: "grid", x1: x(place), x2: x(place), y1: MARGIN.top, y2: box.bottom }));
    box.svg.append(label(x(place), box.bottom + 15, text, !place ? "start" : x(place) > box.right - 12 ? "end" : "middle"));
  }
  arms.forEach((arm, number) => {
    const points = arm[field].slice(0, last + 1).map((share, at) => `${x(at).toFixed(1)},${y(share).toFixed(1)}`);
    const line = draw("polyline", { class: `curve k${number % COLOURS}`, points: points.join(" ") });
    if (number >= COLOURS) line.setAttribute("stroke-dasharray", "6 3");
    line.append(draw("title", {}, arm.name));
    box.svg.append(line);
  });
  const hair = draw("line", { class: "hair", y1: MARGIN.top, y2: box.bottom, visibility: "hidden" });
  box.svg.append(hair);
  box.svg.addEventListener("pointermove", (moved) => {
    const across = (moved.clientX - box.svg.getBoundingClientRect().left) * box.width / box.svg.getBoundingClientRect().width;
    const at = Math.round(Math.min(Math.max((across - MARGIN.left) / (box.right - MARGIN.left), 0), 1) * last);
    hair.setAttribute("visibility", "visible");
    for (const end of ["x1", "x2"]) hair.setAttribute(end, x(at));
    detail.textContent = `${title} within ${seconds(limit(at))}: ${arms.map((arm) => `${arm.name} ${percent(arm[field][at])}`).join(" · ")}`;
  });
  box.svg.addEventListener("pointerleave", () => hair.setAttribute("visibility", "hidden"));
  place.replaceChildren(box.svg);
}

function firstAt(shares, share) {
  const at = shares.findIndex((value) => value >= share);
  return at < 0 ? shares.length - 1 : at;
}

function label(x, y, text, anchor) {
  return draw("text", { x, y, "text-anchor": anchor }, text);
}
