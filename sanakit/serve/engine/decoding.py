"""Turns for the images that callers send: only as many are decoded at a time as the memory holds.

A file of some kilobytes may hold 67 million pixels. Decoding it, bringing it to RGB, and its mask take
`PIXEL_BYTES` for each of them, so the size in its header says what is needed before anything is decoded.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import BinaryIO

from PIL import Image

from sanakit.errors import SizeError
from sanakit.images.opening import COMMON_FORMATS, MAX_PIXELS

PIXEL_BYTES = 24  # of one pixel, at the most at a time: five copies of four bytes, and its mask
AT_ONCE = MAX_PIXELS * PIXEL_BYTES  # bytes for all that are decoded at a time, whatever memory there is
_THREADS = 4


class DecodingTurns:
    """Callers that decode now, and those that wait, in the order they came.

    limit: bytes that the memory limit leaves for it; None: no limit was set. threads: for those that would
    else wait in threads that others need.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.threads = ThreadPoolExecutor(_THREADS, "sanakit-decode")
        self._held = 0  # bytes
        self._waiting: deque[object] = deque()
        self._condition = threading.Condition()

    @contextmanager
    def turn(self, pixels: int) -> Iterator[None]:
        """Wait until images of so many pixels may be decoded, and hold their memory for the block.

        Raises SizeError at once if they never may.
        """
        if not pixels:
            yield
            return
        need, own = pixels * PIXEL_BYTES, object()
        if self.limit is not None and need > self.limit:
            raise SizeError(
                f"The uploads have {pixels / 10**6:.1f} million pixels, too many for this server's memory: "
                f"send smaller ones, of at most {self.limit // PIXEL_BYTES / 10**6:.1f} million together."
            )
        most = AT_ONCE if self.limit is None else min(AT_ONCE, self.limit)
        with self._condition:
            self._waiting.append(own)
            self._condition.wait_for(
                lambda: self._waiting[0] is own and (not self._held or self._held + need <= most)
            )
            self._waiting.popleft()
            self._held += need
            self._condition.notify_all()
        try:
            yield
        finally:
            with self._condition:
                self._held -= need
                self._condition.notify_all()


def header_size(file: str | os.PathLike[str] | BinaryIO) -> tuple[int, int]:
    """Return an image's width and height by its header alone; (0, 0) for what `open_image` refuses."""
    with suppress(Exception), Image.open(file, formats=COMMON_FORMATS) as image:
        if image.width * image.height <= MAX_PIXELS:
            return image.size
    return 0, 0
