"""Has one stream drifted, as river sees it? `SingleStream`: a detector of river's for each slice.

These detectors look at rows one after another, so they are fed `Rows` and not sums, in a Python
loop: some 0.4 to 5 µs a row and slice, KSWIN some 250. They state no rate of false alarms that
adds up over slices, so what they find is outside any budget. `ErrorRate` and `Disparity` are the
fleets that keep one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from statistics import fmean
from typing import Any, Final

import numpy as np

from detectors.contract import Detections, Floats, Indices, ShapeError, State


class ParameterError(ValueError):
    """A detector that is not known, or a parameter it doesn't take or not with that value."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Labelled rows in the order in which they came, a pair for each slice that a row is in.

    Attributes
    ----------
    slices : intp, shape (n_pairs,)
    losses : float64, shape (n_pairs,), in [0, 1]
    """

    slices: Indices
    losses: Floats


@dataclass(frozen=True, slots=True)
class Bounds:
    """The values that a parameter may have, both ends included."""

    least: float
    most: float
    is_whole: bool = False

    def __str__(self) -> str:
        kind = "whole number" if self.is_whole else "number"
        return f"a {kind} from {self.least:.12g} to {self.most:.12g}"

    def hold(self, value: object) -> bool:
        """Whether this is such a value."""
        kinds = int if self.is_whole else (int, float)
        is_number = isinstance(value, kinds) and not isinstance(value, bool)
        return is_number and self.least <= value <= self.most  # type: ignore[operator]


_CHANCE: Final = Bounds(1e-12, 0.5)
_COUNT: Final = Bounds(1, 1_000_000, is_whole=True)

# What may be stated of each detector. Left out is what bears on warnings, which are not reported,
# and on downward changes, which are none of ours.
PARAMETERS: Final[Mapping[str, Mapping[str, Bounds]]] = {
    "ADWIN": {
        "delta": _CHANCE,
        "clock": Bounds(1, 10_000, is_whole=True),
        "max_buckets": Bounds(2, 100, is_whole=True),
        "min_window_length": Bounds(1, 10_000, is_whole=True),
        "grace_period": _COUNT,
    },
    "PageHinkley": {
        "min_instances": _COUNT,
        "delta": Bounds(0.0, 1.0),
        "threshold": Bounds(1e-3, 1e6),
        "alpha": Bounds(0.5, 1.0),
    },
    "KSWIN": {
        "alpha": _CHANCE,
        "window_size": Bounds(20, 2_000, is_whole=True),
        "stat_size": Bounds(5, 1_000, is_whole=True),
        "seed": Bounds(0, 2**32 - 1, is_whole=True),
    },
    "DDM": {"warm_start": _COUNT, "drift_threshold": Bounds(0.1, 100.0)},
    "EDDM": {"warm_start": _COUNT, "beta": Bounds(0.01, 0.95)},
    "FHDDM": {
        "sliding_window_size": Bounds(10, 10_000, is_whole=True),
        "confidence_level": _CHANCE,
        "short_window_size": Bounds(5, 10_000, is_whole=True),
    },
    "HDDMA": {"drift_confidence": _CHANCE},
    "HDDMW": {"drift_confidence": _CHANCE, "lambda_val": Bounds(1e-4, 1.0)},
}
# Where river's own default won't do: its KSWIN draws by a seed of the moment.
_DEFAULTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "PageHinkley": {"mode": "up"},
    "KSWIN": {"window_size": 100, "stat_size": 30, "seed": 0},
    "FHDDM": {"sliding_window_size": 100},
}


def check(name: str, parameters: Mapping[str, object]) -> None:
    """Raise ParameterError, which names the parameter, where river's detector can't be had so."""
    known = PARAMETERS.get(name)
    if known is None:
        raise ParameterError(f"must be one of {', '.join(PARAMETERS)}")
    if not parameters.keys() <= known.keys():
        raise ParameterError(f"{name} takes {', '.join(known)} and nothing else")
    for parameter, value in parameters.items():
        if not known[parameter].hold(value):
            raise ParameterError(f"{parameter}: must be {known[parameter]}")
    stated: dict[str, Any] = {**_DEFAULTS.get(name, {}), **parameters}
    if name == "KSWIN" and 2 * stated["stat_size"] > stated["window_size"]:
        raise ParameterError("stat_size: must be at most half of window_size")
    if name == "FHDDM" and stated.get("short_window_size", 0) > stated["sliding_window_size"]:
        raise ParameterError("short_window_size: must be at most sliding_window_size")


class SingleStream:
    """One of river's detectors for each slice, which begins with the slice's first row.

    Only a loss that rose is reported. ADWIN and KSWIN tell any change: of theirs the mean behind
    the cut must be greater than before it, and whichever it was, they begin anew as in river.

    Parameters
    ----------
    name : str
        ADWIN, PageHinkley, KSWIN, DDM, EDDM, FHDDM, HDDMA or HDDMW, of river 0.26.
    **parameters : float
        As in river, within `PARAMETERS`; those that are not given have river's defaults, but
        PageHinkley looks upwards only and KSWIN's seed is 0.

    Raises
    ------
    ParameterError
        No such detector, or a parameter that it does not take.

    Examples
    --------
    >>> fleet = SingleStream("ADWIN", delta=0.002)
    >>> calm, worse = np.tile([0.0, 0.0, 0.0, 0.0, 1.0], 100), np.tile([0.0, 1.0], 100)
    >>> for index, loss in enumerate([*calm, *worse]):
    ...     detections = fleet.update(Rows(np.array([7]), np.array([loss])))
    ...     if len(detections):
    ...         print(f"slice {detections.slices[0]} at row {index}")
    slice 7 at row 607

    Notes
    -----
    EDDM counts errors, so a loss of a half or more is one to it. FHDDM as river has it looks for a
    *fall* of its input, though its documentation says that 1 is an error: it is fed 1 - loss.

    `save` keeps river's own numbers, not a pickle and not a replay: `restore` goes on bit for bit.
    They mean what they mean to one version of river, so a state of another version is laid aside
    and the detectors begin anew. ADWIN's histogram grows with the logarithm of the rows since its
    last cut; the others' size depends on their parameters alone.

    Sources: Bifet and Gavaldà, "Learning from time-changing data with adaptive windowing", SDM
    2007 (ADWIN); Page, "Continuous inspection schemes", Biometrika 1954; Raab, Heusinger and
    Schleif, "Reactive soft prototype computing for concept drift streams", Neurocomputing 2020
    (KSWIN); Gama et al., "Learning with drift detection", SBIA 2004 (DDM); Baena-García et al.,
    "Early drift detection method", IWKDDS 2006; Pesaranghader and Viktor, "Fast Hoeffding drift
    detection method for evolving data streams", ECML-PKDD 2016; Frías-Blanco et al., "Online and
    non-parametric drift detection methods based on Hoeffding's bounds", TKDE 2014 (HDDM).
    """

    def __init__(self, name: str, **parameters: float) -> None:
        check(name, parameters)
        self.name = name
        self.parameters = parameters
        self._step = _STEPS.get(name, _step)
        self._detectors: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._detectors)

    def update(self, rows: Rows) -> Detections:
        """Feed rows, each to the detector of its slice, and report slices whose loss rose.

        Parameters
        ----------
        rows : Rows
            slices: intp, shape (n_pairs,); losses: float64, shape (n_pairs,), in [0, 1].

        Returns
        -------
        Detections
            One row per slice in which the detector found a rise, however often. Its evidence is
            1.0, what an alarm takes: river gives none on our scale.

        Raises
        ------
        ShapeError
            `slices` and `losses` are not of one length.
        ValueError
            A loss is outside [0, 1].
        """
        self._check(rows)
        rose = [slice_ for slice_, losses in _by_slice(rows) if self._feed(slice_, losses)]
        return Detections(np.array(rose, np.intp), np.ones(len(rose)), None)

    def warm_up(self, rows: Rows) -> None:
        """Feed rows from before the watch; nothing is reported, and no more than it can remember.

        Parameters
        ----------
        rows : Rows
            As in `update`.
        """
        self._check(rows)
        window = self.parameters.get("window_size", 100) if self.name == "KSWIN" else 0
        for slice_, losses in _by_slice(rows):
            self._feed(slice_, losses[-int(window) :])

    def _check(self, rows: Rows) -> None:
        if rows.slices.size != rows.losses.size:
            raise ShapeError(f"{rows.slices.size} slices and {rows.losses.size} losses")
        if rows.losses.size and not (rows.losses.min() >= 0 and rows.losses.max() <= 1):
            raise ValueError("losses: must be in [0, 1]")

    def _feed(self, slice_: int, losses: list[float]) -> bool:
        """Whether the detector of this slice found a rise in these losses."""
        detector = self._detectors.get(slice_)
        if detector is None:
            detector = self._begin()
        rose = False
        for loss in losses:
            drift = self._step(detector, loss)
            if drift:
                rose = rose or drift > 0
                detector = self._begin()  # river does the same at the next row
        self._detectors[slice_] = detector
        return rose

    def _begin(self) -> Any:
        return _river(self.name)(**{**_DEFAULTS.get(self.name, {}), **self.parameters})

    def save(self) -> State:
        """The state as arrays: each slice's numbers, one after another, as bytes."""
        slices = sorted(self._detectors)
        bodies = [_numbers(self.name, self._detectors[slice_]) for slice_ in slices]
        return {
            "river": np.frombuffer(_version(), np.uint8).copy(),
            "slices": np.array(slices, np.int64),
            "sizes": np.array([len(body) for body in bodies], np.int64),
            "bodies": np.frombuffer(b"".join(bodies), np.uint8).copy(),
        }

    def restore(self, state: State) -> None:
        """Take up the state that `save` gave; begin anew where another river gave it."""
        self._detectors = {}
        if state["river"].tobytes() != _version():
            return
        ends = np.cumsum(state["sizes"])
        body = state["bodies"].tobytes()
        for slice_, size, end in zip(
            state["slices"].tolist(), state["sizes"].tolist(), ends.tolist(), strict=True
        ):
            detector = self._detectors[slice_] = self._begin()
            _resume(self.name, detector, body[end - size : end])


def _by_slice(rows: Rows) -> Iterator[tuple[int, list[float]]]:
    """Each slice with its losses in order; detectors of different slices do not meet."""
    if not rows.slices.size:
        return
    order = np.argsort(rows.slices, kind="stable")
    slices, losses = rows.slices[order], rows.losses[order]
    found, start = np.unique(slices, return_index=True)
    for slice_, part in zip(found.tolist(), np.split(losses, start[1:]), strict=True):
        yield slice_, part.tolist()


def _river(name: str) -> Callable[..., Any]:
    """The detector's class; river takes a second to import, so only who asks for it waits."""
    from river import drift

    detector: Callable[..., Any] = getattr(drift if hasattr(drift, name) else drift.binary, name)
    return detector


def _version() -> bytes:
    from river.__version__ import __version__

    return __version__.encode()


# A step feeds one loss: 0 where nothing was found, 1 where the loss rose, -1 where it moved
# otherwise.


def _step(detector: Any, loss: float) -> int:
    detector.update(loss)
    return int(detector.drift_detected)


def _step_adwin(detector: Any, loss: float) -> int:
    before = detector.estimation  # the mean of the whole window; a cut leaves its newer part
    detector.update(loss)
    if not detector.drift_detected:
        return 0
    return 1 if detector.estimation > before else -1


def _step_kswin(detector: Any, loss: float) -> int:
    window = detector.window  # a detection leaves its newest part in another
    detector.update(loss)
    if not detector.drift_detected:
        return 0
    older = fmean(islice(window, len(window) - detector.stat_size))
    return 1 if fmean(detector.window) > older else -1


def _step_eddm(detector: Any, loss: float) -> int:
    return _step(detector, 1 if loss >= 0.5 else 0)


def _step_fhddm(detector: Any, loss: float) -> int:
    return _step(detector, 1.0 - loss)


_STEPS: Final[Mapping[str, Callable[[Any, float], int]]] = {
    "ADWIN": _step_adwin,
    "KSWIN": _step_kswin,
    "EDDM": _step_eddm,
    "FHDDM": _step_fhddm,
}

# The numbers that are a detector's whole state between two rows, as river 0.26 names them. Flags
# of drift and warning are none: a detector that found something has been replaced.
_MEMBERS: Final[Mapping[str, str]] = {
    "PageHinkley": "_x_mean.n _x_mean._mean _sum_increase _sum_decrease _min_increase"
    " _max_decrease",
    "DDM": "_p.n _p._mean _p_min _s_min _ps_min",
    "EDDM": "_error_distances.mean.n _error_distances.mean._mean _error_distances._S"
    " _n _last_error _n_errors _p2s_prime_max",
    "FHDDM": "n_one _u_max _u_short_max",
    "HDDMA": "_x_min.n _x_min._mean _x_max.n _x_max._mean _z.n _z._mean",
    "HDDMW": "_incr_cutpoint _decr_cutpoint",
}
_SAMPLES: Final = ("_total", "_s1_decr", "_s1_incr", "_s2_decr", "_s2_incr")  # of HDDMW
_N_WORDS: Final = 625  # of the state of KSWIN's generator


def _members(name: str, detector: Any) -> tuple[str, ...]:
    """The paths of a detector's numbers; FHDDM has the last one only with a short window."""
    return tuple(m for m in _MEMBERS[name].split() if hasattr(detector, m.split(".")[0]))


def _numbers(name: str, detector: Any) -> bytes:
    """The state of one detector."""
    if name == "ADWIN":
        return bytes(detector._helper.__getstate__())  # numbers, little end first
    if name == "KSWIN":
        words = detector._rng.getstate()[1]
        return struct.pack(f"<{_N_WORDS}Iq", *words, detector.n) + _floats(detector.window)
    values = [attrgetter(member)(detector) for member in _members(name, detector)]
    if name == "FHDDM":
        values += detector._sliding_window
    if name == "HDDMW":
        for sample in map(detector.__getattribute__, _SAMPLES):
            values += [sample.is_init, sample.ibc, sample.ewma]
    return _floats(np.nan if value is None else value for value in values)


def _resume(name: str, detector: Any, body: bytes) -> None:
    """Give a new detector the state that `_numbers` gave."""
    if name == "ADWIN":
        detector._helper.__setstate__(body)
        return
    if name == "KSWIN":
        head = struct.calcsize(f"<{_N_WORDS}Iq")
        *words, detector.n = struct.unpack(f"<{_N_WORDS}Iq", body[:head])
        detector._rng.setstate((3, tuple(words), None))
        detector.window.extend(np.frombuffer(body[head:]).tolist())
        return
    values = np.frombuffer(body).tolist()
    members = _members(name, detector)
    for member, value in zip(members, values, strict=False):
        owner, _, last = member.rpartition(".")
        setattr(attrgetter(owner)(detector) if owner else detector, last, value)
    rest = values[len(members) :]
    if name == "FHDDM":
        detector._sliding_window.extend(rest)
    if name == "HDDMW":
        for place, sample in enumerate(map(detector.__getattribute__, _SAMPLES)):
            is_init, sample._ibc, ewma = rest[3 * place : 3 * place + 3]
            if is_init:
                sample._is_init = True
                sample._ewma.update(ewma)  # a weighted mean's first value is the mean


def _floats(values: Any) -> bytes:
    return np.array([*values], "<f8").tobytes()
