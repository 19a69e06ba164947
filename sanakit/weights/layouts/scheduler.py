"""A folder's scheduler_config.json: the solver and shift it asks for, or why it cannot be had.

Fields without effect on the published solvers are not looked at: the noise schedule (`beta_*`) and
`timestep_spacing`, which flow sigmas replace; `lower_order_final` and `euler_at_final`, with order 2 to zero.
Source: diffusers' DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler and SCMScheduler.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sanakit.errors import WeightsError
from sanakit.weights.read.disk import read_json

MOST_SHIFT = 1e6  # far above any in use
_TRAINED = {"num_train_timesteps": 1000}
_PLAIN_TIMES = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_dynamic_shifting": False,
}
SOLVERS = {  # class -> our solver, its key of the shift, the fields that must have these values
    "DPMSolverMultistepScheduler": (
        "dpm",
        "flow_shift",
        {
            **_TRAINED,
            **_PLAIN_TIMES,
            "use_lu_lambdas": False,
            "use_flow_sigmas": True,
            "prediction_type": "flow_prediction",
            "algorithm_type": "dpmsolver++",
            "solver_order": 2,
            "solver_type": "midpoint",
            "final_sigmas_type": "zero",
            "thresholding": False,
        },
    ),
    "FlowMatchEulerDiscreteScheduler": (
        "euler",
        "shift",
        {
            **_TRAINED,
            **_PLAIN_TIMES,
            "invert_sigmas": False,
            "shift_terminal": None,
            "stochastic_sampling": False,
        },
    ),
    "SCMScheduler": (
        "scm",
        "shift",
        {**_TRAINED, "prediction_type": "trigflow", "sigma_data": 0.5},
    ),
}


def read_scheduler(path: Path) -> dict[str, Any]:
    """Return the `solver` and `flow_shift` that a scheduler_config.json tells; {} without the file.

    Raises WeightsError naming the class or field that this version does not sample with.
    """
    if not path.exists():
        return {}
    config = read_json(path)
    found: dict[str, Any] = {}
    shift_key = "flow_shift"
    if (came := config.get("_class_name")) is not None:
        if not isinstance(came, str) or came not in SOLVERS:
            raise WeightsError(
                f"{path} asks for the scheduler {came!r}, which this version does not have: use one of "
                f"{', '.join(SOLVERS)} there, or remove the file to sample with the published solver."
            )
        found["solver"], shift_key, needed = SOLVERS[came]
        for name, value in needed.items():
            if not _equals(config.get(name, value), value):
                raise WeightsError(
                    f"{path} says {name} = {config[name]!r}, and this version samples with {value!r} only: "
                    "change it there, or draw with diffusers."
                )
    shift = next((config[key] for key in (shift_key, "flow_shift", "shift") if key in config), None)
    if shift is None:
        return found
    if isinstance(shift, bool) or not isinstance(shift, int | float) or not 0 < shift < MOST_SHIFT:
        raise WeightsError(f"{path} says flow_shift = {shift!r}; it must be a number above 0, usually 3.")
    return {**found, "flow_shift": float(shift)}


def _equals(came: Any, value: Any) -> bool:
    """Return whether a field means a value; older files say null where newer ones say false."""
    if isinstance(value, bool):
        return came is value or (came is None and not value)
    return not isinstance(came, bool) and came == value
