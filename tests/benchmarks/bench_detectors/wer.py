"""Word error rates: what a monitor must know of clumped errors, and what it costs not to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from detectors import ErrorRate, Outcomes, Units, dispersion_own
from detectors.reference import MARGIN, margin_on, raise_for_few_units
from detectors.streams import Utterances, utterances
from tests.benchmarks.bench_detectors.page import Effort, Floats, Table, delays, generator, rate

SESSION: Final = 10  # utterances of a speaker, which are also a tick
REFERENCE: Final = 500  # sessions
BEFORE: Final = 100  # sessions watched before the change
HORIZON: Final = 900  # sessions after it
RATIOS: Final = (1.3, 1.5, 2.0)
UTTERANCES: Final = 10_000  # in which one false alarm is promised
CAP_QUANTILE: Final = 0.995


@dataclass(frozen=True, slots=True)
class Method:
    """How counts are read."""

    name: str
    unit: int  # utterances whose errors are counted together for the dispersion; 0 takes 1
    is_capped: bool


METHODS: Final = (
    Method("words as independent", 0, False),
    Method("dispersion by utterance", 1, False),
    Method("dispersion by session", SESSION, False),
    Method("**capped, dispersion by session**, as the service does", SESSION, True),
)


def table(effort: Effort) -> Table:
    """Each way of reading the same speech."""
    n = effort.streams
    reference = utterances(generator(27, 0), REFERENCE, n, session=SESSION)
    caps = np.quantile(reference.errors, CAP_QUANTILE, axis=(0, 1))
    rows, dispersions = [], []
    speech = {
        ratio: utterances(
            generator(27, round(10 * ratio)),
            BEFORE + HORIZON,
            n,
            session=SESSION,
            ratio=ratio,
            change_at=BEFORE,
        )
        for ratio in (1.0, *RATIOS)
    }
    for method in METHODS:
        cap = caps if method.is_capped else np.full(n, np.inf)
        rates, dispersion = _learn(reference, cap, method.unit)
        dispersions.append(float(np.median(dispersion)))
        cells = []
        for ratio, heard in speech.items():
            alarms, first = _watch(reference, heard, cap, rates, dispersion)
            if ratio == 1.0:
                n_utterances = n * (BEFORE + HORIZON) * SESSION
                cells.append(rate(alarms, n_utterances / UTTERANCES))
            else:
                cells.append(delays(first, HORIZON * SESSION))
        rows.append([method.name, f"{dispersions[-1]:.1f}", *cells])
    wer = reference.errors.sum() / reference.words.sum()
    return Table(
        "2.7 Word error rates",
        f"WER {wer:.3f}: log-normal lengths, Beta-binomial errors around a speaker's own rate, 1 % "
        f"of utterances garbage; sessions of {SESSION} utterances, {REFERENCE} of them to learn "
        f"from, a tick a session, {n} streams. One false alarm per {UTTERANCES:,} utterances is "
        "promised; false alarms are for each one promised, delays in utterances, median / 90 %.",
        ("errors are read as", "dispersion", "false alarms", *(f"×{r:g}" for r in RATIOS)),
        rows,
        f"Caps are the {CAP_QUANTILE:.1%} quantile of the reference, median {np.median(caps):.0f} "
        f"errors an utterance. Dispersion is the median over streams, margin of {MARGIN} included.",
    )


def _learn(speech: Utterances, cap: Floats, unit: int) -> tuple[Floats, Floats]:
    """Each stream's error rate by word, and what its counts are to be divided by."""
    errors = np.minimum(speech.errors, cap)
    rates: Floats = errors.sum(axis=(0, 1)) / speech.words.sum(axis=(0, 1))
    n = rates.size
    if not unit:
        return rates, np.ones(n)
    observed = _by_unit(errors, unit)
    expected = _by_unit(speech.words, unit) * rates
    n_units = len(observed)
    everywhere = np.arange(n_units * n)
    units = Units(
        slices=np.tile(np.arange(n), n_units),
        units=everywhere,
        observed=observed.ravel(),
        expected=expected.ravel(),
        period=np.zeros_like(everywhere),
        unit_observed=observed.ravel(),
        unit_expected=expected.ravel(),
    )
    dispersion, _ = dispersion_own(units, n)
    return rates, margin_on(np.maximum(1.0, dispersion * raise_for_few_units(n_units)))


def _by_unit(counts: npt.NDArray[np.float64] | npt.NDArray[np.int64], unit: int) -> Floats:
    n_streams = counts.shape[2]
    sums: Floats = counts.reshape(-1, unit, n_streams).sum(axis=1).astype(np.float64)
    return sums


def _watch(
    reference: Utterances, speech: Utterances, cap: Floats, rates: Floats, dispersion: Floats
) -> tuple[float, Floats]:
    """All alarms, and each stream's first after the change, in utterances."""
    seen = np.minimum(reference.errors, cap).sum(axis=(0, 1))
    fleet = ErrorRate()
    fleet.grow(dispersion, seen, reference.words.sum(axis=(0, 1)) * rates)
    hazard = np.full(rates.size, SESSION / UTTERANCES)
    observed = np.minimum(speech.errors, cap).sum(axis=1)
    expected = speech.words.sum(axis=1) * rates
    alarms, first = 0.0, np.full(rates.size, np.nan)
    for session in range(BEFORE + HORIZON):
        crossed = fleet.update(Outcomes(observed[session], expected[session]), hazard).slices
        alarms += crossed.size
        if session >= BEFORE:
            new = crossed[np.isnan(first[crossed])]
            first[new] = (session + 1 - BEFORE) * SESSION
    return alarms, first
