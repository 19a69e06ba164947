"""Compiled blocks draw the same; the graph of a step follows its inputs, and gives way where shapes change.

CUDA's capture cannot run here: in its place stands a function that computes again whenever it is replayed,
into the same tensor. So what is shown is the work around it: which call is captured, and what is copied.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from sanakit.errors import SettingsError
from sanakit.graphs.parts import Graph, GraphTransformer
from sanakit.models import compiled
from sanakit.models.compiled import COMPILERS, StepGraph, compile_sampling
from sanakit.models.sana import Sana, SanaConfig, TextContext
from sanakit.ops import gpu

CONFIG = SanaConfig(depth=2, width=64, cross_heads=2, text_width=24, latent_channels=4)


def tiny() -> Sana:
    torch.manual_seed(0)
    return Sana(CONFIG).eval()


def context(model: Sana, *lengths: int) -> TextContext:
    return model.prepare([torch.randn(length, 24) for length in lengths])


@pytest.mark.thorough
@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_blocks_draw_the_same(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch.compile makes of a block; "eager" runs the graphs that it finds as they are, in seconds."""
    if backend == "inductor" and not any(map(shutil.which, COMPILERS)):
        pytest.skip("no compiler")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend, fullgraph=True))
    monkeypatch.setattr(compiled, "has_compiler", lambda device: True)
    model, latents = tiny(), torch.randn(1, 4, 4, 6)
    lengths = [context(model, 1, length) for length in (5, 6, 9)]
    plain = [model.velocity(latents, 0.3, prompts) for prompts in lengths]
    compile_sampling(model, torch.device("cpu"))
    torch._dynamo.reset()
    counters.clear()
    for prompts, exact in zip(lengths, plain, strict=True):
        ours = model.velocity(latents, 0.3, prompts)
        assert (ours - exact).abs().max() < 1e-5 * exact.abs().max()  # float32 both; 3e-7 at the first trial
    # Of the block where the prompts part and of all others; for one length of text, then for any.
    assert counters["stats"]["unique_graphs"] == 4


@pytest.mark.parametrize(("device", "what"), [("cpu", r"C\+\+ compiler"), ("cuda", "Triton")])
def test_without_a_compiler_an_error_says_what_is_missing(
    device: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    monkeypatch.setattr(gpu, "TRITON", False)
    with pytest.raises(SettingsError, match=what):
        compile_sampling(tiny(), torch.device(device))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_graphs_have_nothing_to_compile(device: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="omit compile"):
        compile_sampling(GraphTransformer(CONFIG, Graph(tmp_path, "onnx")), torch.device(device))


class Recorded:
    """A capture that computes again when it is replayed, and counts."""

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def __call__(
        self, run: Callable[[], Tensor], device: torch.device
    ) -> tuple[Callable[[], object], Tensor]:
        self.captures += 1
        result = torch.full_like(run(), float("nan"))  # capturing computes nothing

        def replay() -> None:
            self.replays += 1
            result.copy_(run())

        return replay, result


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


@pytest.mark.parametrize("each", [False, True], ids=["one time", "a time each"])
def test_the_second_call_is_captured_and_later_ones_follow_their_inputs(
    recorded: Recorded, each: bool
) -> None:
    model = tiny()
    graph = StepGraph(model.velocity, model, recorded)
    prompts = [context(model, 1, 1, 5, 6) for _ in range(2)]
    kept = []
    for step, (prompt, time) in enumerate([(0, 0.9), (0, 0.7), (0, 0.4), (1, 0.9), (0, 0.1)]):
        latents = torch.randn(2, 4, 3, 5)
        t = torch.tensor([time, time / 2]) if each else time
        kept.append((graph(latents, t, prompts[prompt]), model.velocity(latents, t, prompts[prompt])))
        assert (recorded.captures, recorded.replays) == (min(step, 1), step)
    for ours, exact in kept:  # and no later call wrote over an earlier result
        assert torch.equal(ours, exact)


def test_other_shapes_run_as_written_first(recorded: Recorded) -> None:
    model = tiny()
    graph = StepGraph(model.velocity, model, recorded)
    square, wide = torch.randn(1, 4, 4, 4), torch.randn(1, 4, 2, 8)
    five, six = context(model, 1, 5), context(model, 1, 6)
    for latents, prompts, captures in [
        (square, five, 0),
        (square, five, 1),
        (wide, five, 1),  # as many tokens, of another shape
        (wide, six, 1),
        (wide, six, 2),
        (square, five, 2),  # one graph is kept
        (square, context(model, 5, 1), 2),
    ]:
        ours = graph(latents, 0.5, prompts)
        assert torch.equal(ours, model.velocity(latents, 0.5, prompts))
        assert recorded.captures == captures


def test_weights_may_change_their_values_but_not_their_places(recorded: Recorded) -> None:
    model = tiny()
    graph = StepGraph(model.velocity, model, recorded)
    latents, prompts = torch.randn(1, 4, 4, 4), context(model, 5)
    for _ in range(2):
        graph(latents, 0.5, prompts)
    weight = model.final_layer.linear.weight
    with torch.no_grad():
        weight.mul_(2)
    assert torch.equal(graph(latents, 0.5, prompts), model.velocity(latents, 0.5, prompts))
    assert (recorded.captures, recorded.replays) == (1, 2)
    weight.data = weight.data.clone()
    graph(latents, 0.5, prompts)
    assert recorded.replays == 2


def test_large_steps_and_steps_that_give_memory_back_are_not_captured(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ran = tiny(), []
    graph = StepGraph(model.velocity, model, recorded)
    latents, prompts = torch.randn(1, 4, 4, 4), context(model, 1, 5)
    for _ in range(3):
        graph(latents, 0.5, prompts, after_block=ran.append)
    assert len(ran) == 3 * CONFIG.depth
    monkeypatch.setattr(compiled, "MAX_TOKENS", 31)  # two samples of 16
    for _ in range(3):
        graph(latents, 0.5, prompts)
    assert recorded.captures == 0


@pytest.mark.gpu
def test_a_captured_step_draws_the_same_on_a_gpu() -> None:
    model = tiny().to("cuda")
    text = [torch.randn(length, 24, device="cuda") for length in (1, 5, 1, 5)]
    prompts = [model.prepare(text[:2]), model.prepare(text[2:])]
    steps = [
        (torch.randn(1, 4, 4, 6, device="cuda"), 0.9 - 0.2 * step, prompts[step // 3]) for step in range(5)
    ]
    plain = [model.velocity(*step) for step in steps]
    compile_sampling(model, torch.device("cuda"))
    assert isinstance(model.velocity, StepGraph)
    for step, exact in zip(steps, plain, strict=True):
        ours = model.velocity(*step)
        # float32, in which a GPU's matrix products are exact unless TF32 is allowed, as it is not by default
        assert (ours - exact).abs().max() < 1e-4 * exact.abs().max()
