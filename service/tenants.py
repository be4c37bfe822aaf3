"""Tenants: who is served, how much each may send, and who is served no more.

A tenant comes to be with its first key. What is not stated for it is as the settings have it for
everyone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from service.clock import Clock
from service.database import Database
from service.errors import InvalidRequest, NotFound
from service.tables import keys, tenants


@dataclass(frozen=True, slots=True)
class TenantRecord:
    """A tenant as an operator sees it."""

    tenant: str
    created_at: int
    disabled_at: int | None
    rows_per_second: int | None  # None: the settings' default
    bytes_per_second: int | None
    n_keys: int


class Tenants:
    """The tenants in the database."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def list(self) -> list[TenantRecord]:
        """Every tenant, by name."""
        n_keys = func.count(keys.c.id).label("n_keys")
        query = (
            select(tenants, n_keys)
            .outerjoin(keys, keys.c.tenant == tenants.c.tenant)
            .group_by(*tenants.c)
            .order_by(tenants.c.tenant)
        )
        with self._database.read() as connection:
            return [_record(row) for row in connection.execute(query)]

    def limit(self, tenant: str, rows_per_second: int | None, bytes_per_second: int | None) -> None:
        """State a tenant's quota; None is the settings' default. Servers notice in a second."""
        for name, value in (("rows", rows_per_second), ("bytes", bytes_per_second)):
            if value is not None and not 1 <= value <= 1 << 40:
                raise InvalidRequest(f"{name} a second: must be at least 1")
        quota = {"rows_per_second": rows_per_second, "bytes_per_second": bytes_per_second}
        self._change(tenant, quota)

    def disable(self, tenant: str) -> None:
        """None of its keys opens anything any more; what it has is kept."""
        self._change(tenant, {"disabled_at": self._clock.now()})

    def enable(self, tenant: str) -> None:
        """Its keys work again."""
        self._change(tenant, {"disabled_at": None})

    def _change(self, tenant: str, values: dict[str, Any]) -> None:
        with self._database.write() as connection:
            its = update(tenants).where(tenants.c.tenant == tenant)
            if connection.execute(its.values(values)).rowcount == 0:
                raise NotFound("tenant: no such tenant")


def introduce(connection: Connection, tenant: str, now: int) -> None:
    """Make a tenant known where it is not."""
    known = select(tenants.c.tenant).where(tenants.c.tenant == tenant)
    if connection.execute(known).first() is None:
        connection.execute(insert(tenants).values(tenant=tenant, created_at=now))


def _record(row: Row[Any]) -> TenantRecord:
    return TenantRecord(*(row._mapping[name] for name in TenantRecord.__slots__))
