// Asking the server: errors are its own lines, and of many questions the newest is answered.

const TRIES = 5;

export function address(path, values) {
  const given = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

export async function ask(url, options) {
  for (let tries = 1; ; tries++) {
    let response;
    try {
      response = await fetch(url, options);
    } catch {
      throw new Error("No answer. Does gander serve still run in its terminal?");
    }
    if (response.ok) return response;
    if (response.status === 503 && tries < TRIES) {
      await new Promise((go) => setTimeout(go, 1000 * (Number(response.headers.get("Retry-After")) || 1)));
      continue;
    }
    let words = `The server said ${response.status}.`;
    try {
      words = (await response.json()).error;
    } catch { /* no words came with it */ }
    throw new Error(words);
  }
}

// A function that does `work` with its newest arguments, once at a time: what came meanwhile and was overtaken is never asked.
export function newest(work) {
  let busy = false;
  let next = null;
  return async (...values) => {
    next = values;
    if (busy) return;
    busy = true;
    while (next) {
      const now = next;
      next = null;
      try {
        await work(...now);
        if (!next) say("", work);
      } catch (error) {
        if (!next) say(error.message, work);
      }
    }
    busy = false;
  };
}

// What went wrong, until whoever said it does well: others that do well meanwhile say nothing of it.
const wrong = new Map();

export function say(words, whose) {
  wrong.set(whose, words);
  const line = document.getElementById("message");
  line.textContent = [...new Set(wrong.values())].join(" ").trim();
  line.hidden = !line.textContent;
}
