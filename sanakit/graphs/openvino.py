"""A network as an OpenVINO file, made of its ONNX graph and run by OpenVINO on the CPU."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sanakit.errors import MissingExtraError, WeightsError
from sanakit.graphs import onnx
from sanakit.graphs.networks import Network, RunGraph

FILE = "model.xml"  # with the weights beside it in model.bin


def write(network: Network, path: Path, *, half: bool = False) -> None:
    """Write a network in float32, or with all its numbers stored in float16 and widened as they are used.

    Numbers that float16 has nothing near to, such as the 1e-15 of linear attention, stay in float32.

    Raises as `onnx.write` does, MissingExtraError without the extra [openvino], RuntimeError where it cannot
    be written.
    """
    openvino = _openvino()
    between = path.with_name(onnx.FILE)
    onnx.write(network, between, half=half)
    openvino.save_model(openvino.convert_model(between), path, compress_to_fp16=half)
    for left in path.parent.glob(f"{onnx.FILE}*"):
        left.unlink()


def load(path: Path) -> RunGraph:
    """Open a file, to compute in float32 with as many threads as torch has.

    Raises MissingExtraError without the extra [openvino], WeightsError where it is damaged.
    """
    core = _core(_openvino())
    # Unless told, it computes in bfloat16 where the CPU has that, which is not what the model gives.
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    try:
        model = core.compile_model(path, "CPU", options)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1][:200]
        raise WeightsError(f"{path} cannot be opened ({reason}): convert the model again.") from None

    def run(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [np.array(values) for values in model(inputs).values()]  # copies: the next call overwrites

    return run


@cache
def _core(openvino: Any) -> Any:
    """Return the one runtime of this process, which is never closed.

    Each of them puts up a stack of its own for signals and, when closed, puts back the one that it found: of
    two that are closed in the order they came, the second puts back what the first has freed. The next signal
    with a handler in Python, Ctrl-C or the end of a data worker, then ends the process.
    """
    return openvino.Core()


def _openvino() -> Any:
    try:
        os.environ.setdefault("TF_BUILD", "sanakit")  # it sends usage data, unless this looks like a build
        import openvino
    except ImportError:
        raise MissingExtraError("openvino", "openvino") from None
    return openvino
