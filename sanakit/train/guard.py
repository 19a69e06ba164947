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
from collections.abc import Callable
from operator import index
from statistics import median
from typing import Any

from sanakit.errors import DataError, NumericsError

NORMAL = 1.4826  # standard deviations of a normal distribution in its median absolute deviation
LEAST_SPREAD = 0.1  # of the median: a very even run would otherwise call every wiggle a spike
LEAST_NORM = 1e-30


DEVIATIONS = 10.0  # robust standard deviations above the median: a spike
WINDOW = 128  # admitted steps that make up what is usual
WARMUP = 50  # admitted steps before spikes are looked for; what is not a number is skipped from the first on
PATIENCE = 5  # high steps in a row until they count as the new usual
REPEATED, SPELL = 3, 100  # so many bad steps within so many halve the learning rate
RECOVERY = 500  # good steps in which a halved rate doubles again
HOPELESS = 20  # steps skipped in a row that end the run
LOWEST = 1 / 64  # factor on the learning rate below which the run ends


class Guard:
    """Decides about each update, and how far the learning rate is lowered.

    factor: to multiply the learning rate with, in (0, 1]. notes: a sentence for each decision that was not
    simply to go on; the caller reports and clears them.
    """

    def __init__(self) -> None:
        self.factor = 1.0
        self.notes: list[str] = []
        self._losses: list[float] = []  # of the last admitted steps
        self._norms: list[float] = []
        self._bad: list[int] = []  # bad steps since the rate was last halved
        self._skipped = 0  # in a row
        self._high = 0  # skipped in a row for being high
        self._empty = 0  # in a row without a sample

    def admit(self, step: int, loss: float, norm: float) -> bool:
        """Return whether to make the update of a step.

        loss, norm: of the global batch, the norm before clipping. Raises NumericsError when too many steps in
        a row were skipped, or the learning rate was halved too often.
        """
        self._empty = 0
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = f"loss {loss:.4g}" if not math.isfinite(loss) else f"gradient norm {norm:.4g}"
            self.notes.append(f"Step {step} skipped: {what} is not a number.")
            self._high = 0
            return self._skip(step)
        reason = self._too_high("loss", loss, self._losses, _limit) or self._too_high(
            "gradient norm", norm, self._norms, _limit_of_logarithms
        )
        if reason is None:
            self._recover(step)
        elif self._high + 1 < PATIENCE:
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
        self._losses = [*self._losses, loss][-WINDOW:]
        self._norms = [*self._norms, norm][-WINDOW:]
        return True

    def leave_out(self, step: int) -> bool:
        """Note a step of whose samples none could be read, and return that its update is not to be made.

        Raises DataError when there are too many in a row.
        """
        self.notes.append(f"Step {step} skipped: none of its images could be read.")
        self._empty += 1
        if self._empty >= HOPELESS:
            raise DataError(
                f"None of the images of the last {self._empty} steps up to {step} could be read: check that "
                "the data are still there and readable, then continue from the last checkpoint with --resume."
            )
        return False

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
        """Go on from a saved state.

        Raises KeyError, TypeError or ValueError for what `state_dict` never returns.
        """
        factor, losses, norms = (state[name] for name in ("factor", "losses", "norms"))
        if not 0 < factor <= 1 or not all(map(math.isfinite, [*losses, *norms])):
            raise ValueError("a guard's numbers are finite, and its factor lies in (0, 1]")
        bad = list(map(index, state["bad"]))
        self._skipped, self._high = index(state["skipped"]), index(state["high"])
        self.factor, self._losses, self._norms, self._bad = factor, list(losses), list(norms), bad

    def _too_high(
        self, name: str, value: float, usual: list[float], limit_of: Callable[[list[float]], float]
    ) -> str | None:
        """Return the reason to call a value a spike, or None."""
        if len(usual) < WARMUP:
            return None
        limit = limit_of(usual)
        if value <= limit:
            return None
        return (
            f"{name} {value:.4g} is above {limit:.4g} (the median of the last {len(usual)} is "
            f"{median(usual):.4g})"
        )

    def _skip(self, step: int) -> bool:
        self._skipped += 1
        if self._skipped >= HOPELESS and not self._losses:
            raise NumericsError(
                f"None of the {self._skipped} steps up to {step} had a finite loss and gradient: "
                "the initial weights or all samples hold NaN or infinity. Use "
                "another model."
            )
        if self._skipped >= HOPELESS:
            raise NumericsError(
                f"The last {self._skipped} steps up to {step} were all skipped, as their loss or gradient "
                "was "
                "not finite or far above the usual: continue from the last checkpoint with --resume and a "
                "lower learning rate, or without bf16."
            )
        self._bad = [bad for bad in self._bad if bad > step - SPELL] + [step]
        if len(self._bad) >= REPEATED:
            self._halve(step)
        return False

    def _halve(self, step: int) -> None:
        self._bad = []
        self.factor *= 0.5
        if self.factor < LOWEST:
            raise NumericsError(
                f"At step {step} the learning rate was halved to below {LOWEST:.3g} of its initial "
                "value, but "
                "the loss stayed unstable: continue from the last checkpoint with --resume and a lower "
                "learning "
                "rate, and look for broken samples in the data."
            )
        self.notes.append(
            f"Step {step}: the learning rate is lowered to {self.factor:.3g} of its usual value; "
            f"{RECOVERY} "
            "good steps double it again."
        )

    def _recover(self, step: int) -> None:
        if self.factor < 1.0:
            self.factor = min(1.0, self.factor * 2 ** (1 / RECOVERY))
            if self.factor > 1 - 1e-9:  # a product of roots misses 1 by a rounding
                self.factor = 1.0
                self.notes.append(f"Step {step}: the learning rate is back at its usual value.")


def _limit(usual: list[float]) -> float:
    """Return the value above which there is a spike, by differences from the median."""
    middle = median(usual)
    deviation = NORMAL * median(abs(other - middle) for other in usual)
    return middle + DEVIATIONS * max(deviation, LEAST_SPREAD * abs(middle))


def _limit_of_logarithms(usual: list[float]) -> float:
    """Return the same by differences of logarithms; a gradient that vanishes counts as LEAST_NORM."""
    logarithms = [math.log(max(other, LEAST_NORM)) for other in usual]
    middle = median(logarithms)
    deviation = NORMAL * median(abs(other - middle) for other in logarithms)
    return math.exp(middle + DEVIATIONS * max(deviation, LEAST_SPREAD))
