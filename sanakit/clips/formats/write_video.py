"""MP4 and WebM, frame by frame, by PyAV: H.264 or VP9, 4:2:0, the colours of BT.709 in limited range.

The matrix, primaries, transfer and range are stored in the stream. Flat colours come back within 2 of 255
levels before compression, as 4:2:0 in 8 bits allows.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from sanakit.clips.formats.plan import AddFrame, WritePlan
from sanakit.clips.formats.pyav import load_av
from sanakit.errors import SettingsError, SizeError

BT709 = 1  # the code of ISO/IEC 23091-2 for matrix, primaries and transfer; and of the limited range
KEY_SECONDS = 2  # between key frames, so that a window is found quickly
_H264, _VP9 = "libx264", "libvpx-vp9"
# Constant rate factors at quality 100 and 0: about the same look at the same quality.
_FACTORS = {_H264: (8, 51), _VP9: (4, 63)}
_OPTIONS = {_H264: {"preset": "medium"}, _VP9: {"b": "0", "cpu-used": "4"}}
# x264's AVX-512 code plans equal frames differently from run to run, even in one thread; its other code does
# not, and takes the same time.
_REPEATABLE = {"x264-params": "asm=AVX2"}


def check_mp4(width: int, height: int) -> None:
    """Raise SizeError for odd sides: H.264 halves the resolution of colours."""
    if width % 2 or height % 2:
        even = f"{width + width % 2}x{height + height % 2}"
        raise SizeError(
            f"MP4 holds even sides only, not {width}x{height}: scale to {even}, or choose .webm or .webp."
        )


@contextmanager
def write_mp4(partial: Path, plan: WritePlan) -> Iterator[AddFrame]:
    """Write MP4: H.264, or VP9 where FFmpeg has no encoder for it; the index at its beginning."""
    with _written(partial, plan, "mp4", (_H264, _VP9)) as add:
        yield add


@contextmanager
def write_webm(partial: Path, plan: WritePlan) -> Iterator[AddFrame]:
    """Write WebM: VP9, which takes odd sides, too."""
    with _written(partial, plan, "webm", (_VP9,)) as add:
        yield add


@contextmanager
def _written(partial: Path, plan: WritePlan, container: str, codecs: tuple[str, ...]) -> Iterator[AddFrame]:
    av = load_av()
    from av.video.reformatter import VideoReformatter

    codec = next((name for name in codecs if name in av.codecs_available), None)
    if codec is None:
        raise SettingsError(
            f"This FFmpeg has no encoder for {container}: install another build of PyAV, or choose .webp."
        )
    options = {"fflags": "+bitexact"}  # no date and no random names: equal frames make equal files
    if container == "mp4":
        options["movflags"] = "+faststart"
    with _as_os_errors(av):
        # "file:" makes a name a name: nothing before a colon in it can mean another protocol.
        output = av.open(f"file:{os.path.abspath(partial)}", "w", format=container, options=options)
        try:
            output.metadata["comment"] = plan.comment
            stream = _stream(output, codec, plan)
            reformatter, count = VideoReformatter(), 0

            def add(frame: np.ndarray) -> None:
                nonlocal count
                with _as_os_errors(av):
                    picture = _in_yuv(av, reformatter, frame)
                    picture.pts, picture.time_base = count, 1 / plan.rate
                    output.mux(stream.encode(picture))
                count += 1

            yield add
            output.mux(stream.encode(None))
            output.close()
        except BaseException:
            with suppress(Exception):  # the first error is the one to tell
                output.close()
            raise


def _stream(output: Any, codec: str, plan: WritePlan) -> Any:
    best, worst = _FACTORS[codec]
    factor = round(worst + (best - worst) * plan.quality / 100)
    options = _OPTIONS[codec] | {"crf": str(factor)}
    if codec == _H264 and _has_avx512():
        options |= _REPEATABLE
    stream = output.add_stream(codec, rate=plan.rate, options=options)
    stream.width, stream.height, stream.pix_fmt = plan.width, plan.height, "yuv420p"
    context = stream.codec_context
    context.time_base = 1 / plan.rate
    context.thread_count = 1
    context.gop_size = max(1, round(KEY_SECONDS * plan.rate))
    context.colorspace = context.color_primaries = context.color_trc = context.color_range = BT709
    return stream


def _has_avx512() -> bool:
    """Return whether this processor has AVX-512, and AVX2 with it."""
    import torch

    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def _in_yuv(av: Any, reformatter: Any, frame: np.ndarray) -> Any:
    """Return H W 3 as FFmpeg's frame: 4:2:0 in limited range by BT.709, rounded and not cut."""
    from av.video.reformatter import Interpolation

    exact = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
    return reformatter.reformat(
        av.VideoFrame.from_ndarray(frame, format="rgb24"),
        format="yuv420p",
        dst_colorspace="ITU709",
        src_color_range="JPEG",
        dst_color_range="MPEG",
        interpolation=int(exact),
    )


@contextmanager
def _as_os_errors(av: Any) -> Iterator[None]:
    """Turn FFmpeg's errors into OSError, with the reason of the system where there is one."""
    try:
        yield
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise OSError(error.errno or errno.EIO, error.strerror or str(error)) from None
