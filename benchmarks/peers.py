"""The other side: diffusers as it is or compiled, OpenVINO in float32 and int8; on the folder that we load.

Each function gives a call without arguments that returns its output, ready to be timed. OpenVINO is told to
compute in float32 on one stream: by itself it takes bfloat16 where the processor has it. Its int8 is what
NNCF makes of a transformer after training: weights and activations in 8 bits, calibrated on samples.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Call = Callable[[], Tensor]
Inputs = tuple[Tensor, ...]

EAGER, BLOCKS, WHOLE, OPENVINO, OPENVINO_INT8 = "eager", "blocks", "whole", "openvino", "openvino-int8"
NAMES = {
    EAGER: "diffusers eager",
    BLOCKS: "diffusers, torch.compile of each block",
    WHOLE: "diffusers, torch.compile of the whole, frozen",
    OPENVINO: "OpenVINO float32",
    OPENVINO_INT8: "OpenVINO int8",
}
# What stays in float32 there as it does in ours, by the names of diffusers' modules.
INT8_LEFT = [".*patch_embed.*", ".*time_embed.*", ".*caption_projection.*", ".*proj_out.*"]
# The output of two blocks was off by 9.5 % with the defaults, 3.1 % without SmoothQuant, 2.0 % with embedders
# and output in float32 as well; bias correction and the depthwise convolution made no difference.
INT8_HOW = (
    "OpenVINO int8: NNCF, 8-bit weights and activations, calibrated on 8 samples of 8 times, model type "
    "transformer, fast bias correction, no SmoothQuant (with it the error was larger), embedders and output "
    "layer in float32, as in ours."
)


def transformer_step(
    folder: Path, wanted: Sequence[str], inputs: Inputs, samples: Sequence[Inputs] = ()
) -> dict[str, Call]:
    """Return one step of each wanted peer. inputs: latents B C H W, text B L E, mask B L, time B.

    samples: more of the like, which the activations' ranges in int8 are taken from.
    """
    from diffusers import SanaTransformer2DModel

    model = SanaTransformer2DModel.from_pretrained(folder, subfolder="transformer", torch_dtype=torch.float32)
    return _versions(_Step(model.eval()), wanted, inputs, partial(_openvino_int8, folder, samples))


def decoder(folder: Path, wanted: Sequence[str], latents: Tensor) -> dict[str, Call]:
    """Return one decode of each wanted peer. latents: 1 C H W, unscaled."""
    from diffusers import AutoencoderDC

    model = AutoencoderDC.from_pretrained(folder, subfolder="vae", torch_dtype=torch.float32)
    return _versions(model.decoder.eval(), wanted, (latents,))


def text(folder: Path, prompt: str) -> Callable[[], tuple[Tensor, Tensor]]:
    """Return diffusers' encoding of a prompt and of the empty negative prompt: L E of the real tokens."""
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(folder, transformer=None, vae=None, torch_dtype=torch.float32)
    instruction = inspect.signature(pipe.__call__).parameters["complex_human_instruction"].default

    def encode() -> tuple[Tensor, Tensor]:
        found = pipe.encode_prompt(prompt, True, negative_prompt="", complex_human_instruction=instruction)
        positive, mask, negative, negative_mask = found
        assert negative is not None and negative_mask is not None  # noqa: PT018 - with guidance they are there
        return positive[mask.bool()], negative[negative_mask.bool()]

    return encode


class _Step(nn.Module):
    """A transformer with positional inputs and one tensor as its output, as converters want it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents: Tensor, text: Tensor, mask: Tensor, time: Tensor) -> Tensor:
        return self.model(latents, text, time, encoder_attention_mask=mask, return_dict=False)[0]


def _versions(
    module: nn.Module,
    wanted: Sequence[str],
    inputs: Inputs,
    int8: Callable[[nn.Module, Inputs], Call] | None = None,
) -> dict[str, Call]:
    calls: dict[str, Call] = {}
    if EAGER in wanted:
        calls[NAMES[EAGER]] = lambda: module(*inputs)
    makers = {BLOCKS: _compiled_blocks, WHOLE: _compiled_whole, OPENVINO: _openvino, OPENVINO_INT8: int8}
    for kind, make in makers.items():
        if kind in wanted and make is not None:
            started = time.perf_counter()
            call = make(module, inputs)
            call()
            print(f"{NAMES[kind]}: ready after {time.perf_counter() - started:.0f} s", flush=True)
            calls[NAMES[kind]] = call
    return calls


def _twin(module: nn.Module) -> Any:
    """The same module once more, sharing its weights: compiling one leaves the other as it is."""
    weights = {id(tensor): tensor for tensor in [*module.parameters(), *module.buffers()]}
    return copy.deepcopy(module, weights)


def _compiled_blocks(module: nn.Module, inputs: Inputs) -> Call:
    """What diffusers recommends for repeated blocks; its own compile_repeated_blocks() refuses SANA."""
    twin = _twin(module)
    for block in twin.model.transformer_blocks:
        block.compile(dynamic=False)
    return lambda: twin(*inputs)


def _compiled_whole(module: nn.Module, inputs: Inputs) -> Call:
    """One graph whose weights are constants, which lets the compiler pack them."""
    import torch._inductor.config as inductor

    compiled = torch.compile(_twin(module), dynamic=False)
    with inductor.patch(freezing=True):
        compiled(*inputs)
    return lambda: compiled(*inputs)


def _openvino(module: nn.Module, inputs: Inputs) -> Call:
    return _running(_converted(module, inputs), inputs)


def _openvino_int8(folder: Path, samples: Sequence[Inputs], module: nn.Module, inputs: Inputs) -> Call:
    """Quantised by NNCF, which takes minutes at full size: the result is kept for the next time."""
    import openvino

    key = hashlib.sha256(f"{folder.resolve()} {[tuple(x.shape) for x in inputs]}".encode()).hexdigest()[:12]
    kept = Path(tempfile.gettempdir()) / "sanakit-benchmarks" / "openvino-int8" / f"{folder.name}-{key}.xml"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_name(f"part-{kept.name}")
        openvino.save_model(_quantized(_converted(module, inputs), samples), part, compress_to_fp16=False)
        for suffix in (".bin", ".xml"):  # the last one says that both are there
            os.replace(part.with_suffix(suffix), kept.with_suffix(suffix))
    return _running(openvino.Core().read_model(kept), inputs)


def _converted(module: nn.Module, inputs: Inputs) -> Any:
    import openvino

    model = openvino.convert_model(module, example_input=inputs[0] if len(inputs) == 1 else inputs)
    model.reshape({port: list(x.shape) for port, x in zip(model.inputs, inputs, strict=True)})
    return model


def _quantized(model: Any, samples: Sequence[Inputs]) -> Any:
    """Weights and activations to 8 bits, with the settings that err least here: see INT8_HOW."""
    import logging

    import nncf

    nncf.set_log_level(logging.ERROR)
    return nncf.quantize(
        model,
        nncf.Dataset(samples, lambda sample: [x.numpy() for x in sample]),
        subset_size=len(samples),
        model_type=nncf.ModelType.TRANSFORMER,
        target_device=nncf.TargetDevice.CPU,
        ignored_scope=nncf.IgnoredScope(patterns=INT8_LEFT),
        advanced_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alpha=-1),
    )


def _running(model: Any, inputs: Inputs) -> Call:
    import openvino

    compiled = openvino.Core().compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        },
    )
    arrays = [x.numpy() for x in inputs]
    return lambda: torch.from_numpy(compiled(arrays)[0])
