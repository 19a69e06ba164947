"""The mathematics of the flow: path, time grids, guidance and solvers. No images, no text, no model."""

from sanakit.flow.dpm import FlowDPM, dpm_times
from sanakit.flow.euler import Euler, euler_times
from sanakit.flow.guidance import Velocity, classifier_free
from sanakit.flow.path import (
    clean_from_velocity,
    interpolate,
    noise_from_velocity,
    shift_times,
    velocity_target,
)
from sanakit.flow.schedule import sample_training_times
from sanakit.flow.scm import SCM, scm_times
from sanakit.flow.solver import Solver, State
from sanakit.flow.trigflow import trigflow

__all__ = [
    "SCM",
    "Euler",
    "FlowDPM",
    "Solver",
    "State",
    "Velocity",
    "classifier_free",
    "clean_from_velocity",
    "dpm_times",
    "euler_times",
    "interpolate",
    "noise_from_velocity",
    "sample_training_times",
    "scm_times",
    "shift_times",
    "trigflow",
    "velocity_target",
]
