"""A server under load: many clients at once, against diffusers drawing one request after the other.

Starts `sana serve` as a process of its own and lets clients ask for images of mixed sizes and steps over
HTTP on the loopback address, each one request after the other; some hang up on the way. Before and after, the
same kinds of request go one at a time through diffusers in this process, with as many threads. Measured are
images a second, how long each kind of request takes, what was answered, and the server's memory; some
images are compared with those that the library draws alone. All clients begin at once, a crowd that no
later moment sees: images and times count from SETTLE seconds on, answers and memory from the start.

    python benchmarks/serve.py --clients 64 --seconds 300 --threads 2 --write
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import side_by_side as side

POCKET = Path(__file__).resolve().parents[1] / "sanakit" / "assets" / "pocket"
PROMPTS = ("a red apple", "a green frog", "a yellow pear", "a sailboat", "two cherries", "a blue whale")
# Width, height, steps, and how often: many small ones, some large.
KINDS = {
    "small": (128, 128, 4, 4),
    "middle": (256, 256, 10, 4),
    "wide": (320, 192, 8, 2),
    "large": (384, 384, 20, 1),
}
GUIDANCE = (2.5, 2.5, 4.0, 1.0)
SETTLE = 20.0  # seconds
HANG_UP = 0.05  # of the requests, at a random moment
STARTING = 300  # seconds; most of them import torch where others compute, too
COMPARED = 24  # images drawn again alone
SMALL_P95, LEAST_RATIO = 3.0, 2.5  # asked: 95th percentile over median of small requests; throughput
GROWTH = 1.05  # of memory, from the second third of the time to the last


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    kind: str
    prompt: str
    guidance: float
    seed: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return KINDS[self.kind][:2]

    @property
    def steps(self) -> int:
        """Of denoising."""
        return KINDS[self.kind][2]


@dataclass(slots=True)
class Observed:
    """What the clients saw."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    answers: Counter[str] = field(default_factory=Counter)
    images: list[tuple[Asked, bytes]] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)  # MB, once a second
    counted_from: float = 0.0  # time.monotonic()
    took: float = 0.0  # seconds from then on
    answered: int = 0  # images from then on


def requests(seed: int) -> Iterator[Asked]:
    """Yield requests without end, the same for the same seed."""
    chance = random.Random(seed)
    kinds, weights = list(KINDS), [kind[3] for kind in KINDS.values()]
    while True:
        (kind,) = chance.choices(kinds, weights)
        yield Asked(kind, chance.choice(PROMPTS), chance.choice(GUIDANCE), chance.randrange(2**31))


@contextmanager
def server(threads: int, folder: Path) -> Iterator[tuple[str, int]]:
    """Run `sana serve`; gives its address and process number."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from sanakit.cli import main; main()", "serve"]
    command += ["--port", str(port), "--data", str(folder / "data")]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    log = (folder / "server.log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        for _ in range(STARTING):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None:
                raise SystemExit((folder / "server.log").read_text()[-2000:])
            time.sleep(1)
        else:
            raise SystemExit(f"The server did not listen within {STARTING} s.")
        yield f"http://127.0.0.1:{port}", process.pid
        process.send_signal(signal.SIGTERM)
        if process.wait(60):
            raise SystemExit(f"The server ended with {process.returncode}.")
    finally:
        process.kill()
        log.close()


async def load(url: str, pid: int, clients: int, seconds: float) -> Observed:
    """Ask for images from many clients at once."""
    import httpx

    seen = Observed()
    seen.counted_from = time.monotonic() + min(SETTLE, seconds / 2)
    until = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=clients + 8)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as http:
        watching = asyncio.create_task(_watch(pid, seen))
        await asyncio.gather(*(_client(http, number, until, seen) for number in range(clients)))
        watching.cancel()
    seen.took = time.monotonic() - seen.counted_from
    return seen


async def _client(http, number: int, until: float, seen: Observed) -> None:
    import httpx

    chance = random.Random(-number)
    for asked in requests(number):
        if time.monotonic() >= until:
            return
        width, height = asked.size
        body = {"prompt": asked.prompt, "size": f"{width}x{height}", "response_format": "b64_json"}
        body |= {"steps": asked.steps, "guidance": asked.guidance, "seed": asked.seed}
        started = time.monotonic()
        call = asyncio.ensure_future(http.post("/v1/images/generations", json=body))
        if chance.random() < HANG_UP:
            await asyncio.wait([call], timeout=chance.uniform(0, 3))
            call.cancel()
            with suppress(asyncio.CancelledError, httpx.HTTPError):
                await call
            seen.answers["hung up"] += 1
            continue
        try:
            answer = await call
        except httpx.HTTPError as error:
            seen.answers[type(error).__name__] += 1
            continue
        seen.answers[str(answer.status_code)] += 1
        if answer.status_code in (429, 503):
            await asyncio.sleep(float(answer.headers.get("Retry-After", 1)))
        elif answer.status_code == 200:
            now = time.monotonic()
            seen.answered += now >= seen.counted_from
            if started >= seen.counted_from:
                seen.seconds[asked.kind].append(now - started)
            if seen.answers["200"] % 20 == 1 and len(seen.images) < COMPARED:
                image = base64.b64decode(answer.json()["data"][0]["b64_json"])
                seen.images.append((asked, image))


async def _watch(pid: int, seen: Observed) -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    while True:
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page
        seen.memory.append(resident / 1e6)
        await asyncio.sleep(1)


def one_at_a_time(pipe, seconds: float, seed: int) -> tuple[int, float]:
    """Draw the same kinds of request with diffusers; gives images and seconds."""
    import torch

    drawn, started = 0, time.monotonic()
    for asked in requests(seed):
        width, height = asked.size
        pipe(
            asked.prompt,
            width=width,
            height=height,
            num_inference_steps=asked.steps,
            guidance_scale=asked.guidance,
            generator=torch.Generator().manual_seed(asked.seed),
            use_resolution_binning=False,
        )[0][0].save(io.BytesIO(), "PNG")
        drawn += 1
        if time.monotonic() - started >= seconds:
            break
    return drawn, time.monotonic() - started


def largest_difference(images: list[tuple[Asked, bytes]]) -> int:
    """Draw the same images alone; gives the largest difference of a pixel, of 255."""
    import numpy as np
    from PIL import Image

    from sanakit import TextToImage

    pipe, largest = TextToImage.from_pretrained("pocket"), 0
    for asked, served in images:
        width, height = asked.size
        alone = pipe(
            asked.prompt,
            width=width,
            height=height,
            steps=asked.steps,
            guidance=asked.guidance,
            seed=asked.seed,
        ).images[0]
        theirs = np.asarray(Image.open(io.BytesIO(served)), dtype=np.int16)
        largest = max(largest, int(np.abs(np.asarray(alone, dtype=np.int16) - theirs).max()))
    return largest


def main() -> None:
    parser = side.parser_of(__doc__, threads=2)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300.0, help="of load")
    parser.add_argument("--peer-seconds", type=float, default=60.0, help="of diffusers, before and after")
    asked = parser.parse_args()
    side.use_threads(asked.threads)
    from diffusers import SanaPipeline

    peer = SanaPipeline.from_pretrained(POCKET)
    peer.set_progress_bar_config(disable=True)
    one_at_a_time(peer, 1, seed=-2)
    before = one_at_a_time(peer, asked.peer_seconds, seed=-1)
    with tempfile.TemporaryDirectory() as folder, server(asked.threads, Path(folder)) as (url, pid):
        asyncio.run(load(url, pid, min(8, asked.clients), 5))  # warm
        seen = asyncio.run(load(url, pid, asked.clients, asked.seconds))
    after = one_at_a_time(peer, asked.peer_seconds, seed=-3)
    lines = report(asked, seen, (before[0] + after[0]) / (before[1] + after[1]))
    print("\n".join(lines))
    if asked.write:
        name = f"{date.today()}-{os.uname().machine}-{asked.threads}-threads-serve.md"
        (side.RESULTS / name).write_text("\n".join(lines) + "\n")


def report(asked, seen: Observed, peer_rate: float) -> list[str]:
    """Lay out what was measured."""
    rate = seen.answered / seen.took
    third = len(seen.memory) // 3
    early, late = (statistics.median(part) for part in (seen.memory[third : 2 * third], seen.memory[-third:]))
    rows, spread = [], {}
    for kind, times in seen.seconds.items():
        width, height, steps, _ = KINDS[kind]
        median, p95 = statistics.median(times), statistics.quantiles(times, n=20)[-1]
        spread[kind] = p95 / median
        rows.append(
            [
                f"{kind}: {width}x{height}, {steps} steps",
                *(len(times), f"{median:.2f}", f"{p95:.2f}", f"{p95 / median:.2f}"),
            ]
        )
    other = {
        name: count for name, count in seen.answers.items() if name not in ("200", "hung up", "429", "503")
    }
    return [
        f"# A server under load, {date.today()}",
        "",
        f"{side.machine()}. Model: pocket. {asked.clients} clients for {asked.seconds:g} s on the loopback "
        f"address of the same machine, whose cores they share; {asked.threads} thread(s) on both sides.",
        f"Command: `python benchmarks/serve.py --clients {asked.clients} --seconds {asked.seconds:g} "
        f"--threads {asked.threads} --write`",
        "",
        *side.table(["request", "timed", "median s", "95 % s", "95 % / median"], rows),
        "",
        f"- Pictures a second: {rate:.2f}; diffusers, one request at a time, before and after: "
        f"{peer_rate:.2f}. **Ratio {rate / peer_rate:.2f}** (asked: {LEAST_RATIO}).",
        f"- Small requests: 95th percentile **{spread['small']:.2f}** times the median (asked: at most "
        f"{SMALL_P95}).",
        f"- Answers: {dict(seen.answers)}. Other than 200, 429 and 503: **{sum(other.values())}**.",
        f"- Memory of the server: median {early:.0f} MB in the second third of the time, {late:.0f} MB in "
        f"the last, at most {max(seen.memory):.0f} MB ({'flat' if late <= GROWTH * early else 'grew'}).",
        f"- {len(seen.images)} pictures drawn again alone: largest difference of a pixel "
        f"**{largest_difference(seen.images)}** of 255 (asked: at most 2).",
    ]


if __name__ == "__main__":
    main()
