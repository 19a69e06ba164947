"""Trajectories of a teacher in a folder: drawn once, before a training, and continued where that was stopped.

    trajectories.json      of what they are: teacher, guidance, times, shape, seed, and every prompt
    0000/000123.safetensors    trajectory 123: "states", S+1 C T h w, float16, from noise to clip

Each file is written whole or not at all, and depends on its number alone: a run that was killed makes what is
missing, to the bit what it would have made, whichever processes make it.
Source: CausVid (arXiv:2412.07772) and LongSANA's released training store the same states, in float16, too.
Shapes: S few times, C latent channels, T frames, h w latents.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sanakit.errors import DataError, NumericsError, OutputError, WeightsError
from sanakit.seeds import sample_generator
from sanakit.train.parts import Share
from sanakit.weights.read.files import TensorFiles
from sanakit.weights.read.header import write_safetensors
from sanakit.whole import ABANDONED, sweep, written_whole

ABOUT = "trajectories.json"
FORMAT = 1  # raised when the meaning of a file changes
STORED = torch.float16
STATES = "states"  # the tensor's name
FOLDER = 1000  # files of one folder
TOLD = 25  # trajectories from one line of the log to the next
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class AboutTrajectories:
    """The settings that trajectories depend on.

    teacher: fingerprints of the weights that draw them, by part. times: the few ones, that the student is
    asked at; levels: to which samples are noised there. shift, steps, guidance, negative: how the teacher
    draws. shape: of a clip's latents. seed: trajectory k begins with noise of (seed, k). given: a digest of
    first frames and cameras, of worlds.
    """

    teacher: Mapping[str, str]
    times: tuple[float, ...]
    levels: tuple[float, ...]
    shift: float
    steps: int
    guidance: float
    negative: str
    shape: tuple[int, ...]  # C T h w
    seed: int
    prompts: tuple[str, ...]
    given: str = ""

    def noise(self, number: int) -> Tensor:
        """Return the noise that a trajectory begins with, C T h w, float32 on the CPU."""
        generator = sample_generator(self.seed, 0, number)
        return torch.randn(self.shape, generator=generator, dtype=torch.float32)


class Trajectories:
    """The finished trajectories of a folder.

    Raises DataError for a folder that has none, or not all of them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.about = folder, read_about(folder)
        if missing := _missing(folder, len(self.about.prompts)):
            raise DataError(
                f"{folder} lacks {len(missing)} of {len(self.about.prompts)} trajectories: start the same "
                "training again with --resume, which makes them."
            )

    def __len__(self) -> int:
        return len(self.about.prompts)

    def states(self, numbers: Sequence[int]) -> Tensor:
        """Return the states of trajectories, B S+1 C T h w, float32. Raises DataError for a damaged file."""
        return torch.stack([self._states(number) for number in numbers]).float()

    def _states(self, number: int) -> Tensor:
        path, wanted = _file(self.folder, number), (len(self.about.levels), *self.about.shape)
        again = "delete it, and start the same training again with --resume."
        try:
            states = TensorFiles([path]).read(STATES)
        except (WeightsError, OSError, KeyError) as error:
            raise DataError(f"{path} cannot be read ({error}): {again}") from None
        if tuple(states.shape) != wanted:
            raise DataError(f"{path} holds states of {tuple(states.shape)} instead of {wanted}: {again}")
        return states


def build_trajectories(
    folder: Path, about: AboutTrajectories, draw: Callable[[int], Tensor], share: Share
) -> None:
    """Make the trajectories of a folder that are missing: this process its part of them.

    draw: returns the states of a number, S+1 C T h w. The caller lets all processes wait for each other
    before it opens `Trajectories`. Raises DataError where the folder's are of something else, which it names,
    NumericsError for states that are not finite in float16, OutputError where they cannot be written.
    """
    if (folder / ABOUT).exists():
        _check_same(folder, read_about(folder), about)
    # by number, as others may have made some of theirs already
    own = [n for n in _missing(folder, len(about.prompts)) if n % share.world == share.rank]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for place in (folder, *folder.glob("*/")):
            sweep(place, older=0 if share.world == 1 else ABANDONED)
        if share.rank == 0 and not (folder / ABOUT).exists():
            with written_whole(folder / ABOUT) as partial:
                content = {"format": FORMAT, **asdict(about)}
                partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        for done, number in enumerate(own):
            if done % TOLD == 0:
                log.info(f"The teacher draws trajectory {done + 1} of {len(own)}.")
            states = draw(number).to("cpu", STORED).contiguous()
            if not bool(states.isfinite().all()):
                raise NumericsError(
                    f"Trajectory {number} ({about.prompts[number]!r}) is not finite in float16: the teacher "
                    "diverges there. Lower its guidance, or leave that clip out."
                )
            path = _file(folder, number)
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(path) as partial:
                write_safetensors(partial, {STATES: states}, STORED)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written ({error.strerror or error}): free space there, or choose another "
            "--output."
        ) from None


def read_about(folder: Path) -> AboutTrajectories:
    """Return what a folder's trajectories are of. Raises DataError where it has none."""
    path = folder / ABOUT
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise DataError(f"{path} was written by another version: draw the trajectories again, elsewhere.")
        rows: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in content.items()
        }
        return AboutTrajectories(**rows)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} does not describe trajectories ({error}): choose another folder.") from None


def _check_same(folder: Path, there: AboutTrajectories, now: AboutTrajectories) -> None:
    """Raise DataError, which names the first difference, unless both describe the same trajectories."""
    for name in AboutTrajectories.__dataclass_fields__:
        before, wanted = getattr(there, name), getattr(now, name)
        if before != wanted:
            told = (
                f"{len(before)} prompts there, {len(wanted)} others here"
                if name == "prompts"
                else f"{name} = {before} there, {wanted} here"
            )
            raise DataError(
                f"{folder} holds other trajectories ({told}): use the same settings and data, or another "
                "--output."
            )


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number // FOLDER:04d}" / f"{number:06d}.safetensors"


def _missing(folder: Path, count: int) -> list[int]:
    return [number for number in range(count) if not _file(folder, number).is_file()]
