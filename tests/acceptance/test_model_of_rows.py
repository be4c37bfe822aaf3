"""Rows in any order, twice, late, early, forged: each counts as a dictionary says it should."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from service.engine.fold import Fold, Receipt
from tests.figures import Figures
from tests.rows import DAY, HOUR, START, a_label, a_prediction, an_entry, both

pytestmark = pytest.mark.fault

EXAMPLES: Final = (300, 5_000)  # in CI, in the long run; of 40 steps
IDS: Final = [f"u{n}" for n in range(8)]
HORIZON: Final = 30 * DAY


@dataclass
class Expected:
    """What a dictionary knows: an id's first prediction, and whether a label of it counted."""

    predicted_at: dict[str, int] = field(default_factory=dict)
    labelled: set[str] = field(default_factory=set)
    accepted: int = 0
    duplicates: int = 0

    def take(self, rows: list[dict[str, Any]]) -> tuple[int, int]:
        """Accepted and duplicate rows of a request."""
        accepted = 0
        for row in rows:
            id_ = row["id"]
            is_new = "output" in row and id_ not in self.predicted_at
            if is_new:
                self.predicted_at[id_] = row["time"]
            is_first_label = "truth" in row and id_ not in self.labelled
            if is_first_label:
                self.labelled.add(id_)
            accepted += is_new or is_first_label
        self.accepted += accepted
        self.duplicates += len(rows) - accepted
        return accepted, len(rows) - accepted


ids = st.sampled_from(IDS)
times = st.integers(0, 3 * HOUR).map(lambda apart: START + apart)
very_late = st.just(START + HORIZON + 5 * HOUR)
outputs = st.sampled_from(["a", "b"])
rows = st.one_of(
    st.builds(lambda i, t, o: a_prediction(i, t, output=o), ids, times, outputs),
    st.builds(lambda i, t, o: both(i, t, output=o, truth="a"), ids, times, outputs),
    st.builds(lambda i, t: a_label(i, t, truth="a"), ids, times | very_late),
)


class Rows(RuleBasedStateMachine):
    """Requests against a fold, and against a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.fold, self.expected, self.n = self.new_fold(), Expected(), 0
        self.sent: dict[str, Receipt] = {}

    @staticmethod
    def new_fold() -> Fold:
        """The real one; the control has another."""
        return Fold()

    @rule(request=st.lists(rows, min_size=1, max_size=6))
    def send(self, request: list[dict[str, Any]]) -> None:
        """A request of any rows."""
        self.n += 1
        receipt = self.fold.apply(an_entry(request, batch_id=f"b{self.n}")).receipt
        assert receipt is not None
        assert (receipt.accepted, receipt.duplicates) == self.expected.take(request)
        self.sent[f"b{self.n}"] = receipt

    @rule()
    def restart(self) -> None:
        """A snapshot, and a start from it."""
        digest = self.fold.digest()
        self.fold = type(self.fold).restore(self.fold.save())
        assert self.fold.digest() == digest

    @invariant()
    def rows_are_accounted_for(self) -> None:
        """Both sums hold, and are what the dictionary counts."""
        if "acme" in self.fold.tenants:
            accounts = self.fold.tenants["acme"].accounts
            assert accounts.are_exact
            assert accounts.accepted == self.expected.accepted
            assert accounts.duplicates == self.expected.duplicates

    @invariant()
    def receipts_are_remembered(self) -> None:
        """A retry is answered as the first try was."""
        for batch_id, receipt in self.sent.items():
            known = self.fold.receipt_for("acme", batch_id)
            assert known is not None and known[0] == receipt


class Forgetful(Fold):
    """The control: a fold that a restart makes forget which ids it has seen."""

    @classmethod
    def restore(cls, body: bytes) -> Fold:
        whole = super().restore(body)
        for tenant in whole.tenants.values():
            tenant.models.clear()
        return whole


class ForgetfulRows(Rows):
    """The same rules over the control."""

    @staticmethod
    def new_fold() -> Fold:
        return Forgetful()


def steps(n_examples: int) -> settings:
    return settings(
        max_examples=n_examples,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def test_rows_count_as_a_dictionary_says(figures: Figures, is_full: bool) -> None:
    run_state_machine_as_test(Rows, settings=steps(EXAMPLES[is_full]))
    figures("rows against a dictionary", runs=EXAMPLES[is_full], steps=40, differences=0)


def test_a_fold_that_forgets_is_found_out() -> None:
    with pytest.raises((AssertionError, ExceptionGroup, KeyError)):
        run_state_machine_as_test(ForgetfulRows, settings=steps(100))
