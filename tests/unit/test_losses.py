"""Losses against their definitions, and edits against a brute-force Levenshtein distance."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.views import model_json
from service.monitor.config import LossName, MonitorConfig, Normaliser
from service.monitor.losses import LARGEST_LOSS, normalise, outputs_of, score
from service.monitor.model import Model
from tests.rows import a_batch, a_label, a_prediction


def losses_of(
    loss: LossName,
    predictions: list[dict[str, Any]],
    labels: list[dict[str, Any]],
    normaliser: Normaliser = "plain",
) -> list[tuple[float, float]]:
    """Loss and exposure of each prediction with its label, row by row."""
    ids = [str(row) for row in range(len(labels))]
    bare = {"output": None}
    outputs = outputs_of(
        loss, a_batch([a_prediction(i, **bare | p) for i, p in zip(ids, predictions, strict=True)])
    )
    truths = a_batch([a_label(i, **label) for i, label in zip(ids, labels, strict=True)])
    value, exposure = score(loss, outputs, truths, normaliser)
    return list(zip(value.tolist(), exposure.tolist(), strict=True))


def loss_of(loss: LossName, output: Any, truth: Any, **prediction: Any) -> float:
    [(value, exposure)] = losses_of(loss, [{"output": output, **prediction}], [{"truth": truth}])
    assert exposure == 1.0
    return value


@pytest.mark.parametrize(
    ("output", "truth", "expected"),
    [
        ("cat", "cat", 0),
        ("cat", "dog", 1),
        (3, 3, 0),
        (3, 4, 1),
        (0.1 + 0.2, 0.3, 0),  # equal at 15 digits, as they are written
        (True, True, 0),
        (True, False, 1),
        (1, "1", 0),
        ("1", 1, 0),
    ],
)
def test_zero_one_is_whether_output_and_truth_are_written_alike(
    output: Any, truth: Any, expected: float
) -> None:
    assert loss_of("zero_one", output, truth) == expected


@pytest.mark.parametrize(
    ("loss", "output", "truth", "expected"),
    [
        ("absolute_error", 3.0, 5.5, 2.5),
        ("absolute_error", True, 0.25, 0.75),
        ("squared_error", 3.0, 5.5, 6.25),
        ("brier", 0.75, 1, 0.0625),
        ("brier", 0.75, False, 0.5625),
        ("log_loss", 0.25, True, math.log(4)),
        ("log_loss", 0.25, "0", -math.log(0.75)),
        ("log_loss", 0.0, 1, -math.log(1e-6)),  # never infinite
    ],
)
def test_losses_of_numbers(loss: LossName, output: Any, truth: Any, expected: float) -> None:
    assert loss_of(loss, output, truth) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "right", "wrong"), [("brier", 0.01, 0.81), ("log_loss", None, None)]
)
def test_a_class_and_its_confidence_are_a_probability(
    loss: LossName, right: float | None, wrong: float | None
) -> None:
    expected = (right, wrong) if right is not None else (-math.log(0.9), -math.log(0.1))
    for output, other in (("cat", "dog"), (2, 3), (True, False)):
        found = (
            loss_of(loss, output, output, confidence=0.9),
            loss_of(loss, output, other, confidence=0.9),
        )
        assert found == pytest.approx(expected, rel=1e-12)


def edit_distance(said: list[str], meant: list[str]) -> int:
    """Levenshtein's recurrence, as it is defined."""

    @cache
    def apart(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(
            apart(i - 1, j) + 1,
            apart(i, j - 1) + 1,
            apart(i - 1, j - 1) + (said[i - 1] != meant[j - 1]),
        )

    return apart(len(said), len(meant))


SENTENCES = st.lists(
    st.sampled_from(["the", "patient", "is", "stable", "Stable.", "follow-up", "don't", "5", "ü"]),
    max_size=8,
).map(" ".join)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=6))
def test_wer_counts_edits_of_words_over_words_of_the_reference(
    pairs: list[tuple[str, str]],
) -> None:
    found = losses_of(
        "wer", [{"output": said} for said, _ in pairs], [{"truth": meant} for _, meant in pairs]
    )
    for (said, meant), (edits, n_words) in zip(pairs, found, strict=True):
        words = normalise(meant)
        if not words:
            assert math.isnan(edits)  # a rate over no words says nothing
        else:
            assert (edits, n_words) == (edit_distance(normalise(said), words), len(words))


@settings(derandomize=True, deadline=None, max_examples=50)
@given(SENTENCES, SENTENCES.filter(bool))
def test_cer_counts_edits_of_characters_over_characters(said: str, meant: str) -> None:
    [(edits, n_characters)] = losses_of("cer", [{"output": said}], [{"truth": meant}])
    heard, reference = " ".join(normalise(said)), " ".join(normalise(meant))
    assert (edits, n_characters) == (edit_distance([*heard], [*reference]), len(reference))


def test_wer_ignores_case_and_punctuation_and_keeps_apostrophes() -> None:
    assert normalise("The patient's  follow-up is STABLE.") == [
        "the", "patient's", "follow", "up", "is", "stable",
    ]  # fmt: skip


def test_words_of_all_scripts_stay_whole_and_compatible_forms_are_one() -> None:
    # a vowel sign is no letter to Python's \\w, and belongs to its word all the same
    assert normalise("हिन्दी, भाषा।") == ["हिन्दी", "भाषा"]
    assert normalise("Ｐatient’s “ﬁle” – naïve") == ["patient's", "file", "naïve"]


def test_the_normaliser_decides_what_an_edit_is_and_a_model_says_which_it_was() -> None:
    rows = [{"output": "Follow-up: stable"}], [{"truth": "follow up stable."}]
    edits = {name: losses_of("wer", *rows, normaliser=name)[0] for name in get_args(Normaliser)}
    assert edits == {"plain": (0.0, 3.0), "cased": (1.0, 3.0), "verbatim": (3.0, 3.0)}
    model = Model(MonitorConfig(loss="wer", normaliser="cased"), 600)
    assert model_json("m", model)["normaliser"] == "cased"
    assert model_json("m", Model(MonitorConfig(loss="brier"), 600))["normaliser"] is None
    assert not model.configure(MonitorConfig(loss="wer"))  # nothing was summed yet


@pytest.mark.parametrize("loss", ["given", "wer", "zero_one", "brier", "absolute_error"])
def test_what_the_customer_computed_is_taken_whatever_the_loss(loss: LossName) -> None:
    assert losses_of(
        loss,
        [{"output": "a b"}] * 3,
        [{"loss": 0.4}, {"errors": 3, "total": 12}, {"loss": 0.4, "errors": 3, "total": 12}],
    ) == [(0.4, 1.0), (3.0, 12.0), (3.0, 12.0)]


@pytest.mark.parametrize(
    ("loss", "prediction", "label"),
    [
        ("zero_one", {"output": None}, {"truth": "a"}),
        ("zero_one", {"output": "a"}, {"loss": None, "truth": None}),
        ("absolute_error", {"output": 1.0}, {"truth": "many"}),
        ("absolute_error", {"output": "many"}, {"truth": 1.0}),
        ("absolute_error", {"output": 1e308}, {"truth": -1e308}),
        ("squared_error", {"output": 1e200}, {"truth": 0.0}),
        ("brier", {"output": 0.5}, {"truth": 0.5}),
        ("brier", {"output": 1.5}, {"truth": 1}),
        ("brier", {"output": -0.1}, {"truth": 1}),
        ("brier", {"output": "cat"}, {"truth": "cat"}),  # a class without its confidence
        ("log_loss", {"output": None, "confidence": 0.9}, {"truth": 1}),
        ("wer", {"output": "a"}, {"truth": " ... "}),
        ("given", {"output": "a"}, {"truth": "a"}),
        ("given", {"output": "a"}, {"loss": 2 * LARGEST_LOSS}),
        ("given", {"output": "a"}, {"errors": 1.0, "total": 2 * LARGEST_LOSS}),
        ("given", {"output": "a"}, {"errors": 1.0, "total": 0.5 / LARGEST_LOSS}),
    ],
)
def test_a_label_that_does_not_fit_its_prediction_has_no_loss(
    loss: LossName, prediction: dict[str, Any], label: dict[str, Any]
) -> None:
    fitting = {"loss": 0.25}
    [(lost, exposure), other] = losses_of(loss, [prediction, {"output": "a"}], [label, fitting])
    assert math.isnan(lost)
    assert math.isfinite(exposure)
    assert other == (0.25, 1.0)  # the row beside it is not touched


def test_labels_of_mixed_kinds_are_each_scored_by_what_they_give() -> None:
    found = losses_of(
        "zero_one",
        [{"output": "a"}, {"output": 2}, {"output": True}, {"output": "a"}],
        [{"truth": "a"}, {"truth": 3}, {"truth": True}, {"loss": 0.5}],
    )
    assert [value for value, _ in found] == [0.0, 1.0, 0.0, 0.5]


def test_no_rows_have_no_losses() -> None:
    for loss in ("zero_one", "wer", "brier", "absolute_error", "given"):
        value, exposure = score(loss, outputs_of(loss, a_batch([])), a_batch([]))
        assert value.shape == exposure.shape == (0,)
        assert value.dtype == np.float64
