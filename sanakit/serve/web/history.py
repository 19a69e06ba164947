"""The history of drawn images: PNG files with their settings in the image store.

The name of an image drawn on the page begins with its visitor's room and the time. So the store's list of
names is the history, and no table can disagree with it. Images of jobs are found by the job store.

Beside an image lie two files of the same name, made when they are first needed:
NAME.small.webp   a small image that carries the settings, as any image file of this package
NAME.favourite    says that its visitor marked it; empty
So a list, a search or a page of many images opens none of them whole.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from sanakit.errors import SettingsError
from sanakit.images.image import Metadata, encode, read_metadata
from sanakit.images.opening import open_image
from sanakit.images.settings import EXIF_FORMATS, metadata_of
from sanakit.serve.jobs.job import FINISHED, Job
from sanakit.serve.jobs.jobs import JobStore
from sanakit.serve.jobs.storage import ImageStore
from sanakit.whole import written_whole

SHARED = ""  # the room of a page whose visitors are one person
MOST_JOBS = 200  # whose images are shown, the newest
MOST_FETCHED = 64  # images of the store that are also kept as local files
MOST_KNOWN = 10_000  # images whose settings are kept in memory
MOST_SEARCHED = 100_000  # images whose words are, some 300 bytes each
SMALL = 224  # pixels of the longer side of a small image
PREFIX = "page"
_STEM = r"(\d{17})-[0-9a-f]{8}"  # microseconds since 1970
_SMALL, _FAVOURITE = ".small.webp", ".favourite"  # end the names of files beside an image
_DRAWN = re.compile(rf"{PREFIX}-[0-9a-f]{{12}}-{_STEM}(\.png|\.mp4|\.webp|{_SMALL}|{_FAVOURITE})")


class History:
    """The images that were drawn, by room; those of one room are not found in another.

    store: where they are kept. jobs: those made without a key have their images in the shared room, too.
    folder: for copies of what is shown, private and empty; None: a temporary one.
    """

    def __init__(self, store: ImageStore, jobs: JobStore | None = None, folder: Path | None = None) -> None:
        self.store = store
        self.jobs = jobs
        self.folder = folder
        self._folder = TemporaryDirectory(prefix="sana-page-", dir=folder)
        self._fetched: OrderedDict[str, Path] = OrderedDict()
        self._known: OrderedDict[str, Metadata] = OrderedDict()
        self._texts: OrderedDict[str, str] = OrderedDict()
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
        """Return the names of a room's images, newest first. Raises StorageError."""
        prefix = _prefix(room)
        found = {
            name: int(name.removeprefix(prefix).partition("-")[0])
            for name in self.store.names(prefix)
            if re.fullmatch(rf"{prefix}{_STEM}\.png", name)
        }
        if room == SHARED and self.jobs is not None:
            for job in self.jobs.list(None, MOST_JOBS):
                if job.status == FINISHED and job.ended is not None:
                    found |= dict.fromkeys(job.result_names(), int(job.ended.timestamp() * 1e6))
        return sorted(found, key=lambda name: found[name], reverse=True)

    def find(self, room: str, words: str = "", *, favourites: bool = False) -> list[str]:
        """Return the names of a room's images that were asked for by all of some words, newest first.

        words: parts of prompt, model or seed, whatever their case. favourites: those alone that are marked.
        """
        names = self.names(room)
        if favourites:
            marked = self.favourites(room)
            names = [name for name in names if name in marked]
        wanted = words.casefold().split()
        if not wanted:
            return names
        texts = ((name, self._searched(room, name)) for name in names)
        return [name for name, text in texts if all(word in text for word in wanted)]

    def _searched(self, room: str, name: str) -> str:
        """Return what a search looks through of an image; "" of one that was deleted or is damaged.

        No pixels are decoded: a gallery may have thousands of images.
        """
        with self._lock:
            if name in self._texts:
                return self._texts[name]
        if (data := self.read(room, name)) is None:
            return ""
        try:
            with Image.open(io.BytesIO(data), formats=["PNG", *EXIF_FORMATS]) as image:
                # Our PNG files have them before the pixels; asked for all texts, Pillow decodes these.
                found = image.info if image.format == "PNG" else metadata_of(image)
        except (OSError, SyntaxError, ValueError):  # its tile says that it is damaged
            found = {}
        text = " ".join(str(found.get(key, "")) for key in ("prompt", "model", "seed")).casefold()
        with self._lock:
            self._texts[name] = text
            while len(self._texts) > MOST_SEARCHED:
                self._texts.popitem(last=False)
        return text

    def favourites(self, room: str) -> set[str]:
        """Return the names of a room's images that its visitor marked. Raises StorageError."""
        marks = (name for name in self.store.names(_prefix(room)) if name.endswith(_FAVOURITE))
        return {f"{mark.removesuffix(_FAVOURITE)}.png" for mark in marks}

    def mark(self, room: str, name: str, favourite: bool) -> None:
        """Mark an image as a favourite, or no longer. Raises SettingsError, OutputError, StorageError."""
        self._check_own(room, name)
        beside = _beside(name, _FAVOURITE)
        if favourite:
            self.store.put(beside, b"")
        else:
            self.store.delete(beside)

    def delete(self, room: str, names: Iterable[str]) -> int:
        """Delete images for good; return how many. Raises SettingsError for one that is not the room's own.

        Nothing is deleted where one may not be.
        """
        names = [*dict.fromkeys(names)]
        for name in names:
            self._check_own(room, name)
        for name in names:
            for file in (_beside(name, _SMALL), _beside(name, _FAVOURITE), name):  # the image last: it lists
                self.store.delete(file)
            with self._lock:
                self._known.pop(name, None)
                self._texts.pop(name, None)
                if (copy := self._fetched.pop(name, None)) is not None:
                    copy.unlink(missing_ok=True)
        return len(names)

    def is_own(self, room: str, name: str) -> bool:
        """Return whether an image was drawn on the page in this room: it may be marked and deleted."""
        return re.fullmatch(rf"{_prefix(room)}{_STEM}\.png", name) is not None

    def time(self, room: str, name: str) -> datetime:
        """Return when an image was drawn, in UTC. Raises SettingsError."""
        if self.is_own(room, name):
            return datetime.fromtimestamp(int(name.removeprefix(_prefix(room))[:17]) / 1e6, UTC)
        job = self._job_of(room, name)
        if job is None or job.ended is None:
            raise SettingsError("This image no longer exists: choose another one.")
        return job.ended

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

    def read(self, room: str, name: str) -> bytes | None:
        """Return an image as it is stored; None: it was deleted. Raises SettingsError, StorageError."""
        if not self._belongs(room, name):
            raise SettingsError("This image no longer exists: choose another one.")
        try:
            return self.store.get(name)
        except LookupError:
            return None

    def metadata(self, room: str, name: str) -> Metadata:
        """Return an image's settings. Raises as `file` does."""
        return read_metadata(self.file(room, name))

    def about(self, room: str, name: str) -> Metadata:
        """Return an image's settings by its small one, {} where it carries none. Raises as `file` does."""
        with self._lock:
            known = self._known.get(name) if self._belongs_by_name(room, name) else None
        if known is not None:
            return known
        self.small(room, name)
        with self._lock:
            return self._known.get(name, {})

    def small(self, room: str, name: str) -> bytes:
        """Return a small WebP file of an image, which carries its settings. Raises as `file` does."""
        if not self._belongs(room, name):
            raise SettingsError("This image no longer exists: choose another one.")
        own, beside = self.is_own(room, name), _beside(name, _SMALL)
        copy = Path(self._folder.name) / beside  # of a job's image: its files are the job's
        try:
            data = self.store.get(beside) if own else copy.read_bytes()
        except (LookupError, FileNotFoundError):
            data = _shrunk(self.file(room, name))
            if own:
                self.store.put(beside, data)
            else:
                with written_whole(copy) as partial:
                    partial.write_bytes(data)
        with Image.open(io.BytesIO(data)) as image:
            metadata = metadata_of(image)
        with self._lock:
            self._known[name] = metadata
            while len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
        return data

    def _check_own(self, room: str, name: str) -> None:
        if not self.is_own(room, name):
            raise SettingsError("This image belongs to a job, and goes with it: choose another one.")

    def _belongs_by_name(self, room: str, name: str) -> bool:
        return name.startswith(_prefix(room)) or (room == SHARED and not name.startswith(PREFIX))

    def _belongs(self, room: str, name: str) -> bool:
        return name.startswith(_prefix(room)) or self._job_of(room, name) is not None

    def _job_of(self, room: str, name: str) -> Job | None:
        job = self.jobs.get(name.rpartition("-")[0], None) if room == SHARED and self.jobs else None
        return job if job is not None and name in job.result_names() else None

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


def _beside(name: str, ending: str) -> str:
    """Return the name of a file beside an image."""
    return Path(name).stem + ending


def _shrunk(path: Path) -> bytes:
    """Return an image's file as a small one with the same settings. Raises SettingsError, SizeError."""
    image = open_image(path, "This image")
    metadata = metadata_of(image)
    image.thumbnail((SMALL, SMALL), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return encode(image.convert("RGB"), "WEBP", metadata, quality=80)
