"""From prompts and a reward to a reinforced model, or to an adapter for it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from sanakit.adapters.fresh import AdapterSize, fresh_adapter
from sanakit.adapters.save import save_adapter
from sanakit.errors import DataError, SettingsError
from sanakit.eval.cases import read_cases
from sanakit.models.sana import Sana
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import training_device
from sanakit.train.objectives.adapter import ADAPTER, with_tensors
from sanakit.train.objectives.velocity import TRANSFORMER
from sanakit.train.record import MadeWith
from sanakit.train.reinforce.algorithm import Algorithm
from sanakit.train.reinforce.awm import AWM
from sanakit.train.reinforce.flow_grpo import FlowGRPO
from sanakit.train.reinforce.nft import NFT
from sanakit.train.reinforce.objective import ReinforceObjective
from sanakit.train.reinforce.policies import adapter_policies, whole_policies
from sanakit.train.reinforce.rewards import Reward
from sanakit.train.reinforce.rollout import RolloutPlan, Rollouts
from sanakit.train.reinforce.watch import StopRule, Watch
from sanakit.train.run import MODEL, Run, averaged_weights, fill_averaged
from sanakit.train.state.average import part_of
from sanakit.weights import (
    load_configs,
    load_image_autoencoder,
    load_settings,
    load_text_encoder,
    load_transformer,
    save_diffusers,
)
from sanakit.weights.quantized import check_frozen, check_trainable
from sanakit.weights.save import kept_settings
from sanakit.weights.settings import ModelSettings
from sanakit.wording import counted

StrPath = str | os.PathLike[str]

REINFORCED = "-reinforced"  # behind the source's name
ALGORITHMS: dict[str, Algorithm] = {"nft": NFT(), "awm": AWM(), "flow-grpo": FlowGRPO()}
LAYERS = "attention"  # as published: queries, keys, values and outputs
RANK = 32
ALPHA = 2  # over the rank
WHOLE_RATE = 0.1  # times the learning rate, where all weights learn
HELD_OUT = 16  # prompts to measure on, at most: of few, a fifth


@dataclass(frozen=True, kw_only=True, slots=True)
class ReinforceAim:
    """The settings of a reinforcement besides those of the loop.

    size: of an adapter that learns; None: all weights. each: images of a prompt that is measured on.
    """

    plan: RolloutPlan = field(default_factory=RolloutPlan)
    algorithm: Algorithm = field(default_factory=NFT)
    size: AdapterSize | None = None
    each: int = 4
    rule: StopRule = field(default_factory=StopRule)


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardedPrompts:
    """The prompts of a reinforcement: those that it learns from, and others to measure on.

    place: where they are from. notes: what the user should know about them.
    """

    prompts: Sequence[str]
    held_out: Sequence[str]
    place: StrPath = ""
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """One text for all prompts, in their order."""
        both = "\n".join([*self.prompts, "", *self.held_out])
        return hashlib.sha256(both.encode()).hexdigest()[:16]


def read_asked(place: str | Path, most: int = HELD_OUT) -> RewardedPrompts:
    """Read prompts, each once, and hold some out, spread evenly.

    place: as for `read_cases`. most: held out, of few prompts a fifth. Raises DataError, also for fewer than
    two prompts.
    """
    cases = read_cases(place)
    prompts = list(dict.fromkeys(case.prompt for case in cases))
    if len(prompts) < 2:
        raise DataError(f"{place} holds one prompt: write two at least, one of which is held out.")
    count = min(most, max(1, len(prompts) // 5))
    held_out = {prompts[number * len(prompts) // count] for number in range(count)}
    unused = sorted({key for case in cases for key in case.task} - {"prompt", "name"})
    notes = (
        [f"{place}: {', '.join(unused)} of its rows are not used: rewards see the prompt."] if unused else []
    )
    if len(prompts) < len(cases):
        again = counted(len(cases) - len(prompts), "prompt that came again is", "prompts that came again are")
        notes.append(f"{place}: {again} left out.")
    learned = [prompt for prompt in prompts if prompt not in held_out]
    return RewardedPrompts(
        prompts=learned,
        held_out=[prompt for prompt in prompts if prompt in held_out],
        place=place,
        notes=tuple(notes),
    )


def reinforce_run(
    source: StrPath,
    config: TrainConfig,
    aim: ReinforceAim,
    asked: RewardedPrompts,
    reward: Reward,
    judges: Sequence[Reward] = (),
) -> Run:
    """Reinforce a model; the result is `output`/model, or `output`/NAME.safetensors of an adapter.

    config: its batch size is replaced by that of the plan. judges: of held-out prompts, besides the reward;
    without any, hacking shows in diversity and drift alone. Raises SettingsError for graphs and one-step
    models, and what loading raises.
    """
    # 1. The model
    (check_trainable if aim.size is None else check_frozen)(source)
    before, _ = load_configs(source)
    if before.guidance_embed:
        raise SettingsError(
            f"{source} is a Sprint model, whose few steps this training does not know: reinforce the model "
            "that it was made from, and distil that."
        )
    device, settings = training_device(), load_settings(source)
    codec = load_image_autoencoder(source, part="both", device=device)
    torch.manual_seed(config.seed)
    encoder = load_text_encoder(source, device=device)
    half = aim.size is not None and config.bf16 and device.type == "cuda"
    dtype = "bfloat16" if half else "float32"
    transformer = load_transformer(source, kind="image", device=device, dtype=dtype)

    # 2. Policies, rollouts, and what is watched
    if aim.size is None:
        adapter, policies = None, whole_policies(transformer)
    else:
        adapter = fresh_adapter(before, aim.size, torch.Generator().manual_seed(config.seed))
        policies = adapter_policies(transformer, adapter)
    rollouts = Rollouts(codec, encoder, settings, aim.plan, aim.algorithm, reward)
    watch = Watch(rollouts, policies.reference, asked.held_out, judges, each=aim.each, rule=aim.rule)
    objective = ReinforceObjective(policies, rollouts, aim.algorithm, watch, asked.prompts, seed=config.seed)
    config = replace(config, batch_size=objective.samples)

    # 3. The result
    def finish(folder: Path) -> None:
        dtype = "float16" if settings.precision == "any" else settings.precision
        if adapter is not None:
            trained = with_tensors(adapter, part_of(averaged_weights(folder), ADAPTER))
            save_adapter(folder / f"{folder.name}.safetensors", trained, before, dtype=dtype)
            return
        learned = Sana(before)
        fill_averaged(learned, folder, lambda weights: part_of(weights, TRANSFORMER))
        kept = kept_settings(as_drawn(settings, aim.plan))
        save_diffusers(
            folder / MODEL, transformer=learned, autoencoder=codec, text_encoder=encoder, dtype=dtype, **kept
        )

    notes = list(asked.notes)
    if adapter is not None:
        drawn = as_drawn(settings, aim.plan)
        notes.append(
            f"The adapter learns for guidance {drawn.guidance:g} and {drawn.steps} steps of {drawn.solver}, "
            "which its file cannot say: draw with these."
        )
    if not judges:
        notes.append("No further judge is named (--judge): what the reward does not see is not measured.")
    choices = asdict(aim) | {"algorithm": {"name": type(aim.algorithm).__name__, **asdict(aim)["algorithm"]}}
    choices |= {"reward": reward.name, "judges": [judge.name for judge in judges]}
    made_with = MadeWith(source=source, data=asked.place, content=asked.fingerprint, choices=choices)
    return Run(objective, config, finish, tuple(notes), made_with)


def as_drawn(settings: ModelSettings, plan: RolloutPlan) -> ModelSettings:
    """Return a model's settings as its rollouts draw, which is what it was reinforced for.

    Guidance above 1 on top of what was learned without it draws too far.
    """
    kept = replace(
        settings,
        name=f"{settings.name.removesuffix(REINFORCED)}{REINFORCED}",
        guidance=plan.guidance,
        guidance_kind="cfg",
        steps=plan.steps,
    )
    return (
        replace(kept, solver="euler", flow_shift=1.0, native_flow_shift=None) if plan.grid == "even" else kept
    )


def aim_for(plan: RolloutPlan, algorithm: str, *, whole: bool, rank: int | None, smoke: bool) -> ReinforceAim:
    """Return what is trained, and how it draws. algorithm: of ALGORITHMS. Raises SettingsError."""
    if algorithm not in ALGORITHMS:
        raise SettingsError(f"There is no algorithm {algorithm!r}: choose one of {', '.join(ALGORITHMS)}.")
    if whole and rank is not None:
        raise SettingsError(
            "All weights learn (--whole), and no adapter that has a rank: omit one of the two."
        )
    if algorithm == "flow-grpo":  # drafts say nothing about rollouts with noise
        plan = replace(plan, candidates=plan.keep, draft_steps=0)
    if smoke:
        drafts = min(1, plan.draft_steps)
        small = {"prompts": 1, "candidates": 4 if drafts else 2, "keep": 2, "checked_prompts": 0}
        plan = replace(plan, steps=2, draft_steps=drafts, **small)
    rank = RANK if rank is None else rank
    size = None if whole else AdapterSize(layers=LAYERS, rank=rank, alpha=ALPHA * rank)
    return ReinforceAim(plan=plan, algorithm=ALGORITHMS[algorithm], size=size, each=2 if smoke else 4)


def settings_for(config: TrainConfig, steps: int | None, *, whole: bool, smoke: bool) -> TrainConfig:
    """Return the settings of the loop; all weights learn at a tenth of an adapter's rate."""
    if whole:
        config = config.at(WHOLE_RATE * config.learning_rate)
    return replace(config.lasting(steps, smoke=smoke), micro_batch=config.micro_batch)
