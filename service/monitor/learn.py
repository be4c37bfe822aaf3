"""Learn: what a model's owner left open, read off its first rows.

The dimensions are attributes with few values, the kinds of features follow from their types, and
the loss from those of output and truth. Whatever the configuration states is taken as stated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from service.ingest.events import ANNOTATOR, Categories, EventBatch, Value
from service.monitor.bands import Bands, as_number
from service.monitor.config import LossName, MonitorConfig
from service.monitor.scores import Scores, learn_scores
from service.monitor.signals import Signal, learn_signals, numbers_of

LEARN_ROWS: Final = 1_000
MAX_DIMENSIONS: Final = 8  # learnt ones; a configuration may state 16
MAX_DIMENSION_VALUES: Final = 64  # a learnt dimension has no more
FEW_VALUES: Final = 10  # so many are few, however few rows there are yet
NUMERIC_SHARE: Final = 0.95  # of an attribute's rows that are numbers, from which it is numeric
_MANY_NUMBERS: Final = 20  # distinct whole numbers from which an output is a quantity, not a class


@dataclass(frozen=True, slots=True)
class Schema:
    """What is watched, everything decided."""

    loss: LossName
    dimensions: tuple[str, ...]
    signals: tuple[Signal, ...]
    bands: tuple[tuple[str, Bands], ...] = ()  # of dimensions whose values are numbers
    scores: Scores | None = None  # bins of confidence; None: too few rows have one

    @property
    def features(self) -> dict[str, str]:
        """What kind each feature is taken to be: the signals but for the model's own output's."""
        kinds = {s.feature: s.kind for s in self.signals if s.reads == "feature" and not s.vectors}
        return kinds | {s.feature: "embedding" for s in self.signals if s.vectors}

    def save(self) -> dict[str, Any]:
        """The schema as plain values."""
        return {
            "loss": self.loss,
            "dimensions": list(self.dimensions),
            "signals": [signal.save() for signal in self.signals],
            "bands": [[name, bands.save()] for name, bands in self.bands],
            "scores": self.scores and self.scores.save(),
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Schema:
        """The schema that `save` gave."""
        signals = tuple(map(Signal.restore, state["signals"]))
        bands = ((name, Bands.restore(cuts)) for name, cuts in state["bands"])
        scores = Scores.restore(state.get("scores"))
        return cls(state["loss"], tuple(state["dimensions"]), signals, tuple(bands), scores)


def learn(config: MonitorConfig, rows: EventBatch) -> Schema:
    """The schema that `config` states and `rows` complete."""
    dimensions = learn_dimensions(rows) if config.dimensions is None else config.dimensions
    bands = {name: learn_bands(rows.attributes.get(name)) for name in dimensions}
    loss = config.loss or learn_loss(rows)
    return Schema(
        loss=loss,
        dimensions=tuple(dimensions),
        signals=learn_signals(config, rows),
        bands=tuple((name, of) for name, of in bands.items() if of is not None),
        scores=learn_scores(loss, rows),
    )


def learn_loss(rows: EventBatch) -> LossName:
    """The loss that output and truth suggest."""
    n = len(rows)
    output, truth = rows.output, rows.truth
    texts = _text_values(output) + _text_values(truth)
    if texts and not set(texts) <= {"true", "false"}:
        in_words = sum(len(text.split()) > 1 for text in texts)
        return "wer" if in_words * 2 > len(texts) else "zero_one"
    if texts:
        return "zero_one" if numbers_of(output).size == 0 else "brier"
    numbers = numbers_of(output)
    if not numbers.size:
        return "given" if not truth.present(n).any() else "absolute_error"
    truths = numbers_of(truth)
    whole = bool(np.all(numbers == np.round(numbers)))
    if whole:
        many = np.unique(numbers).size > _MANY_NUMBERS
        whole_truth = bool(np.all(truths == np.round(truths)))
        return "absolute_error" if many or not whole_truth else "zero_one"
    is_probability = bool(numbers.min() >= 0 and numbers.max() <= 1)
    binary_truth = truths.size > 0 and bool(np.isin(truths, (0.0, 1.0)).all())
    return "brier" if is_probability and binary_truth else "absolute_error"


def learn_dimensions(rows: EventBatch) -> list[str]:
    """Attributes to slice by: those with few enough values, fewest first, then numbers by bands.

    Constants slice nothing, and many whole numbers may be ids: whoever means a quantity states it.
    Nor does who gave the label slice: that says how labels come, and not who is served.
    """
    most = min(MAX_DIMENSION_VALUES, max(FEW_VALUES, len(rows) // 10))
    counts = {name: len(column.used()) for name, column in rows.attributes.items()}
    sizes = {
        name: count
        for name, count in counts.items()
        if name != ANNOTATOR and (2 <= count <= most or _is_measured(rows.attributes[name]))
    }
    return sorted(sizes, key=lambda name: (sizes[name], name))[:MAX_DIMENSIONS]


def learn_bands(column: Categories | None) -> Bands | None:
    """The bands of an attribute whose values are many and numbers; None of any other."""
    if column is None or len(column.used()) <= MAX_DIMENSION_VALUES:
        return None
    of_values = [as_number(value) for value in column.values]
    numbers = [of_values[code] for code in column.codes.tolist() if code >= 0]
    known = np.array([number for number in numbers if number is not None])
    return Bands.of(known) if known.size >= NUMERIC_SHARE * len(numbers) else None


def _is_measured(column: Categories) -> bool:
    """Whether an attribute is a quantity beyond doubt: numbers, and not all of them whole."""
    if learn_bands(column) is None:
        return False
    return not all((as_number(value) or 0.0).is_integer() for value in column.used())


def _text_values(value: Value) -> list[str]:
    return [] if value.text is None else value.text.used()
