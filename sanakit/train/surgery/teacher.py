"""Make a teacher for few-step distillation of a flow model: times t in [0, 1], and normed queries and keys.

Both smooth the model's derivative in time, which sCM follows: of a tiny model in bfloat16 it is off by half
with times 1000 t, by 3 % with t. The result has to be trained further, all layers together, about 5,000 steps
as published, until its own loss is back: the new norms begin with gains of 1, and the new embedding of time
is fitted to the old one. Linear attention does not depend on the length of a query; all else changes.
Source: SANA-Sprint (arXiv:2503.09641), section 3.2.
"""

from __future__ import annotations

from dataclasses import replace

from sanakit.errors import SettingsError
from sanakit.models.sana import Sana
from sanakit.train.surgery.dense_time import with_dense_time

NORMS = (".q_norm.weight", ".k_norm.weight")


def as_teacher(transformer: Sana) -> Sana:
    """Return a copy that takes t itself and norms its queries and keys.

    Raises SettingsError for a one-step model, and for one that is a teacher already.
    """
    config = transformer.config
    if config.guidance_embed:
        raise SettingsError("A Sprint model is distilled already: make a teacher of the one before it.")
    if config.time_scale == 1 and config.qk_norm:
        raise SettingsError("The model can be distilled as it is: go on with sana train sprint.")
    changed = transformer if config.time_scale == 1 else with_dense_time(transformer)[0]
    if config.qk_norm:
        return changed
    normed = Sana(replace(changed.config, qk_norm=True))
    ones = {name: gain for name, gain in normed.state_dict().items() if name.endswith(NORMS)}
    normed.load_state_dict(changed.state_dict() | ones)
    return normed.to(next(transformer.parameters()).device)
