"""The server's image store: a folder, or any store of fsspec (s3://, gs://, memory://).

Names are checked, not cleaned: names that are not plain are refused, so none leads out of it. In a folder
each image is written whole or not at all. Object stores write whole objects; other remote stores may not.
This suffices, as a job names its images only after all of them are stored.
"""

from __future__ import annotations

import os
import re
import stat
import time
from pathlib import Path

from fsspec.core import url_to_fs

from sanakit.errors import OutputError, SettingsError, StorageError
from sanakit.whole import ABANDONED, sweep, written_whole

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class ImageStore:
    """Images by name. All methods may be called from any thread and block while the store works.

    url: a folder (made if missing, for its owner alone), file:///PATH, or a URL of fsspec, whose package for
    it must be installed (s3:// needs s3fs). Raises SettingsError or OutputError.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        url = os.fspath(url)
        if url.startswith("file://"):
            url = url.removeprefix("file://")
        self._place: _Folder | _Remote = _Remote(url) if "://" in url or "::" in url else _Folder(url)

    def put(self, name: str, data: bytes) -> None:
        """Store an image under a name, in place of what it named before. When this returns it is stored.

        Raises SettingsError for a name that does not fit NAME, OutputError if it cannot be written.
        """
        self._place.put(_checked(name), data)

    def get(self, name: str) -> bytes:
        """Return an image.

        Raises LookupError if there is none, SettingsError for a name that does not fit NAME, and
        StorageError if the store does not answer.
        """
        return self._place.get(_checked(name))

    def delete(self, name: str) -> None:
        """Delete an image; a missing one is not an error. Raises SettingsError, StorageError."""
        self._place.delete(_checked(name))

    def names(self, prefix: str = "") -> list[str]:
        """Names of all images, or of those that begin so, in order. Raises StorageError."""
        return sorted(name for name in self._place.names(prefix) if _fits(name))

    def is_old(self, name: str) -> bool:
        """Return whether an image was stored so long ago that nobody is still at work on what it is for.

        False for a missing one, and where the store keeps no times. Raises SettingsError, StorageError.
        """
        written = self._place.written(_checked(name))
        return written is not None and time.time() - written > ABANDONED

    def sweep(self) -> None:
        """Delete unfinished files that killed processes left, as far as that is possible."""
        self._place.sweep()


class _Folder:
    """Images as files of a folder. Links in it are never followed."""

    def __init__(self, path: str) -> None:
        self._root = Path(path).expanduser().absolute()
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise OutputError(_sentence(f"The folder {self._root} cannot be created", error)) from None
        self.sweep()

    def sweep(self) -> None:
        sweep(self._root, older=ABANDONED)

    def written(self, name: str) -> float | None:
        try:
            return (self._root / name).lstat().st_mtime
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(_sentence(f"The image {name} cannot be read in {self._root}", error)) from None

    def put(self, name: str, data: bytes) -> None:
        try:
            with written_whole(self._root / name) as partial:
                partial.write_bytes(data)
        except OSError as error:
            sentence = _sentence(f"The image {name} cannot be written in {self._root}", error)
            raise OutputError(sentence) from None

    def get(self, name: str) -> bytes:
        # O_NONBLOCK: a pipe that lies there would otherwise hold the thread for ever
        flags = os.O_RDONLY | sum(getattr(os, flag, 0) for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
        try:
            found = (self._root / name).lstat()
            if not stat.S_ISREG(found.st_mode):
                raise FileNotFoundError(name)
            with open(os.open(self._root / name, flags), "rb") as file:
                return file.read()
        except FileNotFoundError:
            raise LookupError(f"There is no image named {name}.") from None
        except OSError as error:
            raise StorageError(_sentence(f"The image {name} cannot be read in {self._root}", error)) from None

    def delete(self, name: str) -> None:
        try:
            (self._root / name).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(
                _sentence(f"The image {name} cannot be deleted in {self._root}", error)
            ) from None

    def names(self, prefix: str) -> list[str]:
        try:
            with os.scandir(self._root) as entries:
                found = (entry for entry in entries if entry.name.startswith(prefix))
                return [entry.name for entry in found if entry.is_file(follow_symlinks=False)]
        except OSError as error:
            raise StorageError(_sentence(f"The folder {self._root} cannot be read", error)) from None


class _Remote:
    """Images in a store behind fsspec.

    Its implementations raise exceptions of their own libraries, so all but "not found" are caught as one.
    """

    def __init__(self, url: str) -> None:
        try:
            self._files, root = url_to_fs(url)
            self._files.makedirs(root, exist_ok=True)
        except ImportError as error:
            raise SettingsError(f"{_without_password(url)}: {error}") from None
        except ValueError as error:
            raise SettingsError(
                f"Images cannot be stored at {_without_password(url)} ({error}): use a folder or a URL of "
                f"fsspec, such as s3://BUCKET/FOLDER."
            ) from None
        except Exception as error:
            raise OutputError(_sentence(f"{_without_password(url)} cannot be opened", error)) from None
        self._root = root.rstrip("/")

    def put(self, name: str, data: bytes) -> None:
        try:
            self._files.pipe_file(f"{self._root}/{name}", data)
        except Exception as error:
            raise OutputError(_sentence(f"The image {name} cannot be written", error)) from None

    def get(self, name: str) -> bytes:
        try:
            return self._files.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            raise LookupError(f"There is no image named {name}.") from None
        except Exception as error:
            raise StorageError(_sentence(f"The image {name} cannot be read", error)) from None

    def delete(self, name: str) -> None:
        try:
            self._files.rm_file(f"{self._root}/{name}")
        except FileNotFoundError:
            pass
        except Exception as error:
            raise StorageError(_sentence(f"The image {name} cannot be deleted", error)) from None

    def names(self, prefix: str) -> list[str]:
        try:
            self._files.invalidate_cache()  # other processes write too
            # Object stores list by prefix; plain names hold no characters of patterns.
            found = self._files.glob(f"{self._root}/{prefix}*", detail=True)
        except FileNotFoundError:  # an object store has no empty folders
            return []
        except Exception as error:
            raise StorageError(_sentence("The images cannot be listed", error)) from None
        return [path.rpartition("/")[2] for path, entry in found.items() if entry["type"] == "file"]

    def written(self, name: str) -> float | None:
        try:
            return self._files.modified(f"{self._root}/{name}").timestamp()
        except (FileNotFoundError, NotImplementedError):
            return None
        except Exception as error:
            raise StorageError(_sentence(f"The image {name} cannot be read", error)) from None

    def sweep(self) -> None:
        """Do nothing: what is not whole has no name there."""


def _fits(name: str) -> bool:
    return NAME.fullmatch(name) is not None and ".." not in name


def _checked(name: str) -> str:
    if not isinstance(name, str) or not _fits(name):
        raise SettingsError(
            f"{str(name)[:200]!r} is not an image name: it takes 1 to 128 letters, digits, dots, dashes "
            "and underscores, begins with a letter or digit and has no two dots in a row."
        )
    return name


def _sentence(what: str, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}".split("\n")[0]
    return f"{what} ({reason}): check the path, its permissions and the free space."


def _without_password(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)
