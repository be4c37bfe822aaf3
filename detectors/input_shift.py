"""Have this slice's inputs moved? Against its own past, and against everybody else's movement.

Each signal is reduced to *indicators*: is this value above that cut of the reference, is it this
category, is it missing? `OwnInputs` asks whether a slice's shares of them are what they were,
`InputShift` whether they moved otherwise than everyone else's as well, and `InputsEverywhere`
whether they moved for the model at large. None of it needs a label.

Guarantee: the expected number of false alarms is at most the hazard spent, on average over
baselines, for shares that stray from the reference by no more than the tolerance.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from detectors.contract import Detections, Floats, Indices, State
from detectors.error_rate import QUARANTINE
from detectors.shares import (
    N_ALTERNATIVES,
    Due,
    Shares,
    by_signal,
    gathered,
    in_parts,
    known_share,
    raise_for_shape,
    rest_of_shares,
    spent,
)

Bools = npt.NDArray[np.bool_]

TOLERANCE: Final = 0.02  # of a share: what moves less is not held against a slice


class OwnInputs:
    """Each slice's inputs against their own reference.

    Parameters
    ----------
    signals : intp, shape (n_indicators,)
        Which signal each indicator is of, from 0 on and rising.
    tolerance : float
        By how much a share may stray from what it was and still count as unmoved.

    Examples
    --------
    >>> fleet = OwnInputs(np.array([0, 0, 1]))
    >>> was = np.array([[900.0, 500.0, 100.0]] * 2)
    >>> fleet.grow(np.ones((2, 2)), Shares(was, np.full((2, 3), 1000.0)))
    >>> hazard, rows = np.full(2, 1e-4), np.full((2, 3), 100.0)
    >>> moved = Shares(np.array([[90.0, 50.0, 10.0], [90.0, 51.0, 40.0]]), rows)
    >>> found = [fleet.update(moved, hazard) for _ in range(2)]
    >>> found[0].slices, found[0].streams
    (array([1]), array([1]))

    Notes
    -----
    The bet on x of n rows, at odds θ times those of the share p: e = θ^x / (1 + (θ - 1) p)^n, which
    has mean at most 1 for any indicator whose mean is at most p, and is the likelihood ratio of a
    Bernoulli share against one of θ times its odds. Counts are divided by their dispersion times
    1 + n / N, the factor by which a batch of n rows scatters further where the share is known from
    N: the predictive null, matched in two moments, that goes on learning. One evidence an
    indicator, direction and alternative, each with its part of the hazard; a signal's evidence is
    their sum. Shin, Ramdas, Rinaldo, "E-detectors", NEJSDS 2024; indicators of quantiles as
    Romano et al., NP-FOCuS, arXiv 2302.02718, have them.
    """

    def __init__(self, signals: Indices | None = None, tolerance: float = TOLERANCE) -> None:
        self.signals = np.zeros(1, np.intp) if signals is None else signals.astype(np.intp)
        self.tolerance = tolerance
        n_signals, n_indicators = self.n_signals, self.signals.size
        self.dispersion: Floats = np.empty((0, n_signals))
        self.hits: Floats = np.empty((0, n_indicators))  # as far as is learnt from
        self.rows: Floats = np.empty((0, n_indicators))
        self.evidence: Floats = np.empty((N_ALTERNATIVES, 0, n_indicators))

    def __len__(self) -> int:
        return len(self.dispersion)

    @property
    def n_signals(self) -> int:
        """How many signals the indicators are of."""
        return int(self.signals[-1]) + 1 if self.signals.size else 0

    @property
    def meter(self) -> Floats:
        """Evidence against each slice and signal, shape (n_slices, n_signals)."""
        return by_signal(self.evidence, self.signals)

    def grow(self, dispersion: Floats, reference: Shares | None = None) -> None:
        """Watch more slices.

        Parameters
        ----------
        dispersion : float64, shape (n_new, n_signals)
            What their counts are to be divided by.
        reference : Shares, optional
            What they were, shape (n_new, n_indicators).
        """
        nothing = np.zeros((len(dispersion), self.signals.size))
        self.dispersion = np.concatenate([self.dispersion, dispersion])
        self.hits = np.concatenate([self.hits, nothing if reference is None else reference.hits])
        self.rows = np.concatenate([self.rows, nothing if reference is None else reference.rows])
        more = np.zeros((N_ALTERNATIVES, *nothing.shape))
        self.evidence = np.concatenate([self.evidence, more], axis=1)

    def gather(self, shares: Shares, hazard: Floats, quiet: Bools) -> None:
        """Add one tick's evidence; signals that are neither suspicious nor `quiet` learn from it.

        Parameters
        ----------
        shares : Shares
        hazard : float64, shape (n_slices,)
        quiet : bool, shape (n_slices, n_signals)
            Signals that are not to be tested now: an incident is open on them.

        Raises
        ------
        ShapeError
            `shares` has another shape than what is watched.
        """
        raise_for_shape(shares, len(self), self.signals.size)
        for part in in_parts(shares.rows):
            n, dispersion = shares.rows[part], self.dispersion[part][:, self.signals]
            share, known = known_share(self.hits, self.rows, part, dispersion)
            self.evidence[:, part] = gathered(
                self.evidence[:, part],
                Shares(shares.hits[part], n),
                Due.of_slice(share, known, n),
                dispersion,
                self.tolerance,
                spent(hazard[part], quiet[part], self.signals),
            )
        learns = ((self.meter < QUARANTINE) & ~quiet)[:, self.signals]
        self.hits += np.where(learns, shares.hits, 0.0)
        self.rows += np.where(learns, shares.rows, 0.0)

    def reset(self, slices: Indices, streams: Indices) -> None:
        """Begin again with these signals of these slices."""
        for slice_, stream in zip(slices.tolist(), streams.tolist(), strict=True):
            self.evidence[:, slice_, self.signals == stream] = 0.0

    def renew(self, slices: Indices, dispersion: Floats) -> None:
        """Watch others in the places of these slices, of whom nothing is known yet.

        `dispersion`, shape (n_signals,), is what counts of each are to be divided by.
        """
        self.dispersion[slices] = dispersion
        self.hits[slices] = self.rows[slices] = 0.0
        self.evidence[:, slices] = 0.0

    def update(self, shares: Shares, hazard: Floats) -> Detections:
        """Fold one tick in and report signals of slices that are not what they were.

        Parameters
        ----------
        shares : Shares
            hits, rows: float64, shape (n_slices, n_indicators).
        hazard : float64, shape (n_slices,)
            False alarms that each slice may spend on this tick, over all its signals.

        Returns
        -------
        Detections
            One row per slice and signal (`streams`) that crossed; empty arrays if none did.

        Raises
        ------
        ShapeError
            `shares` has another shape than what is watched.
        """
        self.gather(shares, hazard, np.zeros(self.dispersion.shape, np.bool_))
        meter = self.meter
        slices, streams = np.nonzero(meter >= 1.0)
        self.reset(slices, streams)
        return Detections(slices, meter[slices, streams], None, streams)

    def save(self) -> State:
        """The state as arrays."""
        return {
            "signals": self.signals.copy(),
            "dispersion": self.dispersion.copy(),
            "hits": self.hits.copy(),
            "rows": self.rows.copy(),
            "evidence": np.moveaxis(self.evidence, 0, 2).copy(),
        }

    def restore(self, state: State) -> None:
        """Take up the state that `save` gave."""
        self.signals = state["signals"].astype(np.intp)
        self.dispersion = state["dispersion"].copy()
        self.hits, self.rows = state["hits"].copy(), state["rows"].copy()
        self.evidence = np.ascontiguousarray(np.moveaxis(state["evidence"], 2, 0)).copy()


class InputShift:
    """Each slice's inputs against their own reference and against everyone else's movement.

    Parameters
    ----------
    signals, tolerance
        As of `OwnInputs`.

    Examples
    --------
    >>> fleet = InputShift(np.array([0]))
    >>> was = np.array([[300.0], [100.0], [200.0]])
    >>> fleet.grow(np.ones((3, 1)), np.ones((3, 1)), Shares(was, 10 * was))
    >>> hazard, rows = np.full(3, 1e-4), was
    >>> on_its_own = Shares(np.array([[60.0], [40.0], [20.0]]), rows)
    >>> fleet.update(on_its_own, hazard).slices
    array([1])
    >>> fleet.hold(np.array([1]), np.array([0]))
    >>> with_everyone = Shares(np.array([[120.0], [40.0], [80.0]]), rows)
    >>> [len(fleet.update(with_everyone, hazard)) for _ in range(5)]
    [0, 0, 0, 0, 0]

    Notes
    -----
    Everyone else's movement is measured in the same tick, and what is expected of the slice goes
    with it: see `Due.beside`. Odds, and not shares: what moves a quantity by the same amount for
    all moves a share of 10 % and one of 50 % by different factors, and their odds by nearly one.
    That it is measured on finitely many rows is added to the scatter, as that the slice's own share
    is: two moments are matched.
    """

    def __init__(self, signals: Indices | None = None, tolerance: float = TOLERANCE) -> None:
        self.own = OwnInputs(signals, tolerance)
        n_signals, n_indicators = self.own.n_signals, self.own.signals.size
        self.dispersion: Floats = np.empty((0, n_signals))
        self.hits: Floats = np.empty((0, n_indicators))
        self.rows: Floats = np.empty((0, n_indicators))
        self.rest_hits: Floats = np.empty((0, n_indicators))
        self.rest_rows: Floats = np.empty((0, n_indicators))
        self.evidence: Floats = np.empty((N_ALTERNATIVES, 0, n_indicators))
        self.open: Bools = np.empty((0, n_signals), np.bool_)

    def __len__(self) -> int:
        return len(self.own)

    @property
    def meter(self) -> Floats:
        """Evidence that each slice moved otherwise than the rest, shape (n_slices, n_signals)."""
        return by_signal(self.evidence, self.own.signals)

    def grow(
        self, dispersion_own: Floats, dispersion_rest: Floats, reference: Shares | None = None
    ) -> None:
        """Watch more slices.

        Parameters
        ----------
        dispersion_own, dispersion_rest : float64, shape (n_new, n_signals)
            What counts are to be divided by, against the own reference and against the rest.
        reference : Shares, optional
            What they were; row 0 is the whole model, so only the first slices may have one.
        """
        self.own.grow(dispersion_own, reference)
        nothing = np.zeros((len(dispersion_own), self.own.signals.size))
        known = Shares(nothing, nothing) if reference is None else reference
        others = rest_of_shares(known) if len(known.rows) else known
        self.dispersion = np.concatenate([self.dispersion, dispersion_rest])
        self.hits = np.concatenate([self.hits, known.hits])
        self.rows = np.concatenate([self.rows, known.rows])
        self.rest_hits = np.concatenate([self.rest_hits, others.hits])
        self.rest_rows = np.concatenate([self.rest_rows, others.rows])
        more = np.zeros((N_ALTERNATIVES, *nothing.shape))
        self.evidence = np.concatenate([self.evidence, more], axis=1)
        self.open = np.concatenate([self.open, np.zeros(dispersion_own.shape, np.bool_)])

    def update(self, shares: Shares, hazard: Floats) -> Detections:
        """Fold one tick in and report what moved unevenly.

        Parameters
        ----------
        shares : Shares
            hits, rows: float64, shape (n_slices, n_indicators); row 0 is the whole model.
        hazard : float64, shape (n_slices,)

        Returns
        -------
        Detections
            One row per slice and signal (`streams`) in which both kinds of evidence are at 1.

        Raises
        ------
        ShapeError
            `shares` has another shape than what is watched.
        """
        self.own.gather(shares, hazard, self.open)
        self._gather_rest(shares, hazard)
        own, rest = self.own.meter, self.meter
        slices, streams = np.nonzero((own >= 1.0) & (rest >= 1.0))
        self.reset(slices, streams)
        return Detections(slices, own[slices, streams], rest[slices, streams], streams)

    def reset(self, slices: Indices, streams: Indices) -> None:
        """Begin again with these signals of these slices."""
        self.own.reset(slices, streams)
        for slice_, stream in zip(slices.tolist(), streams.tolist(), strict=True):
            self.evidence[:, slice_, self.own.signals == stream] = 0.0

    def hold(self, slices: Indices, streams: Indices) -> None:
        """An incident begins: these are neither tested nor learnt from until `release`."""
        self.open[slices, streams] = True
        self.reset(slices, streams)

    def release(self, slices: Indices) -> None:
        """Their incident is over, for all signals."""
        self.open[slices] = False

    def renew(self, slices: Indices, dispersion_own: Floats, dispersion_rest: Floats) -> None:
        """Watch others in the places of these slices, as `OwnInputs.renew`."""
        self.own.renew(slices, dispersion_own)
        self.dispersion[slices] = dispersion_rest
        for counts in (self.hits, self.rows, self.rest_hits, self.rest_rows):
            counts[slices] = 0.0
        self.evidence[:, slices] = 0.0
        self.release(slices)

    def _gather_rest(self, shares: Shares, hazard: Floats) -> None:
        signals, others = self.own.signals, rest_of_shares(shares)
        for part in in_parts(shares.rows):
            rest = Shares(others.hits[part], others.rows[part])
            there = rest.rows > 0
            n = np.where(there, shares.rows[part], 0.0)
            dispersion = self.dispersion[part][:, signals]
            share, known = known_share(self.hits, self.rows, part, dispersion)
            usual = known_share(self.rest_hits, self.rest_rows, part, dispersion)
            self.evidence[:, part] = gathered(
                self.evidence[:, part],
                Shares(np.where(there, shares.hits[part], 0.0), n),
                Due.beside(share, known, n, *usual, rest),
                dispersion,
                self.own.tolerance,
                spent(hazard[part], self.open[part], signals),
            )
        learns = ((self.meter < QUARANTINE) & ~self.open)[:, signals]
        for known_counts, counts in (
            (self.hits, shares.hits),
            (self.rows, shares.rows),
            (self.rest_hits, others.hits),
            (self.rest_rows, others.rows),
        ):
            known_counts += np.where(learns & (shares.rows > 0), counts, 0.0)

    def save(self) -> State:
        """The state as arrays."""
        return {
            **{f"own.{name}": array for name, array in self.own.save().items()},
            "dispersion": self.dispersion.copy(),
            "hits": self.hits.copy(),
            "rows": self.rows.copy(),
            "rest_hits": self.rest_hits.copy(),
            "rest_rows": self.rest_rows.copy(),
            "evidence": np.moveaxis(self.evidence, 0, 2).copy(),
            "open": self.open.copy(),
        }

    def restore(self, state: State) -> None:
        """Take up the state that `save` gave."""
        own = {n.removeprefix("own."): a for n, a in state.items() if n.startswith("own.")}
        self.own.restore(own)
        for name in ("dispersion", "hits", "rows", "rest_hits", "rest_rows", "open"):
            setattr(self, name, state[name].copy())
        self.evidence = np.ascontiguousarray(np.moveaxis(state["evidence"], 2, 0)).copy()


class InputsEverywhere:
    """Have inputs moved for the model at large, and not for one slice of it alone?

    Stream 0 is the whole model, each further stream the model without one of its slices; an alarm
    needs all of them, in the same signal, as in `Everyone`.

    Examples
    --------
    >>> fleet = InputsEverywhere(np.array([0]))
    >>> fleet.grow(np.ones((3, 1)), Shares(np.array([[200.0], [100.0], [100.0]]),
    ...                                    np.array([[2000.0], [1000.0], [1000.0]])))
    >>> hazard, rows = np.full(3, 1e-4), np.array([[200.0], [100.0], [100.0]])
    >>> one_slice = Shares(np.array([[50.0], [10.0], [40.0]]), rows)
    >>> all_of_it = Shares(np.array([[80.0], [40.0], [40.0]]), rows)
    >>> [len(fleet.update(one_slice, hazard)) for _ in range(5)]
    [0, 0, 0, 0, 0]
    >>> fleet.update(all_of_it, hazard).streams
    array([0])
    """

    def __init__(self, signals: Indices | None = None, tolerance: float = TOLERANCE) -> None:
        self.own = OwnInputs(signals, tolerance)
        self.open: Bools = np.zeros(self.own.n_signals, np.bool_)

    def __len__(self) -> int:
        return len(self.own)

    @property
    def meter(self) -> Floats:
        """Evidence that everyone's inputs moved, shape (n_signals,)."""
        return self.own.meter.min(axis=0) if len(self.own) else np.zeros(self.own.n_signals)

    def grow(self, dispersion: Floats, reference: Shares | None = None) -> None:
        """Watch more streams, as in `OwnInputs.grow`."""
        self.own.grow(dispersion, reference)

    def update(self, shares: Shares, hazard: Floats) -> Detections:
        """Fold one tick in; report slice 0 and the signals in which every stream is at 1.

        Parameters
        ----------
        shares : Shares
            hits, rows: float64, shape (n_streams, n_indicators).
        hazard : float64, shape (n_streams,)
            The same for each: what a global alarm may spend on this tick.

        Returns
        -------
        Detections
            One row per signal, with slice 0, or none.

        Raises
        ------
        ShapeError
            `shares` has another shape than what is watched.
        """
        self.own.gather(shares, hazard, np.broadcast_to(self.open, self.own.dispersion.shape))
        meter = self.meter
        (streams,) = np.nonzero(meter >= 1.0)
        self.reset(streams)
        return Detections(np.zeros(streams.size, np.intp), meter[streams], None, streams)

    def reset(self, streams: Indices) -> None:
        """Begin again with these signals."""
        self.own.evidence[:, :, np.isin(self.own.signals, streams)] = 0.0

    def hold(self, streams: Indices) -> None:
        """An incident begins: these signals are neither tested nor learnt from until `release`."""
        self.open[streams] = True
        self.reset(streams)

    def release(self) -> None:
        """The incident is over, for all signals."""
        self.open[:] = False

    def save(self) -> State:
        """The state as arrays."""
        return {**self.own.save(), "open": self.open.copy()}

    def restore(self, state: State) -> None:
        """Take up the state that `save` gave."""
        self.own.restore(state)
        self.open = state["open"].copy()
