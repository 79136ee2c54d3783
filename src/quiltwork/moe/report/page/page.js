// Shades of another layer, and the numbers of the token that is pointed at. All of it stands in the text's marks.
const view = document.getElementById("text"), tip = document.getElementById("tip");
const most = Number(view.dataset.most), steps = Number(view.dataset.steps);
const pieces = [...view.querySelectorAll("i")];
const experts = pieces.map((piece) => piece.dataset.k.split(",").map((k) => k === "" ? null : Number(k)));
const mean = (all) => { const taken = all.filter((k) => k !== null); return taken.reduce((sum, k) => sum + k, 0) / taken.length; };
const strength = (k) => k > 0 ? 0.08 + 0.92 * Math.min(Math.max((k - 1) / Math.max(most - 1, 1), 0), 1) : 0;
const shown = (k) => Number.isInteger(k) ? String(k) : k.toFixed(2);

function shade(layer) {
  pieces.forEach((piece, at) => {
    const k = layer < 0 ? mean(experts[at]) : experts[at][layer];
    piece.className = "s" + Math.round(strength(k) * steps);
  });
}

let pointed = -1;
function tell(at) {
  if (at === pointed) return;
  if (pointed >= 0) pieces[pointed].classList.remove("on");
  pointed = at;
  tip.hidden = at < 0;
  if (at < 0) return;
  const piece = pieces[at];
  piece.classList.add("on");
  const name = document.createElement("b"), cells = document.createElement("span");
  name.textContent = JSON.stringify(piece.textContent.replace("↵", ""));
  experts[at].forEach((k, layer) => {
    if (k === null) return;
    const cell = document.createElement("i");
    cell.style.setProperty("--s", strength(k));
    cell.textContent = shown(k);
    cell.title = cell.ariaLabel = `layer ${layer + 1}: ${shown(k)}`;
    cells.append(cell);
  });
  const loss = piece.dataset.l ? `, loss ${piece.dataset.l}` : "";
  tip.replaceChildren(name, `${mean(experts[at]).toFixed(2)} experts${loss}; by layer:`, cells);
  const box = piece.getClientRects()[0], room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  tip.style.left = `${Math.max(8, Math.min(box.left, room)) + scrollX}px`;
  tip.style.top = `${box.bottom + 6 + scrollY}px`;
}

document.getElementById("choice").addEventListener("change", (event) => {
  shade(Number(event.target.value));
  tell(-1);
});
const order = new Map(pieces.map((piece, at) => [piece, at]));
view.addEventListener("mouseover", (event) => {
  const piece = event.target.closest("i");
  if (piece) tell(order.get(piece));
});
view.addEventListener("mouseleave", () => tell(-1));
view.addEventListener("scroll", () => { if (!view.matches(":focus-visible")) tell(-1); });
view.addEventListener("click", (event) => {
  const piece = event.target.closest("i");
  if (piece) tell(order.get(piece));
});
view.addEventListener("blur", () => tell(-1));
view.addEventListener("keydown", (event) => {
  if (event.key === "Escape") tell(-1);
  const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!move || !pieces.length) return;
  event.preventDefault();
  const at = Math.min(Math.max(pointed + move, 0), pieces.length - 1);
  pieces[at].scrollIntoView({ block: "nearest" });
  tell(at);
});
