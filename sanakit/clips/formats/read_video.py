"""Read MP4, MOV, WebM and Matroska by PyAV: an index of all frames first, then any window of them.

FFmpeg is given an open file and the reader to use, never a name: so nothing in a name or in a file can have
it open a network address, another file or a list of files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from sanakit.clips.counts import rate_of
from sanakit.clips.facts import MAX_PIXELS, ClipFacts, check_pixels, damaged
from sanakit.clips.formats.container import VIDEO, check_whole
from sanakit.clips.formats.pyav import load_av
from sanakit.clips.formats.video_index import read_index
from sanakit.clips.settings import settings_from
from sanakit.errors import SettingsError
from sanakit.images.opening import flatten

_UNSTATED = 2  # the code of a matrix that is not stated, in ISO/IEC 23091-2
_HD = 720  # lines from which on colours of an unstated matrix count as BT.709, below as BT.601
_HDR = {16: "PQ", 18: "HLG"}  # codes of transfer functions
_WITH_ALPHA = "libvpx-vp9"  # FFmpeg's own decoder of VP9 leaves transparency out


class VideoFrames:
    """The frames of a video file. facts, ticks, end, base: as for `open_clip`'s other readers.

    threads: of the decoder. Raises SettingsError, SizeError, MissingExtraError.
    """

    def __init__(self, file: BinaryIO, file_format: str, path: str, threads: int) -> None:
        self.av = load_av()
        self.file, self.path, self.threads = file, path, threads
        self._reader = VIDEO[file_format]
        check_whole(file, file_format, path)
        with self._explained():
            self._open()
            check_pixels(path, self._context.width, self._context.height)
            self.index = read_index(self._container, self._stream, path)
            first = next((frame for _, frame in self._decoded_from(self.index.keys[0])), None)
            if first is None:
                raise damaged(path, "its first frame cannot be decoded")
            self._stored_size = first.width, first.height
            self._matrix = _display_matrix(first)
            height, width = self._pixels(first).shape[:2]
        self.base, start = self.index.base, self.index.shown[0]
        self.ticks, self.end = [time - start for time in self.index.shown], self.index.end - start
        tags = {name.lower(): text for name, text in self._container.metadata.items()}
        settings, stored = settings_from(tags.get("comment", ""))
        hints = [rate for rate in (stored, self._stream.average_rate, self._stream.guessed_rate) if rate]
        rate, constant = rate_of(self.ticks, self.end, self.base, hints)
        self.facts = ClipFacts(
            path=path,
            format=file_format,
            codec=self._stream.codec_context.codec.canonical_name,
            width=width,
            height=height,
            frames=len(self.ticks),
            rate=rate,
            constant_rate=constant,
            seconds=len(self.ticks) / rate if constant else self.end * self.base,
            settings=settings,
            notes=tuple(self._notes(first)),
        )

    def decode(self, numbers: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield the frames of these ascending numbers: H W 3, uint8, upright."""
        decoded: Iterator[tuple[int, Any]] = iter(())
        place, frame = -1, None  # of what `decoded` gave last
        with self._explained():
            for number in numbers:
                key, first = self.index.key_before(number)
                if frame is None or first > place + 1:
                    decoded, place = self._decoded_from(key), -1
                while place < number and (found := next(decoded, None)):
                    place, frame = found
                if place != number:
                    raise damaged(self.path, f"frame {number} cannot be decoded")
                assert frame is not None  # as its number is that of a frame
                if frame.is_corrupt:
                    raise damaged(self.path, f"frame {number} is decoded with errors")
                yield self._pixels(frame)

    def close(self) -> None:
        """Close the file."""
        self._container.close()
        self.file.close()

    def _open(self) -> None:
        """Open the container from its beginning, and choose the stream and its decoder."""
        self.file.seek(0)
        self._container = self.av.open(self.file, "r", format=self._reader, metadata_errors="replace")
        streams = [stream for stream in self._container.streams.video if "attached_pic" not in _kinds(stream)]
        if not streams:
            raise SettingsError(f"{self.path} holds no moving images: use a file with a video stream.")
        self._stream, self._others = streams[0], len(streams) - 1
        self._context = own = self._stream.codec_context
        if own is None:
            raise SettingsError(f"{self.path} has frames of a codec that this FFmpeg has no decoder for.")
        if _has_vp9_alpha(self._stream) and _WITH_ALPHA in self.av.codecs_available:
            self._context = self.av.CodecContext.create(_WITH_ALPHA, "r")
            self._context.width, self._context.height = own.width, own.height
            self._context.extradata = own.extradata
        self._context.thread_count = self.threads
        self._context.options = {"max_pixels": str(MAX_PIXELS)}

    def _decoded_from(self, key: tuple[int, int]) -> Iterator[tuple[int, Any]]:
        """Yield (number, frame) of the frames that are shown, from a key on."""
        shown, decoded = key
        for time in (shown, decoded):  # by the latter the container may lead to the key before
            self._container.seek(time, stream=self._stream, backward=True)
            self._context.flush_buffers()
            packets = self._container.demux(self._stream)
            first = next(packets)
            if first.pts is not None and first.pts <= shown:
                break
        else:  # the container's own index leads past the key
            self._container.close()
            self._open()
            packets = self._container.demux(self._stream)
            first = next(packets)
        for packet in chain((first,), packets):
            yield from self._numbered(packet)

    def _numbered(self, packet: Any) -> Iterator[tuple[int, Any]]:
        for frame in self._context.decode(packet if packet.size else None):
            number = self.index.number(frame.pts)
            if number is not None:
                yield number, frame

    def _pixels(self, frame: Any) -> np.ndarray:
        """Return a decoded frame as H W 3 in sRGB's 8 bits, upright, on white."""
        if (frame.width, frame.height) != self._stored_size:
            raise SettingsError(
                f"{self.path} changes its frames' size in the middle: convert it to one size."
            )
        from av.video.reformatter import Interpolation

        exact = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
        options: dict[str, int | str] = {"interpolation": int(exact)}
        if frame.colorspace == _UNSTATED and not frame.format.is_rgb:
            options["src_colorspace"] = "ITU709" if frame.height >= _HD else "ITU601"
        if _has_alpha(frame):
            layered = Image.fromarray(frame.to_ndarray(format="rgba", **options), "RGBA")
            pixels = np.asarray(flatten(layered))
        else:
            pixels = frame.to_ndarray(format="rgb24", **options)
        return np.ascontiguousarray(_upright(pixels, self._matrix))

    def _notes(self, first: Any) -> Iterator[str]:
        if self._others:
            yield f"It holds {self._others + 1} video streams; the first one is read."
        if len(self._container.streams.audio):
            yield "Its sound is left out."
        if first.color_trc in _HDR:
            yield f"Its colours are HDR ({_HDR[first.color_trc]}) and are not tone-mapped."
        ratio = self._stream.sample_aspect_ratio
        if ratio and ratio != 1:
            yield f"Its pixels are {ratio} as wide as they are high; they are read as squares."
        if self._matrix and all(self._matrix[:2]):
            yield "It is turned by an odd angle, which is left out."
        if _has_vp9_alpha(self._stream) and self._context is self._stream.codec_context:
            yield "Its transparency is left out: this FFmpeg has no decoder for it."

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except self.av.FFmpegError as error:
            raise damaged(self.path, error.strerror or str(error)) from None


def _display_matrix(frame: Any) -> tuple[int, int, int, int] | None:
    """Return a, b, c, d of x' = a x + c y, y' = b x + d y, in 1/65536; None if the frame is upright."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = np.frombuffer(bytes(data), "<i4", 5).tolist()
            return a, b, c, d
    return None


def _upright(pixels: np.ndarray, matrix: tuple[int, int, int, int] | None) -> np.ndarray:
    """Return H W 3 turned and mirrored by a display matrix; of an odd angle, as it came."""
    if matrix is None or all(matrix[:2]):
        return pixels
    a, b, c, d = matrix
    if a:
        return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return pixels.swapaxes(0, 1)[:: -1 if b < 0 else 1, :: -1 if c < 0 else 1]


def _has_alpha(frame: Any) -> bool:
    return frame.format.name.startswith(("yuva", "rgba", "bgra", "argb", "abgr", "gbrap", "ya", "pal8"))


def _has_vp9_alpha(stream: Any) -> bool:
    stated = {name.lower(): value for name, value in stream.metadata.items()}.get("alpha_mode")
    return stated == "1" and stream.codec_context.codec.canonical_name == "vp9"


def _kinds(stream: Any) -> str:
    return str(stream.disposition)
