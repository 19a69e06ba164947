"""Many images as one ZIP file, written image by image.

Memory holds one image at a time. Images are stored, not packed again: PNG is packed already.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

from sanakit.errors import OutputError, SettingsError
from sanakit.serve.web.history import History
from sanakit.whole import written_whole

MOST_IMAGES = 2000
MOST_BYTES = 4 * 10**9


def write_archive(history: History, room: str, names: Sequence[str], path: Path) -> int:
    """Write a room's images into a ZIP file, whole or not at all; return how many.

    Those that were deleted meanwhile are left out. Raises SettingsError for none or too many, OutputError.
    """
    if not names:
        raise SettingsError("There are no images to download: tick some, or search for others.")
    if len(names) > MOST_IMAGES:
        raise SettingsError(f"{len(names)} images are too many for one file: choose at most {MOST_IMAGES}.")
    written = total = 0
    try:
        with (
            written_whole(path) as partial,
            zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive,
        ):
            for name in names:
                data = history.read(room, name)
                if data is None:
                    continue
                total += len(data)
                if total > MOST_BYTES:
                    raise SettingsError(
                        f"These images take more than {MOST_BYTES // 10**9} GB: choose fewer at once."
                    )
                moment = history.time(room, name).timetuple()[:6]
                archive.writestr(zipfile.ZipInfo(name, moment), data)
                written += 1
            if not written:
                raise SettingsError("These images were deleted meanwhile: choose others.")
    except OSError as error:
        raise OutputError(f"The ZIP file cannot be written ({error.strerror}): free some space.") from None
    return written
