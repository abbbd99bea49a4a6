// The explorer: maps of all positions come with the image where they are few, so that pointing asks nobody; else they are asked for.

import { address, ask, newest } from "/ask.js";

const $ = (id) => document.getElementById(id);
const VIRIDIS = "440154 482475 414487 355f8d 2a788e 21918c 22a884 44bf70 7ad151 bddf26 fde725";
const RDBU = "053061 2166ac 4393c3 92c5de d1e5f0 f7f7f7 fddbc7 f4a582 d6604d b2182b 67001f";
const STRENGTH = 0.65; // of the colours over the grey image

function ramp(stops) {
  const colours = stops.split(" ").map((stop) => [0, 2, 4].map((i) => parseInt(stop.slice(i, i + 2), 16)));
  return Array.from({ length: 256 }, (_, level) => {
    const at = (level / 255) * (colours.length - 1);
    const low = Math.min(Math.floor(at), colours.length - 2);
    return colours[low].map((c, i) => Math.round(c + (at - low) * (colours[low + 1][i] - c)));
  });
}

const COLOURS = { rows: ramp(VIRIDIS), positions: ramp(VIRIDIS), signed: ramp(RDBU) };

function canvas(width, height) {
  const made = document.createElement("canvas");
  [made.width, made.height] = [width, height];
  return made;
}

const bytes = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));

function picture(base64) {
  return new Promise((done, failed) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => failed(new Error("The image that came cannot be shown."));
    image.src = `data:image/png;base64,${base64}`;
  });
}

export function explorer(facts, named, label) {
  const side = facts.resolution;
  const target = $("target");
  const point = { y: side >> 1, x: side >> 1 };
  let shown = null; // { image, grey, panels, ask }: the image that is looked into
  let own = false;
  let latest = 0; // of the images that were asked for

  function panel(network, layer, head) {
    const figure = document.createElement("figure");
    const drawn = canvas(256, 256);
    const caption = document.createElement("figcaption");
    const title = document.createElement("strong");
    const words = document.createElement("span");
    title.textContent = `${network}, ${layer.size.join(" × ")}${layer.heads > 1 ? `, head ${head + 1} of ${layer.heads}` : ""}`;
    caption.append(title, words);
    figure.append(drawn, caption);
    figure.title = `${layer.name} (${layer.layer})`;
    drawn.setAttribute("role", "img");
    drawn.setAttribute("aria-label", `Where ${title.textContent} looks`);
    if (layer.kind !== "channels") pointed(drawn);
    return { figure, drawn, words, layer, head, fresh: null };
  }

  const described = (layer, ...more) => [layer.layer, ...(layer.gamma === null ? [] : [`γ ${layer.gamma.toPrecision(3)}`]), ...more].join(" · ");

  function cell(layer) {
    const [h, w] = layer.size;
    return [Math.floor((point.y * h) / side), Math.floor((point.x * w) / side)];
  }

  // The map of the point: [bytes of its keys, its peak], or null where it is not here yet.
  function mapOf({ layer, head, fresh }) {
    const source = fresh ?? layer;
    const [h, w] = source.keys;
    if (!source.positions) return null;
    const [y, x] = cell(layer);
    const row = source.positions === 1 ? 0 : y * layer.size[1] + x;
    const number = head * source.positions + row;
    return [source.data.subarray(number * h * w, (number + 1) * h * w), source.peaks[number]];
  }

  function paint(one) {
    const { layer, drawn, words } = one;
    if (layer.kind === "channels") return bars(one);
    const found = mapOf(one);
    if (!found) return;
    const [data, peak] = found;
    const [h, w] = layer.keys;
    const heat = canvas(w, h);
    const pixels = new ImageData(w, h);
    data.forEach((level, i) => pixels.data.set([...COLOURS[layer.kind][level], 255], 4 * i));
    heat.getContext("2d").putImageData(pixels, 0, 0);
    const pen = drawn.getContext("2d");
    pen.imageSmoothingEnabled = false;
    pen.globalAlpha = 1;
    pen.drawImage(shown.grey, 0, 0, drawn.width, drawn.height);
    pen.globalAlpha = STRENGTH;
    pen.drawImage(heat, 0, 0, drawn.width, drawn.height);
    pen.globalAlpha = 1;
    if (layer.kind === "positions") {
      words.textContent = described(layer, "one map for the whole image, the mean of its channels");
      return;
    }
    const [y, x] = cell(layer);
    const [height, width] = layer.size;
    frame(pen, (x * drawn.width) / width, (y * drawn.height) / height, drawn.width / width, drawn.height / height);
    const most = layer.kind === "signed" ? `largest weight ±${peak.toPrecision(2)}` : `at most ${(peak * h * w).toPrecision(3)} × the even share`;
    words.textContent = described(layer, most);
  }

  function frame(pen, x, y, width, height) {
    for (const [colour, thick] of [["#000", 4], ["#fff", 2]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = thick;
      pen.strokeRect(x, y, width, height);
    }
  }

  function bars({ layer, drawn, words }) {
    const pen = drawn.getContext("2d");
    const count = layer.shares.length;
    const top = Math.max(2 / count, ...layer.shares);
    const wide = drawn.width / count;
    const high = (share) => (drawn.height * share) / top;
    pen.clearRect(0, 0, drawn.width, drawn.height);
    pen.fillStyle = "#2a788e";
    layer.shares.forEach((share, i) => pen.fillRect(i * wide, drawn.height - high(share), wide > 3 ? wide - 1 : wide, high(share)));
    pen.fillStyle = "#d55e00";
    pen.fillRect(0, drawn.height - high(1 / count), drawn.width, 2);
    const most = (Math.max(...layer.shares) * count).toPrecision(3);
    words.textContent = described(layer, `weighs ${count} channels, all places alike`, `at most ${most} × the even share (the line)`);
  }

  let waiting = false;
  function refresh() {
    if (waiting || !shown) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      const pen = target.getContext("2d");
      pen.imageSmoothingEnabled = false;
      pen.drawImage(shown.image, 0, 0, target.width, target.height);
      const wide = Math.max(4, target.width / side);
      const middle = (place) => ((place + 0.5) * target.width) / side - wide / 2;
      frame(pen, middle(point.x), middle(point.y), wide, wide);
      $("target-place").textContent = `x ${point.x}, y ${point.y}`;
      shown.panels.forEach(paint);
    });
  }

  // The rows of layers that are too large to be sent whole.
  const rows = newest(async () => {
    const at = shown;
    const { networks } = await (await at.ask({ ...point })).json();
    if (at !== shown) return;
    const layers = networks.flatMap((network) => network.layers);
    for (const one of shown.panels) if (!one.layer.positions && one.layer.maps === undefined && one.layer.keys) one.fresh = opened(layers[one.number]);
    refresh();
  });

  function opened(layer) {
    if (layer.maps !== undefined) layer.data = bytes(layer.maps);
    return layer;
  }

  function go(y, x) {
    [y, x] = [y, x].map((place) => Math.min(side - 1, Math.max(0, place)));
    if (y === point.y && x === point.x) return;
    [point.y, point.x] = [y, x];
    refresh();
    if (shown?.panels.some((one) => one.layer.positions === 0)) rows();
  }

  function pointed(element) {
    const here = (event) => {
      const box = element.getBoundingClientRect();
      go(Math.floor(((event.clientY - box.top) / box.height) * side), Math.floor(((event.clientX - box.left) / box.width) * side));
    };
    element.addEventListener("pointermove", here);
    element.addEventListener("pointerdown", here);
  }

  pointed(target);
  target.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    const far = Math.max(1, side >> 5) * (event.shiftKey ? 4 : 1);
    go(point.y + far * step[0], point.x + far * step[1]);
  });

  async function show(answer, again, name) {
    const image = await picture(answer.image);
    const grey = canvas(side, side);
    const pen = grey.getContext("2d");
    pen.drawImage(image, 0, 0);
    const pixels = pen.getImageData(0, 0, side, side);
    for (let i = 0; i < pixels.data.length; i += 4) {
      const [r, g, b] = pixels.data.subarray(i, i + 3);
      pixels.data.fill(Math.round(0.299 * r + 0.587 * g + 0.114 * b), i, i + 3);
    }
    pen.putImageData(pixels, 0, 0);
    const panels = [];
    let number = 0;
    for (const { network, layers } of answer.networks) {
      for (const layer of layers) {
        opened(layer);
        for (let head = 0; head < (layer.heads ?? 1); head++) panels.push({ ...panel(network, layer, head), number });
        number++;
      }
    }
    shown = { image, grey, panels, ask: again };
    $("explorer").classList.remove("empty");
    $("panels").replaceChildren(...panels.map((one) => one.figure));
    $("legend").hidden = !panels.some((one) => ["rows", "positions"].includes(one.layer.kind));
    $("legend-signed").hidden = !panels.some((one) => one.layer.kind === "signed");
    $("target-name").textContent = name;
    refresh();
    if (panels.some((one) => one.layer.positions === 0)) rows();
  }

  const sample = newest(async (asked) => {
    const mine = ++latest;
    const again = (place) => ask(address("/api/look", { ...asked, ...place }));
    const answer = await (await again({})).json();
    if (mine !== latest) return;
    own = false;
    $("own").value = "";
    $("reading").hidden = true;
    $("png").hidden = false;
    $("png").href = address("/api/sample.png", asked);
    await show(answer, again, named(answer.index, answer.label));
  });

  const upload = newest(async (file) => {
    const mine = ++latest;
    const chosen = label(); // that of the whole image, whatever is chosen later
    const again = (place) => ask(address("/api/look", { label: chosen, ...place }), { method: "POST", body: file });
    const answer = await (await again({})).json();
    if (mine !== latest) return;
    own = true;
    $("png").hidden = true;
    read(answer);
    await show(answer, again, file.name);
  });

  // What a classifier or an auto-encoder makes of the image.
  function read({ guesses, made }) {
    const box = $("reading");
    box.hidden = !guesses && !made;
    box.replaceChildren();
    if (guesses) {
      const table = document.createElement("table");
      for (const [name, share] of guesses) {
        const row = table.insertRow();
        row.insertCell().textContent = name;
        row.insertCell().textContent = `${(100 * share).toFixed(1)} %`;
      }
      box.append(table);
    }
    if (made) {
      const image = new Image();
      image.src = `data:image/png;base64,${made}`;
      image.alt = "What the network makes of it";
      box.append(image);
    }
  }

  $("own").addEventListener("change", () => $("own").files.length && upload($("own").files[0]));
  for (const name of ["dragover", "drop"]) {
    $("explorer").addEventListener(name, (event) => {
      if (!facts.reads) return;
      event.preventDefault();
      if (name === "drop" && event.dataTransfer.files.length) upload(event.dataTransfer.files[0]);
    });
  }

  return { sample, own: () => own };
}
