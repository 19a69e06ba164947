"""What the stages of `sana train causal` are worth for a world: a toy of moving spots, trained in minutes.

    python benchmarks/causal_world.py [--scale 1.0] [--output runs/causal-toy]

A clip shows five frames of 4x4 cells: three coloured spots that stand in space, and one that flies on a
course that the first frame does not tell. The camera turns or goes aside. The latents are the cells
themselves. A teacher of whole clips is trained from nothing, then the three stages: chunks of three and two
latents, ends of the teacher's trajectories (ODE initialisation), self-forcing with DMD. --scale multiplies
all steps. A stage that is done is not trained again.

distance: Fréchet distance of 256 drawn last frames and 256 true ones, both behind unseen first frames; the
last line is that of two sets of true ones. It sees what a mean square does not: clips that are blurred means.
error: mean square of the frames behind the first, over the variance of the true ones; what flies cannot be
known. obeyed: share of clips that are nearer to the true one along their own path than along another.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sanakit.eval.metrics.fid import Moments, frechet_distance
from sanakit.flow.path import shift_times
from sanakit.models.gemma2 import Gemma2, Gemma2Config
from sanakit.models.video.held_frame import HeldFirstFrame, behind
from sanakit.models.world.camera import CameraInputs
from sanakit.models.world.config import SanaWMConfig
from sanakit.models.world.sana_wm import SanaWM
from sanakit.models.world.steered import SteeredWorld
from sanakit.text.encoder import TextEncoder
from sanakit.text.tokenizer import train_tokenizer
from sanakit.train.config import TrainConfig
from sanakit.train.distill.dmd import Matching
from sanakit.train.distill.few_times import FewTimes
from sanakit.train.distill.given import Given
from sanakit.train.distill.trajectories import teacher_trajectory, trajectory_times
from sanakit.train.feeds.latents import PathFeed
from sanakit.train.feeds.trajectories import AboutTrajectories, Trajectories, build_trajectories
from sanakit.train.loop import train
from sanakit.train.objective import Objective
from sanakit.train.objectives.ode_initialisation import OdeObjective
from sanakit.train.objectives.self_forcing import CRITIC, STUDENT, SelfForcingObjective
from sanakit.train.objectives.student_clips import StudentClips
from sanakit.train.objectives.velocity import TRANSFORMER, Sheet
from sanakit.train.objectives.world_velocity import (
    WatchedPaths,
    WorldMixing,
    WorldObjective,
    given_of,
    other_paths,
)
from sanakit.train.parts import Share
from sanakit.train.run import fill_averaged
from sanakit.train.state.average import part_of
from sanakit.weights.video.settings import WORLD_CHUNKS

SIDE, FRAMES, CHUNK, TEACHER_STEPS, SHIFT = 4, 5, 2, 12, 3.0
CLIPS, UNSEEN = 2048, 256
CAPTION = "spots"
CONFIG = SanaWMConfig(
    depth=2,
    width=48,
    cross_heads=2,
    head_dim=24,
    text_width=24,
    latent_channels=3,
    softmax_every=2,
    taps=2,
    plucker_channels=6,
    max_positions=16,
    rounded=False,
)
COMMON = TrainConfig(
    steps=1,
    batch_size=16,
    learning_rate=2e-3,
    warmup_steps=20,
    weight_decay=0.0,
    ema_decay=0.98,
    log_every=20,
    evaluate_every=100,
    sheet_every=10_000,
)
STEPS = {"teacher": 600, "chunks": 150, "ode": 200, "forcing": 360}
TRAJECTORIES = 256


def scenes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return clips, N 3 T S S of unit variance, and their cameras, N T 20."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    place = torch.stack([3 * draw(count, 4) - 1.5, 2 * draw(count, 4) - 1, 2 + 2 * draw(count, 4)], dim=-1)
    colour = 2 * draw(count, 4, 3) - 1
    course = torch.zeros(count, 4, 3, dtype=torch.float64)
    course[:, 3, :2] = 0.6 * (2 * draw(count, 2) - 1)  # a frame, of the one that flies
    turns = 0.16 * (2 * draw(count) - 1) * (draw(count) < 0.5)
    aside = 0.4 * (2 * draw(count) - 1) * (turns == 0)
    time_ = torch.arange(FRAMES, dtype=torch.float64)
    angle = turns[:, None] * time_
    pose = torch.eye(4, dtype=torch.float64).repeat(count, FRAMES, 1, 1)
    pose[..., 0, 0], pose[..., 0, 2] = angle.cos(), angle.sin()
    pose[..., 2, 0], pose[..., 2, 2] = -angle.sin(), angle.cos()
    pose[..., 0, 3] = aside[:, None] * time_
    focal, middle = SIDE / 2 / np.tan(np.radians(35)), (SIDE - 1) / 2
    world = place[:, None] + course[:, None] * time_[:, None, None]  # N T 4 3
    seen = torch.einsum("ntji,ntkj->ntki", pose[..., :3, :3], world - pose[..., None, :3, 3])
    x, y = (focal * seen[..., axis] / seen[..., 2] + middle for axis in (0, 1))
    cells = torch.arange(SIDE, dtype=torch.float64)
    away = (cells - x[..., None])[..., None, :] ** 2 + (cells - y[..., None])[..., :, None] ** 2
    size = (2.2 / seen[..., 2])[..., None, None]
    shown = torch.exp(-away / (2 * size**2))  # N T 4 S S
    clips = torch.einsum("ntkhw,nkc->ncthw", shown, colour).float()
    lens = torch.tensor([focal, focal, middle, middle], dtype=torch.float64).expand(count, FRAMES, 4)
    return clips / 0.33, torch.cat([pose.flatten(2), lens], dim=2).float()


def watched(latents: Tensor, cameras: Tensor) -> WatchedPaths:
    """Return clips to measure on."""
    return WatchedPaths("", latents, [CAPTION] * len(latents), cameras)


class Toy:
    """The stages, each trained in a folder or read from it."""

    def __init__(self, output: Path, scale: float) -> None:
        self.output, self.scale = output, scale
        torch.manual_seed(0)
        sizes = {"vocab_size": 512, "width": 24, "depth": 1, "heads": 2, "kv_heads": 1, "head_dim": 12}
        words = train_tokenizer([CAPTION], 512)
        self.encoder = TextEncoder(
            Gemma2(Gemma2Config(**sizes, mlp_width=24, query_scalar=12)), words, instruction=""
        )
        self.latents, self.cameras = scenes(CLIPS, 1)
        self.unseen, self.few = (watched(*scenes(count, seed)) for count, seed in ((UNSEEN, 2), (64, 3)))
        self.sampler = FewTimes.of(WORLD_CHUNKS)
        self.drawing = Sheet(
            prompts=(),
            guidance=1.0,
            steps=TEACHER_STEPS,
            shape=tuple(self.latents.shape[1:]),
            decode=lambda clips: clips.clamp(-3, 3) / 3,
        )

    def world(self, variant: str, like: SanaWM | None = None) -> SanaWM:
        """Return a world with the first weights, or those of another."""
        torch.manual_seed(1)
        made = SanaWM(replace(CONFIG, variant=variant))
        made.init_weights()
        if like is not None:
            made.load_state_dict(like.state_dict())
        return made

    def clips(self, transformer: SanaWM) -> WorldObjective:
        """Return flow matching on the clips."""
        captions, ones = [[CAPTION]] * len(self.latents), torch.ones(len(self.latents), dtype=torch.float64)
        return WorldObjective(
            transformer,
            self.encoder,
            PathFeed(self.latents, captions, ones, self.cameras),
            mixing=WorldMixing(held=1.0, chunk=CHUNK),
            compression=(1, 1),
            shift=SHIFT,
            caption_dropout=0.0,
            watched=[self.few],
            sheet=self.drawing,
        )

    def students(self) -> StudentClips:
        """Return how students draw."""
        how = {"chunk": CHUNK, "sampler": self.sampler, "watched": [self.few], "compression": (1, 1)}
        return StudentClips(self.encoder, self.drawing, **how)

    def trained(
        self, name: str, objective: Callable[[], Objective], part: str, into: SanaWM, **change: object
    ) -> SanaWM:
        """Train a stage where that is not done; return its averaged weights."""
        folder, config = self.output / name, replace(COMMON, steps=max(6, round(STEPS[name] * self.scale)))
        config = replace(config, checkpoint_every=config.steps, evaluate_every=config.steps, **change)  # pyright: ignore
        if not any(folder.glob(f"checkpoint-*{config.steps}")):
            started = time.monotonic()
            for progress in train(objective(), config, folder):
                print(f"  {name} {progress.step}: loss {progress.loss:.4f}", flush=True)
            (folder / "seconds").write_text(str(round(time.monotonic() - started)))
        fill_averaged(into, folder, partial(part_of, name=part))
        return into

    def run(self) -> dict[str, SanaWM]:
        """Train all stages in their order."""
        whole = self.world("bidirectional")
        teacher = self.trained("teacher", lambda: self.clips(whole), TRANSFORMER, self.world("bidirectional"))
        begun = self.world("streaming", teacher)
        chunks = self.trained("chunks", lambda: self.clips(begun), TRANSFORMER, self.world("streaming"))
        gentle = {"learning_rate": 5e-4}
        fitted = self.world("streaming", chunks)
        ode = self.trained(
            "ode", lambda: self.ends(fitted, teacher), TRANSFORMER, self.world("streaming"), **gentle
        )
        forced = self.world("streaming", ode)

        def forcing() -> SelfForcingObjective:
            clips = self.clips(self.world("bidirectional", teacher))
            matching = Matching(guidance=1.0)
            return SelfForcingObjective(clips, forced, chunk=CHUNK, sampler=self.sampler, matching=matching)

        rates = {
            "learning_rate": 2e-4,
            "rate_factors": ((f"{CRITIC}.", 1.0),),
            "betas": (0.0, 0.999),
            "warmup_steps": 0,
        }
        return {
            "teacher": teacher,
            "chunks": chunks,
            "ode": ode,
            "forcing": self.trained("forcing", forcing, STUDENT, self.world("streaming"), **rates),
        }

    def ends(self, student: SanaWM, teacher: SanaWM) -> OdeObjective:
        """Have the teacher draw trajectories; return the objective on them."""
        count = max(16, round(TRAJECTORIES * min(1.0, self.scale)))
        times, places = trajectory_times(self.sampler, TEACHER_STEPS, SHIFT)
        about = AboutTrajectories(
            teacher={},
            times=self.sampler.model_times[:-1],
            levels=tuple(self.sampler.times.tolist()),
            shift=SHIFT,
            steps=TEACHER_STEPS,
            guidance=1.0,
            negative="",
            shape=tuple(self.latents.shape[1:]),
            seed=0,
            prompts=(CAPTION,) * count,
        )
        text = self.encoder.encode([CAPTION])[0]

        def given(numbers: list[int]) -> Given:
            return given_of(self.latents[numbers], self.cameras[numbers], (1, 1))

        def draw(number: int) -> Tensor:
            known = given([number])
            path = CameraInputs(*(part[0] for part in known.inputs or ()))
            bound = HeldFirstFrame(SteeredWorld(teacher, path), self.latents[[number], :, :1])
            noise, settings = about.noise(number)[:, 1:], {"times": times, "places": places, "guidance": 1.0}
            return behind(known.first, teacher_trajectory(bound, noise, text, text, **settings))

        folder = self.output / "trajectories"
        build_trajectories(folder, about, draw, Share())
        return OdeObjective(student, Trajectories(folder), self.students(), held_out=8, given=given)

    @torch.no_grad()
    def whole(self, teacher: SanaWM, times: Tensor, one: WatchedPaths, paths: list[int]) -> Tensor:
        """Draw watched clips by Euler's steps of whole clips."""
        text, mask = self.encoder.encode_tokens(self.encoder.tokenize(one.captions, notes=[]))
        given = given_of(one.latents, one.cameras[paths], (1, 1))
        x = torch.randn(one.latents.shape, generator=torch.Generator().manual_seed(5))
        for high, low in pairwise(times.tolist()):
            x = x + (low - high) * given.velocity(teacher, x, torch.full((len(x),), high), text, mask)
        return given.beginning(x)


def measured(draw: Callable[[list[int]], Tensor], one: WatchedPaths) -> dict[str, float]:
    """Return the figures of clips that are drawn along paths, given by number."""
    own, others = draw(list(range(UNSEEN))), draw(other_paths(one.cameras))
    true = one.latents[:, :, 1:]
    errors = [(drawn[:, :, 1:] - true).square().flatten(1).mean(1) for drawn in (own, others)]
    return {
        "distance": distance(own, scenes(UNSEEN, 4)[0]),
        "error": errors[0].mean().item() / true.var().item(),
        "obeyed": (errors[0] < errors[1]).float().mean().item(),
    }


def distance(one: Tensor, other: Tensor) -> float:
    """Return the Fréchet distance of the last frames of clips, N C T S S."""
    first, second = Moments(), Moments()
    first.add(one[:, :, -1].flatten(1))
    second.add(other[:, :, -1].flatten(1))
    return frechet_distance(first, second)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--output", type=Path, default=Path("runs/causal-toy"))
    given = parser.parse_args()
    toy = Toy(given.output, given.scale)
    stages = toy.run()
    one, few = toy.unseen, torch.tensor(toy.sampler.model_times)
    many = shift_times(torch.linspace(1, 0, TEACHER_STEPS + 1), SHIFT)
    students = toy.students()
    rows = {
        f"teacher, whole, {TEACHER_STEPS} steps": partial(toy.whole, stages["teacher"], many, one),
        "teacher, whole, 4 steps": partial(toy.whole, stages["teacher"], few, one),
        "in chunks, 4 steps": partial(students.along, stages["chunks"], one),
        "behind ode, 4 steps": partial(students.along, stages["ode"], one),
        "behind forcing, 4 steps": partial(students.along, stages["forcing"], one),
    }
    for name, draw in rows.items():
        figures = measured(draw, one)
        print(f"{name:28}" + "".join(f"  {key} {value:.3f}" for key, value in figures.items()), flush=True)
    print(f"{'true clips':28}  distance {distance(one.latents, scenes(UNSEEN, 4)[0]):.3f}")


if __name__ == "__main__":
    main()
