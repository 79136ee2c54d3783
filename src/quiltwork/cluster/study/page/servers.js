// Servers over time: one picture per arm, made once; zooming only draws another part of it.
const SERVERS_MOST = 420;
const pictures = new Map();

async function cellsOf(arm) {
  const packed = Uint8Array.from(atob(arm.servers.cells), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function rgb(name) {
  const probe = make("i");
  probe.style.color = getComputedStyle(document.documentElement).getPropertyValue(name);
  document.body.append(probe);
  const [r, g, b] = getComputedStyle(probe).color.match(/[\d.]+/g).map(Number);
  probe.remove();
  return [r, g, b];
}

async function pictureOf(arm) {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const known = pictures.get(arm);
  if (known && known.dark === dark) return known;
  const cells = known ? known.cells : await cellsOf(arm);
  const canvas = make("canvas", { width: arm.bins, height: arm.servers.names.length });
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const [idle, train, lent, need] = [rgb("--own"), rgb("--train"), rgb("--lent"), rgb("--need")];
  for (let row = 0; row < canvas.height; row += 1) {
    const own = arm.servers.pools[row] === "train";
    for (let bin = 0; bin < arm.bins; bin += 1) {
      const at = row * arm.bins + bin;
      const away = own ? 0 : 1 - (cells[at] >> 4) / 15;
      const used = own ? cells[at] / 255 : (cells[at] & 15) / 15;
      for (let part = 0; part < 3; part += 1) {
        const busy = idle[part] + ((own ? train : lent)[part] - idle[part]) * used;
        image.data[4 * at + part] = busy + (need[part] - busy) * away;
      }
      image.data[4 * at + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
  const made = { canvas, cells, dark };
  pictures.set(arm, made);
  return made;
}

async function drawServers(canvas, arm, view) {
  if (!canvas) return;  // this browser cannot
  let picture;
  try {
    picture = await pictureOf(arm);
  } catch (error) {
    canvas.replaceWith(make("p", { className: "detail", textContent: `The servers cannot be drawn by this browser: ${error.message}` }));
    return;
  }
  if (view.arm !== arm) return;  // another was chosen meanwhile
  const rows = arm.servers.names.length;
  const height = Math.min(SERVERS_MOST, Math.max(60, rows * Math.max(1, Math.min(14, Math.floor(SERVERS_MOST / rows)))));
  const width = Math.max(canvas.clientWidth, 240);
  const scale = devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  const left = MARGIN.left * scale;
  // Bins that share a pixel are mixed, servers are not.
  const across = make("canvas", { width: Math.round(canvas.width - left - MARGIN.right * scale), height: rows });
  const narrowed = across.getContext("2d");
  narrowed.imageSmoothingEnabled = view.to - view.from > across.width;
  narrowed.imageSmoothingQuality = "high";
  narrowed.drawImage(picture.canvas, view.from, 0, view.to - view.from, rows, 0, 0, across.width, rows);
  context.imageSmoothingEnabled = rows > canvas.height;
  context.drawImage(across, left, 0, across.width, canvas.height);
  context.fillStyle = `rgb(${rgb("--soft").join(" ")})`;
  context.font = `${11 * scale}px system-ui, sans-serif`;
  context.textAlign = "right";
  const first = arm.servers.pools.indexOf("infer");
  context.fillText("training", left - 8 * scale, 11 * scale);
  if (first >= 0) context.fillText("lent", left - 8 * scale, (first / rows) * canvas.height + 11 * scale);
}

// What one cell says.
function tellServer(arm, picture, row, bin) {
  const value = picture.cells[row * arm.bins + bin];
  const name = arm.servers.names[row];
  if (arm.servers.pools[row] === "train") return `${name}: ${percent(value / 255)} of its GPUs in use`;
  const lent = (value >> 4) / 15;
  if (!lent) return `${name}: inference's`;
  const often = lent < 1 ? `${percent(lent)} of the time` : "all the time";
  return `${name}: on loan ${often}, about ${percent((value & 15) / 15)} of it in use`;
}
