"""Two processes draw one clip as one does; the first writes it; when one fails, both end with its sentence.

The second half of this file is what the processes run: `python test_sharing.py MODEL FOLDER`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sanakit.cli import main
from sanakit.clips.reading import open_clip
from sanakit.errors import SanaError, SettingsError
from sanakit.models.video.sana_video import SanaVideo
from sanakit.models.video.split.decoder import SplitDecoder
from sanakit.models.video.split.exchange import ProcessExchange
from sanakit.models.video.split.transformer import SplitVideo
from sanakit.models.video.wan_vae import WanVAE
from sanakit.pipelines.video.request import check_clip_request
from sanakit.pipelines.video.sharing import share_clips, told_parts
from sanakit.pipelines.video.text_to_video import TextToVideo
from sanakit.train.distributed.parallel import processes
from tests.models.video.split.threads import ThreadExchange, Threads
from tests.pipelines.video.tiny import AUTOENCODER, TRANSFORMER

WORDS = ("video", "a fox", "--seed", "7", "--frames", "9", "--size", "96x64")


class Both:
    """What two processes did. ends: code and errors of each."""

    def __init__(self, model: Path, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
        pair = [
            subprocess.Popen(
                [sys.executable, __file__, str(model), str(folder)],
                env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        self.ends = [(one.communicate(timeout=300)[1], one.returncode)[::-1] for one in pair]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def both(video_folder: Path, folder: Path) -> Both:
    return Both(video_folder, folder)


@pytest.mark.thorough
def test_two_processes_compute_what_one_does(both: Both, folder: Path) -> None:
    """Velocity and decoding over gloo, in float64: 1e-10."""
    assert (folder / "1.pt").exists(), both.ends
    transformer, codec = models()
    wanted = [transformer.velocity(*asked(transformer)), codec.decode(latents(3, 8, 12))]
    for rank in range(2):
        found = torch.load(folder / f"{rank}.pt")
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.thorough
def test_the_command_writes_one_file_with_the_clip_of_one_process(
    both: Both, video_folder: Path, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as end:
        main([*WORDS, "--model", str(video_folder), "--output", str(tmp_path / "alone")])
    assert not end.value.code
    frames = []
    for path in (tmp_path / "alone", folder / "clip"):
        with open_clip(path) as clip:
            frames.append(clip.read().frames.astype(int))
    assert np.abs(frames[0] - frames[1]).max() <= 1  # of 255: sums in another order
    assert sorted(path.name for path in folder.iterdir()) == ["0.pt", "1.pt", "clip"]
    assert both.ends[0][1].count("2 processes draw each clip, cut into 1 x 2 spans of latent frames") == 1
    assert "2 processes draw" not in both.ends[1][1]


@pytest.mark.thorough
def test_when_one_fails_both_end_with_its_sentence(both: Both) -> None:
    (code, errors), (other, others) = both.ends
    assert (code, other) == (2, 2)
    assert errors.endswith("PeerError: The drawing ended in process 1: The disk is full.\n")
    assert others.endswith("SanaError: The disk is full.\n")


def test_what_is_told_is_how_a_clip_is_cut(video_pipe: TextToVideo) -> None:
    def told(own: ThreadExchange) -> str:
        parts = (video_pipe.transformer, video_pipe.autoencoder, video_pipe.text_encoder)
        pipe = TextToVideo(*parts, video_pipe.settings)
        share_clips(pipe, own)
        return told_parts(pipe, check_clip_request(pipe.spec, "a fox", seed=0))

    assert Threads(3).run(told)[0] == (
        "3 processes draw each clip, cut into 3 x 1 spans of latent frames and of rows; each decodes the "
        "whole clip."
    )


def test_a_pipeline_is_shared_once(video_pipe: TextToVideo) -> None:
    parts = (video_pipe.transformer, video_pipe.autoencoder, video_pipe.text_encoder)
    pipe, exchange = TextToVideo(*parts, video_pipe.settings), ThreadExchange(Threads(1), 0)
    share_clips(pipe, exchange)
    with pytest.raises(SettingsError, match="call share_clips once"):
        share_clips(pipe, exchange)


def test_without_a_group_of_processes_the_pipeline_stays_as_it_is(video_pipe: TextToVideo) -> None:
    with pytest.raises(SettingsError, match="has joined no group"):
        share_clips(video_pipe)
    assert isinstance(video_pipe.transformer, SanaVideo)


def models() -> tuple[SanaVideo, WanVAE]:
    torch.manual_seed(5)
    made = SanaVideo(replace(TRANSFORMER, depth=1)), WanVAE(AUTOENCODER)
    for one in made:
        for name, parameter in one.named_parameters():
            torch.nn.init.normal_(parameter, mean=float("norm" in name or "gamma" in name), std=0.1)
    return made[0].double().requires_grad_(False), made[1].double().requires_grad_(False)


def latents(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(1, 4, *shape, generator=generator, dtype=torch.float64)


def asked(transformer: SanaVideo) -> tuple[Any, ...]:
    """Latents of 3 frames of 4x6 tokens, a time for each frame, and two prompts as for guidance."""
    words = [latents(1, 1, 12).view(1, 48)] * 2
    return latents(3, 8, 12), torch.tensor([[0.0, 0.7, 0.7]]), transformer.prepare(words)


def work(model: Path, folder: Path) -> None:
    """One of two processes."""
    with processes("drawing") as share:
        exchange, (transformer, codec) = ProcessExchange(), models()
        found = [
            SplitVideo(transformer, exchange).velocity(*asked(transformer)),
            SplitDecoder(codec, exchange).decode(latents(3, 8, 12)),
        ]
        torch.save(found, folder / f"{share.rank}.pt")
        with pytest.raises(SystemExit) as end:
            main([*WORDS, "--model", str(model), "--output", str(folder / "clip")])
        assert not end.value.code
        if share.rank == 1:
            raise SanaError("The disk is full.")
        exchange.total(torch.zeros(1))  # waits for the other one


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        work(Path(sys.argv[1]), Path(sys.argv[2]))
    except SanaError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
