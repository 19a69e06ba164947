// Draws as somebody types. Every key asks for an image; the newest one wins, here and on the server, which
// cancels the older drawing within a step. Latency is from the event of the key until its image is painted.

const DEBOUNCE = 10; // ms: what one paste, one completion or one stroke sends at once is one key
const MOST_OPEN = 3; // requests; the oldest is cut off where the server has not ended it yet

const find = (selector) => document.querySelector(selector);
const words = () => find("#live-prompt textarea");
const tab = Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join("-");

let newest = 0; // number of the newest key
let shown = -1; // number of the finished image that is shown
let seed = crypto.getRandomValues(new Uint32Array(1))[0];
let timer = 0;
let open = []; // requests that run: {number, stop}
const sketch = { marks: [], pen: null, waiting: false, strength: null };

window.sanaLive = { shown: () => [tab, shown] }; // for the button that keeps an image

function later(pressed) {
  clearTimeout(timer);
  timer = setTimeout(draw, DEBOUNCE, pressed);
}

function body(number) {
  const asked = { tab, number, prompt: words().value, seed };
  const model = find("#live-model input");
  if (model?.value) asked.model = model.value;
  if (sketch.marks.length) {
    asked.sketch = find("#live-canvas").toDataURL("image/png");
    if (sketch.strength !== null) asked.strength = sketch.strength;
  }
  return JSON.stringify(asked);
}

async function draw(pressed) {
  const number = ++newest;
  if (!words().value.trim()) return empty();
  const stop = new AbortController();
  const own = { number, stop };
  open.push(own);
  while (open.length > MOST_OPEN) open.shift().stop.abort();
  try {
    const answer = await fetch(new URL("live/draw", document.baseURI), {
      method: "POST", headers: { "Content-Type": "application/json" }, body: body(number), signal: stop.signal,
    });
    if (!answer.ok) return fail(number, await answer.json());
    let first = null;
    for await (const [name, told] of events(answer.body)) {
      if (number !== newest) continue; // the server ends it by itself
      if (name === "error") return fail(number, told);
      if (name === "newer") return;
      await paint(told.image);
      if (number !== newest) continue;
      const now = performance.now() - pressed;
      first ??= now;
      tell(latency(first, now, told, name === "done"));
      if (name === "done") done(number, told);
    }
  } catch (error) {
    if (error.name !== "AbortError") fail(number, { error: { message: "The server does not answer." } });
  } finally {
    open = open.filter((one) => one !== own);
    if (sketch.waiting && sketch.pen && !open.length) drawStroke(performance.now());
  }
}

// Name and data of each server-sent event of a stream.
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done: over } = await reader.read();
    if (over) return;
    text += value;
    let end;
    while ((end = text.indexOf("\n\n")) >= 0) {
      const [name, data] = text.slice(0, end).split("\n");
      text = text.slice(end + 2);
      yield [name.slice("event: ".length), JSON.parse(data.slice("data: ".length))];
    }
  }
}

async function paint(source) {
  const image = find("#live-image");
  image.src = source; // the one before stays until this one is decoded
  image.hidden = false;
  await image.decode();
  find("#live-empty").hidden = true;
  await new Promise((painted) => requestAnimationFrame(painted));
}

function done(number, told) {
  shown = number;
  const image = find("#live-image");
  image.alt = words().value;
  find("#live-stage").dataset.number = number;
  if (told.warnings.length) tell(told.warnings.join(" "));
}

function latency(first, now, told, finished) {
  const steps = `${told.total} step${told.total > 1 ? "s" : ""}`;
  const all = finished && told.total > 1 ? `, all of it after ${Math.round(now)} ms` : "";
  return `First pixels ${Math.round(first)} ms after the key${all} · ${steps}`;
}

function tell(sentence, wrong = false) {
  const status = find("#live-status");
  status.textContent = sentence;
  status.classList.toggle("wrong", wrong);
}

function fail(number, told) {
  if (number === newest) tell(told.error?.message ?? "The server does not answer.", true);
}

function empty() {
  for (const one of open) one.stop.abort();
  tell(sketch.marks.length ? "Write what the sketch shows." : "");
}

// The sketch: strokes on white. Marks are kept as points, so that the last one can be taken back.

function place(event) {
  const canvas = find("#live-canvas");
  const box = canvas.getBoundingClientRect();
  return [((event.clientX - box.left) * canvas.width) / box.width, ((event.clientY - box.top) * canvas.height) / box.height];
}

function redraw() {
  const canvas = find("#live-canvas");
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#ffffff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.lineCap = pen.lineJoin = "round";
  for (const { ink, size, points } of sketch.marks) {
    pen.strokeStyle = ink;
    pen.lineWidth = size;
    pen.beginPath();
    pen.moveTo(...points[0]);
    for (const point of points) pen.lineTo(...point);
    pen.stroke();
  }
}

// While the pen moves, an image is drawn as soon as the one before is done: to cancel it for every point would
// show none. When the pen is lifted, what still runs is of an older sketch, and the newest wins.
function drawStroke(pressed) {
  sketch.waiting = open.length > 0 && sketch.pen !== null;
  if (!sketch.waiting) draw(pressed);
}

function bindSketch(canvas) {
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    sketch.pen = { ink: find("input[name=live-ink]:checked").value, size: +find("#live-size").value, points: [place(event)] };
    sketch.marks.push(sketch.pen);
    redraw();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!sketch.pen) return;
    sketch.pen.points.push(place(event));
    redraw();
    drawStroke(event.timeStamp);
  });
  for (const name of ["pointerup", "pointercancel"])
    canvas.addEventListener(name, (event) => {
      if (!sketch.pen) return;
      sketch.pen = null;
      drawStroke(event.timeStamp);
    });
  const change = (id, marks) =>
    find(id).addEventListener("click", (event) => {
      sketch.marks = marks();
      redraw();
      later(event.timeStamp);
    });
  change("#live-undo", () => sketch.marks.slice(0, -1));
  change("#live-clear", () => []);
  find("#live-strength").addEventListener("input", (event) => {
    sketch.strength = +event.target.value;
    if (sketch.marks.length) later(event.timeStamp);
  });
  redraw();
}

function bind() {
  if (!words() || !find("#live-canvas") || !find("#live-another")) return false;
  words().addEventListener("input", (event) => event.isComposing || later(event.timeStamp));
  words().addEventListener("compositionend", (event) => later(event.timeStamp));
  find("#live-another").addEventListener("click", (event) => {
    seed = crypto.getRandomValues(new Uint32Array(1))[0];
    later(event.timeStamp);
  });
  bindSketch(find("#live-canvas"));
  return true;
}

// Gradio makes the components when it likes, after a login again.
if (!bind()) {
  const watch = new MutationObserver(() => bind() && watch.disconnect());
  watch.observe(document.documentElement, { childList: true, subtree: true });
}
