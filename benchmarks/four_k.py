"""An image of 4096 x 4096 px by `sana generate`, SANA 1.6B 4K: seconds, memory, and what the plan had said.

    python benchmarks/four_k.py [--steps 1] [--guidance 4.5] [--memory auto] [--threads 2] [--write]
    python benchmarks/four_k.py --model 1.6b-2k --size 2048x2048
    python benchmarks/four_k.py --folder sanakit/assets/pocket --size 256x256    # tries the script itself

The weights are random (`random_weights.py`), in bfloat16 as the published ones are; of Gemma 2 there are few
layers, whose work is small beside the rest. The command draws in a process of its own; its peak is the most
resident memory of that process (VmHWM), in which pages of mapped weight files count. The plan is told by a
process that loads the same model and draws nothing. Linux only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from datetime import date
from pathlib import Path
from typing import Any

import side_by_side as side

PROMPT = "a small fluffy white cat sleeping on a sunny windowsill"
SANA = "from sanakit.cli import main; main()"
PLAN = """
import json, sys
from sanakit.pipelines.request import check_request
from sanakit.pipelines.text_to_image import TextToImage
folder, memory, width, height, guidance = sys.argv[1:]
pipe = TextToImage.from_pretrained(folder, device="cpu", memory=memory)
asked = {"width": int(width), "height": int(height), "guidance": float(guidance)}
plan = pipe.plan(check_request(pipe.spec, "", **asked))
print(json.dumps({"residence": plan.residence, "band": plan.band, "peak": plan.peak}))
"""


def main() -> None:
    """Make the model, ask for the plan, draw, and print both."""
    parser = side.parser_of(__doc__)
    parser.set_defaults(text_layers=2, depth=None)
    parser.add_argument("--model", default="1.6b-4k", help="of random_weights.py")
    parser.add_argument("--size", default="4096x4096")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--guidance", type=float, default=4.5, help="1 is off, in half the time")
    parser.add_argument("--memory", default="auto", help="as for `sana generate`")
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(asked.threads)
    folder = asked.folder or _made(asked.model, asked.text_layers, asked.depth)
    width, height = asked.size.split("x")
    planned = json.loads(_python(PLAN, folder, asked.memory, width, height, str(asked.guidance)))
    found = draw(folder, asked)
    stages = found["timings"]
    figures = [*stages.values(), found["seconds"]]
    lines = [
        f"# One picture of {asked.size} px, {date.today()}",
        "",
        f"{side.machine()}, {asked.threads} thread(s), model {Path(folder).name}, {asked.steps} step(s), "
        f"guidance {asked.guidance:g}, memory {asked.memory}.",
        f"Command: `python benchmarks/four_k.py {' '.join(sys.argv[1:])}`",
        "",
        *side.table([*(f"{name} s" for name in stages), "process s"], [[f"{s:.1f}" for s in figures]]),
        "",
        *side.table(
            ["plan", "band, latent rows", "peak planned MB", "peak measured MB", "measured / planned"],
            [
                [
                    planned["residence"],
                    f"{planned['band']:g}",
                    f"{planned['peak'] / 1e6:.0f}",
                    f"{found['peak'] / 1e6:.0f}",
                    f"{found['peak'] / planned['peak']:.2f}",
                ]
            ],
        ),
    ]
    side.publish(lines, f"{asked.threads}-threads-{asked.size}", write=asked.write)


def draw(folder: str, asked: Namespace) -> dict[str, Any]:
    """Run the command; gives its seconds, those of its stages, and its peak in bytes.

    Raises SystemExit where it fails or its PNG has another size.
    """
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    with tempfile.TemporaryDirectory() as place:
        picture, told = Path(place) / "drawn.png", Path(place) / "told.json"
        words = {"model": folder, "size": asked.size, "steps": asked.steps, "guidance": asked.guidance}
        words |= {"memory": asked.memory, "seed": 0, "device": "cpu", "output": picture}
        options = [f"--{name}={word}" for name, word in words.items()]
        started = time.perf_counter()
        with told.open("w") as out:
            command = [sys.executable, "-c", SANA, "generate", PROMPT, "--json", *options]
            process = subprocess.Popen(command, stdout=out)
            # Of this child alone. Begun by vfork, it inherits our own peak: this process imports no torch.
            _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        if status:
            sys.exit(f"sana generate failed ({os.waitstatus_to_exitcode(status)}); -9: memory was out")
        size = "x".join(map(str, Image.open(picture).size))
        if size != asked.size:
            sys.exit(f"{asked.size} px were asked for, but the PNG has {size}")
        timings = json.loads(told.read_text())["timings"]
    return {"seconds": seconds, "timings": timings, "peak": usage.ru_maxrss * 1024}


def _made(model: str, text_layers: int, depth: int | None) -> str:
    """Make the random weights in a process of their own: this one stays small."""
    words = ["--model", model, "--text-layers", str(text_layers)]
    words += [] if depth is None else ["--depth", str(depth)]
    script = Path(__file__).with_name("random_weights.py")
    command = [sys.executable, str(script), *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout.rpartition("  ")[0]


def _python(code: str, *words: str) -> str:
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
