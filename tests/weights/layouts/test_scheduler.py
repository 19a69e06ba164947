"""A folder's scheduler is sampled with as diffusers would, or refused by the name of what differs."""

from __future__ import annotations

import json

import pytest

from sanakit.errors import WeightsError
from sanakit.weights import load_settings
from sanakit.weights.layouts.scheduler import SOLVERS, read_scheduler
from sanakit.weights.save import DPM_SCHEDULER, SCM_SCHEDULER

EULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": False,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "invert_sigmas": False,
    "shift_terminal": None,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "time_shift_type": "exponential",
    "stochastic_sampling": False,
}
DPM = DPM_SCHEDULER | {"flow_shift": 4.0}


def read(tmp_path, config):
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    return read_scheduler(tmp_path / "scheduler_config.json")


def test_the_published_schedulers_are_read(tmp_path):
    assert read(tmp_path, DPM) == {"solver": "dpm", "flow_shift": 4.0}
    assert read(tmp_path, EULER) == {"solver": "euler", "flow_shift": 3.0}
    assert read(tmp_path, SCM_SCHEDULER) == {"solver": "scm"}
    assert read(tmp_path, {}) == {}
    assert read_scheduler(tmp_path / "nowhere.json") == {}


def test_each_class_reads_its_own_shift(tmp_path):
    """A folder whose scheduler was exchanged may hold the keys of both."""
    both = {"shift": 1.5, "flow_shift": 4.0}
    assert read(tmp_path, DPM | both)["flow_shift"] == 4.0
    assert read(tmp_path, EULER | both)["flow_shift"] == 1.5


REFUSED = [
    (DPM, "solver_order", 3),
    (DPM, "solver_order", 1),
    (DPM, "algorithm_type", "sde-dpmsolver++"),
    (DPM, "algorithm_type", "dpmsolver"),
    (DPM, "solver_type", "heun"),
    (DPM, "prediction_type", "epsilon"),
    (DPM, "prediction_type", "v_prediction"),
    (DPM, "use_karras_sigmas", True),
    (DPM, "use_exponential_sigmas", True),
    (DPM, "use_beta_sigmas", True),
    (DPM, "use_lu_lambdas", True),
    (DPM, "use_flow_sigmas", False),
    (DPM, "use_dynamic_shifting", True),
    (DPM, "final_sigmas_type", "sigma_min"),
    (DPM, "thresholding", True),
    (DPM, "num_train_timesteps", 500),
    (DPM, "solver_order", True),
    (DPM, "solver_type", ["midpoint"]),
    (EULER, "use_dynamic_shifting", True),
    (EULER, "use_karras_sigmas", True),
    (EULER, "stochastic_sampling", True),
    (EULER, "invert_sigmas", True),
    (EULER, "shift_terminal", 0.1),
    (SCM_SCHEDULER, "sigma_data", 1.0),
    (SCM_SCHEDULER, "prediction_type", "epsilon"),
]


@pytest.mark.parametrize(("config", "name", "value"), REFUSED)
def test_a_field_that_would_draw_something_else_is_refused_by_name(tmp_path, config, name, value):
    with pytest.raises(WeightsError, match=f"says {name} = .*this version samples with"):
        read(tmp_path, config | {name: value})


@pytest.mark.parametrize(
    "name", ["UniPCMultistepScheduler", "EulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", ["a"], 5]
)
def test_another_scheduler_is_refused_by_name(tmp_path, name):
    with pytest.raises(WeightsError, match="which this version does not have") as caught:
        read(tmp_path, DPM | {"_class_name": name})
    assert str(name) in str(caught.value)
    assert all(known in str(caught.value) for known in SOLVERS)


@pytest.mark.parametrize(
    "changes",
    [
        {"lower_order_final": False},
        {"euler_at_final": True},
        {"timestep_spacing": "trailing"},
        {"beta_schedule": "scaled_linear"},
        {"dynamic_thresholding_ratio": 0.9},
        {"variance_type": "learned"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_fields_that_change_nothing_in_diffusers_are_accepted(tmp_path, changes):
    import torch
    from diffusers import DPMSolverMultistepScheduler

    assert read(tmp_path, DPM | changes) == read(tmp_path, DPM)
    torch.manual_seed(0)
    velocities = torch.randn(20, 1, 4, 8, 8)
    ends = []
    for config in (DPM, DPM | changes):
        for steps in (4, 20):
            scheduler = DPMSolverMultistepScheduler.from_config(config)
            scheduler.set_timesteps(steps)
            sample = velocities[0]
            for index, t in enumerate(scheduler.timesteps):
                sample = scheduler.step(velocities[index], t, sample).prev_sample
            ends.append(sample)
    assert torch.equal(ends[0], ends[2])
    assert torch.equal(ends[1], ends[3])


@pytest.mark.parametrize("shift", ["three", float("inf"), float("nan"), 0, -1, True, 10**400, [3]])
def test_a_shift_that_is_not_a_positive_number_is_refused(tmp_path, shift):
    with pytest.raises(WeightsError, match="flow_shift"):
        read(tmp_path, DPM | {"flow_shift": shift})


def test_a_models_settings_refuse_a_scheduler_too(tiny):
    path = tiny.folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(DPM | {"solver_order": 3}))
    with pytest.raises(WeightsError, match="solver_order = 3"):
        load_settings(tiny.folder)
