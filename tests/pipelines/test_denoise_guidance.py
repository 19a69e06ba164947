"""Kinds of guidance in a batch: each sample is guided as it is alone, and costs what its kind asks for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image

from sanakit.errors import SettingsError
from sanakit.models.sana import Sana
from sanakit.pipelines.control import ControlImage
from sanakit.pipelines.denoise import Batch, Sample
from sanakit.pipelines.request import check_request
from sanakit.pipelines.text_to_image import TextToImage
from tests.pipelines.samples import apart, begun, finish

SIZE = {"width": 96, "height": 64}
TOLERANCE = 1e-5  # of the largest number compared


def guided(pipe: TextToImage, kind: str, seed: int = 3, **settings) -> Sample:
    return begun(pipe, seed=seed, guidance_kind=kind, **({"guidance": 4.5, "steps": 4} | settings))[0]


KINDS = ["cfg", "apg,limit=2", "zero-star", "interval=0.3-0.9", "rescale=0.7"]


def test_kinds_of_guidance_go_together_as_they_go_alone(pipe) -> None:
    together = finish(pipe, [guided(pipe, kind) for kind in KINDS])
    alone = [finish(pipe, [guided(pipe, kind)])[0] for kind in KINDS]
    for ours, theirs in zip(together, alone, strict=True):
        assert apart(ours, theirs) < TOLERANCE
    assert min(apart(one, other) for one in alone for other in alone if one is not other) > 1e-3
    perturbed = [guided(pipe, f"pag={pag}") for pag in (1, 2)]
    for pag, ours in zip((1, 2), finish(pipe, perturbed), strict=True):
        assert apart(ours, finish(pipe, [guided(pipe, f"pag={pag}")])[0]) < TOLERANCE
    with pytest.raises(ValueError, match="one batch for each"):
        Batch(pipe.transformer, [guided(pipe, "pag=1"), guided(pipe, "cfg")])


def test_outside_its_interval_a_sample_follows_the_prompt_alone_for_half_the_work(pipe, monkeypatch) -> None:
    asked = []
    velocity = pipe.transformer.velocity
    monkeypatch.setattr(
        pipe.transformer,
        "velocity",
        lambda latents, t, context, *own, **more: (
            asked.append(context.batch),
            velocity(latents, t, context, *own, **more),
        )[1],
    )
    sample = guided(pipe, "interval=0.5-0.9", solver="euler", steps=6)
    times = sample.solver.times.tolist()[:-1]  # pyright: ignore[reportOptionalMemberAccess]
    inside = [0.5 <= time <= 0.9 for time in times]
    assert len(set(inside)) == 2
    finish(pipe, [sample])
    assert asked == [2 if guided else 1 for guided in inside]
    never = finish(pipe, [guided(pipe, "interval=0-0.001", solver="euler")])[0]
    assert (
        apart(never, finish(pipe, [begun(pipe, guidance=1.0, seed=3, steps=4, solver="euler")[0]])[0])
        < TOLERANCE
    )


def test_momentum_begins_anew_for_each_image_and_a_failed_step_leaves_it(pipe, monkeypatch) -> None:
    sample, again = guided(pipe, "apg,momentum=-0.5"), guided(pipe, "apg,momentum=-0.5")
    Batch(pipe.transformer, [sample]).step()
    kept, state = sample.kept, sample.state
    with monkeypatch.context() as broken:
        broken.setattr(Sample, "solver", property(lambda self: None), raising=False)
        with pytest.raises(AttributeError):
            Batch(pipe.transformer, [sample]).step()
    assert sample.kept is kept
    assert sample.state is state
    assert apart(finish(pipe, [sample])[0], finish(pipe, [again])[0]) < TOLERANCE


def test_what_takes_no_kind_says_so(pipe) -> None:
    for settings, told in (
        ({"guidance": 1.0}, "switches it off"),
        ({"guidance_kind": "pag=2,blocks=99"}, "blocks of"),
        ({"guidance_kind": "most"}, "wrong value"),
    ):
        with pytest.raises(SettingsError, match=told):
            begun(pipe, **({"guidance_kind": "apg", "guidance": 4.5} | settings))


def test_an_image_carries_its_kind_and_is_drawn_again_from_it(pipe) -> None:
    drawn = pipe("a fox", seed=1, steps=2, guidance=3.0, guidance_kind="pag=2", **SIZE)
    assert drawn.metadata[0]["guidance_kind"] == f"pag=2,blocks={pipe.transformer.config.depth // 2}"
    again = {
        name: drawn.metadata[0][name] for name in ("prompt", "seed", "steps", "guidance", "guidance_kind")
    }
    assert pipe(**again, **SIZE).images[0].tobytes() == drawn.images[0].tobytes()
    assert "guidance_kind" not in pipe("a fox", seed=1, steps=2, **SIZE).metadata[0]


def test_a_transformer_without_blocks_of_its_own_is_not_perturbed(pipe) -> None:
    class Graph(Sana):
        def __init__(self) -> None:
            super().__init__(pipe.transformer.config)
            self.blocks = torch.nn.ModuleList([torch.nn.Identity()])  # pyright: ignore

    with pytest.raises(SettingsError, match="keeps to itself"):
        Batch(Graph(), [guided(pipe, "pag=1")])


def test_a_models_own_kind_goes_with_guidance_and_another_is_recorded(pipe, monkeypatch) -> None:
    monkeypatch.setattr(pipe, "settings", replace(pipe.settings, guidance_kind="interval=0.5-1"))
    drawn = [
        check_request(pipe.spec, "a fox", **own) for own in ({}, {"guidance": 1.0}, {"guidance_kind": "cfg"})
    ]
    assert [str(one.kind) for one in drawn] == ["interval=0.5-1", "cfg", "cfg"]
    # an image that was drawn plainly says so, or it would be drawn again in the model's own way
    assert [one.metadata[0]["guidance_kind"] for one in drawn] == ["interval=0.5-1", "cfg", "cfg"]


def test_what_looks_into_blocks_is_refused_before_any_work(pipe) -> None:
    for depth, told in ((0, "keeps its blocks to itself"), (1, "the blocks of")):
        with pytest.raises(SettingsError, match=told):
            check_request(replace(pipe.spec, depth=depth), "a fox", guidance_kind="pag=1,blocks=5")
    control = ControlImage(Image.new("RGB", (96, 64)))
    with pytest.raises(SettingsError, match="pag cannot be combined with a control image"):
        check_request(replace(pipe.spec, controlnets=1), "a fox", guidance_kind="pag=1", control=control)
