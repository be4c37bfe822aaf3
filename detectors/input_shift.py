"""Have this slice's inputs moved? Against its own past, and against everybody else's movement.

Each signal is reduced to *indicators*: is this value above that cut of the reference, is it this
category, is it missing? `OwnInputs` asks whether a slice's shares of them are what they were,
`InputShift` whether they moved otherwise than everyone else's as well, and `InputsEverywhere`
whether they moved for the model at large. None of it needs a label.

Guarantee: the expected number of false alarms is at most the hazard spent, on average over
baselines, for shares that stray from the reference by no more than the tolerance; what is usual
at an hour of the day, for the model at large, is no straying.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from detectors.contract import Detections, Floats, Indices, State
from detectors.error_rate import QUARANTINE
from detectors.scatter import Dispersion
from detectors.shares import (
    N_ALTERNATIVES,
    NO_CUTS,
    Due,
    Learnt,
    Shares,
    by_signal,
    gather,
    in_parts,
    known_share,
    moved,
    raise_for_shape,
    rest_of_shares,
    share_of_all,
    spent,
)

Bools = npt.NDArray[np.bool_]

TOLERANCE: Final = 0.02  # of a share: what moves less is not held against a slice
KINDS: Final = ("hits", "rows", "rest_hits", "rest_rows")  # that are learnt beside the rest


class OwnInputs:
    """Each slice's inputs against their own reference.

    Parameters
    ----------
    signals : intp, shape (n_indicators,)
        Which signal each indicator is of, from 0 on and rising.
    tolerance : float
        By how much a share may stray from what it was and still count as unmoved.
    outside : intp, shape (n_outside, 3)
        Which indicators are of what lies outside of two others' cuts, as of `Due.tied`.

    Examples
    --------
    >>> fleet = OwnInputs(np.array([0, 0, 1]))
    >>> was = np.array([[900.0, 500.0, 100.0]] * 2)
    >>> independent = Dispersion(np.ones((2, 2)), np.zeros((2, 2)))
    >>> fleet.grow(independent, Shares(was, np.full((2, 3), 1000.0)))
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
    N: the predictive null, matched in two moments, that goes on learning; see `Learnt` for when.
    One evidence an indicator, direction and alternative, each with its part of the hazard; a
    signal's evidence is their sum. Shin, Ramdas, Rinaldo, "E-detectors", NEJSDS 2024; indicators of
    quantiles as Romano et al., NP-FOCuS, arXiv 2302.02718, have them.
    """

    def __init__(
        self,
        signals: Indices | None = None,
        tolerance: float = TOLERANCE,
        outside: Indices = NO_CUTS,
    ) -> None:
        self.signals = np.zeros(1, np.intp) if signals is None else signals.astype(np.intp)
        self.tolerance = tolerance
        self.outside = outside.astype(np.intp)
        n_signals, n_indicators = self.n_signals, self.signals.size
        self.dispersion = Dispersion.none(n_signals)
        self.learnt = Learnt(2, n_indicators)
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

    def grow(self, dispersion: Dispersion, reference: Shares | None = None) -> None:
        """Watch more slices.

        Parameters
        ----------
        dispersion : Dispersion
            What their counts are to be divided by, shape (n_new, n_signals).
        reference : Shares, optional
            What they were, shape (n_new, n_indicators).
        """
        nothing = np.zeros((len(dispersion), self.signals.size))
        known = Shares(nothing, nothing) if reference is None else reference
        self.dispersion = self.dispersion.join(dispersion)
        self.learnt.grow((known.hits, known.rows))
        more = np.zeros((N_ALTERNATIVES, *nothing.shape))
        self.evidence = np.concatenate([self.evidence, more], axis=1)

    def gather(
        self,
        shares: Shares,
        hazard: Floats,
        quiet: Bools,
        units: float = 1.0,
        season: Floats | float = 0.0,
    ) -> None:
        """Add one tick's evidence; signals that are neither suspicious nor `quiet` learn from it.

        Parameters
        ----------
        shares : Shares
        hazard : float64, shape (n_slices,)
        quiet : bool, shape (n_slices, n_signals)
            Signals that are not to be tested now: an incident is open on them.
        units, season
            As of `update`.

        Raises
        ------
        ShapeError
            `shares` has another shape than what is watched.
        """
        raise_for_shape(shares, len(self), self.signals.size)
        whole = share_of_all(self.learnt.known(slice(0, 1)))
        for part in in_parts(shares.rows):
            hits, n = shares.hits[part], shares.rows[part]
            dispersion = self.dispersion.take(part, self.signals).at(n / units)
            learnt_hits, learnt_rows = self.learnt.known(part)
            share, known = known_share(learnt_hits, learnt_rows, whole, dispersion)
            gather(
                self.evidence[:, part],
                Shares(hits, n),
                Due.of_slice(moved(share, season), known, n).tied(self.outside),
                dispersion,
                self.tolerance,
                spent(hazard[part], quiet[part], self.signals),
            )
            suspicious = by_signal(self.evidence[:, part], self.signals) >= QUARANTINE
            self.learnt.add(part, (hits, n), ~(suspicious | quiet[part])[:, self.signals])

    def reset(self, slices: Indices, streams: Indices) -> None:
        """Begin again with these signals of these slices."""
        for slice_, stream in zip(slices.tolist(), streams.tolist(), strict=True):
            of_stream = self.signals == stream
            self.evidence[:, slice_, of_stream] = 0.0
            self.learnt.drop(slice_, of_stream)

    def renew(self, slices: Indices, dispersion: Dispersion) -> None:
        """Watch others in the places of these slices, of whom nothing is known yet.

        `dispersion`, shape (1, n_signals), is what counts of each are to be divided by.
        """
        self.dispersion.renew(slices, dispersion)
        self.learnt.renew(slices)
        self.evidence[:, slices] = 0.0

    def update(
        self, shares: Shares, hazard: Floats, units: float = 1.0, season: Floats | float = 0.0
    ) -> Detections:
        """Fold one tick in and report signals of slices that are not what they were.

        Parameters
        ----------
        shares : Shares
            hits, rows: float64, shape (n_slices, n_indicators).
        hazard : float64, shape (n_slices,)
            False alarms that each slice may spend on this tick, over all its signals.
        units : float
            How many of the units that dispersion was measured by, hours, the tick took.
        season : float64, shape (n_indicators,)
            Log odds that are usual now above those of other times, as `season_of_shares` has them.

        Returns
        -------
        Detections
            One row per slice and signal (`streams`) that crossed; empty arrays if none did.

        Raises
        ------
        ShapeError
            `shares` has another shape than what is watched.
        """
        quiet = np.zeros((len(self), self.n_signals), np.bool_)
        self.gather(shares, hazard, quiet, units, season)
        meter = self.meter
        slices, streams = np.nonzero(meter >= 1.0)
        self.reset(slices, streams)
        return Detections(slices, meter[slices, streams], None, streams)

    def save(self) -> State:
        """The state as arrays."""
        return {
            "signals": self.signals.copy(),
            "outside": self.outside.copy(),
            **self.dispersion.save("dispersion"),
            **self.learnt.save("hits", "rows"),
            "evidence": np.moveaxis(self.evidence, 0, 2).copy(),
        }

    def restore(self, state: State) -> None:
        """Take up the state that `save` gave."""
        self.signals = state["signals"].astype(np.intp)
        self.outside = state["outside"].astype(np.intp)
        self.dispersion = Dispersion.restore(state, "dispersion")
        self.learnt.restore(state, "hits", "rows")
        self.evidence = np.ascontiguousarray(np.moveaxis(state["evidence"], 2, 0)).copy()


class InputShift:
    """Each slice's inputs against their own reference and against everyone else's movement.

    Parameters
    ----------
    signals, tolerance, outside
        As of `OwnInputs`.

    Examples
    --------
    >>> fleet = InputShift(np.array([0]))
    >>> was = np.array([[300.0], [100.0], [200.0]])
    >>> independent = Dispersion(np.ones((3, 1)), np.zeros((3, 1)))
    >>> fleet.grow(independent, independent, Shares(was, 10 * was))
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

    def __init__(
        self,
        signals: Indices | None = None,
        tolerance: float = TOLERANCE,
        outside: Indices = NO_CUTS,
    ) -> None:
        self.own = OwnInputs(signals, tolerance, outside)
        n_signals, n_indicators = self.own.n_signals, self.own.signals.size
        self.dispersion = Dispersion.none(n_signals)
        self.learnt = Learnt(4, n_indicators)
        self.evidence: Floats = np.empty((N_ALTERNATIVES, 0, n_indicators))
        self.open: Bools = np.empty((0, n_signals), np.bool_)

    def __len__(self) -> int:
        return len(self.own)

    @property
    def meter(self) -> Floats:
        """Evidence that each slice moved otherwise than the rest, shape (n_slices, n_signals)."""
        return by_signal(self.evidence, self.own.signals)

    def grow(
        self,
        dispersion_own: Dispersion,
        dispersion_rest: Dispersion,
        reference: Shares | None = None,
    ) -> None:
        """Watch more slices.

        Parameters
        ----------
        dispersion_own, dispersion_rest : Dispersion
            What counts are to be divided by, against the own reference and against the rest, shape
            (n_new, n_signals).
        reference : Shares, optional
            What they were; row 0 is the whole model, so only the first slices may have one.
        """
        self.own.grow(dispersion_own, reference)
        nothing = np.zeros((len(dispersion_own), self.own.signals.size))
        known = Shares(nothing, nothing) if reference is None else reference
        others = rest_of_shares(known) if len(known.rows) else known
        self.dispersion = self.dispersion.join(dispersion_rest)
        self.learnt.grow((known.hits, known.rows, others.hits, others.rows))
        more = np.zeros((N_ALTERNATIVES, *nothing.shape))
        self.evidence = np.concatenate([self.evidence, more], axis=1)
        self.open = np.concatenate([self.open, np.zeros(dispersion_own.within.shape, np.bool_)])

    def update(
        self, shares: Shares, hazard: Floats, units: float = 1.0, season: Floats | float = 0.0
    ) -> Detections:
        """Fold one tick in and report what moved unevenly.

        Parameters
        ----------
        shares : Shares
            hits, rows: float64, shape (n_slices, n_indicators); row 0 is the whole model.
        hazard : float64, shape (n_slices,)
        units, season
            As of `OwnInputs.update`.

        Returns
        -------
        Detections
            One row per slice and signal (`streams`) in which both kinds of evidence are at 1.

        Raises
        ------
        ShapeError
            `shares` has another shape than what is watched.
        """
        self.own.gather(shares, hazard, self.open, units, season)
        self._gather_rest(shares, hazard, units, season)
        own, rest = self.own.meter, self.meter
        slices, streams = np.nonzero((own >= 1.0) & (rest >= 1.0))
        self.reset(slices, streams)
        return Detections(slices, own[slices, streams], rest[slices, streams], streams)

    def reset(self, slices: Indices, streams: Indices) -> None:
        """Begin again with these signals of these slices."""
        self.own.reset(slices, streams)
        for slice_, stream in zip(slices.tolist(), streams.tolist(), strict=True):
            of_stream = self.own.signals == stream
            self.evidence[:, slice_, of_stream] = 0.0
            self.learnt.drop(slice_, of_stream)

    def hold(self, slices: Indices, streams: Indices) -> None:
        """An incident begins: these are neither tested nor learnt from until `release`."""
        self.open[slices, streams] = True
        self.reset(slices, streams)

    def release(self, slices: Indices) -> None:
        """Their incident is over, for all signals."""
        self.open[slices] = False

    def renew(
        self, slices: Indices, dispersion_own: Dispersion, dispersion_rest: Dispersion
    ) -> None:
        """Watch others in the places of these slices, as `OwnInputs.renew`."""
        self.own.renew(slices, dispersion_own)
        self.dispersion.renew(slices, dispersion_rest)
        self.learnt.renew(slices)
        self.evidence[:, slices] = 0.0
        self.release(slices)

    def _gather_rest(
        self, shares: Shares, hazard: Floats, units: float, season: Floats | float
    ) -> None:
        signals, others = self.own.signals, rest_of_shares(shares)
        whole = share_of_all(self.learnt.known(slice(0, 1)))
        for part in in_parts(shares.rows):
            rest = Shares(others.hits[part], others.rows[part])
            there = rest.rows > 0
            hits, n = (np.where(there, of[part], 0.0) for of in (shares.hits, shares.rows))
            dispersion = self.dispersion.take(part, signals).at(n / units)
            own_hits, own_rows, rest_hits, rest_rows = self.learnt.known(part)
            share, known = known_share(own_hits, own_rows, whole, dispersion)
            usual, usual_known = known_share(rest_hits, rest_rows, whole, dispersion)
            share, usual = moved(share, season), moved(usual, season)
            due = Due.beside(share, known, n, usual, usual_known, rest)
            gather(
                self.evidence[:, part],
                Shares(hits, n),
                due.tied(self.own.outside),
                dispersion,
                self.own.tolerance,
                spent(hazard[part], self.open[part], signals),
            )
            suspicious = by_signal(self.evidence[:, part], signals) >= QUARANTINE
            learns = ~(suspicious | self.open[part])[:, signals] & (shares.rows[part] > 0)
            counts = (shares.hits[part], shares.rows[part], rest.hits, rest.rows)
            self.learnt.add(part, counts, learns)

    def save(self) -> State:
        """The state as arrays."""
        return {
            **{f"own.{name}": array for name, array in self.own.save().items()},
            **self.dispersion.save("dispersion"),
            **self.learnt.save(*KINDS),
            "evidence": np.moveaxis(self.evidence, 0, 2).copy(),
            "open": self.open.copy(),
        }

    def restore(self, state: State) -> None:
        """Take up the state that `save` gave."""
        own = {n.removeprefix("own."): a for n, a in state.items() if n.startswith("own.")}
        self.own.restore(own)
        self.dispersion = Dispersion.restore(state, "dispersion")
        self.learnt.restore(state, *KINDS)
        self.open = state["open"].copy()
        self.evidence = np.ascontiguousarray(np.moveaxis(state["evidence"], 2, 0)).copy()


class InputsEverywhere:
    """Have inputs moved for the model at large, and not for one slice of it alone?

    Stream 0 is the whole model, each further stream the model without one of its slices; an alarm
    needs all of them, in the same signal, as in `Everyone`.

    Examples
    --------
    >>> fleet = InputsEverywhere(np.array([0]))
    >>> was = np.array([[200.0], [100.0], [100.0]])
    >>> fleet.grow(Dispersion(np.ones((3, 1)), np.zeros((3, 1))), Shares(was, 10 * was))
    >>> hazard, rows = np.full(3, 1e-4), np.array([[200.0], [100.0], [100.0]])
    >>> one_slice = Shares(np.array([[50.0], [10.0], [40.0]]), rows)
    >>> all_of_it = Shares(np.array([[80.0], [40.0], [40.0]]), rows)
    >>> [len(fleet.update(one_slice, hazard)) for _ in range(5)]
    [0, 0, 0, 0, 0]
    >>> fleet.update(all_of_it, hazard).streams
    array([0])
    """

    def __init__(
        self,
        signals: Indices | None = None,
        tolerance: float = TOLERANCE,
        outside: Indices = NO_CUTS,
    ) -> None:
        self.own = OwnInputs(signals, tolerance, outside)
        self.open: Bools = np.zeros(self.own.n_signals, np.bool_)

    def __len__(self) -> int:
        return len(self.own)

    @property
    def meter(self) -> Floats:
        """Evidence that everyone's inputs moved, shape (n_signals,)."""
        return self.own.meter.min(axis=0) if len(self.own) else np.zeros(self.own.n_signals)

    def grow(self, dispersion: Dispersion, reference: Shares | None = None) -> None:
        """Watch more streams, as in `OwnInputs.grow`."""
        self.own.grow(dispersion, reference)

    def update(
        self, shares: Shares, hazard: Floats, units: float = 1.0, season: Floats | float = 0.0
    ) -> Detections:
        """Fold one tick in; report slice 0 and the signals in which every stream is at 1.

        Parameters
        ----------
        shares : Shares
            hits, rows: float64, shape (n_streams, n_indicators).
        hazard : float64, shape (n_streams,)
            The same for each: what a global alarm may spend on this tick.
        units, season
            As of `OwnInputs.update`.

        Returns
        -------
        Detections
            One row per signal, with slice 0, or none.

        Raises
        ------
        ShapeError
            `shares` has another shape than what is watched.
        """
        quiet = np.broadcast_to(self.open, (len(self), self.own.n_signals))
        self.own.gather(shares, hazard, quiet, units, season)
        meter = self.meter
        (streams,) = np.nonzero(meter >= 1.0)
        self.reset(streams)
        return Detections(np.zeros(streams.size, np.intp), meter[streams], None, streams)

    def reset(self, streams: Indices) -> None:
        """Begin again with these signals."""
        of_streams = np.isin(self.own.signals, streams)
        self.own.evidence[:, :, of_streams] = 0.0
        self.own.learnt.drop(slice(None), of_streams)

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
