"""Losses: what a label says of a prediction, in numbers: a loss and its exposure, per row.

For most losses the exposure is 1. For WER and CER the loss counts edits and the exposure counts
reference words or characters, so that rates are sums over sums and never averages of ratios. A
label that gives `loss`, or `errors` and `total`, is taken as it is, whatever the model's loss.

Texts are compared after the normaliser that the configuration names. Numerals are left as they are
written: "5" and "five" are two words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cpdist

from service.ingest.events import EventBatch, Floats, Hashes, Value, hash_ids
from service.monitor.config import LossName, Normaliser

RATIO_LOSSES: Final = frozenset({"wer", "cer"})
SCALED_LOSSES: Final = frozenset({"absolute_error", "squared_error", "log_loss", "given"})
LARGEST_LOSS: Final = 1e100  # greater ones are not scored, so that sums of squares stay finite
_SMALLEST_PROBABILITY: Final = 1e-6
_NOT_IN_WORDS: Final = re.compile(r"[^\w']+")
_APOSTROPHES: Final = str.maketrans("\u2018\u2019\u02bc", "'''")
_PARTS_WORDS: Final = frozenset("PSZC")  # Unicode categories: punctuation, symbols, spaces, control


def normalise(text: str, normaliser: Normaliser = "plain") -> list[str]:
    """The words that WER compares.

    >>> normalise("The patient's  follow-up is STABLE.")
    ['the', "patient's", 'follow', 'up', 'is', 'stable']
    >>> normalise("Follow-up: STABLE.", "cased"), normalise("Follow-up: STABLE.", "verbatim")
    (['Follow', 'up', 'STABLE'], ['Follow-up:', 'STABLE.'])
    """
    if normaliser == "verbatim":
        return text.split()
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES)
    if normaliser == "plain":
        text = text.lower()
    if text.isascii():
        return _NOT_IN_WORDS.sub(" ", text).split()
    # by category, for \w leaves out the vowel signs that belong to words of many scripts
    return "".join(
        " " if c != "'" and unicodedata.category(c)[0] in _PARTS_WORDS else c for c in text
    ).split()


@dataclass(frozen=True, slots=True)
class Outputs:
    """What is kept of predictions until their labels come; only what the loss needs."""

    number: Floats  # the output, or the probability that it is right
    key: Hashes  # hash of the output as text, to compare by equality
    text: list[str]  # the output itself

    def take(self, rows: npt.NDArray[np.intp]) -> Outputs:
        """The same of these rows."""
        return Outputs(
            self.number[rows] if self.number.size else self.number,
            self.key[rows] if self.key.size else self.key,
            [self.text[i] for i in rows.tolist()] if self.text else [],
        )


NO_NUMBERS: Final = np.empty(0)
NO_KEYS: Final = np.empty(0, np.uint64)


def outputs_of(loss: LossName, batch: EventBatch) -> Outputs:
    """What `loss` needs of a batch's predictions."""
    n = len(batch)
    if loss == "given":
        return Outputs(NO_NUMBERS, NO_KEYS, [])
    if loss in RATIO_LOSSES:
        return Outputs(NO_NUMBERS, NO_KEYS, _texts(batch.output, n))
    if loss in ("absolute_error", "squared_error"):
        return Outputs(_numbers(batch.output, n), NO_KEYS, [])
    if loss == "zero_one":
        return Outputs(NO_NUMBERS, _keys(batch.output, n), [])
    confidence = np.full(n, np.nan) if batch.confidence is None else batch.confidence
    number = _numbers(batch.output, n)
    stated = np.isnan(confidence) & ~np.isnan(number)  # the output is the probability itself
    keys = _keys(batch.output, n)
    of_class = np.where(keys != 0, confidence, np.nan)
    return Outputs(np.where(stated, number, of_class), np.where(stated, np.uint64(0), keys), [])


def score(
    loss: LossName, outputs: Outputs, labels: EventBatch, normaliser: Normaliser = "plain"
) -> tuple[Floats, Floats]:
    """Loss and exposure of each labelled row; NaN where the label does not fit the prediction."""
    n = len(labels)
    if loss in RATIO_LOSSES:
        value, exposure = _edits(loss, outputs.text, labels.truth, n, normaliser)
    else:
        value, exposure = _from_truth(loss, outputs, labels.truth, n)
    if labels.loss is not None:
        given = ~np.isnan(labels.loss)
        value = np.where(given, labels.loss, value)
        exposure = np.where(given, 1.0, exposure)
    if labels.errors is not None and labels.total is not None:
        counted = ~np.isnan(labels.errors) & (labels.total > 0)
        value = np.where(counted, labels.errors, value)
        exposure = np.where(counted, labels.total, exposure)
    fits = (value <= LARGEST_LOSS) & (exposure <= LARGEST_LOSS) & (exposure >= 1 / LARGEST_LOSS)
    return np.where(fits, value, np.nan), np.where(fits, exposure, 1.0)


def _from_truth(loss: LossName, outputs: Outputs, truth: Value, n: int) -> tuple[Floats, Floats]:
    ones = np.ones(n)
    if loss == "given" or not truth.present(n).any():
        return np.full(n, np.nan), ones
    if loss in ("absolute_error", "squared_error"):
        with np.errstate(over="ignore"):
            apart = np.abs(outputs.number - _numbers(truth, n))
            return (apart if loss == "absolute_error" else apart**2), ones
    there = truth.present(n)
    right = outputs.key == _keys(truth, n)
    if loss == "zero_one":
        return np.where(there & (outputs.key != 0), (~right).astype(np.float64), np.nan), ones
    stated = outputs.key == 0
    outcome = _binary(truth, n)
    of_truth = np.where(
        stated,
        np.where(outcome == 1, outputs.number, 1 - outputs.number),
        np.where(right, outputs.number, 1 - outputs.number),
    )
    fits = there & ~(stated & np.isnan(outcome)) & (outputs.number >= 0) & (outputs.number <= 1)
    of_truth = np.where(fits, of_truth, np.nan)
    if loss == "brier":
        return (1 - of_truth) ** 2, ones
    return -np.log(np.clip(of_truth, _SMALLEST_PROBABILITY, 1.0)), ones


def _edits(
    loss: LossName, outputs: Sequence[str], truth: Value, n: int, normaliser: Normaliser
) -> tuple[Floats, Floats]:
    there = truth.present(n)
    if not there.any():
        return np.full(n, np.nan), np.ones(n)
    said = [normalise(text, normaliser) for text in outputs]
    meant = [normalise(text, normaliser) for text in _texts(truth, n)]
    if loss == "cer":
        said, meant = [[*" ".join(w)] for w in said], [[*" ".join(w)] for w in meant]
    edits = cpdist(said, meant, scorer=Levenshtein.distance, dtype=np.int32).astype(np.float64)
    exposure = np.array([len(words) for words in meant], np.float64)
    fits = there & (exposure > 0)
    return np.where(fits, edits, np.nan), np.where(fits, exposure, 1.0)


def _texts(value: Value, n: int) -> list[str]:
    """Each row as text, numbers written plainly, "" where there is nothing."""
    texts = [""] * n if value.text is None else [text or "" for text in value.text.tolist()]
    if value.number is not None:
        for row in np.flatnonzero(~np.isnan(value.number)).tolist():
            texts[row] = f"{value.number[row]:.15g}"
    return texts


def _keys(value: Value, n: int) -> Hashes:
    """A hash of each row as text, 0 where there is nothing; each distinct text is hashed once."""
    keys = np.zeros(n, np.uint64)
    if value.text is not None and value.text.values:
        lookup = np.append(np.maximum(hash_ids(value.text.values), 1), np.uint64(0))
        keys = lookup[value.text.codes]
    if value.number is not None:
        there = ~np.isnan(value.number)
        distinct, inverse = np.unique(value.number[there], return_inverse=True)
        written = hash_ids([f"{number:.15g}" for number in distinct.tolist()])
        keys[there] = np.maximum(written, 1)[inverse]
    return keys


def _numbers(value: Value, n: int) -> Floats:
    """Each row as a number, "true" as 1 and "false" as 0, NaN otherwise."""
    numbers = np.full(n, np.nan) if value.number is None else value.number
    if value.text is not None:
        numbers = np.where(value.text.present, _binary(Value(text=value.text), n), numbers)
    return numbers


_BINARY: Final = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0}


def _binary(value: Value, n: int) -> Floats:
    """1 and 0 for numbers and texts that say so, NaN otherwise."""
    outcome = np.full(n, np.nan)
    if value.number is not None:
        says = (value.number == 0) | (value.number == 1)
        outcome = np.where(says, value.number, np.nan)
    if value.text is not None:
        lookup = np.array([*(_BINARY.get(v.lower(), np.nan) for v in value.text.values), np.nan])
        outcome = np.where(value.text.present, lookup[value.text.codes], outcome)
    return outcome
