"""The history of drawn images: PNG files with their settings in the image store.

The name of an image drawn on the page begins with its visitor's room and the time. So the store's list of
names is the history, and no table can disagree with it. Images of jobs are found by the job store. Small
images for the overview are made once and lie in a temporary folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections import OrderedDict
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from sanakit.errors import SettingsError
from sanakit.images.image import Metadata, encode, read_metadata
from sanakit.images.image import save as save_file
from sanakit.serve.jobs.job import FINISHED
from sanakit.serve.jobs.jobs import JobStore
from sanakit.serve.jobs.storage import ImageStore
from sanakit.whole import written_whole

SHARED = ""  # the room of a page whose visitors are one person
MOST_SHOWN = 200  # images in the overview, the newest
MOST_FETCHED = 64  # images of the store that are also kept as local files
THUMBNAIL = 384  # pixels of the longer side
PREFIX = "page"
_DRAWN = re.compile(  # microseconds since 1970
    rf"{PREFIX}-[0-9a-f]{{12}}-(\d{{17}})-[0-9a-f]{{8}}\.(png|mp4|webp)"
)


class History:
    """The images that were drawn, by room; those of one room are not found in another.

    store: where they are kept. jobs: those made without a key have their images in the shared room, too.
    folder: for copies of what is shown, private and empty; None: a temporary one.
    """

    def __init__(self, store: ImageStore, jobs: JobStore | None = None, folder: Path | None = None) -> None:
        self.store = store
        self.jobs = jobs
        self._folder = TemporaryDirectory(prefix="sana-page-", dir=folder)
        self._fetched: OrderedDict[str, Path] = OrderedDict()
        self._lock = threading.Lock()
        self._last = 0

    def add(self, room: str, image: Image.Image, metadata: Metadata) -> str:
        """Keep an image; gives its name. Raises OutputError."""
        return self.add_file(room, encode(image, "PNG", metadata), "png")

    def add_file(self, room: str, data: bytes, suffix: str) -> str:
        """Keep a file with its settings in it; gives its name. suffix: png, mp4 or webp. As `add`."""
        with self._lock:  # names sort as they were drawn
            self._last = max(time.time_ns() // 1000, self._last + 1)
            name = f"{_prefix(room)}{self._last:017d}-{os.urandom(4).hex()}.{suffix}"
        self.store.put(name, data)
        return name

    def names(self, room: str) -> list[str]:
        """Return the names of a room's images, newest first, at most `MOST_SHOWN`. Raises StorageError."""
        prefix = _prefix(room)
        found = {
            name: int(name.removeprefix(prefix).partition("-")[0])
            for name in self.store.names(prefix)
            if re.fullmatch(rf"{prefix}\d{{17}}-[0-9a-f]{{8}}\.png", name)
        }
        if room == SHARED and self.jobs is not None:
            for job in self.jobs.list(None, MOST_SHOWN):
                if job.status == FINISHED and job.ended is not None:
                    found |= dict.fromkeys(job.result_names(), int(job.ended.timestamp() * 1e6))
        return sorted(found, key=lambda name: found[name], reverse=True)[:MOST_SHOWN]

    def file(self, room: str, name: str) -> Path:
        """Return an image or clip as a local file, byte for byte as it is stored.

        Raises SettingsError for one that is gone or another room's, StorageError.
        """
        if not self._belongs(room, name):
            raise SettingsError("This image no longer exists: choose another one.")
        with self._lock:
            if name in self._fetched:
                self._fetched.move_to_end(name)
                return self._fetched[name]
        path = Path(self._folder.name) / name
        try:  # without the lock, for which all visitors wait
            with written_whole(path) as partial:
                partial.write_bytes(self.store.get(name))
        except LookupError:
            raise SettingsError("This image was deleted: choose another one.") from None
        with self._lock:
            self._fetched[name] = path
            while len(self._fetched) > MOST_FETCHED:
                self._fetched.popitem(last=False)[1].unlink(missing_ok=True)
        return path

    def metadata(self, room: str, name: str) -> Metadata:
        """Return an image's settings. Raises as `file` does."""
        return read_metadata(self.file(room, name))

    def thumbnail(self, room: str, name: str) -> Path:
        """Return a small JPEG file of an image. Raises as `file` does."""
        path = Path(self._folder.name) / f"{Path(name).stem}.jpg"
        if not path.exists():
            with Image.open(self.file(room, name)) as image:
                image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
                save_file(image.convert("RGB"), path)
        return path

    def _belongs(self, room: str, name: str) -> bool:
        if name.startswith(_prefix(room)):
            return True
        job = self.jobs.get(name.rpartition("-")[0], None) if room == SHARED and self.jobs else None
        return job is not None and name in job.result_names()

    def close(self) -> None:
        """Remove the temporary files; the store keeps the images."""
        self._folder.cleanup()


def room_of(username: str | None, session: str | None, *, private: bool) -> str:
    """Return the room of a visitor: by login if there is one, by tab if the page is private."""
    if username:
        return f"user {username}"
    return f"tab {session}" if private else SHARED


def drawn_before(name: str, time: datetime) -> bool:
    """Return whether a name is that of an image or clip drawn on the page before a time."""
    return (drawn := _DRAWN.fullmatch(name)) is not None and int(drawn[1]) < time.timestamp() * 1e6


def _prefix(room: str) -> str:
    """Rooms by a hash: a visitor's name or session is nobody's business who lists the files."""
    return f"{PREFIX}-{hashlib.sha256(room.encode()).hexdigest()[:12]}-"
