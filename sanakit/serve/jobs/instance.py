"""The name under which this server claims jobs, and finds them again after it was killed.

Each server of a data folder holds one of its places, a locked file, which keeps the place's name. The kernel
unlocks the file of a killed process. So the next server gets the same place and name, and may requeue its
running jobs at once. A second server beside a live one gets the next place.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from sanakit.errors import StorageError

_MOST = 1000  # servers of one folder


class Instance:
    """A place of a data folder, held until `close` or the end of the process.

    folder: made if missing. `name`: the owner's name for JobStore. Raises StorageError. Where files cannot
    be locked (Windows) the name is new each time, and jobs of a killed server wait for their leases' end.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.name = secrets.token_hex(8)
        self._file: int | None = None
        try:
            import fcntl
        except ImportError:
            return
        try:
            Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
            for place in range(_MOST):
                file = os.open(Path(folder) / f"instance-{place}.lock", os.O_RDWR | os.O_CREAT, 0o600)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(file)
                    continue
                self._file = file
                break
            if self._file is not None:
                self._keep_name(self._file)
        except OSError as error:
            self.close()
            raise StorageError(
                f"The folder {folder} cannot be used ({error.strerror}): check its permissions and the "
                "free space."
            ) from None

    def close(self) -> None:
        """Leave the place to the next server."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _keep_name(self, file: int) -> None:
        """Take the name that the place has, or give it ours."""
        kept = os.read(file, 16).decode("ascii", "replace")
        if len(kept) == 16:
            self.name = kept
        else:
            os.pwrite(file, self.name.encode(), 0)
            os.fsync(file)
