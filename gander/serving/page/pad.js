// The square between four samples: the newest place of the dot is asked for, one at a time.

import { address, ask, newest } from "/ask.js";

const $ = (id) => document.getElementById(id);

export function pad(facts, chosen, ofSeed, remember) {
  const square = $("pad");
  const fields = [...document.querySelectorAll(".corner")];
  const pictures = [...square.querySelectorAll("img")];
  const asked = (x, y) => address("/api/between.png", { ...ofSeed(), corners: chosen.corners.join(","), x, y });

  async function draw(picture, url) {
    const before = picture.src;
    picture.src = URL.createObjectURL(await (await ask(url)).blob());
    if (before.startsWith("blob:")) URL.revokeObjectURL(before);
  }

  const middle = newest(async () => {
    await draw($("middle"), asked(chosen.x, chosen.y));
    $("middle-png").href = $("middle").src;
  });

  const corners = newest(async () => {
    for (const [i, picture] of pictures.entries()) await draw(picture, asked(i % 2, i >> 1));
  });

  function place() {
    $("dot").style.left = `${100 * chosen.x}%`;
    $("dot").style.top = `${100 * chosen.y}%`;
    $("x").value = chosen.x;
    $("y").value = chosen.y;
    const { classes } = facts;
    const label = chosen.label || classes[Number(chosen.corners[0]) % classes.length];
    $("middle-name").textContent = `${Math.round(100 * chosen.x)}% to the right, ${Math.round(100 * chosen.y)}% down${label ? `; all ${label}` : ""}`;
  }

  function move(x, y) {
    chosen.x = Math.round(1000 * Math.min(1, Math.max(0, x))) / 1000;
    chosen.y = Math.round(1000 * Math.min(1, Math.max(0, y))) / 1000;
    place();
    middle();
  }

  function drag(event) {
    const box = square.getBoundingClientRect();
    move((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  }

  square.addEventListener("pointerdown", (event) => {
    square.setPointerCapture(event.pointerId);
    event.preventDefault();
    drag(event);
  });
  square.addEventListener("pointermove", (event) => square.hasPointerCapture(event.pointerId) && drag(event));
  square.addEventListener("pointerup", remember);
  for (const name of ["x", "y"]) {
    $(name).addEventListener("input", () => move(Number($("x").value), Number($("y").value)));
    $(name).addEventListener("change", remember);
  }
  fields.forEach((field, i) => {
    field.addEventListener("input", () => {
      chosen.corners[i] = field.value.trim();
      all();
    });
  });
  $("new-corners").addEventListener("click", () => {
    chosen.corners = [...crypto.getRandomValues(new Uint16Array(4))].map(String);
    all();
  });

  function all() {
    fields.forEach((field, i) => {
      if (document.activeElement !== field) field.value = chosen.corners[i];
    });
    place();
    remember();
    middle();
    corners();
  }

  return { corners: all };
}
