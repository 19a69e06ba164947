"""From a model of whole clips to one that streams: the runs of its three stages.

1 chunks     the model learns to see chunks that see earlier ones alone (`objectives/clip_velocity.py`)
2 ode        it learns the ends of its teacher's trajectories (`objectives/ode_initialisation.py`)
3 forcing    it draws chunk after chunk and learns from teacher and critic (`objectives/self_forcing.py`)

The teacher of 2 and 3 is the model that 1 began with. Clips are encoded once, before the first step, unless
the data are a cache. Each stage's result is a folder that `TextToVideo` streams with: with guidance after the
first, in a few steps after the others.
Source: LongSANA (arXiv:2509.24695) and its released training.
Shapes: B clips, C latent channels, T frames, h w latents.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from sanakit.data.read.source import data_fingerprint
from sanakit.dialect import USUAL
from sanakit.errors import SettingsError
from sanakit.flow.few_step import FewStep
from sanakit.models.video.sana_video import SanaVideo, SanaVideoConfig
from sanakit.models.video.wan_vae import WanVAE
from sanakit.text.encoder import TextEncoder
from sanakit.train.config import TrainConfig
from sanakit.train.distill.dmd import Matching
from sanakit.train.distill.trajectories import teacher_trajectory, trajectory_times
from sanakit.train.distributed.parallel import current_share, training_device, wait
from sanakit.train.feeds.captioned import CaptionedFeed
from sanakit.train.feeds.feed import decoded
from sanakit.train.feeds.trajectories import AboutTrajectories, Trajectories, build_trajectories
from sanakit.train.objectives.clip_velocity import ClipMixing, ClipObjective
from sanakit.train.objectives.ode_initialisation import OdeObjective
from sanakit.train.objectives.self_forcing import STUDENT, SelfForcingObjective
from sanakit.train.objectives.velocity import CAPTION_DROPOUT, TRANSFORMER, Sheet, Watched
from sanakit.train.record import MadeWith
from sanakit.train.run import MODEL, Run, fill_averaged
from sanakit.train.runs.trained_clips import TrainedClips, open_trained_clips
from sanakit.train.state.average import part_of
from sanakit.weights import load_autoencoder, load_text_encoder, load_transformer
from sanakit.weights.fingerprint import fingerprint_weights
from sanakit.weights.quantized import check_trainable
from sanakit.weights.save import DEFAULTS
from sanakit.weights.video.folder import save_video
from sanakit.weights.video.settings import (
    ChunkSettings,
    VideoSettings,
    load_video_configs,
    load_video_settings,
)

StrPath = str | os.PathLike[str]

TRAJECTORIES = "trajectories"  # folder inside a run
CAUSAL = "-causal"  # behind the teacher's name
DRAWN = 8  # clips on a sheet, at most


@dataclass(frozen=True, kw_only=True, slots=True)
class CausalAim:
    """The settings of the three stages besides those of the loop.

    chunks: how the result draws. mixing, shift: of the first stage, see `ClipMixing`. trajectories: how many
    the teacher draws for the second; held_out: of them. matching: of the third. resolution: in pixels; None:
    the model's own. cache: folder of the encoded clips; None: in the run's.
    """

    chunks: ChunkSettings = field(default_factory=ChunkSettings)
    mixing: ClipMixing = field(default_factory=ClipMixing)
    shift: float = 3.0
    trajectories: int = 1000
    held_out: int = 16
    matching: Matching = field(default_factory=Matching)
    resolution: int | None = None
    cache: Path | None = None

    @property
    def sampler(self) -> FewStep:
        """The few steps of the student. Raises SettingsError for chunks without fresh noise between them."""
        if self.chunks.times is None or self.chunks.shift is None:
            raise SettingsError("The student's few steps need times and a shift: set both in its chunks.")
        return FewStep(self.chunks.times, self.chunks.shift)


def chunks_run(data: StrPath, output: Path, source: StrPath, config: TrainConfig, aim: CausalAim) -> Run:
    """Train a model of whole clips on chunks; the result is `output`/model.

    data: clips with captions, anything `open_source` opens, or a cache of them made for `source`. source: the
    folder of a whole model. Raises DataError without clips or captions to train on, SettingsError for a model
    that cannot learn this, and what opening and loading raise.
    """
    taught = open_taught(data, output, source, config, aim)
    student = causal_transformer(source, distilled=False)
    objective = taught.objective(student, config, mixing=aim.mixing, shift=aim.shift)
    chunks = replace(aim.chunks, times=None)  # not distilled yet
    finish = partial(_finish, taught=taught, student=student, part=TRANSFORMER, chunks=chunks)
    made_with = taught.made_with(data, source, {"mixing": asdict(aim.mixing), "shift": aim.shift})
    return Run(objective, config, finish, taught.clips.notes, made_with)


def ode_run(
    data: StrPath, output: Path, source: StrPath, teacher: StrPath, config: TrainConfig, aim: CausalAim
) -> Run:
    """Train a causal model on trajectories of a teacher, which are drawn first, into `output`/trajectories.

    source: the model of `chunks_run`. teacher: of whole clips; its autoencoder and text encoder are used, and
    the captions of `data` are its prompts. Others: as for `chunks_run`.
    """
    taught = open_taught(data, output, teacher, config, aim)
    folder = output / TRAJECTORIES
    draw_trajectories(folder, taught, aim, config.seed)
    student = causal_transformer(source, like=taught.config)
    objective = OdeObjective(
        student,
        taught.encoder,
        Trajectories(folder),
        chunk=aim.chunks.length,
        sampler=aim.sampler,
        held_out=aim.held_out,
        sheet=taught.sheet(),
        seed=config.seed,
    )
    finish = partial(_finish, taught=taught, student=student, part=TRANSFORMER, chunks=aim.chunks)
    choices = {"chunks": asdict(aim.chunks), "trajectories": aim.trajectories}
    return Run(objective, config, finish, taught.clips.notes, taught.made_with(data, source, choices))


def forcing_run(
    data: StrPath, output: Path, source: StrPath, teacher: StrPath, config: TrainConfig, aim: CausalAim
) -> Run:
    """Train a causal model of few steps on its own clips; only the captions of `data` are used.

    source: the model of `ode_run`. Others: as for `ode_run`.
    """
    taught = open_taught(data, output, teacher, config, aim)
    student = causal_transformer(source, like=taught.config)
    judge = load_transformer(teacher, kind="clip", device=training_device(), dtype="float32")
    assert isinstance(judge, SanaVideo)
    clips = taught.objective(judge, config, mixing=ClipMixing(), shift=aim.shift, caption_dropout=0.0)
    objective = SelfForcingObjective(
        clips,
        student,
        chunk=aim.chunks.length,
        sampler=aim.sampler,
        matching=aim.matching,
        negative=taught.settings.negative_prompt,
    )
    final = taught.settings.shared.precision
    finish = partial(_finish, taught=taught, student=student, part=STUDENT, chunks=aim.chunks, rule=final)
    choices = {"chunks": asdict(aim.chunks), "matching": asdict(aim.matching)}
    return Run(objective, config, finish, taught.clips.notes, taught.made_with(data, source, choices))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Taught:
    """All that the stages share: the model of whole clips without its transformer, and the clips."""

    source: StrPath  # the model of whole clips
    config: SanaVideoConfig
    settings: VideoSettings
    codec: WanVAE
    encoder: TextEncoder
    clips: TrainedClips

    def objective(
        self,
        transformer: SanaVideo,
        config: TrainConfig,
        *,
        mixing: ClipMixing,
        shift: float,
        caption_dropout: float = CAPTION_DROPOUT,
    ) -> ClipObjective:
        """Return the objective of clips of a transformer."""
        return ClipObjective(
            transformer,
            self.encoder,
            CaptionedFeed(self.clips.loader, self.codec),
            mixing=mixing,
            shift=shift,
            seed=config.seed,
            caption_dropout=caption_dropout,
            watched=[Watched("", self.clips.latents, self.clips.captions)],
            sheet=self.sheet(),
        )

    def sheet(self) -> Sheet:
        """Return the contact sheet that each stage draws: captions of clips that are measured on."""
        decode: Callable[[Tensor], Tensor] = partial(decoded, self.codec)
        return Sheet(
            prompts=self.clips.captions[:DRAWN],
            guidance=self.settings.shared.guidance,
            steps=self.settings.shared.steps,
            shape=tuple(self.clips.latents.shape[1:]),
            decode=decode,
        )

    def made_with(self, data: StrPath, source: StrPath, choices: Mapping[str, object]) -> MadeWith:
        """Return the record of a run: the teacher's weights are among them."""
        return MadeWith(
            source=source,
            parts={"teacher": fingerprint_weights(self.source).whole},
            data=data,
            content=data_fingerprint(self.clips.loader.cache),
            choices={**choices, "shape": list(self.clips.latents.shape[1:])},
        )


def open_taught(data: StrPath, output: Path, source: StrPath, config: TrainConfig, aim: CausalAim) -> Taught:
    """Open a model of whole clips, and the clips to train on. Raises as `chunks_run` does."""
    check_trainable(source)
    sizes, _ = load_video_configs(source)
    settings = load_video_settings(source)
    if not isinstance(sizes, SanaVideoConfig) or sizes.causal:
        raise SettingsError(
            f"{source} does not draw whole clips with linear attention alone, as the teacher must: use a "
            "SANA-Video model that is not causal."
        )
    device = training_device()
    codec = load_autoencoder(source, device=device, dtype="float32")
    if not isinstance(codec, WanVAE):
        raise SettingsError(
            f"The autoencoder of {source} does not decode chunks as they come: use a model with Wan 2.1's."
        )
    clips = open_trained_clips(
        data,
        output / "cache" if aim.cache is None else aim.cache,
        source,
        batch_size=config.batch_size,
        seed=config.seed,
        resolution=aim.resolution,
        device=device,
    )
    frames, least = clips.latents.shape[2], 2 * aim.chunks.length
    if frames < least:
        rule = codec.config.frame_rule
        raise SettingsError(
            f"Most clips have {rule.frames(frames)} frames, which are a single chunk of {aim.chunks.length} "
            f"latents or more: train on clips of {rule.frames(least)} frames, or set shorter chunks in the "
            "recipe."
        )
    encoder = load_text_encoder(source, device=device)
    parts = {"source": source, "config": sizes, "settings": settings, "codec": codec}
    return Taught(**parts, encoder=encoder, clips=clips)


def causal_transformer(
    source: StrPath, *, like: SanaVideoConfig | None = None, distilled: bool = True
) -> SanaVideo:
    """Load a transformer to be trained in chunks, float32, on the training's device.

    like: the teacher's sizes, which it must have. distilled: whether a model of few steps may be trained.
    Raises SettingsError for one that does not fit.
    """
    check_trainable(source)
    settings = load_video_settings(source)
    transformer = load_transformer(source, kind="clip", device=training_device(), dtype="float32")
    if not isinstance(transformer, SanaVideo):
        raise SettingsError(
            f"{source} has softmax attention, which sees whole clips: use a SANA-Video model."
        )
    if not distilled and transformer.config.causal and settings.chunks.times is not None:
        raise SettingsError(
            f"{source} is distilled to few steps, which this training would undo: train the model it was "
            "made from."
        )
    own = replace(transformer.config, causal=True)
    if like is not None and own != replace(like, causal=True):
        raise SettingsError(f"{source} has other sizes than its teacher: use a model made from the teacher.")
    transformer.config = own
    return transformer


def draw_trajectories(folder: Path, taught: Taught, aim: CausalAim, seed: int) -> None:
    """Have the teacher draw what is missing of its trajectories; all processes share the work.

    Raises as `build_trajectories` does.
    """
    sampler, shared = aim.sampler, taught.settings.shared
    times, places = trajectory_times(sampler, shared.steps, shared.flow_shift)
    prompts = taught.clips.prompts
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
        prompts=tuple(prompts[number % len(prompts)] for number in range(aim.trajectories)),
    )
    device, encoder = training_device(), taught.encoder
    teacher = load_transformer(taught.source, kind="clip", device=device).eval()
    negative = encoder.encode_negative([about.negative], dialect=USUAL)[0]

    def draw(number: int) -> Tensor:
        text = encoder.encode([about.prompts[number]], notes=[])[0]
        noise = about.noise(number).to(device)
        settings = {"times": times, "places": places, "guidance": about.guidance}
        return teacher_trajectory(teacher, noise, text, negative, **settings)

    build_trajectories(folder, about, draw, current_share())
    wait()  # until the others have made theirs


def _finish(
    folder: Path,
    *,
    taught: Taught,
    student: SanaVideo,
    part: str,
    chunks: ChunkSettings,
    rule: str | None = None,
) -> None:
    """Write a stage's averaged student with the teacher's other parts.

    rule: the precision rule of the last stage's result; None: of one that is trained further, in float32.
    """
    trained = SanaVideo(student.config)  # what was trained may be sharded
    fill_averaged(trained, folder, partial(part_of, name=part))
    settings, shared = taught.settings, taught.settings.shared
    _, frames, *sides = taught.clips.latents.shape[1:]
    compression, own_rule = taught.codec.config.compression, taught.codec.config.frame_rule
    height, width = (side * compression for side in sides)
    drawn = {"width": width, "height": height}
    kept = (width, height) == (shared.width, shared.height)
    save_video(
        folder / MODEL,
        transformer=trained,
        autoencoder=taught.codec,
        text_encoder=taught.encoder,
        flow_shift=shared.flow_shift,
        frames=own_rule.frames(frames),
        rate=settings.rate,
        motion=settings.score(),
        negative_prompt=settings.negative_prompt,
        defaults={name: getattr(shared, name) for name in DEFAULTS} | drawn,
        chunks=chunks,
        dtype="float16" if rule == "any" else "float32",
        precision=shared.precision,
        name=f"{shared.name.removesuffix(CAUSAL)}{CAUSAL}",
        licence=shared.licence,
        example_prompts=shared.example_prompts,
        sizes=shared.sizes if kept else (),
    )
