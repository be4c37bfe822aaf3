"""Quality rules: what of a feature does not come about by chance, and the words that tell it.

Each asks for so much that it is a rule and not a test. Arrays have a row a slice and a column a
feature: what was usual, and the stretch of rows that is judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Final

import numpy as np
import numpy.typing as npt

from service.ingest.events import Floats, Ints
from service.monitor.feature_sums import (
    FAR,
    NEGATIVE,
    NONZERO,
    NUMBER,
    PAIRS,
    SAME,
    SIZE,
    SIZE_SQUARED,
    TEXT,
    VECTOR,
    FeatureSums,
)
from service.monitor.findings import Severity

Bools = npt.NDArray[np.bool_]

MANY_ROWS: Final = 500  # of the reference; with fewer "never" means little
FEW_ROWS: Final = 20
CHANCE: Final = -20.0  # natural logarithm of a chance that is none
SHOWN: Final = 3  # features by name, of those that break one rule
UNITS: Final = (24.0, 60.0, 3600.0, *(10.0**k for k in range(1, 13)))
_TYPES: Final = {NUMBER: "a number", TEXT: "text", VECTOR: "an array"}


class Rule(StrEnum):
    """What can be wrong with a feature, or with the rows themselves, the worst first."""

    VANISHED = "missing from every row"
    TYPE = "of another type"
    UNIT = "of another size, as if in another unit"
    NEGATIVE = "negative, which it never was"
    FAR = "far outside of all that it was"
    CONSTANT = "the same in every row"
    CLOCK = "older than what came before"
    VERSION = "a version that had ended"
    APPEARED = "new"


# These are no matter of values that rows near in time may have in common.
AT_ONCE: Final = frozenset({Rule.TYPE, Rule.NEGATIVE, Rule.APPEARED})
# These are told of some rows, which one slice may have, or all: it is one story, of its owner.
OF_SOME_ROWS: Final = ((Rule.NEGATIVE, NEGATIVE), (Rule.FAR, FAR))


@dataclass(frozen=True, slots=True)
class Issue:
    """One rule that one feature breaks."""

    rule: Rule
    feature: str  # "time" and "version" for the rows' own
    before: float  # share of rows that were so in the reference
    after: float  # and now
    words: str  # with figures, where it is told alone


def broken(usual: FeatureSums, now: FeatureSums, everyones: FeatureSums) -> dict[Rule, Bools]:
    """Which features of which slices break which rule, shape (n_slices, n_features).

    What never was is asked of all rows of the reference, `everyones`, shape (1, n_features).
    """
    unit = factors(usual, now) != 1.0
    return {
        Rule.VANISHED: _vanished(usual, now),
        Rule.TYPE: _of_another_type(usual, now),
        Rule.UNIT: unit,
        Rule.NEGATIVE: _negative(everyones, now),
        Rule.FAR: _often(now, FAR) & (everyones.sums[..., NUMBER] >= MANY_ROWS) & ~unit,
        Rule.CONSTANT: _constant(usual, now),
        Rule.APPEARED: _appeared(everyones, now),
    }


def present(sums: FeatureSums) -> Ints:
    """Rows that have the feature, of whatever type."""
    return np.asarray(sums.sums[..., [NUMBER, TEXT, VECTOR]].sum(axis=-1))


def never_varied(sums: FeatureSums) -> Bools:
    """Whether all rows that have the feature have it alike."""
    return np.asarray(sums.low >= sums.high)


def owner(bad: Ints, rows: Ints) -> int:
    """Whose story some rows are: of the smallest slice that has nearly all of them; else 0.

    Both have a number for each slice, the whole model first.
    """
    ones = np.flatnonzero((bad >= 0.9 * bad[0]) & (rows <= 0.7 * rows[0]))
    return int(ones[np.argmin(rows[ones])]) if ones.size else 0


def is_slow(usual: FeatureSums) -> Bools:
    """Features, shape (n_features,), whose numbers many rows near in time have in common: weather.

    Of a number that is each row's own, next to no two rows in a row have the same.
    """
    sums = usual.sums[0]
    of_numbers = sums[..., NUMBER] > sums[..., TEXT]
    return np.asarray(of_numbers & (sums[..., SAME] > 0.05 * np.maximum(sums[..., PAIRS], 1)))


def is_gappy(usual: FeatureSums) -> Bools:
    """Features, shape (n_features,), that some rows lacked in the reference already."""
    return np.asarray(_share(usual)[0] < 0.999)


def _share(sums: FeatureSums) -> Floats:
    return np.asarray(present(sums) / np.maximum(sums.rows, 1)[:, None])


def _often(now: FeatureSums, what: int) -> Bools:
    n = now.sums[..., what]
    return np.asarray((n >= 5) & (n >= now.sums[..., NUMBER] / 100))


def _vanished(usual: FeatureSums, now: FeatureSums) -> Bools:
    """Absent from rows of which, each by itself, at least half had it."""
    share = _share(usual)
    chance = now.rows[:, None] * np.log1p(-np.minimum(share, 1 - 1e-9))
    return np.asarray((present(now) == 0) & (share >= 0.5) & (chance < CHANCE))


def _appeared(usual: FeatureSums, now: FeatureSums) -> Bools:
    never = (present(usual) == 0) & (usual.rows >= MANY_ROWS)[:, None]
    return np.asarray(never & (present(now) >= FEW_ROWS) & (_share(now) > 0.5))


def _of_another_type(usual: FeatureSums, now: FeatureSums) -> Bools:
    """Most are of a type that next to none was."""
    was, are = present(usual), present(now)
    enough = (was >= FEW_ROWS) & (are >= FEW_ROWS)
    found = np.zeros(was.shape, np.bool_)
    for type_ in _TYPES:
        found |= (usual.sums[..., type_] <= 0.01 * was) & (now.sums[..., type_] > 0.5 * are)
    return found & enough


def _sizes(sums: FeatureSums) -> tuple[Floats, Floats]:
    """Mean and spread of log10 |x| over what is not 0."""
    n = np.maximum(sums.sums[..., NONZERO], 1)
    mean = sums.sums[..., SIZE] / n / 1e3
    square = sums.sums[..., SIZE_SQUARED] / n / 1e6
    return mean, np.sqrt(np.maximum(square - mean**2, 0.0))


def factors(usual: FeatureSums, now: FeatureSums) -> Floats:
    """How many times larger numbers are, where that is a ratio of units; else 1.

    The geometric mean moved by a ratio of units to within a quarter, by three times what the
    values scatter at least, and they scatter as they did.
    """
    (was, spread), (is_, spread_now) = _sizes(usual), _sizes(now)
    n = now.sums[..., NONZERO]
    moved = is_ - was
    unit = np.log10(np.sort(UNITS))
    nearest = unit[np.abs(np.abs(moved)[..., None] - unit).argmin(axis=-1)]
    off = 0.1 + np.minimum(2.0 * spread / np.sqrt(np.maximum(n, 1)), 0.1)
    alike = (spread_now <= 2.0 * spread + 0.1) & (spread <= 2.0 * spread_now + 0.1)
    found = (np.abs(np.abs(moved) - nearest) <= off) & (np.abs(moved) >= 3.0 * spread) & alike
    for sums in (usual, now):
        seen = sums.sums[..., NONZERO]
        found &= (seen >= FEW_ROWS) & (seen >= sums.sums[..., NUMBER] / 2)
    return np.where(found, 10.0 ** (np.sign(moved) * nearest), 1.0)


def _negative(usual: FeatureSums, now: FeatureSums) -> Bools:
    """Below 0 though 0 was a bound: values lay at it, or over a range of sizes, or far from it.

    What merely came near 0 (a temperature in autumn) may pass it.
    """
    n = np.maximum(usual.sums[..., NUMBER], 1)
    at_bound = (n - usual.sums[..., NONZERO]) / n >= 0.05
    of_many_sizes = _sizes(usual)[1] >= 0.3
    with np.errstate(invalid="ignore"):
        far_below = now.low <= -(usual.high - usual.low)
    never = (usual.sums[..., NEGATIVE] == 0) & (usual.sums[..., NUMBER] >= MANY_ROWS)
    return np.asarray(never & _often(now, NEGATIVE) & (at_bound | of_many_sizes | far_below))


def _constant(usual: FeatureSums, now: FeatureSums) -> Bools:
    """All alike, where rows of one cell that follow each other seldom were.

    If a share p of rows had the commonest value, at least p² of such pairs were alike.
    """
    pairs = usual.sums[..., PAIRS]
    alike = np.maximum(usual.sums[..., SAME], 1) / np.maximum(pairs, 1)
    n = present(now)
    chance = (n - 1) * 0.5 * np.log(np.minimum(alike, 1.0))
    mostly = (n >= now.rows[:, None] / 2) & (n >= FEW_ROWS)
    return np.asarray(
        never_varied(now) & ~never_varied(usual) & mostly & (pairs >= FEW_ROWS) & (chance < CHANCE)
    )


def issue(rule: Rule, feature: str, usual: FeatureSums, now: FeatureSums) -> Issue:
    """What is to be said of a rule that is broken; `usual` and `now` of that slice and feature."""
    rows, n = max(int(now.rows[0]), 1), max(int(present(now)[0, 0]), 1)
    before = 0.0
    after = n / rows
    words = f"{feature} is {rule.value}"
    if rule is Rule.VANISHED:
        before, after = 0.0, 1.0
        words += f" (it was in {_share(usual)[0, 0]:.0%})"
    elif rule is Rule.TYPE:
        was, is_ = (max(_TYPES, key=lambda t: int(s.sums[0, 0, t])) for s in (usual, now))
        words = f"{feature} is {_TYPES[is_]}, and was {_TYPES[was]}"
    elif rule is Rule.UNIT:
        factor = float(factors(usual, now)[0, 0])
        times = f"{factor:,.0f} times" if factor > 1 else f"1/{1 / factor:,.0f} of"
        words = f"{feature} is about {times} what it was, as if in another unit"
    elif rule in (Rule.NEGATIVE, Rule.FAR):
        what = NEGATIVE if rule is Rule.NEGATIVE else FAR
        after = int(now.sums[0, 0, what]) / rows
        low, high = float(now.low[0, 0]), float(now.high[0, 0])
        words += f" (in {after:.0%} of rows; from {low:.4g} to {high:.4g} now)"
    elif rule is Rule.CONSTANT:
        words = f"{feature} is the same in all of {n:,} rows"
    elif rule is Rule.APPEARED:
        words = f"{feature} is new (in {after:.0%} of rows)"
    return Issue(rule, feature, before, after, words)


def in_words(issues: Sequence[Issue]) -> str:
    """All of it in one sentence: figures where a rule is broken once, else the features' names."""
    said = []
    for rule, group in groupby(issues, key=lambda issue: issue.rule):
        alike = list(group)
        if len(alike) == 1:
            said.append(alike[0].words)
            continue
        names = ", ".join(issue.feature for issue in alike[:SHOWN])
        more = f" and {len(alike) - SHOWN} more" if len(alike) > SHOWN else ""
        said.append(f"{names}{more} are {rule.value}")
    return "; ".join(said)


def severity(issues: Sequence[Issue]) -> Severity:
    """What is merely new costs nothing yet."""
    merely_new = all(issue.rule is Rule.APPEARED for issue in issues)
    return Severity.INFO if merely_new else Severity.WARNING
