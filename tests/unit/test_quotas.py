"""Quotas: what a tenant may send, how long it waits when it sent more, and that others do not."""

from __future__ import annotations

import pytest

from service.errors import RateLimited
from service.metrics import Metrics
from service.quotas import BURST_SECONDS, Quota, Quotas

QUOTA = Quota(rows_per_second=100, bytes_per_second=1_000)
BURST = int(BURST_SECONDS) * 100


class House:
    """Quotas whose time passes when told."""

    def __init__(self) -> None:
        self.now = 5.0
        self.metrics = Metrics()
        self.quotas = Quotas(self.metrics, lambda: self.now)

    def send(self, n_rows: int, n_bytes: int = 0, tenant: str = "acme") -> bool:
        try:
            self.quotas.admit(tenant, QUOTA)
        except RateLimited:
            return False
        self.quotas.charge(tenant, n_rows, n_bytes)
        return True

    def overflow(self, cap: str) -> float | None:
        return self.metrics.registry.get_sample_value("slicewatch_overflow_total", {"cap": cap})


def test_a_burst_passes_and_then_the_rate_holds() -> None:
    house = House()
    passed = sum(house.send(10) for _ in range(1_000))
    assert passed * 10 == BURST
    for _ in range(1_000):  # ten seconds in hundredths
        house.now += 0.01
        passed += house.send(10)
    assert passed * 10 == pytest.approx(2 * BURST, abs=20)


def test_bytes_are_held_to_their_rate_too() -> None:
    house = House()
    assert house.send(1, n_bytes=10_000)
    assert not house.send(1)
    assert house.overflow("tenant_bytes") == 1


def test_no_request_is_too_large_to_pass_once_and_it_is_paid_back() -> None:
    house = House()
    assert house.send(50 * BURST)
    with pytest.raises(RateLimited) as refused:
        house.quotas.admit("acme", QUOTA)
    assert refused.value.retry_after_seconds == 49 * BURST_SECONDS
    assert refused.value.status == 429
    house.now += refused.value.retry_after_seconds + 0.01
    assert house.send(1)


def test_the_wait_is_told_in_whole_seconds_and_is_enough() -> None:
    house = House()
    house.send(BURST + 150)
    with pytest.raises(RateLimited) as refused:
        house.quotas.admit("acme", QUOTA)
    assert refused.value.retry_after_seconds == 2  # 1.5, rounded up
    assert "acme" not in str(refused.value)


def test_one_tenants_excess_costs_another_nothing() -> None:
    house = House()
    house.send(50 * BURST)
    assert not house.send(1)
    assert house.send(1, tenant="other")


def test_a_larger_quota_holds_from_the_next_request_on() -> None:
    house = House()
    house.send(BURST + 100)
    assert not house.send(1)
    house.now += 0.2
    house.quotas.admit("acme", Quota(1_000, 1_000))  # 0.2 s of a thousand a second pay it back
