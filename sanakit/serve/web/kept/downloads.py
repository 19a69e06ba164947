"""Files that lie ready to be downloaded: the newest few, each in a folder whose name others cannot guess."""

from __future__ import annotations

import secrets
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

MOST_FILES = 4  # of one kind; an older one is deleted


class Downloads:
    """The files of one kind. prefix: begins the name of their folder. folder: that it is made in."""

    def __init__(self, prefix: str, folder: Path | None) -> None:
        self._folder = TemporaryDirectory(prefix=prefix, dir=folder)
        self._lock = threading.Lock()
        self.files: list[Path] = []  # the newest last

    @contextmanager
    def added(self, name: str) -> Iterator[Path]:
        """Yield a place for a file of this name. It is kept if the block writes it without an error."""
        place = Path(self._folder.name) / secrets.token_hex(8)
        place.mkdir(mode=0o700)
        try:
            yield place / name
        except BaseException:
            shutil.rmtree(place)
            raise
        with self._lock:
            self.files.append(place / name)
            old, self.files = self.files[:-MOST_FILES], self.files[-MOST_FILES:]
        for file in old:
            shutil.rmtree(file.parent)
