"""The other side: diffusers as it is, diffusers compiled, OpenVINO; float32 all, on the folder that we load.

Each function gives a call without arguments that returns its output, ready to be timed. OpenVINO is told to
compute in float32 on one stream: by itself it takes bfloat16 where the processor has it.
"""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Call = Callable[[], Tensor]

EAGER, BLOCKS, WHOLE, OPENVINO = "eager", "blocks", "whole", "openvino"
NAMES = {
    EAGER: "diffusers eager",
    BLOCKS: "diffusers, torch.compile of each block",
    WHOLE: "diffusers, torch.compile of the whole, frozen",
    OPENVINO: "OpenVINO float32",
}


def transformer_step(folder: Path, wanted: Sequence[str], inputs: tuple[Tensor, ...]) -> dict[str, Call]:
    """Give one step of each wanted peer. inputs: latents B C H W, text B L E, mask B L, time B."""
    from diffusers import SanaTransformer2DModel

    model = SanaTransformer2DModel.from_pretrained(folder, subfolder="transformer", torch_dtype=torch.float32)
    return _versions(_Step(model.eval()), wanted, inputs)


def decoder(folder: Path, wanted: Sequence[str], latents: Tensor) -> dict[str, Call]:
    """Give one decode of each wanted peer. latents: 1 C H W, unscaled."""
    from diffusers import AutoencoderDC

    model = AutoencoderDC.from_pretrained(folder, subfolder="vae", torch_dtype=torch.float32)
    return _versions(model.decoder.eval(), wanted, (latents,))


def text(folder: Path, prompt: str) -> Callable[[], tuple[Tensor, Tensor]]:
    """Give diffusers' encoding of a prompt and of the empty negative prompt: L E of the real tokens."""
    from diffusers import SanaPipeline

    pipe = SanaPipeline.from_pretrained(folder, transformer=None, vae=None, torch_dtype=torch.float32)
    instruction = inspect.signature(pipe.__call__).parameters["complex_human_instruction"].default

    def encode() -> tuple[Tensor, Tensor]:
        found = pipe.encode_prompt(prompt, True, negative_prompt="", complex_human_instruction=instruction)
        positive, mask, negative, negative_mask = found
        return positive[mask.bool()], negative[negative_mask.bool()]

    return encode


class _Step(nn.Module):
    """A transformer with positional inputs and one tensor as its output, as converters want it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents: Tensor, text: Tensor, mask: Tensor, time: Tensor) -> Tensor:
        return self.model(latents, text, time, encoder_attention_mask=mask, return_dict=False)[0]


def _versions(module: nn.Module, wanted: Sequence[str], inputs: tuple[Tensor, ...]) -> dict[str, Call]:
    calls: dict[str, Call] = {}
    if EAGER in wanted:
        calls[NAMES[EAGER]] = lambda: module(*inputs)
    for kind, make in ((BLOCKS, _compiled_blocks), (WHOLE, _compiled_whole), (OPENVINO, _openvino)):
        if kind in wanted:
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


def _compiled_blocks(module: nn.Module, inputs: tuple[Tensor, ...]) -> Call:
    """What diffusers recommends for repeated blocks; its own compile_repeated_blocks() refuses SANA."""
    twin = _twin(module)
    for block in twin.model.transformer_blocks:
        block.compile(dynamic=False)
    return lambda: twin(*inputs)


def _compiled_whole(module: nn.Module, inputs: tuple[Tensor, ...]) -> Call:
    """One graph whose weights are constants, which lets the compiler pack them."""
    import torch._inductor.config as inductor

    compiled = torch.compile(_twin(module), dynamic=False)
    with inductor.patch(freezing=True):
        compiled(*inputs)
    return lambda: compiled(*inputs)


def _openvino(module: nn.Module, inputs: tuple[Tensor, ...]) -> Call:
    import openvino

    model = openvino.convert_model(module, example_input=inputs if len(inputs) > 1 else inputs[0])
    model.reshape({port: list(x.shape) for port, x in zip(model.inputs, inputs, strict=True)})
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
