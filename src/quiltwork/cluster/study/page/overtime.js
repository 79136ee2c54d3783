// Charts over a range of time: of all its bins, as many as there are points of the screen are drawn.

// The means of a series over equal parts of a range of its bins.
function resampled(series, from, to, parts) {
  const made = new Float64Array(parts);
  for (let part = 0; part < parts; part += 1) {
    const first = from + (to - from) * part / parts;
    const last = from + (to - from) * (part + 1) / parts;
    let sum = 0;
    for (let bin = Math.floor(first); bin < Math.min(Math.ceil(last), series.length); bin += 1) {
      sum += series[bin] * (Math.min(last, bin + 1) - Math.max(first, bin));
    }
    made[part] = sum / (last - first);
  }
  return made;
}

function parts(box, view) {
  return Math.max(2, Math.min(Math.round(box.right - MARGIN.left), Math.ceil(view.to - view.from) * 2));
}

function axes(box, view, top) {
  const y = (value) => box.bottom - (box.bottom - MARGIN.top) * value / top;
  for (const tick of ticks(0, top, Math.max(2, Math.round(box.height / 45)), 1)) {
    box.svg.append(draw("line", { class: "grid", x1: MARGIN.left, x2: box.right, y1: y(tick), y2: y(tick) }));
    box.svg.append(label(MARGIN.left - 8, y(tick) + 4, number(tick), "end"));
  }
  for (const tick of timeTicks(view.from * view.binS, view.to * view.binS, (box.right - MARGIN.left) / 70)) {
    const x = MARGIN.left + (box.right - MARGIN.left) * (tick / view.binS - view.from) / (view.to - view.from);
    if (x > box.right - 36) continue;
    box.svg.append(draw("line", { class: "grid", x1: x, x2: x, y1: MARGIN.top, y2: box.bottom + 4 }));
    box.svg.append(label(x + 3, box.bottom + 15, tick % 86400 ? clock(tick) : day(tick), "start"));
  }
  return y;
}

// Areas on top of each other: [{series, fill}], the lowest first; and levels, dashed.
function drawAreas(place, view, areas, { height, title, levels = [], least = 1 }) {
  const box = frame(place, height, title);
  const count = parts(box, view);
  const layers = areas.map((area) => resampled(area.series, view.from, view.to, count));
  const under = new Float64Array(count);
  const stacks = layers.map((layer) => {
    const low = Float64Array.from(under);
    layer.forEach((value, at) => { under[at] += value; });
    return [low, Float64Array.from(under)];
  });
  const top = Math.max(least, ...levels, ...under) * 1.04;
  const y = axes(box, view, top);
  const x = (at) => MARGIN.left + (box.right - MARGIN.left) * at / count;
  stacks.forEach(([low, high], number) => {
    let path = "";
    for (let at = 0; at < count; at += 1) path += `${at ? "L" : "M"}${x(at).toFixed(1)} ${y(high[at]).toFixed(1)}L${x(at + 1).toFixed(1)} ${y(high[at]).toFixed(1)}`;
    for (let at = count - 1; at >= 0; at -= 1) path += `L${x(at + 1).toFixed(1)} ${y(low[at]).toFixed(1)}L${x(at).toFixed(1)} ${y(low[at]).toFixed(1)}`;
    box.svg.append(draw("path", { class: "area", d: `${path}Z`, fill: areas[number].fill }));
  });
  for (const level of levels) box.svg.append(draw("path", { class: "cap", d: `M${MARGIN.left} ${y(level)}H${box.right}` }));
  place.replaceChildren(box.svg);
}

// What happened so often, as bars of whole bins.
function drawCounts(place, view, series, { height, title, fill }) {
  const box = frame(place, height, title);
  const inner = box.right - MARGIN.left;
  const per = Math.max(1, Math.ceil((view.to - view.from) / Math.max(2, Math.round(inner / 3))));
  const x = (bin) => MARGIN.left + inner * Math.min(Math.max((bin - view.from) / (view.to - view.from), 0), 1);
  const bars = [];
  for (let bin = Math.floor(view.from / per) * per; bin < view.to; bin += per) {
    bars.push([bin, series.slice(bin, bin + per).reduce((sum, count) => sum + count, 0)]);
  }
  const y = axes(box, view, Math.max(1, ...bars.map(([, count]) => count)) * 1.04);
  let path = "";
  for (const [bin, count] of bars) {
    if (!count) continue;
    const width = Math.max(x(bin + per) - x(bin) - 0.6, 0.8);
    path += `M${x(bin).toFixed(1)} ${box.bottom}V${Math.min(y(count), box.bottom - 1.5).toFixed(1)}h${width.toFixed(1)}V${box.bottom}Z`;
  }
  box.svg.append(draw("path", { class: "area", d: path, fill }));
  place.replaceChildren(box.svg);
}
