"""Fold: the state is made of the entries and of nothing else."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.alerts.alert import Transition
from service.engine import fold as fold_module
from service.engine.fold import Fold, Receipt
from service.engine.ports import BATCH, TICK, Entry
from service.errors import Damaged
from service.ingest.events import LABEL, PREDICTION, Bools, Categories, EventBatch, Rejected
from service.ingest.frame import to_frame
from service.ingest.json_rows import decode_json
from service.monitor.findings import State
from service.monitor.history import HOUR as HISTORY_HOUR
from service.monitor.monitor import Monitor
from tests.rows import (
    DAY,
    HOUR,
    LATER,
    SECOND,
    START,
    Row,
    Stream,
    a_batch,
    a_configuration,
    a_label,
    a_prediction,
    a_reference,
    an_entry,
    both,
    by_time,
    fired,
    fold_in,
    in_requests,
    shuffled,
)

SHORT = {"reference": {"rows": 600}}
BAD = Stream(bad={"floor": "3"})


def a_fold(config: dict[str, Any] | None = None) -> Fold:
    fold = Fold()
    fold.apply(a_configuration(SHORT if config is None else config))
    return fold


def counts(fold: Fold) -> dict[str, list[float]]:
    """Rows, labels and loss of each slice, and of the model."""
    monitor = monitor_of(fold)
    sums = monitor.slices.membership() @ monitor.history.cells_between(monitor.slices.n_cells)
    by_slice = {
        str(name): row.tolist() for name, row in zip(monitor.slices.names, sums, strict=True)
    }
    return {**by_slice, "model": [monitor.n_predictions, monitor.n_labels, monitor.n_unscored]}


def monitor_of(fold: Fold) -> Monitor:
    known = fold.model("acme", "m")
    assert known is not None
    assert known[0].monitor is not None
    return known[0].monitor


def gist(transitions: list[Transition]) -> list[tuple[Any, ...]]:
    return [(t.type, t.alert.id, t.alert.slice, t.alert.onset, t.at) for t in transitions]


def opened_late(rows: EventBatch) -> EventBatch:
    """The same rows, of which floor 3 has none in the first quarter, the reference included."""
    floor = rows.attributes["floor"]
    early = (floor.codes == floor.values.index("3")) & (np.arange(len(rows)) < len(rows) // 4)
    return replace(rows, attributes={**rows.attributes, "floor": absent_at(floor, early)})


def named_by_labels(rows: EventBatch) -> EventBatch:
    """The same rows, whose floors the labellers alone were told of."""
    known = zip(rows.ids, rows.attributes["floor"].tolist(), strict=True)
    floor_of = {id_: floor for id_, floor in known if floor is not None}
    floor = Categories.of([floor_of[id_] for id_ in rows.ids])
    is_prediction = rows.kind == PREDICTION
    return replace(rows, attributes={**rows.attributes, "floor": absent_at(floor, is_prediction)})


def absent_at(column: Categories, rows: Bools) -> Categories:
    return Categories(np.where(rows, -1, column.codes).astype(np.int32), column.values)


LABELLERS_FLOORS = {"dimensions": ["accent", "floor"], "publish_min_rows": 0}
A_WINDOW = {"reference": {"from": "2026-03-02T00:00:00Z", "until": "2026-03-02T12:00:00Z"}}


@pytest.mark.parametrize(
    ("config", "rows"),
    [
        (SHORT, BAD.rows()),
        (SHORT | {"labels": {"matured": "4h"}}, BAD.rows()),
        (A_WINDOW, BAD.rows()),
        (SHORT | {"order": 1}, opened_late(BAD.rows())),
        (SHORT | LABELLERS_FLOORS, named_by_labels(BAD.rows())),
    ],
    ids=["rows", "matured labels", "a window", "a slice that opens late", "labels that name it"],
)
def test_cuts_change_no_count_and_no_alert(config: dict[str, Any], rows: EventBatch) -> None:
    seen = []
    for size in (1 if config == SHORT else 11, 37, 5_000):
        fold = a_fold(config)
        found = fold_in(fold, rows, size)
        seen.append((counts(fold), found, fold.tenants["acme"].accounts))
    assert seen[0] == seen[1] == seen[2]
    assert fired(found)[0].slice == (("floor", "3"),)


@pytest.mark.parametrize("seed", [1, 2])
def test_labels_shuffled_within_their_delay_change_no_count(seed: int) -> None:
    rows = BAD.rows()
    given_at = rows.time.copy()
    labels = np.flatnonzero(rows.kind == LABEL)
    delay = np.random.default_rng(seed).integers(0, 4 * HOUR, size=labels.size)
    made_at = {rows.ids[i]: rows.time[i] for i in np.flatnonzero(rows.kind == PREDICTION)}
    given_at[labels] = [made_at[rows.ids[i]] for i in labels.tolist()] + delay
    again = by_time(EventBatch(**{**columns(rows), "time": given_at}))
    assert again.ids != rows.ids
    results = []
    for batch in (rows, again, shuffled(again, again.kind == LABEL, seed)):
        fold = a_fold()
        fold_in(fold, batch)
        results.append(counts(fold))
    assert results[0] == results[1] == results[2]


def columns(batch: EventBatch) -> dict[str, Any]:
    return {name: getattr(batch, name) for name in EventBatch.__slots__}


def test_a_request_that_spans_more_than_the_horizon_is_not_refused_for_its_length() -> None:
    rows = a_batch([a_prediction(f"p{i}", START + i * 12 * HOUR) for i in range(200)])
    for size in (1, 37, 5_000):
        fold = a_fold({"reference": {"rows": 50}, "dimensions": []})
        fold_in(fold, rows, size)
        accounts = fold.tenants["acme"].accounts
        assert (accounts.accepted, accounts.rejected) == (200, 0)


def test_rows_older_than_the_horizon_are_refused_with_a_reason() -> None:
    fold = a_fold({"reference": {"rows": 50}, "dimensions": []})
    fold_in(fold, a_batch([a_prediction(f"p{i}", START + i * SECOND) for i in range(100)]))
    old = [a_prediction("old", START - 31 * DAY), a_prediction("in time", START - 29 * DAY)]
    receipt = fold.apply(an_entry(old)).receipt
    reason = "time: before the label horizon of this model"
    assert receipt == Receipt(1, 0, 1, (Rejected(0, "old", reason, "m"),))
    assert counts(fold)["model"] == [101, 0, 0]


@pytest.mark.parametrize("at", [0, 3, 5, 8, 11])
def test_the_digest_is_the_same_after_a_restart_at_any_point(at: int) -> None:
    whole, parted = a_fold(), a_fold()
    for n, request in enumerate(in_requests(BAD.rows(), 500)):
        if n == at:
            assert Fold.restore(parted.save()).digest() == parted.digest()
            parted = Fold.restore(parted.save())
        entry = an_entry(request, batch_id=f"batch-{n}")
        assert parted.apply(entry) == whole.apply(entry)
    assert parted.digest() == whole.digest()
    assert parted.save() == whole.save()


def test_looking_at_the_state_changes_nothing_of_it() -> None:
    watched, left_alone = a_fold(), a_fold()
    for request in in_requests(BAD.rows(), 700):
        watched.apply(an_entry(request))
        counts(watched)
        watched.digest()
        left_alone.apply(an_entry(request))
    assert watched.digest() == left_alone.digest()


REPLAY = """
from tests.rows import Stream, a_configuration, fold_in
from service.engine.fold import Fold
fold = Fold()
fold.apply(a_configuration({"reference": {"rows": 600}}))
found = fold_in(fold, Stream(n_predictions=2_000, bad={"floor": "3"}).rows())
print(fold.digest(), *(t.alert.id for t in found))
"""


def test_the_same_entries_give_the_same_digest_under_any_hash_seed() -> None:
    printed = [
        subprocess.run(
            [sys.executable, "-c", REPLAY],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4242")
    ]
    assert len(printed[0].split()) > 1  # a digest and at least one alert
    assert len(set(printed)) == 1


def test_received_is_accepted_and_duplicate_and_rejected_after_every_entry() -> None:
    draw, fold = np.random.default_rng(3), a_fold({"reference": {"rows": 50}})
    makes: list[Callable[..., Row]] = [a_prediction, a_label, both]
    received = 0
    for _ in range(60):
        rows = [
            makes[draw.integers(3)](
                f"p{draw.integers(200)}", START + int(draw.integers(-40, 40)) * DAY, truth="a"
            )
            for _ in range(draw.integers(1, 30))
        ]
        refused = [Rejected(len(rows) + i, None, "id: required") for i in range(draw.integers(3))]
        receipt = fold.apply(an_entry(rows, rejected=refused)).receipt
        assert receipt is not None
        assert receipt.accepted + receipt.duplicates + receipt.rejected == len(rows) + len(refused)
        received += len(rows) + len(refused)
        accounts = fold.tenants["acme"].accounts
        assert accounts.received == received
        assert received == accounts.accepted + accounts.duplicates + accounts.rejected
    assert min(accounts.accepted, accounts.duplicates, accounts.rejected, accounts.late) > 0


def test_a_batch_id_keeps_its_receipt_and_the_check_of_its_body() -> None:
    fold = a_fold()
    entry = an_entry([a_prediction("x"), a_prediction("x")], batch_id="first")
    receipt = fold.apply(entry).receipt
    for again in (fold, Fold.restore(fold.save())):
        assert again.receipt_for("acme", "first") == (receipt, zlib.crc32(entry.body))
        assert again.receipt_for("other", "first") is None
        assert again.receipt_for("acme", "second") is None


def test_of_many_receipts_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_module, "MAX_RECEIPTS", 2)
    fold = a_fold()
    for name in ("a", "b", "c"):
        fold.apply(an_entry([a_prediction(name)], batch_id=name))
    assert [fold.receipt_for("acme", name) is not None for name in "abc"] == [False, True, True]


def test_rows_of_models_past_the_cap_are_refused_and_the_others_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fold_module, "MAX_MODELS", 2)
    fold = Fold()
    rows = [a_prediction(str(i), model=f"model-{i % 3}") for i in range(6)]
    receipt = fold.apply(an_entry(rows)).receipt
    assert receipt is not None
    assert (receipt.accepted, receipt.rejected) == (4, 2)
    assert [(e.index, e.reason) for e in receipt.errors] == [
        (2, "model: more than 2 of them"),
        (5, "model: more than 2 of them"),
    ]
    assert fold.model("acme", "model-2") is None


def test_a_receipt_lists_so_many_errors_and_counts_all() -> None:
    refused = [Rejected(i, None, "id: required") for i in range(500)]
    receipt = a_fold().apply(an_entry([a_prediction("x")], rejected=refused)).receipt
    assert receipt is not None
    assert (receipt.accepted, receipt.rejected, len(receipt.errors)) == (1, 500, 100)


def test_tenants_do_not_meet() -> None:
    fold = Fold()
    for tenant in ("acme", "other"):
        assert fold.apply(an_entry([a_prediction("x")], tenant)).receipt == Receipt(1, 0, 0)
    before = fold.tenants["other"].accounts.received
    fold.apply(an_entry([a_prediction("x"), a_prediction("y")], "acme"))
    assert fold.tenants["other"].accounts.received == before
    assert fold.model("third", "m") is None


def test_a_tick_moves_the_wall_clock_and_not_the_digest() -> None:
    fold = a_fold()
    before = fold.digest()
    fold.apply(Entry("", TICK, LATER.to_bytes(8, "big"), LATER))
    assert fold.wall_clock == LATER == Fold.restore(fold.save()).wall_clock
    assert fold.digest() == before


@pytest.mark.parametrize("codec", ["batch/1", "configure/1", "reference/1", "batch/2"])
def test_an_entry_that_is_not_what_its_codec_says_is_damaged(codec: str) -> None:
    with pytest.raises(Damaged):
        Fold().apply(Entry("acme", codec, b"\x93not", LATER))


@pytest.mark.parametrize("body", [b"", b"\x01", b"\x80", b"\xc1", b"\x81\xa7version\x63"])
def test_bytes_that_are_no_snapshot_are_damaged(body: bytes) -> None:
    with pytest.raises(Damaged):
        Fold.restore(body)


def test_a_slice_that_comes_back_resolves_its_alert_and_one_that_stays_bad_does_not() -> None:
    back = Stream(n_predictions=6_000, bad={"floor": "3"}, onset=0.2, until=0.45)
    stays = Stream(n_predictions=6_000, bad={"floor": "3"}, onset=0.2)
    closing: dict[str, list[Transition]] = {}
    for name, stream in (("back", back), ("stays", stays)):
        found = fold_in(a_fold(), stream.rows(), 5_000)
        first = fired(found)[0]
        assert first.slice == (("floor", "3"),)
        closing[name] = [t for t in found if t.alert.id == first.id and t.type != "alert.revised"]
    assert [t.type for t in closing["stays"]] == ["alert.firing"]
    assert [t.type for t in closing["back"]] == ["alert.firing", "alert.resolved"]
    over = closing["back"][1]
    assert over.alert.state is State.RESOLVED
    ended = START + int(0.45 * 6_000) * back.apart
    assert ended < over.at < ended + 24 * HOUR


def test_where_nobody_gets_worse_nobody_is_flagged() -> None:
    for seed in range(5):
        assert fold_in(a_fold(), Stream(n_predictions=2_000, seed=seed).rows(), 5_000) == []


def test_where_everybody_gets_worse_one_global_alert_is_raised() -> None:
    everybody = Stream(n_predictions=3_000, bad={}, bad_rate=0.3)
    found = fold_in(a_fold(), everybody.rows(), 5_000)
    assert [(a.kind.value, a.slice) for a in fired(found)] == [("error_rate", ())]


@pytest.mark.parametrize("apart", [600 * SECOND, HOUR])
def test_a_stream_with_one_label_a_tick_is_heard_too(apart: int) -> None:
    slow = Stream(bad={"floor": "3"}, apart=apart, delay=24 * HOUR)
    found = fold_in(a_fold(), slow.rows(), 5_000)
    assert fired(found)[0].slice == (("floor", "3"),)


def test_matured_labels_are_counted_by_the_hour_and_cuts_change_nothing() -> None:
    matured = SHORT | {"labels": {"matured": "4h"}}
    seen = []
    for size in (37, 5_000):
        fold = a_fold(matured)
        seen.append((gist(fold_in(fold, BAD.rows(), size)), counts(fold)))
    assert seen[0] == seen[1]
    plain = a_fold()
    on_arrival = fired(fold_in(plain, BAD.rows()))[0]
    assert seen[0][1] == counts(plain)
    assert seen[0][0][0][2] == on_arrival.slice
    assert seen[0][0][0][4] > on_arrival.detected_at  # waiting for an hour's labels costs delay


@pytest.mark.parametrize("reference", [SHORT["reference"], A_WINDOW["reference"]])
def test_a_reference_of_matured_labels_waits_for_them(reference: dict[str, Any]) -> None:
    fold = a_fold({"reference": reference, "labels": {"matured": "4h"}})
    n_hours = 10 if "rows" in reference else 12  # a row a minute
    known, until = [0], 0
    for request in in_requests(BAD.rows(), 10):
        fold.apply(an_entry(request))
        entry = fold.model("acme", "m")
        assert entry is not None
        if entry[0].is_learning:
            continue
        monitor = entry[0].monitor
        assert monitor is not None
        until = monitor.reference_until
        if monitor.watch is not None:
            break
        known.append(sum(len(part) for part in monitor.reference))
    assert known[-1] >= 60 * (n_hours - 1)  # the last hour is learnt as it closes
    assert until >= START + n_hours * HOUR


def test_a_reference_too_short_to_calibrate_on_goes_on_until_it_is_not() -> None:
    """Two hours of rows are watched by proven hazards, until twelve hours were learnt from."""
    fold = a_fold()
    modes, kept = [], []
    for request in in_requests(Stream(n_predictions=5_000, apart=12 * SECOND).rows(), 100):
        fold.apply(an_entry(request))
        monitor = monitor_of(fold)
        if monitor.watch is not None:
            modes.append(monitor.watch.mode)
            kept.append(monitor.reference)
            reached = (monitor.clock.now - START) / HOUR
            assert (monitor.watch.mode == "calibrated") == (not monitor.reference)
            assert monitor.watch.mode == "proven" or reached > 11
            assert monitor.watch.mode == "calibrated" or reached < 14
    assert modes == sorted(modes, reverse=True)  # the one, then the other
    assert modes.count("proven") > 20
    assert sum(map(len, kept[-modes.count("calibrated") - 1])) > 2_000


def test_what_an_alert_is_open_of_is_not_learnt_with_the_rest_of_a_reference() -> None:
    bad = Stream(n_predictions=5_000, apart=12 * SECOND, bad={"floor": "3"}, onset=0.2, delay=0)
    fold = a_fold({**SHORT, "order": 1})
    found = fired(fold_in(fold, bad.rows(), 100))
    began = START + int(0.2 * 5_000) * bad.apart
    assert [alert.slice for alert in found] == [(("floor", "3"),)]
    assert began < found[0].detected_at < START + 12 * HOUR
    monitor = monitor_of(fold)
    watch, floor = monitor.watch, monitor.slices.find((("floor", "3"),))
    assert watch is not None and floor is not None
    assert watch.mode == "calibrated"
    assert watch.disparity.open[floor]
    assert watch.recovery.midpoint[floor] > 1
    learnt = watch.rates_of(monitor.slices)[monitor.slices.membership()[[floor], :].indices]
    assert learnt.mean() < 0.25  # of 0.1, and of 0.5 until it was found


def test_a_state_that_is_saved_before_it_is_calibrated_goes_on_alike() -> None:
    whole = saved = a_fold()
    for request in in_requests(Stream(n_predictions=5_000, apart=12 * SECOND).rows(), 500):
        if whole is not saved:
            saved.apply(an_entry(request))
        whole.apply(an_entry(request))
        watch = monitor_of(whole).watch
        if whole is saved and watch is not None:
            assert watch.mode == "proven"
            saved = Fold.restore(whole.save())
    ours, theirs = monitor_of(whole).watch, monitor_of(saved).watch
    assert ours is not None and theirs is not None
    assert ours.mode == theirs.mode == "calibrated"
    np.testing.assert_array_equal(ours.disparity.evidence, theirs.disparity.evidence)


def test_labels_that_have_not_matured_take_no_part_in_what_is_told() -> None:
    """Here the wrong ones come at once, and the right ones after an hour."""
    rows = Stream(n_predictions=5_000, apart=12 * SECOND, bad={"floor": "3"}, delay=0).rows()
    assert rows.truth is not None and rows.truth.text is not None
    is_right = (rows.kind == LABEL) & np.array([v == "yes" for v in rows.truth.text.tolist()])
    time = np.where(is_right, rows.time + HOUR, rows.time)
    rows = by_time(replace(rows, time=time))
    fold = a_fold({**SHORT, "order": 1, "labels": {"matured": "2h"}})
    alert = fired(fold_in(fold, rows, 100))[0]
    assert alert.slice == (("floor", "3"),)
    assert alert.effect.rest_after == pytest.approx(0.1, abs=0.03)
    assert alert.effect.rows == alert.effect.labels


def test_the_onset_is_when_it_began() -> None:
    alert = fired(fold_in(a_fold(), BAD.rows(), 5_000))[0]
    began = START + int(BAD.onset * BAD.n_predictions) * BAD.apart
    assert abs(alert.onset - began) <= 2 * HISTORY_HOUR
    assert alert.onset_interval[0] <= began <= alert.onset_interval[1]
    assert alert.detected_at > began


def test_a_structural_change_closes_what_is_open_and_the_model_learns_anew() -> None:
    fold = a_fold()
    opened = fired(fold_in(fold, BAD.rows(), 5_000))
    applied = fold.apply(a_configuration(SHORT | {"order": 1}))
    assert {t.alert.id for t in applied.transitions} == {alert.id for alert in opened}
    assert {t.type for t in applied.transitions} == {"alert.resolved"}
    assert fold.apply(a_configuration(SHORT | {"order": 1})).transitions == ()


def test_an_uploaded_reference_is_counted_and_watched_against() -> None:
    fold = Fold()
    reference = Stream(n_predictions=600, seed=5).rows()
    assert fold.apply(a_reference(reference)).receipt == Receipt(600, 0, 0)
    # from the first row on floor 3 is worse than what was uploaded
    worse = Stream(n_predictions=1_500, bad={"floor": "3"}, onset=0.0)
    assert fired(fold_in(fold, worse.rows()))[0].slice == (("floor", "3"),)


def test_an_unknown_codec_names_the_entry_and_not_its_content() -> None:
    with pytest.raises(Damaged, match="entry 7 has the unknown codec"):
        Fold().apply(Entry("acme", "secret/9", b"content", LATER, offset=7))
    assert BATCH == "batch/1"


def test_nothing_of_a_request_waits_for_the_collector() -> None:
    """The service asks it to come seldom: rows in a cycle would stay for a thousand requests."""
    fold = Fold()
    fold.apply(a_configuration(SHORT))
    rows = [
        {
            "id": f"r{i}",
            "model": "m",
            "time": (START + i * SECOND) // 1_000_000,
            "attributes": {"floor": f"value {i}"},
            "features": {"codec": f"c{i % 7}", "x": float(i % 9)},
            "output": f"text {i}",
            "truth": f"text {i}",
        }
        for i in range(2_000)
    ]

    def send(first: int) -> None:
        batch, refused = decode_json(json.dumps(rows[first : first + 500]).encode(), LATER, 1_000)
        assert not refused
        entry = Entry("acme", BATCH, to_frame(batch), LATER, None, (), first + 10)
        assert fold.apply(entry).receipt == Receipt(500, 0, 0)

    send(0)
    gc.collect()
    gc.disable()
    try:
        for first in (500, 1_000, 1_500):
            send(first)
        found = gc.collect()
    finally:
        gc.enable()
    assert found == 0
