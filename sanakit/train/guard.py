"""The guard of updates: it skips bad steps, lowers the learning rate in bad phases and stops diverged runs.

A step is bad if its loss or gradient is not a number, or far above usual: several robust deviations above the
median of the last admitted steps. The median and the median absolute deviation are used because a mean would
follow the very spikes it has to find (Rousseeuw & Croux 1993). Gradient norms are compared by their
logarithms: they vary by factors, and a norm of three times the median is usual. Values that stay high for
several batches in a row are not spikes: the weights or the data have changed. They are then admitted as the
new usual, at the lowered learning rate.

The guard sees the loss and the gradient norm of the whole batch, the same on every rank, and holds no random
numbers: all ranks decide alike.
"""

from __future__ import annotations

import math
from statistics import median
from typing import Any

from sanakit.errors import NumericsError, SettingsError

NORMAL = 1.4826  # standard deviations of a normal distribution in its median absolute deviation
LEAST_SPREAD = 0.1  # of the median: a very even run would otherwise call every wiggle a spike


class Guard:
    """Decides about each update, and how far the learning rate is lowered.

    deviations: how far above the median a spike is, in robust standard deviations (> 0). window: admitted
    steps that make up what is usual. warmup: admitted steps before spikes are looked for, at most `window`;
    steps that are not numbers are skipped from the first on. patience: high steps in a row until they count
    as the new usual. repeated: bad steps within `spell` steps that halve the learning rate. recovery: good
    steps in which a halved rate doubles again. hopeless: steps skipped in a row that end the run. lowest:
    factor on the learning rate below which the run ends, in (0, 1).

    factor: to multiply the learning rate with, in (0, 1]. notes: a sentence for each decision that was not
    simply to go on; the caller reports and clears them.
    """

    def __init__(
        self,
        *,
        deviations: float = 10.0,
        window: int = 128,
        warmup: int = 50,
        patience: int = 5,
        repeated: int = 3,
        spell: int = 100,
        recovery: int = 500,
        hopeless: int = 20,
        lowest: float = 1 / 64,
    ) -> None:
        counts = (window, warmup, patience, repeated, spell, recovery, hopeless)
        if deviations <= 0 or min(counts) < 1 or warmup > window or not 0 < lowest < 1:
            raise SettingsError(
                f"The guard needs deviations above 0 (not {deviations}), counts of at least 1 (not "
                f"{min(counts)}), a warm-up ({warmup}) within its window ({window}) and a lowest factor "
                f"between 0 and 1 (not {lowest})."
            )
        self.deviations, self.window, self.warmup, self.patience = deviations, window, warmup, patience
        self.repeated, self.spell, self.recovery = repeated, spell, recovery
        self.hopeless, self.lowest = hopeless, lowest
        self.factor = 1.0
        self.notes: list[str] = []
        self._losses: list[float] = []  # of the last admitted steps
        self._norms: list[float] = []
        self._bad: list[int] = []  # bad steps since the rate was last halved
        self._skipped = 0  # in a row
        self._high = 0  # skipped in a row for being high

    def admit(self, step: int, loss: float, norm: float) -> bool:
        """Return whether to make the update of a step.

        loss, norm: of the global batch, the norm before clipping. Raises NumericsError when too many steps in
        a row were skipped, or the learning rate was halved too often.
        """
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = f"loss {loss:.4g}" if not math.isfinite(loss) else f"gradient norm {norm:.4g}"
            self.notes.append(f"Step {step} skipped: {what} is not a number.")
            self._high = 0
            return self._skip(step)
        reason = self._too_high("loss", loss, self._losses) or self._too_high(
            "gradient norm", norm, self._norms
        )
        if reason is None:
            self._recover(step)
        elif self._high + 1 < self.patience:
            self._high += 1
            self.notes.append(f"Step {step} skipped: {reason}.")
            return self._skip(step)
        else:
            self.notes.append(
                f"Step {step} admitted though its {reason}: so were the {self._high} before it, so this is "
                "the new usual."
            )
            self._losses, self._norms = [], []
        self._skipped = self._high = 0
        self._losses = [*self._losses, loss][-self.window :]
        self._norms = [*self._norms, norm][-self.window :]
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the state behind later decisions as numbers and lists, without notes: report those first."""
        return {
            "factor": self.factor,
            "losses": list(self._losses),
            "norms": list(self._norms),
            "bad": list(self._bad),
            "skipped": self._skipped,
            "high": self._high,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; the settings stay those of this guard."""
        self.factor = state["factor"]
        self._losses, self._norms = list(state["losses"]), list(state["norms"])
        self._bad, self._skipped, self._high = list(state["bad"]), state["skipped"], state["high"]

    def _too_high(self, name: str, value: float, usual: list[float]) -> str | None:
        """Return the reason to call a value a spike, or None."""
        if len(usual) < self.warmup:
            return None
        middle = median(usual)
        if name == "loss":
            deviation = NORMAL * median(abs(other - middle) for other in usual)
            limit = middle + self.deviations * max(deviation, LEAST_SPREAD * abs(middle))
        else:
            least = max(middle, 1e-30)  # of a gradient that vanishes there is no logarithm
            spread = NORMAL * median(abs(math.log(max(other, 1e-30) / least)) for other in usual)
            limit = least * math.exp(self.deviations * max(spread, LEAST_SPREAD))
        if value <= limit:
            return None
        return (
            f"{name} {value:.4g} is above {limit:.4g} (the median of the last {len(usual)} is {middle:.4g})"
        )

    def _skip(self, step: int) -> bool:
        self._skipped += 1
        if self._skipped >= self.hopeless and not self._losses:
            raise NumericsError(
                f"None of the {self._skipped} steps up to {step} had a finite loss and gradient: "
                "the initial weights or all samples hold NaN or infinity. Use "
                "another model."
            )
        if self._skipped >= self.hopeless:
            raise NumericsError(
                f"The last {self._skipped} steps up to {step} were all skipped, as their loss or gradient "
                "was "
                "not finite or far above the usual: continue from the last checkpoint with --resume and a "
                "lower learning rate, or without bf16."
            )
        self._bad = [bad for bad in self._bad if bad > step - self.spell] + [step]
        if len(self._bad) >= self.repeated:
            self._halve(step)
        return False

    def _halve(self, step: int) -> None:
        self._bad = []
        self.factor *= 0.5
        if self.factor < self.lowest:
            raise NumericsError(
                f"At step {step} the learning rate was halved to below {self.lowest:.3g} of its initial "
                "value, but "
                "the loss stayed unstable: continue from the last checkpoint with --resume and a lower "
                "learning "
                "rate, and look for broken samples in the data."
            )
        self.notes.append(
            f"Step {step}: the learning rate is lowered to {self.factor:.3g} of its usual value; "
            f"{self.recovery} "
            "good steps double it again."
        )

    def _recover(self, step: int) -> None:
        if self.factor < 1.0:
            self.factor = min(1.0, self.factor * 2 ** (1 / self.recovery))
            if self.factor > 1 - 1e-9:  # a product of roots misses 1 by a rounding
                self.factor = 1.0
                self.notes.append(f"Step {step}: the learning rate is back at its usual value.")
