"""A walk through a world: every chunk that was drawn is a moment, and any moment can be walked on from.

Moments form a tree: a move from an earlier one is a branch, and nothing is lost by going back. A moment's
state is large (0.8 GB of SANA-WM), so only the few that were used last are kept. The state of another one is
drawn again from the nearest kept moment before it: the same chunks from the same state give the same bits.
Nothing here draws by itself: `world_engine.py` calls `Walk.draw` in its thread.
Shapes: F frames, H W pixels.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
import torch
from torch import Tensor

from sanakit.errors import SettingsError, SizeError, StoppedError
from sanakit.images.image import Metadata
from sanakit.pipelines.world.actions import Walker, parse_actions
from sanakit.pipelines.world.live import LiveWorld, Moment
from sanakit.pipelines.world.paths import CameraPath, check_poses
from sanakit.serve.engine.recording import Recording
from sanakit.wording import counted

MOST_MOMENTS = 2000  # of one walk, all branches together
MOST_CHUNKS = 16  # of one move


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WalkChunk:
    """One chunk of a move, whole: held keys of each frame, such as "w-20,wd-4", or poses, F 4 4.

    seed: of another future than the walk's own; None: the walk's.
    """

    actions: str | None = None
    poses: Tensor | None = None
    seed: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WalkMoment:
    """The world behind a chunk. Number 0 is the image, before all chunks.

    before: the number of the moment that the chunk was drawn from. frames: so far, the image among them.
    first: the number of the chunk's first frame in the recording.
    """

    number: int
    before: int | None
    chunk: WalkChunk | None
    walker: Walker
    frames: int
    first: int


class Walk:
    """A world that one caller walks through.

    owner: whose it is. live: the entered world, which stands at its image. kept: how many moments keep their
    state beside the first. lens, size: of the image that came, fx fy cx cy and width and height in pixels.
    metadata: the settings that it is drawn with. image_format: of frames as they are sent, "JPEG" or "PNG".
    """

    def __init__(
        self,
        name: str,
        owner: str | None,
        live: LiveWorld,
        recording: Recording,
        *,
        kept: int,
        lens: Tensor,
        size: tuple[int, int],
        most_frames: int,
        metadata: Metadata,
        warnings: Sequence[str],
        image_format: str,
    ) -> None:
        self.id, self.owner, self.recording = name, owner, recording
        self.payer: str | None = None  # the login on the page that its chunks count for
        self.metadata, self.warnings, self.image_format = metadata, list(warnings), image_format
        self.rate, self.chunk_frames = live.rate, live.chunk_frames
        self.height, self.width = live.frame.shape[:2]
        self.most_frames = most_frames
        self.moments: list[WalkMoment] = []
        self.at = 0  # the moment that was drawn last
        self.used = time.monotonic()
        self.turn = threading.Lock()  # held by the move that is under way
        self._live, self._lens, self._size = live, lens, size
        self._kept: OrderedDict[int, Moment] = OrderedDict()  # the one that was used last is last
        self._most_kept = kept
        self._start = live.snapshot()

    def check(self, moment: int) -> WalkMoment:
        """Return a moment by its number. Raises SettingsError."""
        if not 0 <= moment < len(self.moments):
            raise SettingsError(
                f"There is no moment {moment}: this walk has those from 0 to {len(self.moments) - 1}."
            )
        return self.moments[moment]

    def split(self, moment: int, move: str | Tensor, seed: int | None = None) -> list[WalkChunk]:
        """Return a move from a moment in whole chunks; it is checked before any of them is drawn.

        move: held keys, or poses of the next frames, F 4 4, relative to the image's camera. seed: of another
        future, from the first chunk on. Raises SettingsError, SizeError.
        """
        held = parse_actions(move) if isinstance(move, str) else None
        poses = None if isinstance(move, str) else check_poses(move, "The move", "poses")
        count, whole = len(held if held is not None else poses), self.chunk_frames  # pyright: ignore
        if count % whole or count > MOST_CHUNKS * whole:
            raise SettingsError(
                f"The move takes {counted(count, 'frame')}: make them {whole}, or a multiple of it up to "
                f"{MOST_CHUNKS * whole}."
            )
        frames = self.check(moment).frames + count
        if frames > self.most_frames:
            raise SizeError(
                f"The walk would have {frames} frames, but this model has positions for {self.most_frames}: "
                "go back to an earlier moment."
            )
        if len(self.moments) + count // whole > MOST_MOMENTS:
            raise SettingsError(
                f"This walk has {len(self.moments)} moments, and {MOST_MOMENTS} are the most: enter again."
            )
        parts = range(0, count, whole)
        if held is not None:
            texts = [actions_text(held[start : start + whole]) for start in parts]
            return [WalkChunk(actions=text, seed=None if n else seed) for n, text in enumerate(texts)]
        assert poses is not None, "it is one of the two"
        return [WalkChunk(poses=poses[s : s + whole], seed=None if s else seed) for s in parts]

    def draw(self, chunk: WalkChunk, before: int, check: Callable[[], None]) -> np.ndarray:
        """Draw a chunk from a moment; return its frames, F H W 3, uint8.

        check: is called before each chunk that has to be drawn; what it raises ends this.
        """
        missing: list[WalkMoment] = []
        moment = self.moments[before]
        while (state := self._state(moment.number)) is None:
            missing.append(moment)
            assert moment.before is not None, "the first moment is kept"
            moment = self.moments[moment.before]
        for passed in reversed(missing):
            check()
            assert passed.chunk is not None, "all moments but the first have one"
            self._go(passed.chunk, state)
            state = self._keep(passed.number)
        check()
        return self._go(chunk, state)

    def add(self, chunk: WalkChunk | None, before: int | None, first: int) -> WalkMoment:
        """Add the moment that the world stands at, behind a chunk that was drawn and recorded."""
        if self.ended:
            raise StoppedError("This walk has ended: enter the world again.")
        now = self._live.snapshot()
        moment = WalkMoment(
            number=len(self.moments),
            before=before,
            chunk=chunk,
            walker=now.walker,
            frames=now.frames,
            first=first,
        )
        self.moments.append(moment)
        self.at = moment.number
        self._keep(moment.number)
        return moment

    def line(self, moment: int) -> list[WalkMoment]:
        """Return the moments from the image to a moment. Raises SettingsError."""
        found = [self.check(moment)]
        while (before := found[-1].before) is not None:
            found.append(self.moments[before])
        return found[::-1]

    def recorded(self, moment: int) -> list[int]:
        """Return the numbers in the recording of all frames from the image to a moment."""
        return [
            number
            for one in self.line(moment)
            for number in range(one.first, one.first + (self.chunk_frames if one.chunk else 1))
        ]

    def actions(self, moment: int) -> str | None:
        """Return the keys from the image to a moment as one text; None where poses or seeds were given."""
        chunks = [one.chunk for one in self.line(moment) if one.chunk is not None]
        held: list[frozenset[str]] = []
        for chunk in chunks:
            if chunk.actions is None or chunk.seed is not None:
                return None
            held += parse_actions(chunk.actions)
        return actions_text(held)

    def path(self, moment: int) -> CameraPath:
        """Return the camera of every frame from the image to a moment, for images as the one that came."""
        line = self.line(moment)
        poses = [line[0].walker.pose[None]]
        for before, one in pairwise(line):
            assert one.chunk is not None, "all moments but the first have one"
            poses.append(self.chunk_poses(one.chunk, before.walker))
        found = torch.cat(poses)
        return CameraPath(found, self._lens.expand(len(found), 4), *self._size)

    @staticmethod
    def chunk_poses(chunk: WalkChunk, walker: Walker) -> Tensor:
        """Return the poses of a chunk that begins where a walker stands, F 4 4."""
        if chunk.poses is not None:
            return chunk.poses
        assert chunk.actions is not None, "it is one of the two"
        return walker.hold(parse_actions(chunk.actions))[0]

    @property
    def ended(self) -> bool:
        """Whether it was deleted."""
        return self._most_kept < 0

    def end(self) -> None:
        """Free the states and the recording; a chunk that is being drawn is the last."""
        self._most_kept = -1
        self._kept.clear()
        self.recording.close()

    @property
    def kept(self) -> list[int]:
        """The moments that keep their state, beside the first; the one that was used last is last."""
        return list(self._kept)

    def _state(self, moment: int) -> Moment | None:
        if moment == 0:
            return self._start
        if moment in self._kept:
            self._kept.move_to_end(moment)
        return self._kept.get(moment)

    def _keep(self, moment: int) -> Moment:
        """Keep the state that the world stands at as that of a moment."""
        state = self._live.snapshot()
        if moment:
            self._kept[moment] = state
            while len(self._kept) > max(0, self._most_kept):
                self._kept.popitem(last=False)
        return state

    def _go(self, chunk: WalkChunk, state: Moment) -> np.ndarray:
        self._live.restore(state, chunk.seed)
        if chunk.poses is not None:
            return self._live.follow(chunk.poses)
        assert chunk.actions is not None, "it is one of the two"
        return self._live.move(chunk.actions)


def actions_text(held: Sequence[frozenset[str]]) -> str:
    """Return the text of the keys that are held in each frame: what `parse_actions` reads.

    >>> actions_text([frozenset("wd"), frozenset("dw"), frozenset()])
    'dw-2,none-1'
    """
    runs = ((keys, len(list(run))) for keys, run in groupby(held))
    return ",".join(f"{''.join(sorted(keys)) or 'none'}-{count}" for keys, count in runs)
