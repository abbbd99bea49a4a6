// The page: what is chosen is kept in its address, and every part asks for it anew.

import { address, ask, newest, say } from "/ask.js";
import { explorer } from "/explorer.js";
import { pad } from "/pad.js";

const $ = (id) => document.getElementById(id);
const OFF = 2.1; // the slider's last place: no truncation
const chosen = { seed: "0", label: "", truncation: "", start: 0, count: 32, index: 0, corners: ["0", "1", "2", "3"], x: 0.5, y: 0.5 };
let facts;

function remembered() {
  const kept = new URLSearchParams(location.hash.slice(1));
  for (const name of ["seed", "label", "truncation"]) if (kept.has(name)) chosen[name] = kept.get(name);
  for (const name of ["start", "count", "index", "x", "y"]) if (Number.isFinite(parseFloat(kept.get(name)))) chosen[name] = Number(kept.get(name));
  if (kept.get("corners")?.split(",").length === 4) chosen.corners = kept.get("corners").split(",");
}

function remember() {
  history.replaceState(null, "", "#" + new URLSearchParams({ ...chosen, corners: chosen.corners.join(",") }));
}

const ofSeed = () => ({ seed: chosen.seed || " ", label: chosen.label, truncation: chosen.truncation });
const named = (index, label) => (label === null ? `sample ${index}` : `sample ${index}, ${facts.classes[label]}`);

const gallery = newest(async () => {
  $("gallery").classList.add("busy");
  try {
    const asked = { ...ofSeed(), start: chosen.start, count: chosen.count };
    const { images } = await (await ask(address("/api/samples", asked))).json();
    $("zip").href = address("/api/samples.zip", asked);
    $("range").textContent = images.length > 1 ? `${chosen.start} to ${chosen.start + images.length - 1}` : `${chosen.start}`;
    $("earlier").disabled = chosen.start === 0;
    $("gallery").replaceChildren(...images.map(tile));
    mark(false);
  } finally {
    $("gallery").classList.remove("busy");
  }
});

function tile({ index, label, png }) {
  const button = document.createElement("button");
  const image = new Image();
  image.src = `data:image/png;base64,${png}`;
  image.alt = "";
  button.type = "button";
  button.dataset.index = index;
  button.title = named(index, label);
  button.setAttribute("aria-label", button.title);
  button.append(image);
  button.addEventListener("click", () => {
    chosen.index = index;
    mark(false);
    remember();
    looking.sample({ ...ofSeed(), index });
  });
  return button;
}

// One of the tiles is reached by Tab; the arrow keys go from there.
function mark(focus) {
  const tiles = [...$("gallery").children];
  const current = tiles.find((t) => Number(t.dataset.index) === chosen.index) ?? tiles[0];
  for (const t of tiles) {
    t.setAttribute("aria-pressed", Number(t.dataset.index) === chosen.index);
    t.tabIndex = t === (focus || current) ? 0 : -1;
  }
  if (focus) focus.focus();
}

$("gallery").addEventListener("keydown", (event) => {
  const tiles = [...$("gallery").children];
  const second = tiles.findIndex((t) => t.offsetTop > tiles[0].offsetTop);
  const columns = second < 0 ? tiles.length : second;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  const to = tiles[tiles.indexOf(document.activeElement) + step];
  if (!step || !to) return;
  event.preventDefault();
  mark(to);
});

let looking;
let between;

function redraw() {
  remember();
  gallery();
  between.corners();
  if (!looking.own()) looking.sample({ ...ofSeed(), index: chosen.index });
}

function controls() {
  $("seed").value = chosen.seed;
  $("seed").addEventListener("input", () => {
    chosen.seed = $("seed").value.trim();
    redraw();
  });
  $("new-seed").addEventListener("click", () => {
    chosen.seed = $("seed").value = String(crypto.getRandomValues(new Uint32Array(1))[0]);
    redraw();
  });
  $("label-field").hidden = !facts.classes.length;
  $("label").append(...facts.classes.map((name) => new Option(name, name)));
  if (!facts.classes.includes(chosen.label)) chosen.label = "";
  $("label").value = chosen.label;
  $("label").addEventListener("change", () => {
    chosen.label = $("label").value;
    redraw();
  });
  const counts = [...new Set([1, 4, 8, 16, 32, 64].map((n) => Math.min(n, facts.shown)))];
  if (!counts.includes(chosen.count)) chosen.count = Math.min(32, facts.shown);
  $("count").append(...counts.map((n) => new Option(n, n)));
  $("count").value = chosen.count;
  $("count").addEventListener("change", () => {
    chosen.count = Number($("count").value);
    redraw();
  });
  $("truncation").value = chosen.truncation || OFF;
  const cut = () => {
    const value = Number($("truncation").value);
    chosen.truncation = value >= OFF ? "" : value.toFixed(1);
    $("truncation-value").textContent = chosen.truncation || "off";
  };
  cut();
  $("truncation").addEventListener("input", () => {
    cut();
    redraw();
  });
  for (const [id, way] of [["earlier", -1], ["later", 1]]) {
    $(id).addEventListener("click", () => {
      chosen.start = Math.max(0, chosen.start + way * chosen.count);
      remember();
      gallery();
    });
  }
}

async function start() {
  remembered();
  facts = await (await ask("/api/run")).json();
  document.title = `${facts.run} · gander`;
  $("run").textContent = facts.run;
  const size = `${facts.resolution} × ${facts.resolution} px`;
  $("facts").textContent = [facts.recipe, facts.data && `trained on ${facts.data}`, `step ${facts.step.toLocaleString("en")}`, size]
    .filter(Boolean).join(" · ");
  document.body.classList.toggle("small", facts.resolution <= 64);
  $("notes").textContent = facts.notes.join(" ");
  $("notes").hidden = !facts.notes.length;
  $("samples").hidden = $("between").hidden = $("png").hidden = !facts.generator;
  $("explorer").hidden = !facts.looked.length && !facts.reads;
  $("own-field").hidden = !facts.reads;
  looking = explorer(facts, named, () => chosen.label);
  between = pad(facts, chosen, ofSeed, remember);
  if (!facts.generator) {
    $("own-label").textContent = "Choose an image, or drop it here";
    return;
  }
  $("explorer").classList.remove("empty"); // its image is on the way
  controls();
  redraw();
}

start().catch((error) => say(error.message, start));
