"""Rules: what a row must satisfy once it is columns, the same behind every door.

A door (JSON, a file) refuses what it cannot read; `admit` refuses, a column at a time, what reads
well and is not allowed. `clean_text` brings attribute and feature values to one spelling.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from service.ingest.events import (
    LABEL,
    NAME,
    PREDICTION,
    Bools,
    Categories,
    EventBatch,
    Floats,
    Ints,
    Rejected,
)

ATTRIBUTE: Final = "attributes."  # how names begin in the flat form: attributes.floor
FEATURE: Final = "features."
MAX_ID_CHARS: Final = 200
MAX_ATTRIBUTE_CHARS: Final = 64  # longer ones are cut
MAX_FEATURE_CHARS: Final = 128  # longer ones are cut
MAX_TEXT_CHARS: Final = 65_536  # of an output or a truth; longer ones are refused
MAX_ATTRIBUTES: Final = 64  # a row
MAX_FEATURES: Final = 2_000  # a row
MAX_VECTOR: Final = 4_096  # numbers in a feature
MAX_AHEAD_MICROS: Final = 86_400 * 1_000_000  # how far a row's time may lie behind its receipt

_NAME: Final = re.compile(NAME, re.ASCII)
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")

NUMBERS: Final = ("confidence", "loss", "errors", "total", "inclusion_probability")
TEXTS: Final = ("id", "kind", "model", "version", "cluster", "stratum")
FIELDS: Final = frozenset({*TEXTS, *NUMBERS, "time", "label_time", "output", "truth"})

NEITHER: Final = "kind: a prediction gives output or features, a label truth, loss, or errors"


def is_field(name: str) -> bool:
    """Whether a name means something in the flat form."""
    return name in FIELDS or name.startswith((ATTRIBUTE, FEATURE))


def well_formed_id(value: str) -> bool:
    """Whether a row, or a cluster, may be called this."""
    return 1 <= len(value) <= MAX_ID_CHARS and _CONTROL.search(value) is None


def well_formed_name(value: str) -> bool:
    """Whether a model or a version may be called this."""
    return _NAME.fullmatch(value) is not None


def clean_text(column: Categories, max_chars: int) -> Categories:
    """The column in NFC, without control characters (U+FFFD for each), cut at `max_chars`."""
    if all(v.isascii() and v.isprintable() and len(v) <= max_chars for v in column.values):
        return column
    index: dict[str, int] = {}
    codes = [index.setdefault(_clean(v, max_chars), len(index)) for v in column.values]
    return Categories(np.array([*codes, -1], np.int32)[column.codes], list(index))


def _clean(value: str, max_chars: int) -> str:
    # Cut first: normalising a megabyte of combining marks takes quadratic time.
    text = unicodedata.normalize("NFC", value[: 4 * max_chars])[:max_chars]
    return _CONTROL.sub("\ufffd", text)


def admit(
    batch: EventBatch, received_at: int, refused: Mapping[int, str]
) -> tuple[EventBatch, list[Rejected]]:
    """The rows that may go on, and the others with their reasons; `refused` were so already."""
    reasons = dict(refused)
    for wrong, reason in _broken(batch, received_at):
        if wrong.any():
            for row in np.flatnonzero(wrong).tolist():
                reasons.setdefault(row, reason)
    if not reasons:
        return batch, []
    models = batch.model.codes
    rejected = [
        Rejected(
            batch.position(row),
            batch.ids[row] if well_formed_id(batch.ids[row]) else None,
            reasons[row],
            _readable_model(batch.model.values, int(models[row])),
        )
        for row in sorted(reasons)
    ]
    kept = np.ones(len(batch), np.bool_)
    kept[list(reasons)] = False
    return batch.take(np.flatnonzero(kept)), rejected


def _readable_model(values: Sequence[str], code: int) -> str | None:
    return values[code] if code >= 0 and well_formed_name(values[code]) else None


def _broken(batch: EventBatch, received_at: int) -> Iterator[tuple[Bools, str]]:
    """Each rule: which rows break it, and what they are told."""
    yield _bad_ids(batch.ids), "id: must be 1 to 200 characters, none of them a control character"
    yield ~batch.model.present, "model: required"
    yield _bad_values(batch.model, well_formed_name), "model: not a well-formed name"
    yield _bad_values(batch.version, well_formed_name), "version: not a well-formed name"
    yield batch.time > received_at + MAX_AHEAD_MICROS, "time: more than a day in the future"
    yield batch.time < 0, "time: before 1970"
    yield batch.kind == 0, NEITHER
    for name, column in (("output", batch.output.text), ("truth", batch.truth.text)):
        yield (
            _bad_values(column, lambda value: len(value) <= MAX_TEXT_CHARS),
            f"{name}: longer than {MAX_TEXT_CHARS} characters",
        )
    for name, vectors in batch.features.items():
        if vectors.vector is not None and not np.isfinite(vectors.vector.values).all():
            owners = np.repeat(np.arange(len(batch)), np.diff(vectors.vector.offsets))
            outside = owners[~np.isfinite(vectors.vector.values)]
            yield (
                np.isin(np.arange(len(batch)), outside),
                f"features: {name}: a number of the array is not finite in 32 bits",
            )
    yield (
        _bad_values(batch.cluster, well_formed_id),
        "cluster: must be 1 to 200 characters, none of them a control character",
    )
    yield from _bad_numbers(batch)
    yield (
        (batch.kind & LABEL > 0) & ~batch.has_label(),
        "kind: a label gives truth, loss, or errors and total",
    )


def _bad_numbers(batch: EventBatch) -> Iterator[tuple[Bools, str]]:
    """The rules of the numeric columns; NaN is absent and breaks none."""
    confidence, probability = batch.confidence, batch.inclusion_probability
    if confidence is not None:
        yield (confidence < 0) | (confidence > 1), "confidence: must be between 0 and 1"
    if batch.loss is not None:
        yield (batch.loss < 0) | np.isinf(batch.loss), "loss: must be 0 or more"
    if probability is not None:
        yield (
            (probability <= 0) | (probability > 1),
            "inclusion_probability: must be more than 0 and at most 1",
        )
    if batch.errors is not None or batch.total is not None:
        errors, total = _floats(batch.errors, batch), _floats(batch.total, batch)
        yield (errors < 0) | np.isinf(errors), "errors: must be 0 or more"
        yield (total <= 0) | np.isinf(total), "total: must be more than 0"
        yield np.isnan(errors) != np.isnan(total), "errors and total: both or neither"


def _floats(column: Floats | None, batch: EventBatch) -> Floats:
    return np.full(len(batch), np.nan) if column is None else column


def _bad_ids(ids: Sequence[str]) -> Bools:
    if ids and min(map(len, ids)) >= 1 and max(map(len, ids)) <= MAX_ID_CHARS:
        if "".join(ids).isprintable():  # at once; a control character is not printable
            return np.zeros(len(ids), np.bool_)
    return np.array([not well_formed_id(i) for i in ids], np.bool_)


def _bad_values(column: Categories | None, good: Callable[[str], bool]) -> Bools:
    """Rows whose value fails a test that is made once a value."""
    if column is None:
        return np.zeros(1, np.bool_)
    if all(map(good, column.values)):
        return np.zeros(len(column.codes), np.bool_)
    return np.array([*(not good(value) for value in column.values), False])[column.codes]


def kinds(stated: Categories, is_prediction: Bools, is_label: Bools) -> npt.NDArray[np.uint8]:
    """PREDICTION | LABEL of each row: as stated, else by what it gives; 0 where it gives nothing.

    A stated prediction with its truth inside is both; a stated label is a label alone.
    """
    says = np.array([*(value == "prediction" for value in stated.values), False])[stated.codes]
    prediction = np.where(stated.present, says, is_prediction)
    label = np.where(stated.present & ~says, True, is_label)
    return np.asarray(PREDICTION * prediction + LABEL * label, np.uint8)


def instant_of_number(value: float) -> int:
    """Microseconds since 1970 of a time in seconds, ms, us or ns, told by size.

    As seconds, each unit is past the year 5000 where the next begins.
    """
    size = abs(value)
    if size < 1e11:
        value *= 1_000_000
    elif size < 1e14:
        value *= 1_000
    elif size >= 1e17:
        value //= 1_000
    return max(-_FAR, min(round(value), _FAR))


def instants_of_numbers(values: Floats) -> Ints:
    """`instant_of_number` of each value, shape (n,)."""
    size = np.abs(values)
    micros = np.select(
        [size < 1e11, size < 1e14, size < 1e17],
        [values * 1e6, values * 1e3, values],
        np.floor_divide(values, 1e3),
    )
    return np.clip(np.rint(micros), -_FAR, _FAR).astype(np.int64)


_FAR: Final = 2**62  # microseconds; beyond what any rule lets in
