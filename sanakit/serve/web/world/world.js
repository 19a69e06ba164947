// The tab of worlds: held keys, dragging and buttons to moves, chunk after chunk, from the chosen moment on.

import { Walk } from "./walk.js";
import { Player, blobOf, drawMap } from "./player.js";

const find = (id) => document.getElementById(`world-${id}`);
const FEW = 6;  // frames that are left to show when the next chunk is asked for
const FAR = 14;  // pixels that a drag begins to turn at

const letters = ({ keys }) => {  // what each act holds, in the walk's dialect
  const [turn, step] = keys === "strafing" ? ["jl", "ad"] : ["ad", "jl"];
  return {
    forward: "w", back: "s", up: "i", down: "k", still: "",
    "turn-left": turn[0], "turn-right": turn[1], "step-left": step[0], "step-right": step[1],
  };
};
const ARROWS = { ArrowUp: "forward", ArrowDown: "back", ArrowLeft: "turn-left", ArrowRight: "turn-right" };

class World {
  held = new Set();  // acts that are held now
  tapped = new Set();  // and those that were, since the last chunk began
  moments = [];
  at = 0;

  constructor() {
    this.player = new Player(find("canvas"));
    this.player.seen = (pose) => drawMap(find("map"), this.moments, this.at, pose);
    this.#listen();
    addEventListener("pagehide", () => this.walk?.end());
  }

  // Begin to walk. told: the server's description of a walk that was entered.
  async enter(told) {
    await this.#leave();
    this.walk = new Walk(told, new URL(`walks/${told.id}`, document.baseURI).href);
    this.acts = letters(told.settings);
    this.moments = [{ number: 0, before: null, frames: 1, pose: identity() }];
    this.player.open(told.width, told.height, told.fps);
    find("stage").dataset.state = "walking";
    find("stage").style.setProperty("--shape", `${told.width} / ${told.height}`);
    find("controls").hidden = false;
    await this.goTo(0);
    find("screen").focus({ preventScroll: true });
  }

  // Show a moment; the next move goes on from it.
  async goTo(number) {
    this.at = number;
    this.player.clear();
    this.#tell();
    const { frames, pose } = this.moments[number];
    try {
      const still = await this.walk.still(number);
      if (this.at === number && !this.busy) await this.player.add(still, frames - 1, pose);
    } catch (error) {
      this.#fail(error);
    }
  }

  hold(act) {
    this.held.add(act);
    this.tapped.add(act);
    this.#go();
  }

  release(act) {
    this.held.delete(act);
  }

  tap(act) {
    this.tapped.add(act);
    this.#go();
  }

  async undo() {
    const { before } = this.moments[this.at];
    if (before !== null) await this.goTo(before);
  }

  // Draw the last chunk again with another seed: a branch of its own.
  async future() {
    const { before, actions } = this.moments[this.at];
    if (before === null) return;
    this.at = before;
    await this.#alone(() => this.#draw({ actions, seed: Math.floor(Math.random() * 2 ** 32) }));
  }

  async replay() {
    if (this.replaying) return this.replaying.abort();
    this.replaying = new AbortController();
    const button = document.querySelector("#world-time [data-do=replay]");
    button.textContent = "Stop";
    await this.#alone(async () => {
      this.player.clear();
      for await (const event of this.walk.replay(this.at, this.replaying.signal)) {
        if (event.b64_json) await this.#show(event);
        await this.player.until(2 * FEW);
      }
      await this.player.until(0);
    });
    button.textContent = "Replay";
    this.replaying = null;
    if (this.walk) await this.goTo(this.at);
  }

  async end() {
    await this.#leave();
    this.player.clear();
    find("stage").dataset.state = "empty";
    find("controls").hidden = true;
    this.#say("The walk has ended.");
  }

  // End the walk, and wait for what it is doing.
  async #leave() {
    this.walk?.end();
    this.walk = null;
    this.replaying?.abort();
    this.held.clear();
    this.tapped.clear();
    while (this.busy) await new Promise((resolve) => setTimeout(resolve, 50));
  }

  // Walk while something is held, a chunk at a time.
  async #go() {
    if (!this.walk || this.busy) return;
    await this.#alone(async () => {
      while (this.walk && (this.held.size || this.tapped.size)) {
        const keys = [...new Set([...this.held, ...this.tapped])].map((act) => this.acts[act]).join("");
        this.tapped.clear();
        await this.#draw({ keys });
        await this.player.until(FEW);
      }
    });
  }

  async #draw(move) {
    const walk = this.walk;
    for await (const event of walk.move({ ...move, before: this.at })) {
      if (this.walk !== walk) return;
      if (event.type === "world.frame") await this.#show(event);
      else {
        this.moments[event.moment.number] = event.moment;
        this.at = event.moment.number;
        this.#tell();
      }
    }
  }

  #show({ b64_json, frame, pose }) {
    return this.player.add(blobOf(b64_json, `image/${this.walk.told.image_format}`), frame, pose);
  }

  // Run one thing at a time; what fails is said, and nothing is held any more.
  async #alone(work) {
    if (this.busy) return;
    this.busy = true;
    find("stage").setAttribute("aria-busy", "true");
    for (const part of document.querySelectorAll("#world-time :is(button, select, input)")) {
      part.disabled = !(this.replaying && part.dataset.do === "replay");
    }
    try {
      await work();
    } catch (error) {
      if (this.walk && error.name !== "AbortError") this.#fail(error);
    }
    for (const part of document.querySelectorAll("#world-time :is(button, select, input)")) part.disabled = false;
    find("stage").removeAttribute("aria-busy");
    this.busy = false;
  }

  #fail(error) {
    this.held.clear();
    this.tapped.clear();
    this.#say(error.message, true);
  }

  #say(text, wrong = false) {
    find("told").textContent = text;
    find("told").classList.toggle("wrong", wrong);
  }

  #tell() {
    const { frames } = this.moments[this.at], { fps } = this.walk.told;
    this.#say(`Moment ${this.at} of ${this.moments.length - 1}: ${((frames - 1) / fps).toFixed(1)} s from the image.`);
    const on = new Set(this.moments.map(({ before }) => before));
    const ends = this.moments.filter(({ number }) => !on.has(number));
    const choices = ends.map(({ number }, place) => new Option(`${place + 1}, to moment ${number}`, number));
    if (on.has(this.at)) choices.push(new Option("from here", this.at));
    find("branches").replaceChildren(...choices);
    find("branches").value = this.at;
    Object.assign(find("moment"), { value: this.at, max: this.moments.length - 1 });
    find("clip").href = this.walk.place("clip", this.at);
    find("path").href = this.walk.place("path", this.at);
    drawMap(find("map"), this.moments, this.at, this.moments[this.at].pose);
  }

  #listen() {
    const screen = find("screen"), known = (key) => ARROWS[key] ?? this.#act(key.toLowerCase());
    screen.addEventListener("keydown", (event) => {
      const act = known(event.key);
      if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      if (!event.repeat) this.hold(act);
    });
    screen.addEventListener("keyup", (event) => this.release(known(event.key)));
    screen.addEventListener("blur", () => this.held.clear());
    this.#dragging(screen);
    for (const button of document.querySelectorAll("#world-keys button")) {
      const { act } = button.dataset, free = () => this.release(act);
      button.addEventListener("pointerdown", () => this.hold(act));
      for (const end of ["pointerup", "pointerleave", "pointercancel"]) button.addEventListener(end, free);
      button.addEventListener("click", (event) => event.detail || this.tap(act));  // by keyboard or screen reader
    }
    for (const button of document.querySelectorAll("#world-controls [data-do]")) {
      button.addEventListener("click", () => this[button.dataset.do]());
    }
    find("branches").addEventListener("change", ({ target }) => this.goTo(Number(target.value)));
    find("moment").addEventListener("change", ({ target }) => {
      this.goTo(Math.min(Math.max(0, Math.round(Number(target.value))), this.moments.length - 1));
    });
  }

  #act(letter) {
    return letter && Object.keys(this.acts ?? {}).find((act) => this.acts[act] === letter);
  }

  // While the image is dragged, the camera turns the way that it is dragged from where that began.
  #dragging(screen) {
    let start = null;
    const ways = ["turn-left", "turn-right", "up", "down"];
    const free = () => { start = null; ways.forEach((act) => this.release(act)); };
    screen.addEventListener("pointerdown", (event) => {
      start = [event.clientX, event.clientY];
      screen.setPointerCapture(event.pointerId);
    });
    screen.addEventListener("pointermove", (event) => {
      if (!start) return;
      const [across, along] = [event.clientX - start[0], event.clientY - start[1]];
      const wanted = [across < -FAR, across > FAR, along < -FAR, along > FAR];
      ways.forEach((act, place) => {
        if (!wanted[place]) this.release(act);
        else if (!this.held.has(act)) this.hold(act);
      });
    });
    for (const end of ["pointerup", "pointercancel"]) screen.addEventListener(end, free);
  }
}

function identity() {
  return [0, 1, 2, 3].map((row) => [0, 1, 2, 3].map((column) => Number(row === column)));
}

export function begin() {  // once the tab is laid out
  if (!find("canvas")) return setTimeout(begin, 100);
  globalThis.sanaWorld ??= new World();
  find("dice").setAttribute("aria-label", "Roll a new seed");
  find("status").setAttribute("aria-live", "polite");
  // Gradio names this part, and only parts with a role may have a name.
  find("image").querySelector(".image-container")?.setAttribute("role", "group");
}
