"""`sana convert`: a model rewritten in another form."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from sanakit.cli.terminal import AsJson, Debug, print_json, size_in_bytes


def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="As for `sana generate --model`.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Folder to write; official: a .pth file.")],
    to: Annotated[
        Literal["diffusers", "official", "onnx", "openvino"],
        typer.Option(show_default=False, help="Output layout; official holds only the transformer."),
    ],
    dtype: Annotated[
        str, typer.Option(help="Dtype of the stored weights: float32, float16, bfloat16 (not for graphs).")
    ] = "float32",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write a model in another form.

    onnx and openvino are graphs, which ONNX Runtime or OpenVINO runs; `sana generate --model DST` draws from
    them as from any other model.
    """
    from sanakit.weights import convert as convert_model
    from sanakit.weights.quantized import plan_of

    plan = plan_of(source)
    path = convert_model(source, target, to, dtype=dtype)
    if plan:
        print(
            f"Warning: {source} is quantised by the plan {plan}: its weights are widened, and keep what "
            "rounding did to them.",
            file=sys.stderr,
        )
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files)
    if as_json:
        print_json({"path": str(path), "form": to, "dtype": dtype, "bytes": size})
    else:
        print(f"{path}  {to}, {dtype}, {size_in_bytes(size)}")
