"""Text features of the prompts that came last: a prompt that comes again is not read again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor

from sanakit.dialect import Dialect
from sanakit.pipelines.memory import MemoryPlan
from sanakit.pipelines.request import Request
from sanakit.pipelines.text_to_image import TextToImage

KEPT_PROMPTS = 256  # whose features are kept, the least recently used goes first

_Encoded = tuple[Tensor, list[str]]  # features L E, and notes


class PromptFeatures:
    """Features by model, prompt and dialect, as many as `KEPT_PROMPTS`."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str, bool, bool, Dialect], _Encoded] = OrderedDict()

    def of(
        self,
        pipe: TextToImage,
        request: Request,
        plan: MemoryPlan,
        begin: Callable[[], None],
        *,
        whole: bool = True,
    ) -> tuple[list[Tensor], list[str]]:
        """Return features (L E) of a request's prompts, negative ones first if it is guided, and notes.

        begin: called before a prompt is encoded. whole: whether it is whole: what is still being typed is not
        looked up among the things that the model knows, which takes longer than encoding it.
        """
        wanted = [(one.text, True) for one in request.nulls] + [(one.text, False) for one in request.texts]
        features, told = [], []
        for text, negative in wanted:
            key = (request.model, text, negative, whole or negative, request.dialect)
            if key not in self._kept:
                begin()
                if whole or negative:
                    both = ([], [text]) if negative else ([text], [])
                    (found,), notes = pipe.encode(*both, plan, request.dialect)
                else:
                    pipe.text_encoder.after_layer, notes = plan.after_layer, []
                    (found,) = pipe.text_encoder.encode([text], notes, request.dialect)
                self._kept[key] = (found, notes)
                if len(self._kept) > KEPT_PROMPTS:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            features.append(self._kept[key][0])
            told += self._kept[key][1]
        return features, told
