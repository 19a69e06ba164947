"""A model of clips as a folder: ours and diffusers' open it, with all that it says of itself."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from sanakit.errors import OutputError, SettingsError, SizeError
from sanakit.models.video.sana_video import SanaVideo
from sanakit.models.video.wan_vae import WanVAE
from sanakit.text.encoder import TextEncoder
from sanakit.weights import load_autoencoder, load_text_encoder, load_transformer
from sanakit.weights.video.folder import save_video
from sanakit.weights.video.settings import ChunkSettings, load_video_settings
from tests.pipelines.video.tiny import AUTOENCODER, TRANSFORMER, save_tiny


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    source = save_tiny(tmp_path_factory.mktemp("tiny") / "model")
    return {
        "transformer": load_transformer(source, kind="clip", dtype="float32"),
        "autoencoder": load_autoencoder(source, dtype="float32"),
        "text_encoder": load_text_encoder(source, dtype="float32"),
        "flow_shift": 5.0,
        "frames": 9,
    }


def test_what_is_saved_is_what_is_opened(parts: dict[str, Any], tmp_path: Path) -> None:
    defaults = {"steps": 7, "guidance": 2.5, "width": 96, "height": 64, "solver": "euler"}
    folder = save_video(
        tmp_path / "model",
        **parts,
        rate=Fraction(25, 2),
        motion=12,
        negative_prompt="blurred",
        defaults=defaults,
        name="small",
        licence="MIT",
        example_prompts=["a cat"],
        sizes=[(96, 64)],
    )
    settings = load_video_settings(folder)
    assert (settings.frames, settings.rate, settings.motion) == (9, Fraction(25, 2), 12)
    assert settings.negative_prompt == "blurred"
    shared = settings.shared
    assert (shared.steps, shared.guidance, shared.solver, shared.flow_shift) == (7, 2.5, "euler", 5.0)
    assert (shared.width, shared.height, shared.sizes) == (96, 64, ((96, 64),))
    assert (shared.name, shared.licence, shared.example_prompts) == ("small", "MIT", ("a cat",))
    for part, load in (("transformer", load_transformer), ("autoencoder", load_autoencoder)):
        opened = load(folder, dtype="float32").state_dict()  # pyright: ignore[reportCallIssue]
        for name, tensor in parts[part].state_dict().items():
            assert torch.equal(opened[name], tensor), name
    text = load_text_encoder(folder, dtype="float32")
    before: TextEncoder = parts["text_encoder"]
    assert (text.instruction, text.max_tokens) == (before.instruction, before.max_tokens)
    ours, theirs = (one.encode(["a cat"], notes=[])[0] for one in (text, before))
    assert torch.equal(ours, theirs)


@pytest.mark.thorough
def test_diffusers_opens_it(parts: dict[str, Any], tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    folder = save_video(tmp_path / "model", **parts, rate=8, dtype="float16")
    pipe = diffusers.SanaVideoPipeline.from_pretrained(folder, local_files_only=True)
    assert pipe.scheduler.config.flow_shift == 5.0
    state = parts["transformer"].state_dict()
    theirs = pipe.transformer.state_dict()["patch_embedding.weight"]
    assert torch.equal(theirs, state["x_embedder.proj.weight"].half().float())


@pytest.mark.parametrize(
    ("changed", "error", "told"),
    [
        ({"frames": 10}, SizeError, "10 frames"),
        ({"defaults": {"strength": 1}}, SettingsError, "no defaults named strength"),
        ({"flow_shift": 0.0}, SettingsError, "flow_shift is 0.0"),
        ({"flow_shift": float("nan")}, SettingsError, "flow_shift is nan"),
        ({"transformer": "causal"}, SettingsError, "without its chunks"),
        ({"chunks": ChunkSettings()}, SettingsError, "draws whole clips"),
        ({"autoencoder": "decoder"}, OutputError, "whole autoencoder"),
    ],
)
def test_what_cannot_be_saved_is_refused(
    parts: dict[str, Any], changed: dict[str, Any], error: type[Exception], told: str, tmp_path: Path
) -> None:
    if changed.get("transformer") == "causal":
        changed = {"transformer": SanaVideo(replace(TRANSFORMER, causal=True))}
    if changed.get("autoencoder") == "decoder":
        changed = {"autoencoder": WanVAE(AUTOENCODER, "decoder")}
    with pytest.raises(error, match=told):
        save_video(tmp_path / "model", rate=8, **{**parts, **changed})
    assert not (tmp_path / "model").exists()


def test_another_folder_is_not_replaced(parts: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="not a model folder"):
        save_video(tmp_path, rate=8, **parts)


@pytest.mark.parametrize("times", [None, (1.0, 0.5)])
def test_a_causal_model_keeps_how_its_chunks_are_drawn(
    parts: dict[str, Any], tmp_path: Path, times: tuple[float, ...] | None
) -> None:
    causal = SanaVideo(replace(TRANSFORMER, causal=True))
    causal.load_state_dict(parts["transformer"].state_dict())
    chunks = ChunkSettings(length=3, times=times, shift=5.0)
    folder = save_video(tmp_path / "model", **{**parts, "transformer": causal}, rate=8, chunks=chunks)
    told = load_video_settings(folder).chunks
    assert (told.length, told.times) == (3, times)
    assert told.shift == (5.0 if times else 7.0)  # which nothing reads without times
    opened = load_transformer(folder, kind="clip", dtype="float32")
    assert opened.config == causal.config
