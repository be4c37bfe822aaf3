"""Signals: what of a prediction is counted, and into which bins.

A feature, the model's own output and its confidence. Numbers are counted between the first rows'
quantiles, texts by their most frequent values, an array by the region that it falls in, how far
from its middle and where along some directions, and a long text by its length; what is missing by
itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.ingest.events import Bools, Codes, EventBatch, Floats, Value, Vectors
from service.monitor.config import MonitorConfig

Indices = npt.NDArray[np.intp]

MAX_SIGNALS: Final = 256
PERCENTS: Final = (10, 30, 50, 70, 90)
FEW_NUMBERS: Final = 5  # so many distinct ones are told apart each
TOP_VALUES: Final = 10
MAX_KNOWN_VALUES: Final = 200  # beyond the top ones; with more, a value is never told as new
FEW_TEXTS: Final = 64  # an output with no more distinct texts is a class; else its length counts
MAX_LENGTH: Final = 1_024  # of an array; of a longer one the first numbers count
N_REGIONS: Final = 32
MIN_REGION_ROWS: Final = 30  # of the first rows, on average,
ROWS_A_MIDDLE: Final = 8  # of which a few make its middle: to them it is nearer than to later ones
N_DIRECTIONS: Final = 16  # from one of the first rows to another, and as many across those
FAR_PERCENTS: Final = (50, 90, 99)  # of distances: what is unlike all regions is far from its own
_STEPS: Final = 2.0**14  # an array's numbers are rounded to so many steps of the largest,
_MOST_STEPS: Final = 2.0**16  # so sums of products are exact, in whatever order they are taken
_SEED: Final = 0

OUTPUT: Final = "output"
CONFIDENCE: Final = "confidence"


@dataclass(frozen=True, slots=True)
class Signal:
    """One thing that is counted of each row: numbers by cuts, texts by their values."""

    name: str
    kind: str  # "numeric" or "categorical"
    cuts: tuple[float, ...] = ()  # numeric: what the first rows' values part at, rising
    values: tuple[str, ...] = ()  # categorical: the first rows' most frequent, most first
    percents: tuple[int, ...] = ()  # numeric: which quantiles the cuts are, where they are
    known: tuple[str, ...] | None = None  # categorical: rarer values; None: they are not kept
    reads: str = "feature"  # or "output", "confidence", "length" of the output, "distance"
    column: str = ""  # the feature that is read, where it is not called `name`
    scale: float = 0.0  # of an array: what its numbers are divided by, before
    vectors: tuple[tuple[int, ...], ...] = ()  # regions' middles, or a direction

    @property
    def n_bins(self) -> int:
        """Between the cuts, or a value each, others, new ones; the last is for missing."""
        if self.kind == "numeric":
            return len(self.cuts) + 2
        return len(self.values) + 2 + (self.known is not None)

    @property
    def feature(self) -> str:
        """What a person calls it: an array's directions are all the array."""
        return self.column or self.name

    @property
    def bin_names(self) -> list[str]:
        """Of a categorical signal, without the last."""
        return [*self.values, "another", *(["new"] if self.known is not None else [])]

    def save(self) -> list[Any]:
        """The signal as plain values."""
        return [getattr(self, name) for name in self.__slots__]

    @classmethod
    def restore(cls, state: list[Any]) -> Signal:
        """The signal that `save` gave."""
        name, kind, cuts, values, percents, known, reads, column, scale, vectors = state
        return cls(
            name,
            kind,
            tuple(cuts),
            tuple(values),
            tuple(percents),
            None if known is None else tuple(known),
            reads,
            column,
            scale,
            tuple(map(tuple, vectors)),
        )


def learn_signals(config: MonitorConfig, rows: EventBatch) -> tuple[Signal, ...]:
    """What `config` states and `rows` complete: features, then the output and its confidence.

    What there is no room for is left out whole.
    """
    stated = {} if config.features == "auto" else config.features
    found: list[list[Signal]] = []
    for name in sorted({*rows.features, *stated}):
        column = rows.features.get(name, Value())
        kind = stated.get(name) or _kind_of(column)
        if kind == "numeric":
            found.append([_numeric(name, numbers_of(column))])
        elif kind in ("categorical", "boolean"):
            found.append([_categorical(name, column)])
        elif kind == "embedding":
            found.append(_of_arrays(name, column))
    for own in (OUTPUT, CONFIDENCE):
        if own not in rows.features and own not in stated:
            found += [_of_output(rows) if own == OUTPUT else _of_confidence(rows)]
    signals: list[Signal] = []
    for of_one in found:
        signals += of_one if len(signals) + len(of_one) <= MAX_SIGNALS else []
    return tuple(signals)


class Reader:
    """Reads the bins of all signals off a batch."""

    def __init__(self, signals: tuple[Signal, ...]) -> None:
        self.signals = signals
        self._codes = [_codes_of(signal) for signal in signals]
        self._arrays = _Arrays.of(signals)
        self._numeric = [s for s, signal in enumerate(signals) if signal.kind == "numeric"]
        cuts = [signals[s].cuts for s in self._numeric]
        # one row of cuts for the lowest of each signal, and so on; nothing lies above NaN
        self._cuts = np.full((max(map(len, cuts), default=0), len(cuts), 1), np.nan)
        for place, of_signal in enumerate(cuts):
            self._cuts[: len(of_signal), place, 0] = of_signal
        self._missing = np.array([[len(of_signal) + 1] for of_signal in cuts], np.int8)

    def bins(self, batch: EventBatch, rows: Indices) -> Codes:
        """The bin of each of these rows in each signal, shape (n_signals, n_rows)."""
        found = np.empty((len(self.signals), rows.size), np.int32)
        placed = {name: arrays.place(batch, rows) for name, arrays in self._arrays.items()}
        numbers = np.empty((len(self._numeric), rows.size))
        for place, s in enumerate(self._numeric):
            self._read_numbers(s, batch, rows, placed, numbers[place])
        if self._numeric:
            found[self._numeric] = self._of_numbers(numbers)
        for s, signal in enumerate(self.signals):
            missing = signal.n_bins - 1
            if signal.vectors and signal.kind == "categorical":
                regions = placed[signal.feature][signal.name]
                found[s] = np.where(np.isnan(regions), missing, np.nan_to_num(regions))
            elif signal.kind == "categorical":
                found[s] = self._of_texts(s, self._column(signal, batch), rows)
        return found

    def _read_numbers(
        self,
        s: int,
        batch: EventBatch,
        rows: Indices,
        placed: dict[str, dict[str, Floats]],
        into: Floats,
    ) -> None:
        """One signal's numbers at the rows; NaN where there is none."""
        signal = self.signals[s]
        if signal.vectors:
            into[:] = placed[signal.feature][signal.name]
            return
        column = self._column(signal, batch)
        if column is None or column.number is None:
            into[:] = np.nan
        elif rows.size == len(batch):
            into[:] = column.number
        else:
            np.take(column.number, rows, out=into, mode="clip")  # "raise" would copy it twice

    def _column(self, signal: Signal, batch: EventBatch) -> Value | None:
        if signal.reads == "confidence":
            return Value(number=batch.confidence)
        if signal.reads == "length":
            return Value(number=_lengths(batch.output))
        return batch.output if signal.reads == "output" else batch.features.get(signal.feature)

    def _of_texts(self, s: int, column: Value | None, rows: Indices) -> Codes | int:
        missing = self.signals[s].n_bins - 1
        if column is None or column.text is None:
            return missing
        lookup, unknown = self._codes[s], missing - 1
        codes = [*(lookup.get(v, unknown) for v in column.text.values), missing]
        return np.array(codes, np.int32)[column.text.codes[rows]]

    def _of_numbers(self, numbers: Floats) -> npt.NDArray[np.int8]:
        """How many of its signal's cuts each number is on or above: few, so all are asked."""
        bins = np.zeros(numbers.shape, np.int8)
        for cuts in self._cuts:
            bins += (numbers >= cuts).view(np.int8)
        np.copyto(bins, self._missing, where=np.isnan(numbers))
        return bins


@dataclass(frozen=True, slots=True)
class _Arrays:
    """How one feature's arrays are placed: by whole numbers, so no order of summing matters."""

    column: str
    scale: float
    middles: Floats  # of the regions, shape (n_regions, length), whole numbers
    directions: Floats  # shape (n_directions, length), whole numbers
    names: tuple[str, ...]  # of the signals: region, distance, directions

    @classmethod
    def of(cls, signals: tuple[Signal, ...]) -> dict[str, _Arrays]:
        """By feature, for those that are arrays."""
        mine: dict[str, list[Signal]] = {}
        for signal in signals:
            if signal.vectors:
                mine.setdefault(signal.feature, []).append(signal)
        return {column: cls._one(column, parts) for column, parts in mine.items()}

    @classmethod
    def _one(cls, column: str, parts: list[Signal]) -> _Arrays:
        regions, _, *along = parts
        length = len(regions.vectors[0])
        directions = np.array([part.vectors[0] for part in along], np.float64)
        return cls(
            column,
            regions.scale,
            np.array(regions.vectors, np.float64),
            directions.reshape(-1, length),
            tuple(part.name for part in parts),
        )

    def place(self, batch: EventBatch, asked: Indices) -> dict[str, Floats]:
        """By signal: each row's region, how far from its middle, how far along each direction.

        NaN where a row has no array, or one that is too short.
        """
        column = batch.features.get(self.column)
        placed = np.full((len(self.names), asked.size), np.nan)
        if column is not None and column.vector is not None:
            vectors = column.vector if asked.size == len(batch) else column.vector.take(asked)
            rows, matrix = _matrix(vectors, self.middles.shape[1])
            steps = _in_steps(matrix, self.scale)
            placed[:2, rows] = _nearest(steps, self.middles, self.scale)
            placed[2:, rows] = self.directions @ steps.T
        return dict(zip(self.names, placed, strict=True))


def _nearest(steps: Floats, middles: Floats, scale: float) -> tuple[Floats, Floats]:
    """Of each row, the region whose middle is nearest, and how far that is, in its own units."""
    nearness = steps @ middles.T - (middles * middles).sum(axis=1) / 2
    region = np.argmax(nearness, axis=1)
    squared = (steps * steps).sum(axis=1) - 2 * nearness[np.arange(region.size), region]
    return region.astype(np.float64), np.sqrt(squared) * (scale / _STEPS)


def numbers_of(value: Value) -> Floats:
    """The numbers of a column, without what is missing."""
    if value.number is None:
        return np.empty(0)
    return value.number[~np.isnan(value.number)]


def _numeric(name: str, numbers: Floats, reads: str = "feature") -> Signal:
    cuts, percents = _cuts(numbers)
    return Signal(name, "numeric", cuts=cuts, percents=percents, reads=reads)


def _cuts(
    numbers: Floats, percents: tuple[int, ...] = PERCENTS
) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Quantiles and which they are; of few distinct numbers each, and one above them all."""
    if not numbers.size:
        return (), ()
    distinct = np.unique(numbers)
    if distinct.size <= FEW_NUMBERS:
        return (*distinct.tolist(), float(np.nextafter(distinct[-1], np.inf))), ()
    cuts, first = np.unique(np.quantile(numbers, np.array(percents) / 100), return_index=True)
    return tuple(cuts.tolist()), tuple(percents[i] for i in first.tolist())


def _categorical(name: str, column: Value, reads: str = "feature") -> Signal:
    ordered = _by_frequency(column)
    top, others = ordered[:TOP_VALUES], ordered[TOP_VALUES:]
    known = tuple(others) if len(others) <= MAX_KNOWN_VALUES else None
    return Signal(name, "categorical", values=tuple(top), known=known, reads=reads)


def _by_frequency(column: Value) -> list[str]:
    """The values that rows have, the most frequent first."""
    if column.text is None or not column.text.values:
        return []
    codes = column.text.codes
    counts = np.bincount(codes[codes >= 0], minlength=len(column.text.values))
    order = np.argsort(-counts, kind="stable")[: int(np.count_nonzero(counts))]
    return [column.text.values[i] for i in order.tolist()]


def _codes_of(signal: Signal) -> dict[str, int]:
    codes = dict.fromkeys(signal.known or (), len(signal.values))
    return codes | {value: code for code, value in enumerate(signal.values)}


def _of_output(rows: EventBatch) -> list[Signal]:
    numbers, texts = numbers_of(rows.output), _by_frequency(rows.output)
    if numbers.size >= max(len(texts), 1):
        return [_numeric(OUTPUT, numbers, "output")]
    if not texts:
        return []
    if len(texts) <= min(FEW_TEXTS, max(2, len(rows) // 10)):
        return [_categorical(OUTPUT, rows.output, "output")]
    lengths = _lengths(rows.output)
    return [_numeric("output length", numbers_of(Value(number=lengths)), "length")]


def _of_confidence(rows: EventBatch) -> list[Signal]:
    numbers = numbers_of(Value(number=rows.confidence))
    return [_numeric(CONFIDENCE, numbers, "confidence")] if numbers.size else []


def _lengths(output: Value) -> Floats | None:
    """How many characters long; NaN where there is no text."""
    if output.text is None:
        return None
    lengths = np.array([*map(len, output.text.values), np.nan], np.float64)
    return lengths[output.text.codes]


def _kind_of(column: Value) -> str:
    if column.vector is not None and column.vector.values.size:
        return "embedding"
    n_texts = 0 if column.text is None else int(column.text.present.sum())
    return "numeric" if numbers_of(column).size >= max(n_texts, 1) else "categorical"


def _of_arrays(name: str, column: Value) -> list[Signal]:
    """Regions around a few of the first rows' arrays, how far from their middles rows lie, and
    directions: from one of those middles to another, and others across them.

    Nothing is fitted: given those few rows, the others of the reference are like any that follow.
    Means and axes of the first rows lie nearer to these than to what comes later.
    """
    if column.vector is None or not column.vector.values.size:
        return []
    lengths = np.diff(column.vector.offsets)
    length = min(int(np.median(lengths[lengths > 0])), MAX_LENGTH)
    _, matrix = _matrix(column.vector, length)
    scale = float(np.abs(matrix).max(initial=0.0))
    if not np.isfinite(scale) or scale <= 0 or len(matrix) < MIN_REGION_ROWS:
        return []
    steps, rng = _in_steps(matrix, scale), np.random.default_rng(_SEED)
    n_regions = min(N_REGIONS, len(steps) // MIN_REGION_ROWS)
    middles, taught = _middles(steps, n_regions, rng)
    regions = Signal(
        name,
        "categorical",
        values=tuple(f"region {i + 1}" for i in range(len(middles))),
        column=name,
        scale=scale,
        vectors=_whole(middles),
    )
    cuts, percents = _cuts(_nearest(steps[~taught], middles, scale)[1], FAR_PERCENTS)
    far = replace(
        regions,
        name=f"{name} distance from its region",
        kind="numeric",
        cuts=cuts,
        values=(),
        percents=percents,
        reads="distance",
    )
    along = [
        _direction(name, i, direction, steps, scale)
        for i, direction in enumerate(_directions(middles, rng))
    ]
    return [regions, far, *along]


def _middles(steps: Floats, n: int, rng: np.random.Generator) -> tuple[Floats, Bools]:
    """Middles of regions, whole numbers, and which rows they are made of.

    Each is the mean of a row and of those nearest to it; that row is drawn by its squared distance
    from the nearest one before it, so rare kinds of rows have a region of their own: Arthur,
    Vassilvitskii, "k-means++", SODA 2007.
    """
    taught = np.zeros(len(steps), np.bool_)
    middles: list[Floats] = []
    place, nearest = int(rng.integers(len(steps))), np.full(len(steps), np.inf)
    while len(middles) < n:
        squared = ((steps - steps[place]) ** 2).sum(axis=1)
        around = np.argsort(squared, kind="stable")[:ROWS_A_MIDDLE]
        middles.append(np.rint(steps[around].mean(axis=0)))
        taught[around] = True
        nearest = np.minimum(nearest, squared)
        if not nearest.any():
            break
        place = int(rng.choice(len(steps), p=nearest / nearest.sum()))
    return np.array(middles), taught


def _directions(middles: Floats, rng: np.random.Generator) -> Floats:
    """Of unit length: between pairs of middles, then at random, at right angles to all of those."""
    between = middles[1::2] - middles[: len(middles) // 2 * 2 : 2]
    between = between[between.any(axis=1)]
    between /= np.linalg.norm(between, axis=1, keepdims=True)
    length = middles.shape[1]
    drawn = rng.normal(size=(length, min(N_DIRECTIONS, max(length - len(between), 0))))
    across, _ = np.linalg.qr(np.concatenate([between.T, drawn], axis=1))
    return np.concatenate([between, across.T[len(between) :]])


def _direction(name: str, i: int, direction: Floats, steps: Floats, scale: float) -> Signal:
    vectors = _whole(direction[None] * _STEPS)
    cuts, percents = _cuts(steps @ np.array(vectors[0], np.float64))
    return Signal(
        f"{name} along direction {i + 1}",
        "numeric",
        cuts=cuts,
        percents=percents,
        column=name,
        scale=scale,
        vectors=vectors,
    )


def _whole(vectors: Floats) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in np.rint(vectors).astype(np.int64).tolist())


def _matrix(vectors: Vectors, length: int) -> tuple[Indices, Floats]:
    """Rows that have an array of at least that length, and its first numbers."""
    rows = np.flatnonzero(np.diff(vectors.offsets) >= length)
    places = vectors.offsets[rows][:, None] + np.arange(length)
    return rows, vectors.values[places].astype(np.float64)


def _in_steps(matrix: Floats, scale: float) -> Floats:
    steps: Floats = np.clip(np.rint(matrix / scale * _STEPS), -_MOST_STEPS, _MOST_STEPS)
    return np.nan_to_num(steps)
