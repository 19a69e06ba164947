"""`sana quantize`: a model's folder in fewer bits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sanakit.cli.terminal import AsJson, Debug, print_json, size_in_bytes


def quantize(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="A name (`sana models`), folder or weight file of a model.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="DST", help="Folder for the quantised model.")],
    plan: Annotated[str, typer.Option(metavar="NAME", help="How: see docs/quantize.md.")] = "int8",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write a model in fewer bits.

    Layers of the transformer's blocks and of the text encoder are rounded, everything else is kept in 16
    bits. The folder draws by its name: sana generate --model DST.
    """
    from sanakit.weights import describe, save_quantized

    written = save_quantized(source, folder, plan)
    sizes = {part.kind: part.bytes for part in describe(written).parts}
    if as_json:
        print_json({"folder": written, "plan": plan, "bytes": sizes})
    else:
        parts = ", ".join(f"{kind} {size_in_bytes(size)}" for kind, size in sizes.items())
        print(f"{written}  {parts}")
