"""A long walk on the page in Chromium: from a key to its first new frame, and memory, by random weights.

    python benchmarks/page_walk.py --minutes 10 --write

Starts `sana ui` with a world model of pocket-world's size as a process of its own, enters it in a headless
Chromium and walks with random keys. Time and memory depend on shapes, not on what was learned. Measured in
the page: milliseconds from a key's event to the first new frame on the canvas, and to the chunk's last one.
After a collection of garbage: bytes of JavaScript's heap. From outside: resident memory of the server, and
of all of Chromium's processes together. Needs selenium, and Chromium with its driver.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import side_by_side as side
from PIL import Image

FRAMES = 37  # of a clip, as pocket-world is trained
RATE = 16  # frames a second
SIDE = 64
KEYS = "wwwwasdd"  # chosen at random; forward most
GROWTH = 1.05  # asked at most: memory of the last third over that of the second
WAITS = 1000.0  # ms, asked at most
WAIT = 120  # seconds
SAMPLES = 30  # of the memory
# Notes when a key came, when the first frame after it was shown, and when the last one of its chunk was.
WATCH = """
globalThis.walked = {keys: 0, first: [], last: []};
const screen = document.getElementById("world-screen"), canvas = document.getElementById("world-canvas");
let began = null, told = false;
screen.addEventListener("keydown", () => {
  [began, told] = [performance.now(), false];
  walked.keys += 1;
}, true);
new MutationObserver(() => {
  if (began === null) return;
  const now = performance.now() - began;
  if (!told) walked.first.push(now);
  if (told) walked.last.pop();
  walked.last.push(now);
  told = true;
}).observe(canvas, {attributeFilter: ["data-frame"]});
"""


def main() -> None:
    """Walk, and print the tables."""
    parser = side.parser_of(__doc__, threads=2, model=False)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only-make", type=Path, help="write the model into this folder, and end")
    asked = parser.parse_args()
    if asked.only_make is not None:
        make(asked.only_make)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, __file__, "--only-make", name], check=True)
        with served(folder, asked.threads) as (address, server), browser(address, folder) as page:
            walked = walk(page, server, asked.minutes * 60)
    report(walked, asked.minutes, asked.threads, write=asked.write)


def make(folder: Path) -> None:
    """Write a world model of random numbers of pocket-world's size, and the image to begin with."""
    import torch

    from sanakit.models.video.wan_vae import WanVAE
    from sanakit.models.world.sana_wm import SanaWM
    from sanakit.pocket.recipes import world
    from sanakit.weights import load_text_encoder
    from sanakit.weights.video.settings import ChunkSettings
    from sanakit.weights.video.world_folder import save_world

    torch.manual_seed(0)
    transformer = SanaWM(world.TRANSFORMER)
    transformer.init_weights()
    save_world(
        folder / "model",
        transformer=transformer,
        autoencoder=WanVAE(world.AUTOENCODER),
        text_encoder=load_text_encoder("pocket"),
        flow_shift=world.SHIFT,
        frames=FRAMES,
        rate=RATE,
        defaults={**world.DEFAULTS, "width": SIDE, "height": SIDE},
        chunks=ChunkSettings(length=3, times=None, shift=None),
        dtype=torch.float16,
        name="random-world",
    )
    random_image = torch.randint(0, 256, (SIDE, SIDE, 3), dtype=torch.uint8)
    Image.fromarray(random_image.numpy()).save(folder / "first.png")


@contextmanager
def served(folder: Path, threads: int) -> Iterator[tuple[str, psutil.Process]]:
    """Serve the page with the model in the folder; yield its address, and the server."""
    words = ["ui", "--model", str(folder / "model"), "--port", "0", "--no-open", "--device", "cpu"]
    words += ["--data", str(folder / "data")]
    command = [sys.executable, "-c", "from sanakit.cli import main; main()", *words]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().rpartition(" ")[2].strip(), psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(WAIT)


@contextmanager
def browser(address: str, folder: Path) -> Iterator[Any]:
    """Open the page in Chromium and enter the world; yield the driver."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    switches = ("headless=new", "no-sandbox", "disable-gpu", "disable-background-networking")
    for switch in (*switches, f"user-data-dir={folder / 'profile'}", "window-size=1366,900"):
        options.add_argument(f"--{switch}")
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver") or ""))
    try:
        enter(driver, address, folder)
        yield driver
    finally:
        driver.quit()


def enter(driver: Any, address: str, folder: Path) -> None:
    """Go to the page, enter the world by the image in the folder, and watch it. Raises TimeoutError."""
    driver.get(address)
    find(driver, '#world-image input[type="file"]').send_keys(str(folder / "first.png"))
    find(driver, "#world-image img")
    entered = time.monotonic()
    while not driver.find_elements("css selector", "#world-stage[data-state=walking]"):
        if time.monotonic() - entered > WAIT:
            raise TimeoutError("The world could not be entered: " + find(driver, "#world-status").text)
        button = find(driver, "#world-enter")
        if button.is_enabled():
            button.click()
        time.sleep(0.5)
    idle(driver)
    driver.execute_script(WATCH)


def find(driver: Any, selector: str) -> Any:
    """Wait until something is on the page, and return it."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, WAIT).until(lambda _: driver.find_element("css selector", selector))


def idle(driver: Any) -> None:
    """Wait until the last chunk has been shown."""
    from selenium.webdriver.support.ui import WebDriverWait

    shown = "return !sanaWorld.busy && !sanaWorld.player.queue.length"
    WebDriverWait(driver, WAIT, poll_frequency=0.01).until(lambda _: driver.execute_script(shown))


def walk(driver: Any, server: psutil.Process, seconds: float) -> dict[str, list[float]]:
    """Press keys for so long; return waits in ms, and memory in MB at equal steps of time."""
    choice, began = random.Random(0), time.monotonic()
    screen = find(driver, "#world-screen")
    memory: dict[str, list[float]] = {"server": [], "Chromium": [], "JavaScript's heap": []}
    own = psutil.Process(driver.service.process.pid)
    while (now := time.monotonic() - began) < seconds:
        if now >= len(memory["server"]) * seconds / SAMPLES:
            driver.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
            heap = driver.execute_cdp_cmd("Runtime.getHeapUsage", {})["usedSize"]
            parts = [one.memory_info().rss for one in own.children(recursive=True)]
            for place, count in zip(memory, (server.memory_info().rss, sum(parts), heap), strict=True):
                memory[place].append(count / 1e6)
        screen.send_keys(choice.choice(KEYS))
        idle(driver)
    noted = driver.execute_script("return walked")
    return {"first": noted["first"], "last": noted["last"], "keys": [noted["keys"]], **memory}


def report(walked: dict[str, list[float]], minutes: float, threads: int, *, write: bool) -> None:
    """Print the tables, and store them if asked."""
    what = f"{minutes:g} minutes in headless Chromium, {walked['keys'][0]:.0f} keys, {threads} threads."
    lines = [*side.heading("A walk on the page", what), ""]
    rows = [
        [name, *(f"{value:.0f}" for value in (statistics.median(values), quantile(values, 95), max(values)))]
        for name, values in (
            ("first new frame", walked["first"]),
            ("last frame of its chunk", walked["last"]),
        )
    ]
    lines += side.table(["ms from the key to", "median", "95 %", "most"], rows)
    lines += ["", f"Asked: {WAITS:.0f} ms at most to the first new frame.", ""]
    rows = []
    for place in ("server", "Chromium", "JavaScript's heap"):
        values = walked[place]
        third = len(values) // 3
        middle, last = (statistics.median(part) for part in (values[third : -third or None], values[-third:]))
        figures = (values[0], middle, last, max(values))
        rows.append([place, *(f"{value:.1f}" for value in figures), f"{last / middle:.3f}"])
    head = ["MB", "at first", "second third", "last third", "most", "last over second"]
    lines += [*side.table(head, rows), "", f"Asked: {GROWTH} at most."]
    side.publish(lines, f"{threads}-threads-page-walk", write=write)


def quantile(values: list[float], percent: int) -> float:
    """Return the value that so many percent of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


if __name__ == "__main__":
    main()
