"""Options that the commands which draw have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sanakit.dialect import Dialect

OWN = "model's own"

Model = Annotated[
    str, typer.Option(help="A name (`sana models`), folder, .safetensors or .pth file, or Hub org/repo.")
]
Negative = Annotated[str, typer.Option(help="What not to draw.")]
Steps = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, max=1000, show_default=OWN, help="More are finer, slower."),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        show_default=OWN,
        help="Higher follows the prompt more closely; 1 turns it off and is twice as fast.",
    ),
]
Solver = Annotated[
    Literal["dpm", "euler", "scm"] | None,
    typer.Option(show_default=OWN, help="dpm needs fewer steps than euler; scm is for SANA-Sprint only."),
]
DialectOption = Annotated[
    Dialect | None,
    typer.Option(metavar="NAME", show_default=OWN, help="diffusers; native: as NVIDIA's own scripts draw."),
]
GuidanceKind = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        show_default=OWN,
        help="How it guides: apg, zero-star, interval=0.2-0.9, pag=2, ...",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(metavar="N", min=0, show_default="random", help="The same seed draws the same image."),
]
NumImages = Annotated[
    int, typer.Option(metavar="N", min=1, max=256, help="Images to draw: this seed and those after it.")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        show_default="sana-SEED.png",
        help="Several images get -1, -2, ... in their names.",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Memory = Annotated[
    str, typer.Option(metavar="SIZE", help="Memory limit, such as 4GB; auto; all: keep everything.")
]
Plan = Annotated[
    str | None,
    typer.Option(metavar="NAME", show_default="as stored", help="Quantise while loading: int8, ..."),
]
