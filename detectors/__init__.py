"""Detectors: arrays in, arrays out; which slice got worse, by what evidence, at what promise.

`ErrorRate`   has this slice's loss risen?
`Everyone`    has it risen for the model at large?
`Disparity`   is this slice getting worse than the rest?
`Recovery`    has a slice with an open incident come back?
`OwnInputs`   are this slice's inputs what they were?
`InputShift`  have they moved, and otherwise than everyone else's?
`InputsEverywhere`  have they moved for the model at large?
`SingleStream`  one of river's detectors for each slice, outside the budget
`Budget`      how the promised rate of false alerts is spent on them
`Calibration` by how much hazards may be raised until the promise is what is measured
`Summary`     what rows come to, per cell and per slice
`Season`      what the hour of the week does to everybody's losses
`fit_cell_rates`, `dispersion_own`, `dispersion_share`   what normal was, and how far it scatters
`dispersion_of_shares`, `two_components`, `season_of_shares`   the same of inputs
`least_dispersion`   how little it can scatter where errors are frequent

`detectors.acoustics`, imported by itself beside the model, describes a clip in figures.

Nothing here reads a clock, does I/O, or knows of the service.
"""

from detectors.calibration import Calibration
from detectors.contract import Detections, Detector, ShapeError
from detectors.disparity import Disparity
from detectors.error_rate import ErrorRate, Everyone, Recovery
from detectors.input_shift import InputsEverywhere, InputShift, OwnInputs
from detectors.multiplicity import Budget
from detectors.reference import (
    CellRates,
    Units,
    dispersion_own,
    dispersion_share,
    fit_cell_rates,
    least_dispersion,
)
from detectors.scatter import (
    Dispersion,
    dispersion_of_shares,
    rows_a_unit,
    season_of_shares,
    two_components,
)
from detectors.season import Season
from detectors.shares import Shares
from detectors.single_stream import ParameterError, Rows, SingleStream
from detectors.summary import Outcomes, Summary

__all__ = [
    "Budget",
    "Calibration",
    "CellRates",
    "Detections",
    "Detector",
    "Disparity",
    "Dispersion",
    "ErrorRate",
    "Everyone",
    "InputShift",
    "InputsEverywhere",
    "Outcomes",
    "OwnInputs",
    "ParameterError",
    "Recovery",
    "Rows",
    "Season",
    "ShapeError",
    "Shares",
    "SingleStream",
    "Summary",
    "Units",
    "dispersion_of_shares",
    "dispersion_own",
    "dispersion_share",
    "fit_cell_rates",
    "least_dispersion",
    "rows_a_unit",
    "season_of_shares",
    "two_components",
]
