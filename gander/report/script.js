"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);

  for (const button of document.querySelectorAll(".copy")) {
    if (!navigator.clipboard) break;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.previousElementSibling.textContent);
      button.textContent = "Copied";
    });
  }

  // A page on paper has no buttons: what is folded is shown.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach((one) => (one.open = true));
  });
  addEventListener("afterprint", () => folded.forEach((one) => (one.open = false)));

  if (data.tracks.length) slider(data.tracks);
  if (data.explored.length) explorer(data.explored);

  // Samples over time: each run shows its last grid that is not after the step.
  function slider(tracks) {
    const steps = [...new Set(tracks.flatMap((track) => track.steps))].sort((a, b) => a - b);
    if (steps.length < 2) return;
    const input = $("slider"), play = $("play");
    const figures = [...document.querySelectorAll("#samples figure")];
    tracks.forEach((track, i) => track.frames.push(figures[i].querySelector("img").src));
    tracks.forEach((track) => (track.kept = track.frames.map((src) => Object.assign(new Image(), { src })))); // decoded before they are asked for
    let film = 0;
    function show() {
      const step = steps[input.value];
      const word = step.toLocaleString("en");
      $("slider-step").textContent = word;
      input.setAttribute("aria-valuetext", `step ${word}`);
      tracks.forEach((track, i) => {
        const at = Math.max(0, track.steps.findLastIndex((one) => one <= step));
        figures[i].querySelector("img").src = track.frames[at];
        figures[i].querySelector("span").textContent = `step ${track.steps[at].toLocaleString("en")}`;
      });
    }
    function stop() {
      clearInterval(film);
      film = 0;
      play.textContent = "Play";
      play.setAttribute("aria-pressed", "false");
    }
    play.addEventListener("click", () => {
      if (film) return stop();
      if (+input.value === steps.length - 1) input.value = 0;
      show();
      play.textContent = "Stop";
      play.setAttribute("aria-pressed", "true");
      film = setInterval(() => {
        input.value = +input.value + 1;
        show();
        if (+input.value === steps.length - 1) stop();
      }, Math.min(400, Math.max(120, 8000 / steps.length)));
    });
    input.addEventListener("input", () => {
      stop();
      show();
    });
    input.max = steps.length - 1;
    input.value = steps.length - 1;
    $("slider-field").hidden = false;
    show();
  }

  // The attention explorer: all maps are here, so that pointing asks nobody.
  function explorer(runs) {
    const VIRIDIS = ramp("440154 482475 414487 355f8d 2a788e 21918c 22a884 44bf70 7ad151 bddf26 fde725");
    const RDBU = ramp("053061 2166ac 4393c3 92c5de d1e5f0 f7f7f7 fddbc7 f4a582 d6604d b2182b 67001f");
    const SIDE = 256; // px of a canvas
    const STRENGTH = 0.65; // of the colours over the grey image
    const target = $("target");
    const off = new Set(); // layers that are switched off
    let side = 1, point = { y: 0, x: 0 }, shown = null;

    function ramp(stops) {
      const colours = stops.split(" ").map((stop) => [0, 2, 4].map((i) => parseInt(stop.slice(i, i + 2), 16)));
      return Array.from({ length: 256 }, (_, level) => {
        const at = (level / 255) * (colours.length - 1);
        const low = Math.min(Math.floor(at), colours.length - 2);
        return colours[low].map((c, i) => Math.round(c + (at - low) * (colours[low + 1][i] - c)));
      });
    }

    function canvas(width, height) {
      return Object.assign(document.createElement("canvas"), { width, height });
    }

    function element(name, words, parent) {
      const made = document.createElement(name);
      made.textContent = words;
      parent.append(made);
      return made;
    }

    const pair = ([h, w]) => `${h} × ${w}`;
    const between = (value, low, high) => Math.min(high, Math.max(low, value));
    const readable = (value) => String(+value.toPrecision(3));

    // Which of the asked rows and columns a pixel belongs to: [row, column].
    function asked(layer) {
      return [["y", layer.rows], ["x", layer.columns]].map(([axis, cells]) => Math.floor((point[axis] * cells.length) / side));
    }

    function paint(one) {
      const { layer, head, pen, words } = one;
      const gamma = layer.gamma === null ? "" : `γ ${readable(layer.gamma)} · `;
      if (layer.kind === "channels") return bars(one, gamma);
      const [row, column] = asked(layer);
      const number = (head * layer.rows.length + row) * layer.columns.length + column;
      const [h, w] = layer.keys;
      const colours = layer.kind === "signed" ? RDBU : VIRIDIS;
      for (let i = 0; i < h * w; i++) {
        const [r, g, b] = colours[layer.bytes[number * h * w + i]];
        one.pixels.data[4 * i] = r;
        one.pixels.data[4 * i + 1] = g;
        one.pixels.data[4 * i + 2] = b;
        one.pixels.data[4 * i + 3] = 255;
      }
      one.heat.getContext("2d").putImageData(one.pixels, 0, 0);
      pen.imageSmoothingEnabled = false;
      pen.globalAlpha = 1;
      pen.drawImage(shown.grey, 0, 0);
      pen.globalAlpha = STRENGTH;
      pen.drawImage(one.heat, 0, 0, SIDE, SIDE);
      pen.globalAlpha = 1;
      const peak = layer.peaks[number];
      if (layer.kind === "positions") {
        words.textContent = `${gamma}one map for the whole image, the mean of its channels · entropy ${readable(layer.entropy[0])} · at most ${readable(peak * h * w)} × even`;
        return;
      }
      const [height, width] = layer.size;
      frame(pen, (layer.columns[column] * SIDE) / width, (layer.rows[row] * SIDE) / height, SIDE / width, SIDE / height);
      const most = layer.kind === "signed" ? `largest ±${readable(peak)}` : `at most ${readable(peak * h * w)} × even`;
      words.textContent = `${gamma}entropy ${readable(layer.entropy[number])} · way ${readable(layer.distance[number])} px · ${most}`;
    }

    function bars({ layer, pen, words }, gamma) {
      const top = Math.max(...layer.shares), wide = SIDE / layer.shares.length;
      pen.clearRect(0, 0, SIDE, SIDE);
      pen.fillStyle = "#7d8683";
      layer.shares.forEach((share, i) => pen.fillRect(i * wide, SIDE * (1 - share / top), Math.max(1, wide - 1), (SIDE * share) / top));
      const even = SIDE * (1 - 1 / layer.shares.length / top);
      pen.fillStyle = "#d55e00";
      pen.fillRect(0, even - 1, SIDE, 2);
      words.textContent = `${gamma}weighs ${layer.shares.length} channels, all places alike (the line: even) · entropy ${readable(layer.entropy[0])} · at most ${readable(top * layer.shares.length)} × even`;
    }

    function frame(pen, x, y, width, height) {
      for (const [colour, thick] of [["#000", 4], ["#fff", 2]]) {
        pen.strokeStyle = colour;
        pen.lineWidth = thick;
        pen.strokeRect(x, y, width, height);
      }
    }

    function refresh() {
      if (!shown) return;
      const pen = target.getContext("2d");
      pen.imageSmoothingEnabled = false;
      pen.drawImage(shown.image, 0, 0, SIDE, SIDE);
      const wide = Math.max(5, SIDE / side);
      frame(pen, ((point.x + 0.5) * SIDE) / side - wide / 2, ((point.y + 0.5) * SIDE) / side - wide / 2, wide, wide);
      $("target-place").textContent = `x ${point.x}, y ${point.y} of ${side} px`;
      shown.panels.forEach((one) => one.figure.hidden || paint(one));
    }

    function go(y, x) {
      [y, x] = [y, x].map((place) => between(place, 0, side - 1));
      if (y === point.y && x === point.x) return;
      point = { y, x };
      refresh();
    }

    function pointed(on) {
      const here = (event) => {
        const box = on.getBoundingClientRect();
        go(Math.floor(((event.clientY - box.top) / box.height) * side), Math.floor(((event.clientX - box.left) / box.width) * side));
      };
      on.addEventListener("pointermove", here);
      on.addEventListener("pointerdown", here);
    }

    pointed(target);
    target.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (!step) return;
      event.preventDefault();
      const far = Math.max(1, side >> 5) * (event.shiftKey ? 4 : 1);
      go(point.y + far * step[0], point.x + far * step[1]);
    });

    function panel(network, layer, head) {
      const figure = document.createElement("figure");
      const drawn = canvas(SIDE, SIDE);
      figure.append(drawn);
      const caption = element("figcaption", "", figure);
      const of = layer.heads[head] && `, ${layer.heads[head]}`;
      const title = `${network} ${pair(layer.size)}${of}`;
      element("strong", title, caption);
      const words = element("span", "", caption);
      figure.title = `${layer.name} (${layer.layer})`;
      drawn.setAttribute("role", "img");
      drawn.setAttribute("aria-label", `Where ${title} looks, over the image`);
      if (layer.kind !== "channels") pointed(drawn);
      const [h, w] = layer.keys ?? [1, 1];
      return { figure, layer, head, words, pen: drawn.getContext("2d"), heat: canvas(w, h), pixels: new ImageData(w, h) };
    }

    function greyed(image) {
      const made = canvas(SIDE, SIDE), pen = made.getContext("2d");
      pen.imageSmoothingEnabled = false;
      pen.drawImage(image, 0, 0, SIDE, SIDE);
      const pixels = pen.getImageData(0, 0, SIDE, SIDE);
      for (let i = 0; i < pixels.data.length; i += 4) {
        const [r, g, b] = pixels.data.subarray(i, i + 3);
        pixels.data.fill(Math.round(0.299 * r + 0.587 * g + 0.114 * b), i, i + 3);
      }
      pen.putImageData(pixels, 0, 0);
      return made;
    }

    async function choose(run, told, name, button) {
      const image = Object.assign(new Image(), { src: told.src });
      try {
        await image.decode();
      } catch {
        return;
      }
      const before = side;
      side = run.side;
      point = shown ? { y: between(Math.floor((point.y * side) / before), 0, side - 1), x: between(Math.floor((point.x * side) / before), 0, side - 1) } : { y: side >> 1, x: side >> 1 };
      const panels = [], box = $("layers");
      box.replaceChildren(box.firstElementChild);
      for (const { network, layers } of told.networks) {
        layers.forEach((layer, i) => {
          if (layer.maps !== undefined) layer.bytes ??= Uint8Array.from(atob(layer.maps), (c) => c.charCodeAt(0));
          const mine = layer.heads.map((_, head) => panel(network.replace("_ema", ""), layer, head));
          const key = `${network}/${layer.name}/${i}`;
          const label = element("label", "", box), tick = Object.assign(document.createElement("input"), { type: "checkbox", checked: !off.has(key) });
          label.append(tick, ` ${network.replace("_ema", "")}, ${layer.name || layer.layer} (${pair(layer.size)})`);
          mine.forEach((one) => (one.figure.hidden = off.has(key)));
          tick.addEventListener("change", () => {
            off[tick.checked ? "delete" : "add"](key);
            mine.forEach((one) => (one.figure.hidden = !tick.checked));
            refresh();
          });
          panels.push(...mine);
        });
      }
      shown = { image, grey: greyed(image), panels };
      $("panels").replaceChildren(...panels.map((one) => one.figure));
      $("legend-shares").hidden = !panels.some((one) => ["rows", "positions"].includes(one.layer.kind));
      $("legend-signed").hidden = !panels.some((one) => one.layer.kind === "signed");
      $("target-name").textContent = name;
      for (const other of $("choices").children) other.setAttribute("aria-pressed", String(other === button));
      refresh();
    }

    for (const run of runs) {
      for (const told of run.images) {
        const name = runs.length > 1 ? `${run.run}: ${told.name}` : told.name;
        const button = Object.assign(document.createElement("button"), { type: "button" });
        const small = Object.assign(new Image(), { src: told.src, alt: "" });
        if (run.side <= 128) small.className = "pixels";
        button.append(small, name);
        button.addEventListener("click", () => choose(run, told, name, button));
        $("choices").append(button);
      }
    }
    $("explorer").hidden = false;
    $("choices").firstElementChild?.click();
  }
})();
