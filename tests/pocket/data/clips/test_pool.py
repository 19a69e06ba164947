"""Samples of clips as latents: encoded once, in pieces, by one autoencoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sanakit.errors import DataError
from sanakit.images.image import to_tensor
from sanakit.models.video.wan_vae import WanVAE
from sanakit.pocket.data import toy
from sanakit.pocket.data.clips import pool as module
from sanakit.pocket.data.clips.dataset import open_clips
from sanakit.pocket.data.clips.pool import build_clip_pool
from sanakit.pocket.data.clips.samples import list_clip_samples, render
from sanakit.pocket.data.clips.toy import build_toy_clips
from sanakit.pocket.data.dataset import open_pocket
from tests.pipelines.video.tiny import AUTOENCODER


def codec(seed: int) -> WanVAE:
    torch.manual_seed(seed)
    return WanVAE(AUTOENCODER).eval()


def test_latents_are_encoded_once_and_normalised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy, "THINGS", 2)
    monkeypatch.setattr(module, "PIECE", 4)
    clips = open_clips(build_toy_clips(tmp_path / "toy-clips"))
    drawings = open_pocket(toy.build_toy(tmp_path / "toy"))
    every = list_clip_samples(clips, drawings, windows=1, motions=1)
    samples = [*every[:6], *every[-5:]]
    made = codec(0)
    folder = tmp_path / "pool"
    made_of = (samples, clips, drawings, made)
    built = build_clip_pool(folder, *made_of)
    kinds = [sample.kind for sample in samples]
    assert {kind: len(latents) for kind, latents in built.items()} == {k: kinds.count(k) for k in set(kinds)}
    assert built["animated"].shape == (6, 4, 5, 2, 2)
    assert built["still"].shape[2] == 1
    for number in (0, 5):
        clip = to_tensor(render(samples[number], clips, drawings)).transpose(0, 1)[None]
        with torch.no_grad():
            wanted = made.normalise(made.encode(clip))[0]
        torch.testing.assert_close(built["animated"][number], wanted, atol=5e-3, rtol=5e-3)  # of float16

    files = sorted(file.name for file in folder.glob("*.npy"))
    assert files[:2] == ["animated-00000.npy", "animated-00001.npy"]
    (folder / "pool.json").unlink()  # stopped before the end
    (folder / "animated-00001.npy").unlink()
    before = (folder / "animated-00000.npy").stat().st_mtime_ns
    again = build_clip_pool(folder, *made_of)
    assert (folder / "animated-00000.npy").stat().st_mtime_ns == before
    assert all(torch.equal(again[kind], built[kind]) for kind in built)
    np.save(folder / "animated-00000.npy", np.load(folder / "animated-00000.npy") * 0)
    assert not torch.equal(
        build_clip_pool(folder, *made_of)["animated"], built["animated"]
    )  # not encoded again

    for others in ((samples[1:], clips, drawings, made), (samples, clips, drawings, codec(1))):
        with pytest.raises(DataError, match="other samples, or another autoencoder"):
            build_clip_pool(folder, *others)
