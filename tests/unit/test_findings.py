"""Findings: since when, how much worse, whose story it is, and in what words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from service.alerts.alert import Alert
from service.alerts.public import public_alert
from service.engine.fold import Fold
from service.ingest.events import LABEL, PREDICTION, Categories, EventBatch, Value
from service.monitor.attribution import Replay
from service.monitor.findings import Severity, slice_text
from service.monitor.history import HOUR, History
from service.monitor.naming import Namer
from tests.rows import (
    SECOND,
    START,
    Stream,
    a_batch,
    a_configuration,
    both,
    fired,
    fold_in,
)

FIRST_HOUR = START // HOUR
MINUTE = 60 * SECOND


def alerts_of(rows: EventBatch, **config: Any) -> list[Alert]:
    fold = Fold()
    fold.apply(a_configuration({"reference": {"rows": 600}} | config))
    return fired(fold_in(fold, rows, 5_000))


def test_the_effect_is_the_loss_of_slice_and_rest_before_the_onset_and_since() -> None:
    stream = Stream(bad={"floor": "3"})
    rows = stream.rows()
    alert = alerts_of(rows)[0]
    sums: dict[tuple[bool, bool], list[int]] = {}
    for floor, made_at, labelled_at, is_wrong in by_prediction(rows):
        if labelled_at < alert.detected_at:
            total = sums.setdefault((floor == "3", made_at >= alert.onset), [0, 0])
            total[0] += is_wrong
            total[1] += 1
    rate = {key: wrong / n for key, (wrong, n) in sums.items()}
    effect = alert.effect
    # within two rows: as many around the tick may lie on its other side
    assert effect.before == pytest.approx(rate[True, False], abs=0.01)
    assert effect.after == pytest.approx(rate[True, True], abs=2 / sums[True, True][1])
    assert effect.rest_before == pytest.approx(rate[False, False], abs=0.01)
    assert effect.rest_after == pytest.approx(rate[False, True], abs=0.01)
    assert effect.labels == pytest.approx(sums[True, True][1], abs=3)
    assert effect.gap_widened_by is not None
    assert effect.interval is not None
    assert effect.interval[0] < effect.gap_widened_by < effect.interval[1]
    assert effect.interval[0] > 0


def test_before_an_onset_that_is_not_retained_is_what_was_due() -> None:
    fold = Fold()
    fold.apply(a_configuration({"reference": {"rows": 600}}))
    fold_in(fold, Stream(2_000, bad={"floor": "3"}, apart=30 * MINUTE).rows(), 5_000)
    known = fold.model("acme", "m")
    assert known is not None
    monitor = known[0].monitor
    assert monitor is not None
    assert monitor.watch is not None
    floor = monitor.slices.find((("floor", "3"),))
    assert floor is not None
    effect = Namer(monitor, monitor.watch, monitor.clock.now).effect(floor, START - HOUR)
    assert effect.before == pytest.approx(0.1, abs=0.05)  # not 0: of 600 rows, a quarter of them
    assert effect.rest_before == pytest.approx(0.1, abs=0.05)
    assert effect.after > 0.2


def by_prediction(rows: EventBatch) -> list[tuple[str | None, int, int, bool]]:
    """Floor, times of prediction and label, and whether it was wrong."""
    floor, truth = rows.attributes["floor"].tolist(), rows.truth.text
    assert truth is not None
    time, said = rows.time.tolist(), truth.tolist()
    row_of_label = {rows.ids[row]: row for row in np.flatnonzero(rows.kind == LABEL).tolist()}
    return [
        (floor[row], time[row], time[label], said[label] == "no")
        for row in np.flatnonzero(rows.kind == PREDICTION).tolist()
        for label in [row_of_label[rows.ids[row]]]
    ]


def test_the_most_specific_slice_that_explains_it_is_named() -> None:
    alerts = alerts_of(Stream(bad={"floor": "3", "accent": "west"}, bad_rate=0.6).rows())
    heads = [alert for alert in alerts if alert.explained_by is None]
    assert [head.slice for head in heads] == [(("accent", "west"), ("floor", "3"))]


def test_a_finding_says_in_words_who_is_worse_off_and_what_the_rest_did() -> None:
    alert = alerts_of(Stream(bad={"floor": "3"}).rows())[0]
    assert alert.summary.startswith("The error rate for floor=3 rose from ")
    assert " while the rest " in alert.summary
    assert alert.severity is Severity.CRITICAL
    assert alert.evidence.false_alerts == "1 per 7d"
    assert alert.evidence.own_reference >= alert.evidence.alarm_at == 1.0
    assert alert.evidence.rest is not None
    assert alert.evidence.rest >= 1.0


def test_who_is_left_behind_is_told_so_and_with_less_alarm() -> None:
    # From the onset on a fifth of the errors of all but floor 3, whose rate stays.
    stream = Stream(
        9_000, error_rate=0.2, bad={"floor": "3"}, bad_rate=0.2, rest_rate=0.04, onset=0.3
    )
    heads = [a for a in alerts_of(stream.rows()) if a.explained_by is None]
    assert [head.slice for head in heads] == [(("floor", "3"),)]
    (alert,) = heads
    assert alert.kind == "disparity"
    assert alert.effect.because == "left_behind"
    assert alert.severity is Severity.WARNING  # five times the rest's: critical, had it got worse
    assert " while the rest improved from " in alert.summary
    assert alert.evidence.rest is not None
    assert alert.evidence.own_reference < 1.0 <= alert.evidence.rest
    assert public_alert(alert)["effect"]["because"] == "left_behind"


def test_one_that_was_left_behind_catches_up() -> None:
    stream = Stream(
        14_000, error_rate=0.2, bad={"floor": "3"}, bad_rate=0.2, rest_rate=0.04, onset=0.2
    )
    rows, late = stream.rows(), replace(stream, bad_rate=0.04, seed=1).rows()
    half = START + 7_000 * MINUTE
    both_halves = EventBatch.concatenate(
        [rows.take(np.flatnonzero(rows.time < half)), late.take(np.flatnonzero(late.time >= half))]
    )
    fold = Fold()
    fold.apply(a_configuration({"reference": {"rows": 600}}))
    transitions = fold_in(fold, both_halves, 5_000)
    ended = [t.alert for t in transitions if t.type == "alert.resolved"]
    assert (("floor", "3"),) in [alert.slice for alert in ended]
    assert min(alert.resolved_at or 0 for alert in ended) > half
    assert any("caught up" in alert.summary for alert in ended)


def test_the_hour_of_the_week_is_learnt_in_three_weeks_and_kept_over_a_restart() -> None:
    # By night everybody errs three times as often; a month of it is nobody's incident.
    rows, draw = Stream(9_000, apart=5 * MINUTE).rows(), np.random.default_rng(3)
    assert rows.truth.text is not None
    night = rows.time // HOUR % 24 < 8
    wrong = draw.random(len(rows)) < np.where(night, 0.18, 0.06)
    truth = Categories(np.where(rows.kind == LABEL, wrong, -1).astype(np.int32), ["yes", "no"])
    fold = Fold()
    fold.apply(a_configuration({"reference": {"rows": 600}}))
    found = fired(fold_in(fold, replace(rows, truth=Value(text=truth)), 5_000))
    assert found == []
    for known in (fold, Fold.restore(fold.save())):
        model = known.model("acme", "m")
        assert model is not None
        assert model[0].monitor is not None
        watch = model[0].monitor.watch
        assert watch is not None
        by_hour = watch.season.factors(np.arange(168)).reshape(7, 24).mean(axis=0)
        assert by_hour[:4].mean() > 1.1 > 1.0 > by_hour[10:18].mean()


def test_a_slice_too_small_to_be_shown_is_not_told() -> None:
    rows = Stream(bad={"floor": "3"}).rows()
    assert alerts_of(rows)
    assert alerts_of(rows, publish_min_rows=5_000) == []


@pytest.mark.parametrize("seed", [1, 3])
def test_losses_before_their_cap_was_known_do_not_move_the_onset(seed: int) -> None:
    draw = np.random.default_rng(seed)
    rows = [
        both(
            f"p{i}",
            START + i * MINUTE,
            output=0.0,
            truth=float(500 * draw.exponential() * (2.5 if i > 3_000 and i % 4 == 1 else 1)),
            attributes={"floor": str(i % 4)},
        )
        for i in range(5_000)
    ]
    # the reference ends inside an hour; what was lost in the rest of it is not 500 times its due
    alert = alerts_of(a_batch(rows), loss="absolute_error", reference={"rows": 1_030})[0]
    assert alert.slice == (("floor", "1"),)
    assert abs(alert.onset - (START + 3_000 * MINUTE)) <= 8 * HOUR
    assert alert.effect.after > 1.5 * alert.effect.before


Hours = Sequence[Sequence[float]]


TWO_CELLS = ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0))  # each a slice of its own beside the whole model


def a_replay(
    observed: Hours, due: Hours, since: int = START, membership: Hours = TWO_CELLS
) -> Replay:
    """Hours of a few cells."""
    history = History()
    for hour, row in enumerate(zip(observed, due, strict=True)):
        for cell, (lost, exposure) in enumerate(zip(*row, strict=True)):
            one = np.ones(1)
            history.add_labels(
                np.array([FIRST_HOUR + hour]),
                np.array([cell]),
                weight=one,
                loss=one * lost,
                capped=one * lost,
                exposure=one * exposure,
            )
    matrix = np.array(membership)
    n_slices, n_cells = matrix.shape
    return Replay(history, csr_array(matrix), np.ones(n_cells), since, np.ones(n_slices), 1.0)


def test_the_best_window_begins_when_the_excess_does() -> None:
    replay = a_replay([[10, 90]] * 6 + [[20, 90]] * 4, [[10, 90]] * 10)
    strength = replay.of_slice(1, dispersion=1.0)
    assert strength.onset == START + 6 * HOUR
    assert strength.ratio == pytest.approx(2.0)
    assert 1.0 < strength.shrunk_ratio < strength.ratio
    # x ln(x / (f (x + y))) + y ln(y / ((1 - f)(x + y))) with x, y = 80, 360 and f = 1 / 10
    assert strength.nats == pytest.approx(80 * np.log(80 / 44) + 360 * np.log(360 / 396))


def test_dispersion_weakens_and_does_not_move() -> None:
    replay = a_replay([[10, 90]] * 6 + [[20, 90]] * 4, [[10, 90]] * 10)
    plain, clumped = replay.of_slice(1, 1.0), replay.of_slice(1, 4.0)
    assert clumped.nats == pytest.approx(plain.nats / 4)
    assert clumped.onset == plain.onset
    assert clumped.onset_interval[0] <= plain.onset_interval[0]
    assert clumped.onset_interval[1] >= plain.onset_interval[1]


def test_what_hits_everybody_is_nobodys_excess() -> None:
    replay = a_replay([[10, 90]] * 4 + [[20, 180]] * 4, [[10, 90]] * 8)
    assert replay.of_slice(1, 1.0).nats == pytest.approx(0.0, abs=1e-9)
    everyone = replay.of_everyone(1.0)
    assert everyone.onset == START + 4 * HOUR
    assert everyone.ratio == pytest.approx(2.0)


def test_what_a_culprit_hits_harder_than_its_average_is_still_its_story() -> None:
    # cells: floor 7 with a headset and with a tablet, floor 8 with each; floor 7 is worse, most
    # with a headset, and floor 8's headsets are as they were
    calm, hit = [50, 50, 400, 400], [200, 75, 400, 400]
    floor_7, headset = (1.0, 1.0, 0.0, 0.0), (1.0, 0.0, 1.0, 0.0)
    slices = ((1.0, 1.0, 1.0, 1.0), floor_7, headset)
    replay = a_replay([calm] * 4 + [hit] * 4, [calm] * 8, membership=slices)
    culprit = replay.of_slice(1, 1.0)
    assert replay.of_slice(2, 1.0).nats > 20.0
    assert replay.without(1, culprit.onset).of_slice(2, 1.0).nats == pytest.approx(0.0, abs=1e-6)
    worse_too = a_replay([calm] * 4 + [[200, 75, 600, 400]] * 4, [calm] * 8, membership=slices)
    culprit = worse_too.of_slice(1, 1.0)
    assert worse_too.without(1, culprit.onset).of_slice(2, 1.0).nats > 20.0


def test_nothing_is_left_of_a_slice_once_its_culprit_is_left_out() -> None:
    replay = a_replay([[10, 90]] * 4 + [[30, 90]] * 4, [[10, 90]] * 8)
    culprit = replay.of_slice(1, 1.0)
    assert replay.of_everyone(1.0).nats > 3.0
    assert replay.as_due(1, culprit).of_everyone(1.0).nats == pytest.approx(0.0, abs=1e-6)
    assert replay.without(1, culprit.onset).of_slice(1, 1.0).nats == pytest.approx(0.0, abs=1e-6)


def test_where_there_is_no_excess_the_onset_is_the_present_hour() -> None:
    assert a_replay([[10, 90]] * 5, [[10, 90]] * 5).of_slice(1, 1.0).onset == START + 4 * HOUR
    empty = a_replay([[10, 90]] * 5, [[10, 90]] * 5, since=START + 50 * HOUR)
    assert empty.of_slice(1, 1.0).onset == START + 50 * HOUR


def test_a_slice_is_written_as_its_dimensions_and_values() -> None:
    assert slice_text((("accent", "west"), ("floor", "7"))) == "accent=west, floor=7"
    assert slice_text(()) == "everyone"
