"""The runs of three stages that lead from a model of whole clips, or of worlds, to one that streams.

1 chunks     the model learns to see chunks that see earlier ones alone (`objectives/clip_velocity.py`, of
             worlds `objectives/world_velocity.py`)
2 ode        it learns the ends of its teacher's trajectories (`objectives/ode_initialisation.py`)
3 forcing    it draws chunk after chunk and learns from teacher and critic (`objectives/self_forcing.py`)

The teacher of 2 and 3 is the model that 1 began with. Clips are encoded once, before the first step, unless
the data are a cache. Each stage's result is a folder that `TextToVideo` or `World` streams with: with
guidance after the first, in a few steps after the others.
Source: LongSANA (arXiv:2509.24695) and its released training; SANA-WM's configurations.
Shapes: B clips, C latent channels, T frames, h w latents.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from sanakit.data.batches.clip_sampling import is_world
from sanakit.dialect import USUAL
from sanakit.models.video.held_frame import behind
from sanakit.models.video.sana_video import SanaVideo
from sanakit.models.world.sana_wm import SanaWM
from sanakit.train.config import TrainConfig
from sanakit.train.distill.given import ClipNetwork
from sanakit.train.distill.trajectories import teacher_trajectory, trajectory_times
from sanakit.train.distributed.parallel import current_share, training_device, wait
from sanakit.train.feeds.trajectories import AboutTrajectories, Trajectories, build_trajectories
from sanakit.train.objectives.ode_initialisation import OdeObjective
from sanakit.train.objectives.self_forcing import STUDENT, SelfForcingObjective
from sanakit.train.objectives.velocity import TRANSFORMER
from sanakit.train.run import MODEL, Run, fill_averaged
from sanakit.train.runs.causal.clips import open_taught_clips
from sanakit.train.runs.causal.taught import CausalAim, StrPath, Taught
from sanakit.train.runs.causal.worlds import open_taught_world
from sanakit.train.state.average import part_of
from sanakit.weights.fingerprint import fingerprint_weights
from sanakit.weights.video.settings import ChunkSettings

TRAJECTORIES = "trajectories"  # folder inside a run


def chunks_run(data: StrPath, output: Path, source: StrPath, config: TrainConfig, aim: CausalAim) -> Run:
    """Train a model of whole clips on chunks; the result is `output`/model.

    data: clips with captions, anything `open_source` opens, or a cache of them made for `source`; for a world
    as `world_run` takes them. source: the folder of a whole model. Raises DataError without clips, captions
    or paths to train on, SettingsError for a model that cannot learn this, and what opening and loading
    raise.
    """
    taught = open_taught(data, output, source, config, aim)
    student = taught.student(source, first=True)
    objective = taught.objective(student, config)
    chunks = replace(aim.chunks, times=None)  # not distilled yet
    finish = partial(_finish, taught=taught, student=student, part=TRANSFORMER, chunks=chunks)
    made_with = taught.made_with(data, source, {"mixing": asdict(aim.mixing), "shift": objective.shift})
    return Run(objective, config, finish, taught.clips.notes, made_with)


def ode_run(
    data: StrPath, output: Path, source: StrPath, teacher: StrPath, config: TrainConfig, aim: CausalAim
) -> Run:
    """Train a causal model on trajectories of a teacher, which are drawn first, into `output`/trajectories.

    source: the model of `chunks_run`. teacher: of whole clips; its autoencoder and text encoder are used, and
    the captions of `data` are its prompts; of a world, clips of `data` tell first frames and paths. Others:
    as for `chunks_run`.
    """
    taught = open_taught(data, output, teacher, config, aim)
    student = taught.student(source, first=False)
    folder = output / TRAJECTORIES
    draw_trajectories(folder, taught, config.seed)
    objective = OdeObjective(
        student,
        Trajectories(folder),
        taught.drawing(),
        held_out=aim.held_out,
        given=taught.given,
        seed=config.seed,
    )
    finish = partial(_finish, taught=taught, student=student, part=TRANSFORMER, chunks=aim.chunks)
    choices = {"chunks": asdict(aim.chunks), "trajectories": aim.trajectories}
    return Run(objective, config, finish, taught.clips.notes, taught.made_with(data, source, choices))


def forcing_run(
    data: StrPath, output: Path, source: StrPath, teacher: StrPath, config: TrainConfig, aim: CausalAim
) -> Run:
    """Train a causal model of few steps on its own clips.

    Of `data` captions alone are used, of a world first frames and paths, too. source: the model of `ode_run`.
    Others: as for `ode_run`.
    """
    taught = open_taught(data, output, teacher, config, aim)
    student = taught.student(source, first=False)
    objective = SelfForcingObjective(
        taught.objective(taught.teacher(), config, caption_dropout=0.0),
        student,
        chunk=aim.chunks.length,
        sampler=aim.sampler,
        matching=aim.matching,
        negative=taught.settings.negative_prompt,
    )
    finish = partial(_finish, taught=taught, student=student, part=STUDENT, chunks=aim.chunks, final=True)
    choices = {"chunks": asdict(aim.chunks), "matching": asdict(aim.matching)}
    return Run(objective, config, finish, taught.clips.notes, taught.made_with(data, source, choices))


def open_taught(data: StrPath, output: Path, source: StrPath, config: TrainConfig, aim: CausalAim) -> Taught:
    """Open a teacher, and the clips to train on. Raises as `chunks_run` does."""
    opened = open_taught_world if is_world(source) else open_taught_clips
    return opened(data, output / "cache" if aim.cache is None else aim.cache, source, config, aim)


def draw_trajectories(folder: Path, taught: Taught, seed: int) -> None:
    """Have the teacher draw what is missing of its trajectories; all processes share the work.

    Raises as `build_trajectories` does.
    """
    aim, shared = taught.aim, taught.settings.shared
    sampler, count = aim.sampler, aim.trajectories
    times, places = trajectory_times(sampler, shared.steps, shared.flow_shift)
    about = AboutTrajectories(
        teacher=dict(fingerprint_weights(taught.source).parts),
        times=sampler.model_times[:-1],
        levels=tuple(sampler.times.tolist()),
        shift=shared.flow_shift,
        steps=shared.steps,
        guidance=shared.guidance,
        negative=taught.settings.negative_prompt,
        shape=tuple(taught.clips.latents.shape[1:]),
        seed=seed,
        prompts=taught.prompts(count),
        given=taught.given_digest(count),
    )
    device, encoder = training_device(), taught.encoder
    teacher = taught.teacher("auto").eval()
    negative = encoder.encode_negative([about.negative], dialect=USUAL)[0]

    def draw(number: int) -> Tensor:
        text, known = encoder.encode([about.prompts[number]], notes=[])[0], taught.given([number])
        noise = about.noise(number).to(device)[:, known.held :]
        settings = {"times": times, "places": places, "guidance": about.guidance}
        states = teacher_trajectory(taught.bound(teacher, known), noise, text, negative, **settings)
        return behind(known.first, states)

    build_trajectories(folder, about, draw, current_share())
    wait()  # until the others have made theirs


def _finish(
    folder: Path,
    *,
    taught: Taught,
    student: ClipNetwork,
    part: str,
    chunks: ChunkSettings,
    final: bool = False,
) -> None:
    """Write a stage's averaged student as a whole model. final: it is not trained further."""
    # The trained one may be sharded.
    trained = SanaWM(student.config) if isinstance(student, SanaWM) else SanaVideo(student.config)
    fill_averaged(trained, folder, partial(part_of, name=part))
    taught.save(folder / MODEL, trained, chunks, final=final)
