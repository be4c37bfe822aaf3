"""Series: what /metrics says of a fold's models, slices and alerts, against the fold itself."""

from __future__ import annotations

import re

import numpy as np
import pytest

from service.engine.fold import Fold
from service.engine.series import series
from service.metrics import FAMILIES, Metrics
from service.monitor.model import Model
from service.monitor.monitor import Monitor
from service.monitor.standing import standing
from tests.rows import (
    DAY,
    HOUR,
    SECOND,
    START,
    Stream,
    a_configuration,
    a_label,
    a_prediction,
    an_entry,
    fold_in,
)

Values = dict[tuple[str, ...], float]  # by the labels behind tenant and model

BAD_FLOOR = {"floor": "3"}
WHOLE = 40 * DAY // SECOND  # a window that holds every row of these streams


def values(fold: Fold, name: str, window_seconds: int = WHOLE, max_slices: int = 200) -> Values:
    """The samples of one metric, in their order."""
    found: Values = {}
    for table in series(fold, window_seconds, max_slices):
        for labels, value in zip(table.labels, table.columns.get(name, ()), strict=False):
            texts = tuple(re.findall(r'="((?:[^"\\]|\\.)*)"', labels))
            if value == value:
                found[texts[2:]] = value
    return found


def a_fold(stream: Stream, **config: object) -> Fold:
    fold = Fold()
    fold.apply(a_configuration({"reference": {"rows": 600}} | config))
    fold_in(fold, stream.rows())
    return fold


def model_of(fold: Fold) -> Model:
    known = fold.model("acme", "m")
    assert known is not None
    return known[0]


def monitor_of(fold: Fold) -> Monitor:
    monitor = model_of(fold).monitor
    assert monitor is not None
    return monitor


def test_figures_are_those_of_the_slices_in_the_window() -> None:
    fold = a_fold(Stream())
    window = 6 * HOUR
    now = standing(monitor_of(fold), since=monitor_of(fold).row_clock.now - window)
    index = monitor_of(fold).slices.find((("floor", "3"),))
    for name in ("rows", "labels", "loss", "loss_lower", "disparity", "disparity_upper"):
        shown = values(fold, f"slicewatch_slice_{name}", window // SECOND)
        assert shown["floor=3",] == getattr(now, name)[index]
    rows = values(fold, "slicewatch_slice_rows", window // SECOND)
    assert 0 < rows["everyone",] < 3_000


def test_only_slices_with_rows_enough_are_shown() -> None:
    fold = a_fold(Stream(n_predictions=1_200), publish_min_rows=700)
    # half of 1,200 rows and less are too few
    assert values(fold, "slicewatch_slice_rows") == {("everyone",): 1_200}


def test_the_worst_are_shown_and_the_rest_is_summed() -> None:
    fold = a_fold(Stream(bad=BAD_FLOOR))
    everything = values(fold, "slicewatch_slice_rows")
    worst = values(fold, "slicewatch_slice_rows", max_slices=3)
    assert list(worst)[:3] == list(everything)[:3] and list(worst)[3] == ("other",)
    hidden = list(everything)[3:]
    assert worst["other",] == sum(everything[name] for name in hidden)
    labels, loss = (values(fold, f"slicewatch_slice_{name}") for name in ("labels", "loss"))
    expected = sum(loss[name] * labels[name] for name in hidden) / sum(labels[n] for n in hidden)
    shown = values(fold, "slicewatch_slice_loss", max_slices=3)
    assert shown["other",] == pytest.approx(expected)
    assert ("other",) not in values(fold, "slicewatch_slice_evidence_ratio", max_slices=3)


def test_a_slice_with_an_open_alert_keeps_its_evidence_and_its_place() -> None:
    fold = a_fold(Stream(bad=BAD_FLOOR))
    evidence = values(fold, "slicewatch_slice_evidence_ratio")
    assert evidence["floor=3",] >= 1.0
    assert next(iter(values(fold, "slicewatch_slice_rows", max_slices=1))) == ("floor=3",)


def test_an_open_alert_is_told_with_its_effect() -> None:
    fold = a_fold(Stream(bad=BAD_FLOOR))
    known = fold.model("acme", "m")
    assert known is not None
    head = next(a for a in known[1].open.values() if a.slice == (("floor", "3"),))
    info = next(labels for labels in values(fold, "slicewatch_alert_info") if "floor=3" in labels)
    assert info[:3] == ("disparity", "floor=3", head.id)
    key = ("disparity", "floor=3")
    onset = values(fold, "slicewatch_alert_onset_timestamp_seconds")[key]
    assert onset * SECOND == pytest.approx(head.onset)
    assert values(fold, "slicewatch_alert_loss_after")[key] == head.effect.after
    assert head.effect.rest_after is not None and head.effect.rest_before is not None
    rise = head.effect.after / head.effect.before
    rise /= head.effect.rest_after / head.effect.rest_before
    assert values(fold, "slicewatch_alert_rise_ratio")[key] == pytest.approx(rise)


def test_heads_of_incidents_come_before_what_they_explain() -> None:
    fold = a_fold(Stream(n_predictions=6_000, bad=BAD_FLOOR, bad_rate=0.8))
    heads = [labels[6] for labels in values(fold, "slicewatch_alert_info")]
    assert len(heads) > 1 and "floor=3" in heads
    assert heads == sorted(heads, key=lambda head: head != "")


def test_no_alert_is_open_where_nobody_got_worse() -> None:
    assert values(a_fold(Stream()), "slicewatch_alert_info") == {}


def test_delays_are_a_histogram_of_every_label() -> None:
    fold = a_fold(Stream(delay=2 * HOUR))  # uniform in 0 to 4 h
    name = "slicewatch_label_delay_seconds"
    buckets = values(fold, f"{name}_bucket")
    assert list(buckets.values()) == sorted(buckets.values())
    assert buckets["14400.0",] == buckets["+Inf",] == 3_000
    # Half are expected within 2 h; binomial, 5 standard deviations of 27 each.
    assert buckets["7200.0",] == pytest.approx(1_500, abs=137)
    assert values(fold, f"{name}_count") == {(): 3_000}
    assert values(fold, f"{name}_sum")[()] == pytest.approx(3_000 * 7_200, rel=0.05)


def completeness(share_labelled_later: float, until: int = 3_000) -> tuple[float, float]:
    """Coverage and completeness of a day where fewer are labelled from the middle on."""
    stream, fold = Stream(n_predictions=3_000), Fold()
    fold.apply(a_configuration({"reference": {"rows": 600}}))
    rows = stream.rows()
    draw = np.random.default_rng(3)
    late_half = np.array([int(id_[1:]) >= 1_500 for id_ in rows.ids])
    dropped = (rows.kind == 2) & late_half & (draw.random(len(rows)) >= share_labelled_later)
    kept = np.flatnonzero(~dropped & (rows.time < START + until * stream.apart))
    fold_in(fold, rows.take(kept))
    window = 12 * 3_600
    return (
        values(fold, "slicewatch_label_coverage_ratio", window)[()],
        values(fold, "slicewatch_label_completeness_ratio", window)[()],
    )


def test_labels_that_are_merely_late_are_not_missed() -> None:
    # The newest 12 h at a delay of 0 to 4 h: a sixth of the labels is yet to come.
    coverage, complete = completeness(1.0)
    assert coverage < 0.9
    assert complete == pytest.approx(1.0, abs=0.05)


def test_labels_that_stay_away_are_missed() -> None:
    _, complete = completeness(0.3)
    # A third of the usual labels; 5 standard deviations of √(600 × .3 × .7) / 600 either way.
    assert complete == pytest.approx(0.3, abs=0.1)


def test_a_model_that_learns_says_so_and_no_more() -> None:
    fold = Fold()
    fold.apply(a_configuration({"loss": "wer"}))
    assert values(fold, "slicewatch_watching") == {(): 0.0}
    fold.apply(an_entry(Stream(n_predictions=100).rows()))
    assert values(fold, "slicewatch_newest_row_timestamp_seconds")[()] > START / SECOND
    assert values(fold, "slicewatch_predictions_total") == {}
    assert values(fold, "slicewatch_slice_rows") == {}


def test_the_shift_of_inputs_names_the_feature_that_moved() -> None:
    rows = [
        a_prediction(
            f"p{i}",
            START + i * 60 * SECOND,
            attributes={"floor": "12"[i % 2]},
            features={"steady": i % 10, "moved": i % 10 + (50 if i >= 1_200 and i % 2 else 0)},
        )
        for i in range(2_400)
    ]
    labels = [
        a_label(f"p{i}", START + i * 60 * SECOND, loss=0.1 * (i % 3), attributes={})
        for i in range(2_400)
    ]
    fold = Fold()
    fold.apply(a_configuration({"reference": {"rows": 1_000}, "dimensions": ["floor"]}))
    for start in range(0, 2_400, 200):
        fold.apply(an_entry([*rows[start : start + 200], *labels[start : start + 200]]))
    shift = values(fold, "slicewatch_slice_input_shift_ratio")
    # 600 of floor 2's 700 rows since the reference lie above every cut, as 1 in 10 did
    assert shift["floor=2", "moved"] > 0.5
    known = model_of(fold).monitor
    assert known is not None
    index = known.slices.find((("floor", "2"),))
    assert index is not None
    (told,) = known.inputs.shifts(known.slices.membership(), np.array([index]))
    assert told is not None and told["feature"] == "moved"
    assert shift["floor=2", "moved"] == pytest.approx(abs(told["to"] - told["from"]))


def test_everything_that_is_published_is_a_family() -> None:
    fold = a_fold(Stream(bad=BAD_FLOOR))
    columns = {name for table in series(fold, WHOLE, 200) for name in table.columns}
    declared = {sample for family in FAMILIES for sample in family.samples}
    assert columns <= declared
    assert declared == columns


def test_labels_of_a_series_are_those_its_family_states() -> None:
    fold, metrics = a_fold(Stream(bad=BAD_FLOOR)), Metrics()
    metrics.publish(series(fold, WHOLE, 200))
    stated = {f.name: f.labels for f in FAMILIES if f.type != "histogram"}
    for table in series(fold, WHOLE, 200):
        for name in stated.keys() & table.columns.keys():
            assert tuple(re.findall(r'(\w+)="', table.labels[0])) == stated[name]
