"""Data quality: what goes wrong with rows is named, where, and within a look; else silence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pytest

from service.alerts.alert import Alert, Transition
from service.engine.fold import Fold
from service.ingest.events import PREDICTION, Categories, EventBatch, Floats, Value
from service.monitor.findings import BY_RULE, Kind, Severity, State
from tests.rows import HOUR, SECOND, START, a_configuration, an_entry

APART: Final = 36 * SECOND  # a hundred rows an hour
CHANGE: Final = 1_500  # the row with which it begins
END: Final = 2_200  # and ends, where it does
CONFIG: Final = {
    "reference": {"rows": 1_000},
    "dimensions": ["device", "floor"],
    "loss": "zero_one",
}
LATER: Final = START + 400 * 24 * HOUR

Change = Callable[[dict[str, Value], np.ndarray[Any, Any]], None]


def rows(n: int = 3_000, seed: int = 1) -> EventBatch:
    """Rows without labels, of numbers that are each row's own, a codec, and weather that is not."""
    rng = np.random.default_rng(seed)
    hours = np.arange(n) * APART // HOUR
    weather = np.round(
        15 + 8 * np.sin(2 * np.pi * hours / 24) + rng.normal(size=hours.max() + 1)[hours]
    )
    weather[np.isin(hours, [3, *rng.choice(hours.max() + 1, 4)])] = np.nan
    return EventBatch(
        ids=[f"p{i}" for i in range(n)],
        kind=np.full(n, PREDICTION, np.uint8),
        time=START + np.arange(n) * APART,
        model=Categories.of(["m"] * n),
        version=Categories.of(["v1"] * n),
        attributes={
            "floor": Categories.of(rng.choice(["1", "2", "3"], n).tolist()),
            "device": Categories.of(rng.choice(["tablet", "headset"], n).tolist()),
        },
        features={
            "snr_db": Value(rng.normal(30, 4, n)),
            "seconds": Value(rng.lognormal(1, 0.3, n)),
            "words": Value(rng.poisson(2, n).astype(float)),
            "codec": Value(None, Categories.of(rng.choice(["opus", "pcm"], n).tolist())),
            "weather": Value(weather),
        },
        output=Value(None, Categories.of(["a"] * n)),
    )


def changed(batch: EventBatch, change: Change, where: np.ndarray[Any, Any]) -> EventBatch:
    """The same rows, of which those at `where` are changed."""
    features = dict(batch.features)
    change(features, where)
    return replace(batch, features=features)


def during(batch: EventBatch, floor: str | None = None) -> np.ndarray[Any, Any]:
    """From the change to its end, of one floor or of all."""
    place = np.arange(len(batch))
    inside = (place >= CHANGE) & (place < END)
    if floor is not None:
        column = batch.attributes["floor"]
        inside &= column.codes == column.values.index(floor)
    return inside


def mapped(name: str, f: Callable[[Floats], Any]) -> Change:
    """A feature's numbers at some rows put through `f`."""

    def change(features: dict[str, Value], where: np.ndarray[Any, Any]) -> None:
        number = features[name].number
        assert number is not None
        features[name] = Value(np.where(where, f(number), number))

    return change


def texts(features: dict[str, Value], where: np.ndarray[Any, Any]) -> None:
    number = features["snr_db"].number
    assert number is not None
    said = [f"{x:.1f}" if here else None for x, here in zip(number, where, strict=True)]
    features["snr_db"] = Value(np.where(where, np.nan, number), Categories.of(said))


def one_codec(features: dict[str, Value], where: np.ndarray[Any, Any]) -> None:
    codec = features["codec"].text
    assert codec is not None
    features["codec"] = Value(None, Categories(np.where(where, 0, codec.codes), codec.values))


def no_codec(features: dict[str, Value], where: np.ndarray[Any, Any]) -> None:
    codec = features["codec"].text
    assert codec is not None
    features["codec"] = Value(None, Categories(np.where(where, -1, codec.codes), codec.values))


def a_new_one(features: dict[str, Value], where: np.ndarray[Any, Any]) -> None:
    features["gain"] = Value(np.where(where, 1.0 + np.arange(where.size) % 7, np.nan))


CHANGES: Final[dict[str, tuple[Change, str]]] = {
    "vanishes": (mapped("snr_db", lambda x: x * np.nan), "snr_db is missing from every row"),
    "a text vanishes": (no_codec, "codec is missing from every row (it was in 100%)"),
    "appears": (a_new_one, "gain is new (in "),
    "another type": (texts, "snr_db is text, and was a number"),
    "a thousand times": (
        mapped("seconds", lambda x: 1_000 * x),
        "seconds is about 1,000 times what it was, as if in another unit",
    ),
    "a thousandth": (
        mapped("snr_db", lambda x: x / 1_000),
        "snr_db is about 1/1,000 of what it was, as if in another unit",
    ),
    "sixty times": (mapped("seconds", lambda x: 60 * x), "seconds is about 60 times"),
    "constant": (mapped("snr_db", lambda x: 0 * x + 7), "snr_db is the same in all of"),
    "a constant text": (one_codec, "codec is the same in all of"),
    "negative": (mapped("words", lambda x: -1 - x), "words is negative, which it never was"),
    "a sentinel": (
        mapped("snr_db", lambda x: np.where(np.arange(x.size) % 10, x, -9999.0)),
        "snr_db is far outside of all that it was",
    ),
}


def folded(
    batch: EventBatch, size: int = 250, config: dict[str, Any] | None = None
) -> list[Transition]:
    """What the rows raise, so many a request; what broke may be told of as moved, too, before."""
    fold = Fold()
    fold.apply(a_configuration(CONFIG if config is None else config))
    found: list[Transition] = []
    for n, start in enumerate(range(0, len(batch), size)):
        part = batch.take(np.arange(start, min(start + size, len(batch))))
        found += fold.apply(an_entry(part, received_at=LATER, batch_id=f"b{n}")).transitions
    return [t for t in found if t.alert.kind is not Kind.INPUT_SHIFT]


def opened(found: list[Transition]) -> list[Alert]:
    return [t.alert for t in found if t.type == "alert.firing"]


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("floor", [None, "3"])
def test_what_is_wrong_is_named_where_it_is_and_is_over_when_it_ends(
    what: str, floor: str | None
) -> None:
    change, words = CHANGES[what]
    found = folded(changed(rows(), change, during(rows(), floor)))
    assert {t.alert.kind for t in found} == {Kind.DATA_QUALITY}
    first = opened(found)[0]
    assert first.slice == (() if floor is None else (("floor", floor),))
    assert any(
        words in t.alert.summary for t in found
    )  # told first of a stretch that it is part of
    assert first.evidence.mode == BY_RULE
    assert first.severity is (Severity.INFO if what == "appears" else Severity.WARNING)
    # of a floor a hundred rows take three hours; a stretch that began before does not count
    began, n_hours = START + CHANGE * APART, 2 if floor is None else 7
    assert began < first.detected_at <= began + n_hours * HOUR
    assert first.onset_interval[0] - n_hours * HOUR <= began <= first.onset_interval[1]
    assert [a.slice for a in opened(found)] == [first.slice]
    assert found[-1].alert.state is State.RESOLVED
    ended = START + END * APART
    assert ended < found[-1].at <= ended + n_hours * HOUR


@pytest.mark.parametrize("seed", range(6))
def test_rows_that_are_as_they_were_raise_nothing(seed: int) -> None:
    assert folded(rows(12_000, seed), 1_000) == []


def test_a_batch_of_nothing_but_missing_values_harms_nothing() -> None:
    batch = rows()
    place = np.arange(len(batch))
    some = (place >= 1_600) & (place < 1_640)

    def nothing(features: dict[str, Value], where: np.ndarray[Any, Any]) -> None:
        for name, value in features.items():
            if value.number is not None:
                features[name] = Value(np.where(where, np.nan, value.number))
        no_codec(features, where)

    assert folded(changed(batch, nothing, some), 40) == []
    from_the_first = place < 40
    assert folded(changed(batch, nothing, from_the_first), 40) == []


def test_what_rows_near_in_time_share_waits_for_a_day() -> None:
    """Weather is the same in many rows, and often missing: an hour or ten of that are no news."""
    assert folded(changed(rows(), mapped("weather", lambda x: 0 * x + 9), during(rows()))) == []
    long = changed(rows(6_000), mapped("weather", lambda x: x * np.nan), np.arange(6_000) >= CHANGE)
    after = opened(folded(long))[0].detected_at - (START + CHANGE * APART)
    assert 24 * HOUR <= after <= 27 * HOUR


def test_what_changed_together_is_one_alert_that_lists_it() -> None:
    batch = during(rows())

    def several(features: dict[str, Value], where: np.ndarray[Any, Any]) -> None:
        for name in ("snr_db", "seconds"):
            mapped(name, lambda x: x * np.nan)(features, where)
        no_codec(features, where)
        mapped("words", lambda x: -1 - x)(features, where)

    found = folded(changed(rows(), several, batch))
    assert len(opened(found)) == 1
    told = [t.alert for t in found if t.alert.effect.feature == "codec"]
    assert told[0].summary.startswith(
        "Rows are not what they were: codec, seconds, snr_db are missing from every row; "
        "words is negative"
    )


def test_a_feature_that_was_new_for_a_day_is_new_no_longer() -> None:
    batch = rows(6_000)
    found = folded(changed(batch, a_new_one, np.arange(6_000) >= CHANGE))
    assert [t.type for t in found] == ["alert.firing", "alert.resolved"]
    assert 24 * HOUR <= found[1].at - found[0].alert.onset <= 27 * HOUR


def test_a_version_that_is_back_beside_the_one_that_replaced_it_is_told() -> None:
    def with_versions(names: list[str]) -> EventBatch:
        return replace(rows(), version=Categories.of(names))

    place = np.arange(3_000)
    rolled_out = np.where(place < 1_400, "v1", "v2")
    assert folded(with_versions(rolled_out.tolist())) == []
    canary = np.where((place >= 1_400) & (place % 10 == 0), "v2", "v1")
    assert folded(with_versions(canary.tolist())) == []
    rolled_back = np.where((place >= 1_400) & (place < 2_000), "v2", "v1")
    assert folded(with_versions(rolled_back.tolist())) == []
    mixed = np.where((place >= 2_000) & (place % 3 == 0), "v1", rolled_out)
    found = opened(folded(with_versions(mixed.tolist())))
    assert "version v1, which had ended, is back in 3" in found[0].summary


def test_a_slice_whose_clock_was_set_back_is_told() -> None:
    batch = rows()
    late = during(batch, "3")
    found = opened(folded(replace(batch, time=np.where(late, batch.time - 5 * HOUR, batch.time))))
    assert [alert.slice for alert in found] == [(("floor", "3"),)]
    assert "100% of rows are more than an hour older" in found[0].summary


@pytest.mark.parametrize("what", ["vanishes", "a sentinel", "appears"])
def test_requests_may_be_cut_anywhere(what: str) -> None:
    batch = changed(rows(), CHANGES[what][0], during(rows(), "3"))
    whole = folded(batch, 5_000)
    assert len(whole) == 2
    assert folded(batch, 37) == whole
    assert folded(batch, 7) == whole


def test_a_restart_changes_nothing() -> None:
    batch = changed(rows(), CHANGES["a thousand times"][0], during(rows(), "3"))
    whole, parted = Fold(), Fold()
    for fold in (whole, parted):
        fold.apply(a_configuration(CONFIG))
    for n, start in enumerate(range(0, len(batch), 125)):
        parted = Fold.restore(parted.save())
        entry = an_entry(batch.take(np.arange(start, start + 125)), batch_id=f"b{n}")
        assert parted.apply(entry) == whole.apply(entry)
    assert parted.digest() == whole.digest()
    assert parted.save() == whole.save()


def test_features_past_the_bound_are_left_alone() -> None:
    batch = rows()
    many = {f"f{i:03}": batch.features["snr_db"] for i in range(300)}
    gone = during(batch)
    mapped("f290", lambda x: x * np.nan)(many, gone)
    assert folded(replace(batch, features=many)) == []
    mapped("f100", lambda x: x * np.nan)(many, gone)
    assert "f100 is missing" in opened(folded(replace(batch, features=many)))[0].summary
