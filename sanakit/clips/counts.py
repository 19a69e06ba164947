"""Frame counts and rates: what a video codec can hold, seconds to frames, the nearest frame in time.

A codec that compresses time by S takes S k + 1 frames: 4 k + 1 for Wan 2.1, 8 k + 1 for LTX-2. The first
frame has a latent of its own, every further latent stands for S frames.
Rates are exact fractions of frames a second. Times are whole ticks of a time base, a fraction of a second.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from fractions import Fraction

from sanakit.errors import SettingsError, of_setting
from sanakit.wording import counted

LOWEST_RATE, HIGHEST_RATE = Fraction(1, 100), Fraction(1000)  # frames a second
_LARGEST = 10**6  # of a rate's numerator and denominator: containers multiply them in 32 bits
# The names that cameras have for these rates: 23.976, 29.97, 59.94 and 119.88.
NTSC = {
    "23.976": Fraction(24000, 1001),
    "23.98": Fraction(24000, 1001),
    "29.97": Fraction(30000, 1001),
    "59.94": Fraction(60000, 1001),
    "119.88": Fraction(120000, 1001),
}
_NUMBER = re.compile(r"\d{1,9}(\.\d{1,9})?|\d{1,9}/0*[1-9]\d{0,8}")  # no exponents: they would take for ever
_COMMON = [*map(Fraction, range(1, 121)), *NTSC.values()]


@of_setting("rate")
def as_rate(rate: Fraction | int | float | str) -> Fraction:
    """Return frames a second as an exact fraction, from 1/100 to 1000. Raises SettingsError.

    A text may be "24", "24000/1001" or "23.976". The roundings of 24, 30, 60 and 120 by 1.001 that cameras
    use (23.976, 23.98, 29.97, 59.94, 119.88) stand for the exact fraction.

    >>> as_rate("29.97")
    Fraction(30000, 1001)
    """
    text = str(rate).strip()
    exact = NTSC.get(text) or _exact(rate)
    if exact is None:
        raise SettingsError(f"The rate {rate!r} is not a number: write 16, 23.976 or 24000/1001.")
    if not LOWEST_RATE <= exact <= HIGHEST_RATE:
        raise SettingsError(f"The rate {text} lies outside 1/100 to 1000 frames a second.")
    if max(exact.numerator, exact.denominator) > _LARGEST:
        raise SettingsError(
            f"The rate {text} is finer than files can hold: use a fraction of numbers up to a million."
        )
    return exact


def nearest_counts(frames: int, compression: int) -> tuple[int, ...]:
    """Return the valid counts nearest to `frames`: itself, or the one below and the one above.

    compression: frames a latent after the first, 1 or more.

    >>> nearest_counts(18, 4), nearest_counts(17, 4)
    ((17, 21), (17,))
    """
    if frames < 1:
        return (1,)
    below = (frames - 1) // compression * compression + 1
    return (below,) if below == frames else (below, below + compression)


def frames_for(
    seconds: Fraction | float | str, rate: Fraction | int | float | str, compression: int = 1
) -> tuple[int, str]:
    """Return the valid frame count nearest to so many seconds, and a sentence if it is not exact, else "".

    The count for s seconds is s rate + 1, as the published models count: the first frame shows time 0, the
    last one shows time s. Half way between two counts, the longer one is taken. Raises SettingsError.

    >>> frames_for(5, 16, 4)
    (81, '')
    """
    per_second = as_rate(rate)
    exact = _exact(seconds)
    if exact is None:
        raise SettingsError(f"The duration {seconds!r} is not a number of seconds, 0 or more.")
    wanted = exact * per_second + 1
    latents = (wanted - 1) / compression
    frames = int(latents + Fraction(1, 2)) * compression + 1
    if frames == wanted:
        return frames, ""
    shown = float((frames - 1) / per_second)
    return frames, (
        f"No valid count of frames lasts {seconds} s at {per_second} frames a second: "
        f"{counted(frames, 'frame is', 'frames are')} taken, {shown:.4g} s."
    )


def rate_of(
    ticks: Sequence[int], end: int, base: Fraction, hints: Iterable[Fraction] = ()
) -> tuple[Fraction, bool]:
    """Return the rate of frames at these times, and whether it is constant.

    ticks: ascending times of the frames, the first is 0. end: when the last one ends. base: seconds a tick.
    Constant: every frame lies within a tick of its place. hints: rates to try first. Else it is the mean.
    """
    mean = Fraction(len(ticks)) / (max(end, 1) * base)
    if all(tick * len(ticks) == number * end for number, tick in enumerate(ticks)):
        hints = (*hints, mean)
    for rate in (*hints, mean.limit_denominator(1), *_COMMON, mean):
        places = ticks if len(ticks) > 1 else (0, end)
        if rate > 0 and all(abs(tick * base - number / rate) <= base for number, tick in enumerate(places)):
            return rate, True
    return mean, False


def resampled_count(seconds: Fraction, rate: Fraction) -> int:
    """Return how many frames a clip of so many seconds has at another rate: one is the least.

    >>> resampled_count(Fraction(17, 16), Fraction(24))
    26
    """
    return max(1, -(-(seconds * rate) // 1))


def nearest_frames(ticks: Sequence[int], base: Fraction, rate: Fraction, numbers: Iterable[int]) -> list[int]:
    """Return the frame nearest in time to k / rate seconds, for each k; the earlier one of two as near.

    ticks: ascending times of the frames, in units of `base` seconds.
    """
    found = []
    for number in numbers:
        time = number / (rate * base)
        after = bisect_left(ticks, time)
        before = max(after - 1, 0)
        later = after < len(ticks) and abs(ticks[after] - time) < abs(ticks[before] - time)
        found.append(after if later else before)
    return found


def natural_key(name: str) -> tuple[int, str]:
    """Return what names of frames are sorted by: the last number in them, then the name.

    >>> sorted(["f10.png", "f9.png"], key=natural_key)
    ['f9.png', 'f10.png']
    """
    numbers = re.findall(r"\d{1,18}", name)
    return (int(numbers[-1]) if numbers else -1, name)


def _exact(number: Fraction | float | str) -> Fraction | None:
    """Return a number, 0 or more, as a fraction; None for any other text or number."""
    text = f"{number:.9f}" if isinstance(number, float) else str(number).strip()
    return Fraction(text) if _NUMBER.fullmatch(text) else None
