// Frames on a canvas at the walk's rate, and the map of its moments. Frames are closed once they are shown.

export class Player {
  constructor(canvas) {
    this.canvas = canvas;
    this.queue = [];
    this.due = 0;
    this.waiting = [];  // those who wait until few frames are left
  }

  open(width, height, rate) {
    Object.assign(this.canvas, { width, height });
    this.gap = 1000 / rate;
    this.clear();
  }

  // Add an encoded frame; resolves when it is decoded.
  async add(data, number, pose) {
    const bitmap = await createImageBitmap(data);
    this.queue.push({ bitmap, number, pose });
    if (!this.timer) this.#next();
  }

  // Resolves when no more than so many frames wait.
  until(left) {
    if (this.queue.length <= left) return Promise.resolve();
    return new Promise((resolve) => this.waiting.push({ left, resolve }));
  }

  clear() {
    for (const { bitmap } of this.queue.splice(0)) bitmap.close();
    this.#tell();
  }

  #next() {
    const now = performance.now();
    this.due = Math.max(this.due, now);
    this.timer = setTimeout(() => {
      this.timer = null;
      const next = this.queue.shift();
      if (!next) return;
      this.canvas.getContext("2d").drawImage(next.bitmap, 0, 0);
      next.bitmap.close();
      this.canvas.dataset.frame = next.number;
      this.seen?.(next.pose);
      this.due += this.gap;
      this.#tell();
      if (this.queue.length) this.#next();
    }, this.due - now);
  }

  #tell() {
    const now = this.waiting.filter(({ left }) => this.queue.length <= left);
    this.waiting = this.waiting.filter((one) => !now.includes(one));
    for (const { resolve } of now) resolve();
  }
}

export function blobOf(base64, type) {
  return new Blob([Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))], { type });
}

// The moments from above: all branches in grey, the line to the chosen one in colour, the camera as an arrow.
export function drawMap(canvas, moments, at, pose) {
  const draw = canvas.getContext("2d"), style = getComputedStyle(canvas);
  const points = moments.map(({ pose: [x, , z] }) => [x[3], z[3]]);
  const here = [pose[0][3], pose[2][3]];
  const all = [...points, here];
  const [low, high] = [Math.min, Math.max].map((of) => [0, 1].map((axis) => all.reduce((best, p) => of(best, p[axis]), all[0][axis])));
  const span = Math.max(high[0] - low[0], high[1] - low[1], 0.5), scale = 140 / span;
  const middle = [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2];
  const place = ([x, z]) => [90 + (x - middle[0]) * scale, 90 - (z - middle[1]) * scale];
  const line = (from, to, colour, width) => {
    Object.assign(draw, { strokeStyle: colour, lineWidth: width });
    draw.beginPath();
    draw.moveTo(...place(from));
    draw.lineTo(...place(to));
    draw.stroke();
  };
  draw.clearRect(0, 0, 180, 180);
  const grey = style.getPropertyValue("--neutral-400"), colour = style.getPropertyValue("--primary-500");
  for (const { number, before } of moments) if (before !== null) line(points[before], points[number], grey, 1.5);
  for (let n = at; moments[n].before !== null; n = moments[n].before) line(points[moments[n].before], points[n], colour, 3);
  line(points[at], here, colour, 3);
  const [x, y] = place(here), ahead = Math.atan2(pose[0][2], pose[2][2]);
  draw.fillStyle = colour;
  draw.beginPath();
  for (const [turn, far] of [[0, 11], [2.5, 8], [-2.5, 8]]) {
    draw.lineTo(x + far * Math.sin(ahead + turn), y - far * Math.cos(ahead + turn));
  }
  draw.fill();
}
