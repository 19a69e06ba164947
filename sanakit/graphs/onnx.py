"""A network as an ONNX file, written by torch's exporter and run by ONNX Runtime on the CPU."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sanakit.errors import MissingExtraError, PrecisionError, WeightsError
from sanakit.graphs.networks import Network, RunGraph

FILE = "model.onnx"
EXTERNAL_FROM = 1_000_000_000  # bytes of weights that get a file of their own; protobuf's limit is 2 GiB
HALVED_FROM = 1024  # values; smaller tensors, such as norms and tables, are not worth it


def write(network: Network, path: Path, *, half: bool = False) -> None:
    """Write a network in float32, or with the large weights stored in float16 and widened when it is loaded.

    Where they are many, they lie in a second file, `model.onnx.data`. Raises MissingExtraError without the
    extra [onnx], PrecisionError for weights that float16 cannot hold, OSError where it cannot be written.
    """
    try:
        import onnx_ir
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError:
        raise MissingExtraError("onnxscript", "onnx") from None
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            network.module,
            tuple(network.inputs.values()),
            input_names=list(network.inputs),
            output_names=list(network.outputs),
            dynamic_shapes=tuple(dict(axes) for axes in network.free.values()),
            dynamo=True,
            verbose=False,
            optimize=False,  # onnxscript's optimiser takes the 1e-15 that keeps 0 / 0 finite for a zero
        )
    assert program is not None
    if half:
        _halve(program.model)
    size = sum(value.const_value.nbytes for value in program.model.graph.initializers.values())  # pyright: ignore[reportOptionalMemberAccess]
    external = f"{path.name}.data" if size >= EXTERNAL_FROM else None
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx_ir.save(program.model, path, external_data=external)


def load(path: Path) -> RunGraph:
    """Open a file with as many threads as torch has.

    Raises MissingExtraError without the extra [onnx], WeightsError where it is damaged.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime", "onnx") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors alone
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime has a dozen classes of its own, below Exception
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise WeightsError(f"{path} cannot be opened ({reason}): convert the model again.") from None

    def run(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        return session.run(None, inputs)  # pyright: ignore[reportReturnType] - no sparse ones here

    return run


def _halve(model: Any) -> None:
    """Store large float32 weights as float16, each with a cast behind it that widens them again."""
    import onnx_ir

    graph = model.graph
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor.dtype != onnx_ir.DataType.FLOAT or tensor.size < HALVED_FROM:
            continue
        with np.errstate(over="ignore"):
            numbers = tensor.numpy().astype(np.float16)
        if not np.isfinite(numbers).all():
            raise PrecisionError(f"{name} has values that float16 cannot hold: convert in float32.")
        stored = onnx_ir.val(f"{name}.half", const_value=onnx_ir.tensor(numbers, name=f"{name}.half"))
        cast = onnx_ir.node("Cast", [stored], {"to": onnx_ir.DataType.FLOAT.value})
        widened = cast.outputs[0]
        widened.shape, widened.type = value.shape, value.type
        value.replace_all_uses_with(widened)
        del graph.initializers[name]
        widened.name = name
        graph.initializers.add(stored)
        graph.insert_before(graph[0], cast)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the user what the exporter says of itself: packages it does without, names it changes."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)
