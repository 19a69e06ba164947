// A walk on the server: moves and replays as streams of frames, over the routes that docs/world.md describes.

export class Walk {
  constructor(told, address) {  // told: the reply that describes it
    Object.assign(this, { told, address });
  }

  // Events of a move: {type: "world.frame", frame, pose, b64_json}, then {type: "world.moment", moment}.
  async *move(body) {
    const head = { "Content-Type": "application/json" };
    yield* events(await ask(`${this.address}/moves`, { method: "POST", headers: head, body: JSON.stringify(body) }));
  }

  async *replay(moment, signal) {
    yield* events(await ask(this.place("frames", moment), { signal }));
  }

  async still(moment) {  // the last frame of a moment, as a Blob
    return (await ask(`${this.address}/moments/${moment}/frame`)).blob();
  }

  place(file, moment) {
    return `${this.address}/${file}?moment=${moment}`;
  }

  end() {  // also while the page is closed
    fetch(this.address, { method: "DELETE", keepalive: true }).catch(() => {});
  }
}

async function ask(address, options) {
  const answer = await fetch(address, options);
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  throw new Error(said?.error?.message ?? `The server answered ${answer.status}.`);
}

async function* events(answer) {
  const text = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await text.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").find((line) => line.startsWith("data: "));
      if (!data) continue;  // a comment that keeps the connection
      const event = JSON.parse(data.slice(6));
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}
