"""The report of a fine-tuning on its images: which are trained on, held out, left out or broken."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sanakit.data.batches.loader import Loader
from sanakit.data.cache.loader import CachedLoader
from sanakit.errors import DataError
from sanakit.train.config import TrainConfig
from sanakit.train.distributed.parallel import current_share
from sanakit.train.report import writing
from sanakit.train.runs.images import COUNTED, TrainedImages
from sanakit.train.state.checkpoint import has_checkpoint
from sanakit.whole import written_whole
from sanakit.wording import counted

REPORT = "report.json"  # in the run's folder


@dataclass(frozen=True, slots=True)
class ImageReport:
    """Writes what became of a run's images. failed: by name -> reason, those of an earlier start included."""

    folder: Path
    loader: Loader | CachedLoader
    failed: dict[str, str]
    held_out: list[str]
    captions: Counter[int]
    order: Mapping[str, Any]

    def write(self, failed: Mapping[str, str] | None = None) -> str:
        """Add images that turned out broken, write the report on rank 0, and return its summary."""
        self.failed.update(failed or {})
        found = self.loader.report()
        found = replace(found, failed=found.failed | self.failed, uncaptioned=0)
        buckets = zip(self.loader.buckets.sizes, self.loader.buckets.members, strict=True)
        sizes = [{"width": w, "height": h, "pictures": len(numbers)} for (h, w), numbers in buckets]
        each = {str(count): self.captions[count] for count in sorted(self.captions)}
        lines = [str(found)]
        if self.held_out:
            lines.append(f"{counted(len(self.held_out), 'image is', 'images are')} held out to measure on.")
        shapes = ", ".join(f"{size['width']}x{size['height']}: {size['pictures']}" for size in sizes)
        lines.append(f"Buckets: {shapes}.")
        share = f", of {self.captions.total()} images" if self.captions.total() == COUNTED else ""
        told = ", ".join(f"{count}: {images}" for count, images in each.items())
        lines.append(f"Captions per image{share}: {told}.")
        summary = "\n".join(lines)
        row = {"summary": summary, **asdict(found)}
        del row["uncaptioned"]  # counts samples of this process; the captions per image say more
        row |= {"held_out": self.held_out, "buckets": sizes, "order": self.order}
        row["captions_per_picture"] = each
        if current_share().rank == 0:
            with writing(self.folder), written_whole(self.folder / REPORT) as partial:
                partial.write_text(json.dumps(row, indent=2, ensure_ascii=True) + "\n", encoding="utf-8")
        return summary


def begin_report(
    output: Path,
    images: TrainedImages,
    config: TrainConfig,
    loader: Loader | CachedLoader,
    held_out: list[str],
    captions: Counter[int],
) -> ImageReport:
    """Return the run's report, which a resumed run continues."""
    known = (read_report(output) if has_checkpoint(output) else None) or {}
    order = {
        "pictures": images.fingerprint,
        "resolution": images.resolution,
        "batch_size": config.batch_size,
        "seed": config.seed,
    }
    return ImageReport(output, loader, known.get("failed", {}), held_out, captions, order)


def read_report(folder: Path) -> dict[str, Any] | None:
    """Return what became of a run's images, as its report.json says; None without one. Raises DataError."""
    path = folder / REPORT
    if not path.exists():
        return None
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(report["failed"], dict) or not isinstance(report["summary"], str):
            raise TypeError("failed is an object, summary a text")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}): delete it, it is written again.") from None
    return report
