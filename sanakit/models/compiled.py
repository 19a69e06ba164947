"""Steps with fewer gaps between kernels: blocks by torch.compile, and on CUDA the whole step as one graph.

torch.compile fuses what lies between the matrix products of a block. A CUDA graph is a recorded list of a
step's launches, which is replayed. At 1024 px and below, a GPU finishes a kernel before Python has launched
the next one.
Shapes: B samples, C h w latents.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from sanakit.errors import SettingsError
from sanakit.models.contracts import ModelPart, VelocityModel
from sanakit.models.layers import TextKeysValues
from sanakit.models.sana import TextContext
from sanakit.ops import gpu
from sanakit.ops.torch_private import copy_all

COMPILERS = ("g++", "clang++", "c++")  # one of them is what torch.compile needs on a CPU
# Tokens of all samples, beyond which a step keeps a GPU busy without a graph, whose memory stays taken.
MAX_TOKENS = 8192

Velocity = Callable[..., Tensor]  # as `Sana.velocity`
Capture = Callable[[Callable[[], Tensor], torch.device], tuple[Callable[[], object], Tensor]]
"""Records what a function launches on a device; gives what replays it, and where the result then is."""


def has_compiler(device: torch.device) -> bool:
    """Return whether the tool that torch.compile needs for a device exists: a C++ compiler, or Triton."""
    return any(map(shutil.which, COMPILERS)) if device.type == "cpu" else gpu.TRITON or device.type != "cuda"


def compile_sampling(transformer: VelocityModel, device: torch.device) -> None:
    """Let torch.compile fuse the sampling path of every block; on CUDA, replay whole steps as graphs too.

    To be called when all layers are what they will be: quantised, with adapters, or as they are. All blocks
    share what is compiled. Sizes and lengths that change are compiled again once, then for any number.
    Raises SettingsError without a compiler, and for graphs.
    """
    if not any(weight.numel() for weight in transformer.parameters()):
        raise SettingsError("Graphs are compiled by their runtime: omit compile, or use the original model.")
    if not has_compiler(device):
        lacking = "a C++ compiler (g++ or clang++)" if device.type == "cpu" else "Triton (pip install triton)"
        raise SettingsError(f"compile needs {lacking} on {device.type}: install it, or omit compile.")
    for block in transformer.blocks:
        block.sample = torch.compile(block.sample)  # on the instance: the names of its weights stay
    resident = all(weight.device.type == "cuda" for weight in transformer.parameters())
    if device.type == "cuda" and resident:  # weights that come and go are never twice in the same place
        transformer.velocity = StepGraph(transformer.velocity, transformer)


class StepGraph:
    """`Sana.velocity`, replayed as a graph while all shapes stay as they are; called like it.

    The first call with new shapes runs as written, which compiles what has to be; the second is captured, and
    from then on inputs are copied to where the captured ones lie. So a server whose batch changes in every
    step never waits for a capture. One graph is kept. Prompts of equal lengths share it.
    """

    def __init__(self, velocity: Velocity, transformer: ModelPart, capture: Capture | None = None) -> None:
        self._velocity = velocity
        self._weights = [*transformer.parameters(), *transformer.buffers()]
        self._capture = capture or _capture_cuda
        self._key: object = None
        self._graph: _Captured | None = None

    def __call__(
        self,
        latents: Tensor,
        t: float | Tensor,
        context: TextContext,
        guidance: float | Tensor | None = None,
        *,
        after_block: Callable[[nn.Module], object] | None = None,
    ) -> Tensor:
        """All as for `Sana.velocity`; with after_block nothing is captured."""
        numbers = [_on_device(t, latents), None if guidance is None else _on_device(guidance, latents)]
        tokens = context.batch * latents.shape[-2] * latents.shape[-1]
        if after_block is not None or tokens > MAX_TOKENS:
            return self._velocity(latents, numbers[0], context, numbers[1], after_block=after_block)
        # Weights may change their values, not their places: a graph has those written into it.
        places = [weight.data_ptr() for weight in self._weights]
        prompts = [(p.count, p.eps, *(part.shape for part in _tensors(p))) for p in context.layers[0]]
        key = (latents.shape, latents.dtype, [n is None or n.shape for n in numbers], prompts, places)
        if key != self._key:
            self._key, self._graph = key, None
            return self._velocity(latents, numbers[0], context, numbers[1])
        if self._graph is None:
            self._graph = _Captured(self._velocity, latents, context, numbers, self._capture)
        return self._graph(latents, context, numbers)


class _Captured:
    """One graph, and the tensors that it reads and writes."""

    def __init__(
        self,
        velocity: Velocity,
        latents: Tensor,
        context: TextContext,
        numbers: list[Tensor | None],
        capture: Capture,
    ) -> None:
        self._context = context  # whose values the graph's own context has now
        own = TextContext([[_copy(prompt) for prompt in layer] for layer in context.layers])
        x, self._numbers = latents.clone(), [None if n is None else n.clone() for n in numbers]
        self._latents, self._prompts, (t, guidance) = x, _all_tensors(own), self._numbers
        self._replay, self._result = capture(lambda: velocity(x, t, own, guidance), x.device)

    def __call__(self, latents: Tensor, context: TextContext, numbers: list[Tensor | None]) -> Tensor:
        self._latents.copy_(latents)
        for own, given in zip(self._numbers, numbers, strict=True):
            if own is not None and given is not None:
                own.copy_(given)
        if context is not self._context:
            copy_all(self._prompts, _all_tensors(context))
            self._context = context
        self._replay()
        return self._result.clone()  # the next replay writes there


def _capture_cuda(run: Callable[[], Tensor], device: torch.device) -> tuple[Callable[[], object], Tensor]:
    graph = torch.cuda.CUDAGraph()
    # Other threads, such as a server's that encodes texts, may continue with what a capture forbids.
    with torch.cuda.device(device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = run()
    return graph.replay, result


def _on_device(value: float | Tensor, latents: Tensor) -> Tensor:
    """Return one number, or one per sample, without waiting for the device."""
    if isinstance(value, Tensor):
        return value.to(latents.device, torch.float32).reshape(-1)
    return latents.new_full((1,), value, dtype=torch.float32)


def _tensors(prompt: TextKeysValues) -> list[Tensor]:
    return [part for part in (prompt.key, prompt.value, prompt.constant, prompt.bias) if part is not None]


def _all_tensors(context: TextContext) -> list[Tensor]:
    return [part for layer in context.layers for prompt in layer for part in _tensors(prompt)]


def _copy(prompt: TextKeysValues) -> TextKeysValues:
    parts = {name: getattr(prompt, name) for name in ("key", "value", "constant", "bias")}
    return replace(prompt, **{name: part.clone() for name, part in parts.items() if part is not None})
