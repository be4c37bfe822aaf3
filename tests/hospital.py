"""The hospital's recordings as batches, and worlds made of them in which something else is true.

Nothing is drawn but which words are garbled: transcripts, their order and their delays are those
of the file that ships with the demo. Features are left out: no alert here is made of them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from service.ingest.events import LABEL, PREDICTION, Categories, EventBatch, Floats, Value
from service.monitor.losses import outputs_of, score
from tests.rows import DAY, SECOND, by_time

ONSET: Final = 1_773_049_321 * SECOND  # 2026-03-09T09:42:01Z: new equipment on floor 7
MODEL: Final = "transcribe-medical"


@cache
def _table() -> pa.Table:
    with (files("service.demo") / "hospital.parquet").open("rb") as file:
        return pq.read_table(file)


def _text(table: pa.Table, name: str) -> Categories:
    return Categories.of(table[name].to_pylist())


def _floats(table: pa.Table, name: str) -> Floats:
    return np.array([np.nan if v is None else v for v in table[name].to_pylist()], np.float64)


def _micros(table: pa.Table, name: str) -> npt.NDArray[np.int64]:
    in_micros = table[name].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
    return np.asarray(in_micros.fill_null(-1).to_numpy())


@cache
def as_recorded() -> tuple[EventBatch, EventBatch]:
    """Predictions by time, and the labels of those that were transcribed by a person."""
    table = _table()
    n = table.num_rows
    predictions = EventBatch(
        ids=table["id"].to_pylist(),
        kind=np.full(n, PREDICTION, np.uint8),
        time=_micros(table, "time"),
        model=_text(table, "model"),
        version=_text(table, "version"),
        attributes={
            name: _text(table, f"attributes.{name}") for name in ("floor", "accent", "device")
        },
        output=Value(text=_text(table, "output")),
        cluster=_text(table, "cluster"),
        confidence=_floats(table, "confidence"),
    )
    labelled = np.flatnonzero(~np.asarray(table["truth"].is_null().to_numpy()))
    given = table.take(pa.array(labelled))
    labels = EventBatch(
        ids=given["id"].to_pylist(),
        kind=np.full(labelled.size, LABEL, np.uint8),
        time=_micros(given, "label_time"),
        model=_text(given, "model"),
        version=Categories.absent(labelled.size),
        truth=Value(text=_text(given, "truth")),
        inclusion_probability=_floats(given, "inclusion_probability"),
    )
    return predictions, labels


def story() -> EventBatch:
    """What was recorded: floor 7 gets worse at `ONSET`."""
    return by_time(EventBatch.concatenate(as_recorded()))


def _place_of_label(predictions: EventBatch, labels: EventBatch) -> npt.NDArray[np.intp]:
    place = {id_: row for row, id_ in enumerate(predictions.ids)}
    return np.array([place[id_] for id_ in labels.ids], np.intp)


def quiet() -> EventBatch:
    """Nothing happens: the week before the onset, and the same week once more.

    The second week's rows have ids and clusters of their own, so they count as other sessions;
    their delays go with them. Its losses are the first week's, so it can't show how the world
    moves from one week to the next: it shows that a fortnight of real sessions raises no alert.
    """
    predictions, labels = as_recorded()
    before = predictions.time < ONSET - ONSET % DAY
    labelled = before[_place_of_label(predictions, labels)]
    first = EventBatch.concatenate(
        [predictions.take(np.flatnonzero(before)), labels.take(np.flatnonzero(labelled))]
    )
    assert first.cluster is not None
    again = replace(
        first,
        ids=[f"{id_}-again" for id_ in first.ids],
        time=first.time + 7 * DAY,
        cluster=Categories(first.cluster.codes, [f"{c}-again" for c in first.cluster.values]),
    )
    return by_time(EventBatch.concatenate([first, again]))


def moving(dimension: str, value: str, at: int) -> EventBatch:
    """The quiet fortnight, but that three in four with a value are recorded on floor 3 from `at`.

    They are as well or badly heard as ever; what changes is who is on which floor.
    """
    rows = quiet()
    floor, who = rows.attributes["floor"], rows.attributes[dimension]
    moves = (rows.kind == PREDICTION) & (rows.time >= at)
    moves &= (who.codes == who.values.index(value)) & (np.arange(len(rows)) % 4 > 0)
    codes = np.where(moves, floor.values.index("3"), floor.codes).astype(np.int32)
    return replace(rows, attributes={**rows.attributes, "floor": Categories(codes, floor.values)})


def percent_on_floor_3(rows: EventBatch, dimension: str, value: str, since: int, until: int) -> int:
    """How many in a hundred of its predictions in that time have this value."""
    floor, who = rows.attributes["floor"], rows.attributes[dimension]
    asked = (rows.kind == PREDICTION) & (floor.codes == floor.values.index("3"))
    asked &= (rows.time >= since) & (rows.time < until)
    return round(100 * float((who.codes[asked] == who.values.index(value)).mean()))


def everywhere(seed: int = 7) -> EventBatch:
    """From the onset on the recogniser mishears twice as much, on every floor but the seventh.

    Floor 7's rows since the onset are left out, its equipment with them. In the others' references
    each word becomes another one with the chance at which those with this accent and device were
    misheard before, so that the WER of each about doubles and the ratios between them stay.
    """
    predictions, labels = as_recorded()
    floor = predictions.attributes["floor"]
    stays = (predictions.time < ONSET) | (floor.codes != floor.values.index("7"))
    place = _place_of_label(predictions, labels)
    labels, place = labels.take(np.flatnonzero(stays[place])), place[stays[place]]
    since = predictions.time[place] >= ONSET
    accent, device = (predictions.attributes[name].codes[place] for name in ("accent", "device"))
    group = accent * (device.max() + 1) + device
    edits, n_words = score("wer", outputs_of("wer", predictions.take(place)), labels)
    before = ~since & ~np.isnan(edits)
    rate = np.bincount(group[before], edits[before]) / np.bincount(group[before], n_words[before])
    assert labels.truth.text is not None
    chance = np.where(since, rate[group], 0.0)
    garbled = _garble(labels.truth.text, chance, np.random.default_rng(seed))
    labels = replace(labels, truth=Value(text=garbled))
    return by_time(EventBatch.concatenate([predictions.take(np.flatnonzero(stays)), labels]))


def _garble(truths: Categories, chance: Floats, draw: np.random.Generator) -> Categories:
    texts = truths.tolist()
    for row in np.flatnonzero(chance).tolist():
        words = (texts[row] or "").split()
        texts[row] = " ".join("zzz" if draw.random() < chance[row] else word for word in words)
    return Categories.of(texts)
