"""Settings of the training loop: steps, learning rate, averaging, precision, and reports."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import cos, inf, pi
from typing import Any, Literal, get_args

from sanakit.errors import SettingsError

Optimizer = Literal["adamw", "muon", "came", "came8bit"]
Decay = Literal["linear", "cosine"]
Parallel = Literal["auto", "ddp", "fsdp"]
Tracker = Literal["wandb", "trackio"]
CHOICES = {
    "optimizer": get_args(Optimizer),
    "decay": get_args(Decay),
    "parallel": get_args(Parallel),
    "trackers": get_args(Tracker),
}
LEAST = {  # of whole numbers
    **dict.fromkeys(("steps", "batch_size", "log_every", "evaluate_every", "sheet_every"), 1),
    **{"checkpoint_every": 1, "warmup_steps": 0, "seed": 0},
}
MOST = {"seed": 2**32 - 1}
ABOVE_ZERO = ("learning_rate", "muon_learning_rate", "clip_norm")
SHARES = ("decay_fraction", "final_fraction", "ema_decay")  # from 0 to 1
SWITCHES = ("bf16", "compile", "recompute")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Settings of the training loop; recipes fill them in.

    The schedule is warm-up, then constant, then a fall to `final_fraction` of the learning rate over the last
    `decay_fraction` of the steps: "linear" (warm-up, stable, decay: a run can be extended without loss until
    its decay begins) or "cosine".
    """

    steps: int
    batch_size: int
    learning_rate: float
    optimizer: Optimizer = "adamw"
    muon_learning_rate: float = 2e-3
    came_betas: tuple[float, float, float] = (0.9, 0.999, 0.9999)  # momentum, second moment, instability
    # (part of a parameter's name, factor on its learning rate)
    rate_factors: tuple[tuple[str, float], ...] = ()
    warmup_steps: int = 50
    decay: Decay = "linear"
    decay_fraction: float = 0.4
    final_fraction: float = 0.02
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    bf16: bool = False  # autocast; weights, gradients and averages stay float32
    compile: bool = False  # the transformer's blocks, by torch.compile: needs a C++ compiler on a CPU
    micro_batch: int | None = None  # samples a device takes at once, the rest of its share after; None: all
    recompute: bool = (
        False  # activation checkpointing: blocks run again in the backward pass, memory is saved
    )
    parallel: Parallel = "auto"  # where torchrun started several processes
    seed: int = 0
    log_every: int = 50
    evaluate_every: int = 1000
    sheet_every: int = 1000
    checkpoint_every: int = 500
    trackers: tuple[Tracker, ...] = ()  # beside log.jsonl and TensorBoard

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            values = getattr(self, name)
            for value in values if isinstance(values, tuple) else (values,):
                if value not in allowed:
                    raise SettingsError(f"{name} = {value!r}, but it must be one of {', '.join(allowed)}.")
        for name, least in LEAST.items():
            value, most = getattr(self, name), MOST.get(name, inf)
            if not _whole(value) or not least <= value <= most:
                limits = f"of at least {least}" if most == inf else f"from {least} to {most}"
                raise SettingsError(f"{name} = {value!r}, but it must be a whole number {limits}.")
        if self.micro_batch is not None and not (_whole(self.micro_batch) and self.micro_batch >= 1):
            raise SettingsError(
                f"micro_batch = {self.micro_batch!r}, but it must be a whole number of at least 1, or None "
                "for no limit."
            )
        check_above_zero(**{name: getattr(self, name) for name in ABOVE_ZERO})
        for name in SHARES:
            if not (_number(value := getattr(self, name)) and 0 <= value <= 1):
                raise SettingsError(f"{name} = {value!r}, but it must be a number from 0 to 1.")
        check_weight("weight_decay", self.weight_decay)
        for name, count in (("betas", 2), ("came_betas", 3)):
            values = getattr(self, name)
            if len(values) != count or not all(_number(beta) and 0 <= beta < 1 for beta in values):
                raise SettingsError(
                    f"{name} = {values!r}, but it must be {count} numbers of at least 0 and below 1."
                )
        for part, factor in self.rate_factors:
            if not (_number(factor) and 0 <= factor < inf):
                raise SettingsError(
                    f"rate_factors gives {part!r} the factor {factor!r}, but it must be a number of at "
                    "least 0."
                )
        for name in SWITCHES:
            if not isinstance(value := getattr(self, name), bool):
                raise SettingsError(f"{name} = {value!r}, but it must be True or False.")

    def lasting(self, steps: int | None, *, smoke: bool = False) -> TrainConfig:
        """Return the same settings for another number of steps; None: as many as there are.

        smoke: two small steps instead, as a check.
        """
        if smoke:
            batch = min(4, self.batch_size)
            return replace(self, steps=2, batch_size=batch, micro_batch=None, compile=False, evaluate_every=2)
        return self if steps is None else replace(self, steps=steps)

    def requested(
        self, steps: int | None, batch_size: int | None = None, *, smoke: bool = False
    ) -> TrainConfig:
        """Return the same settings as `lasting` does, with another batch size; None: as it is.

        The warm-up then takes a tenth of the steps at most.
        """
        config = self if batch_size is None else replace(self, batch_size=batch_size)
        config = config.lasting(steps, smoke=smoke)
        return replace(config, warmup_steps=min(config.warmup_steps, config.steps // 10))

    def at(self, learning_rate: float) -> TrainConfig:
        """Return the same settings at another learning rate; Muon's changes in the same proportion.

        Raises SettingsError unless it is above 0.
        """
        changed = replace(self, learning_rate=learning_rate)
        factor = learning_rate / self.learning_rate
        return replace(changed, muon_learning_rate=self.muon_learning_rate * factor)

    def factor(self, name: str) -> float:
        """Return the factor on a parameter's learning rate: that of the first part its name contains."""
        return next((factor for part, factor in self.rate_factors if part in name), 1.0)

    def rate(self, step: int) -> float:
        """Return the factor on the learning rate at a step, in [0, 1]."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        start = self.steps * (1 - self.decay_fraction)
        if step < start or self.decay_fraction == 0:
            return warm
        fallen = (step - start) / max(1.0, self.steps - start)
        shape = 1 - fallen if self.decay == "linear" else 0.5 * (1 + cos(pi * fallen))
        return warm * max(self.final_fraction, shape)


def check_above_zero(**values: float) -> None:
    """Raise SettingsError unless all are finite numbers above 0."""
    for name, value in values.items():
        if not (_number(value) and 0 < value < inf):
            raise SettingsError(f"{name} = {value!r}, but it must be a number above 0.")


def check_weight(name: str, value: float) -> None:
    """Raise SettingsError unless the weight of a term is a finite number of at least 0."""
    if not (_number(value) and 0 <= value < inf):
        raise SettingsError(f"{name} = {value!r}, but it must be a number of at least 0.")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
