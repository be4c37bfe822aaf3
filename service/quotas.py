"""Quotas: how many rows and bytes a second each tenant may send; the others feel nothing of it.

A tenant has a balance of each, which fills at its rate up to ten seconds' worth. A request is let
in while both are above zero, and what it turns out to hold is then taken off: so no request is too
large to ever pass, and who overdrew waits until it is paid back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from service.errors import RateLimited
from service.limits import TENANT_BYTES, TENANT_ROWS
from service.metrics import Metrics

BURST_SECONDS: Final = 10.0
_KNOWN_TENANTS: Final = 10_000  # then balances start again, full


@dataclass(frozen=True, slots=True)
class Quota:
    """What a tenant may send, a second, on average."""

    rows_per_second: int
    bytes_per_second: int  # of bodies as they are sent


@dataclass(slots=True)
class _Balance:
    """What a tenant may still send."""

    rows: float
    bytes: float
    at: float  # on the steady clock


class Quotas:
    """The balances of every tenant that sends. Owned by the event loop."""

    def __init__(self, metrics: Metrics, steady: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._steady = steady
        self._balances: dict[str, _Balance] = {}

    def admit(self, tenant: str, quota: Quota) -> None:
        """Let a request in. Raises RateLimited where the tenant has overdrawn."""
        balance = self._filled(tenant, quota)
        for cap, left, rate in (
            (TENANT_ROWS, balance.rows, quota.rows_per_second),
            (TENANT_BYTES, balance.bytes, quota.bytes_per_second),
        ):
            if left <= 0:
                self._metrics.overflow.labels(cap).inc()
                raise RateLimited(
                    f"the tenant is over {rate} {cap.removeprefix('tenant_')} a second",
                    retry_after_seconds=max(1, math.ceil(-left / rate)),
                )

    def charge(self, tenant: str, n_rows: int = 0, n_bytes: int = 0) -> None:
        """Take off what a request that was let in turned out to hold."""
        balance = self._balances.get(tenant)
        if balance is not None:
            balance.rows -= n_rows
            balance.bytes -= n_bytes

    def _filled(self, tenant: str, quota: Quota) -> _Balance:
        now = self._steady()
        balance = self._balances.get(tenant)
        if balance is None:
            if len(self._balances) >= _KNOWN_TENANTS:
                self._balances.clear()
            balance = self._balances[tenant] = _Balance(math.inf, math.inf, now)
        passed, balance.at = now - balance.at, now
        rows, bytes_ = quota.rows_per_second, quota.bytes_per_second
        balance.rows = min(balance.rows + passed * rows, BURST_SECONDS * rows)
        balance.bytes = min(balance.bytes + passed * bytes_, BURST_SECONDS * bytes_)
        return balance
