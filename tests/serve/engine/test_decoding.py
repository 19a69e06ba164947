"""Images that callers send are decoded in turns: never more at a time than the memory holds."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageFile

from sanakit.errors import SizeError
from sanakit.images.opening import MAX_PIXELS
from sanakit.serve.engine.decoding import AT_ONCE, PIXEL_BYTES, DecodingTurns, header_size
from sanakit.serve.engine.engine import Engine

WAIT = 20  # seconds until a test gives up


def most_at_once(turns: DecodingTurns, pixels: list[int]) -> int:
    """Have a thread decode each image; return the most bytes that were held together."""
    held, most, lock = 0, 0, threading.Lock()

    def decode(number: int) -> None:
        nonlocal held, most
        with turns.turn(number):
            with lock:
                held += number * PIXEL_BYTES
                most = max(most, held)
            time.sleep(0.01)
            with lock:
                held -= number * PIXEL_BYTES

    threads = [threading.Thread(target=decode, args=(number,)) for number in pixels]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
        assert not thread.is_alive()
    return most


def test_small_images_are_decoded_together_and_large_ones_one_by_one() -> None:
    assert most_at_once(DecodingTurns(), [MAX_PIXELS] * 5) == AT_ONCE
    assert most_at_once(DecodingTurns(), [MAX_PIXELS // 4] * 9) <= AT_ONCE
    assert most_at_once(DecodingTurns(limit=10 * PIXEL_BYTES), [4, 5, 6, 10, 1, 2] * 5) <= 10 * PIXEL_BYTES


def test_an_image_that_never_fits_is_refused_at_once_and_the_sentence_says_what_fits() -> None:
    turns = DecodingTurns(limit=2_500_000 * PIXEL_BYTES)
    with turns.turn(2_000_000), pytest.raises(SizeError, match=r"3\.0 million .* at most 2\.5 million"):
        turns.turn(3_000_000).__enter__()
    with turns.turn(2_500_000):
        pass


def test_whoever_fails_gives_its_turn_back_and_a_large_image_is_not_overtaken_for_ever() -> None:
    turns, order = DecodingTurns(limit=10 * PIXEL_BYTES), []
    with pytest.raises(ZeroDivisionError), turns.turn(10):
        raise ZeroDivisionError

    def decode(number: int) -> None:
        with turns.turn(number):
            order.append(number)

    with turns.turn(5):
        large = threading.Thread(target=decode, args=(10,))
        large.start()
        until = time.monotonic() + WAIT
        while not turns._waiting:
            assert time.monotonic() < until
        small = threading.Thread(target=decode, args=(1,))
        small.start()
        time.sleep(0.05)
        assert order == []  # the small one would fit, but came later
    large.join(WAIT)
    small.join(WAIT)
    assert order == [10, 1]


def test_the_size_is_read_from_the_header_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.new("L", (30, 20)).save(file, "PNG")
    (tmp_path / "a.png").write_bytes(file.getvalue())
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("it is decoded"))
    assert header_size(file) == header_size(tmp_path / "a.png") == (30, 20)
    for odd in (io.BytesIO(b""), io.BytesIO(b"no image"), tmp_path, tmp_path / "none", ""):
        assert header_size(odd) == (0, 0)


def test_a_memory_limit_leaves_what_the_model_does_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[Any] = []
    for memory in ("8GB", "6GB", "all"):
        engine = Engine(["pocket"], device="cpu", memory=memory)
        monkeypatch.setattr(engine._thread, "start", lambda: None)
        engine.start()
        limits.append(engine.decoding.limit)
    assert 1_500_000_000 < limits[0] - limits[1] < 2_500_000_000  # what the process holds varies
    assert 0 < limits[1] < 6_000_000_000
    assert limits[2] is None
