"""Silences: who wants which alerts kept quiet, from when until when, and why.

With `hours` it is a maintenance window: it holds in those hours of each week only. A silence is
beside the alerts it matches, never in them.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, case, delete, func, insert, select, update

from service.alerts.alert import Alert
from service.alerts.hours import Hours
from service.alerts.matcher import Matcher
from service.clock import Clock
from service.database import Database
from service.errors import NotFound, TooLarge
from service.limits import SILENCES
from service.pages import Page, fetch
from service.tables import silences

FORGET_AFTER: Final = 30 * 86_400 * 1_000_000  # µs since its end


class SilenceState(StrEnum):
    """Where a silence is; it follows from its instants and is stored nowhere."""

    PENDING = "pending"
    ACTIVE = "active"  # with `hours`: also between two windows
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Silence:
    """Alerts that match are told to no one, while it holds."""

    tenant: str
    id: str
    matcher: Matcher
    starts_at: int
    ends_at: int
    hours: Hours | None  # None: all the time between
    author: str
    reason: str
    created_at: int

    def state(self, now: int) -> SilenceState:
        """Where it is now."""
        if now < self.starts_at:
            return SilenceState.PENDING
        return SilenceState.ACTIVE if now < self.ends_at else SilenceState.EXPIRED

    def until_when(self, alert: Alert, now: int) -> int | None:
        """Until when it keeps this alert quiet; None where it does not."""
        if not self.starts_at <= now < self.ends_at or not self.matcher.match(alert):
            return None
        if self.hours is None:
            return self.ends_at
        window_ends = self.hours.until_when(now)
        return None if window_ends is None else min(window_ends, self.ends_at)


class Silences:
    """The silences in the database. Someone else's are not found."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._database = database
        self._clock = clock
        self._entropy = entropy

    def create(
        self,
        tenant: str,
        matcher: Matcher,
        *,
        starts_at: int,
        ends_at: int,
        author: str,
        reason: str,
        hours: Hours | None = None,
    ) -> Silence:
        """A new silence. Raises TooLarge at the cap."""
        now = self._clock.now()
        silence = Silence(
            tenant=tenant,
            id="si_" + self._entropy(12).hex(),
            matcher=matcher,
            starts_at=starts_at,
            ends_at=ends_at,
            hours=hours,
            author=author,
            reason=reason,
            created_at=now,
        )
        with self._database.write(tenant) as connection:
            live = _of(tenant).where(silences.c.ends_at > now).subquery()
            if (connection.scalar(select(func.count()).select_from(live)) or 0) >= SILENCES.limit:
                raise TooLarge(f"silences: a tenant may have {SILENCES.limit} that have not ended")
            connection.execute(insert(silences).values(**_columns(silence)))
        return silence

    def get(self, tenant: str, id_: str) -> Silence:
        """One silence. Raises NotFound."""
        with self._database.read(tenant) as connection:
            return _find(connection, tenant, id_)

    def list(
        self, tenant: str, page: Page, state: SilenceState | None = None
    ) -> tuple[list[Silence], str | None]:
        """A page of a tenant's silences, newest first."""
        query, now = _of(tenant), self._clock.now()
        match state:
            case SilenceState.PENDING:
                query = query.where(silences.c.starts_at > now)
            case SilenceState.ACTIVE:
                query = query.where(silences.c.starts_at <= now, silences.c.ends_at > now)
            case SilenceState.EXPIRED:
                query = query.where(silences.c.ends_at <= now)
        key = (silences.c.created_at, silences.c.id)
        with self._database.read(tenant) as connection:
            rows, next_ = fetch(connection, query, key, page)
        return [_silence(row) for row in rows], next_

    def end(self, tenant: str, id_: str) -> Silence:
        """End it now; it stays in the list. One that has ended stays as it is. Raises NotFound."""
        now = self._clock.now()
        with self._database.write(tenant) as connection:
            _find(connection, tenant, id_)
            connection.execute(
                update(silences)
                .where(silences.c.tenant == tenant, silences.c.id == id_, silences.c.ends_at > now)
                .values(
                    ends_at=now,
                    starts_at=case((silences.c.starts_at > now, now), else_=silences.c.starts_at),
                )
            )
            return _find(connection, tenant, id_)


def current(connection: Connection, tenant: str, now: int) -> list[Silence]:
    """A tenant's silences that have begun and not ended, oldest first."""
    query = (
        _of(tenant)
        .where(silences.c.starts_at <= now, silences.c.ends_at > now)
        .order_by(silences.c.created_at, silences.c.id)
    )
    return [_silence(row) for row in connection.execute(query)]


def forget(connection: Connection, now: int) -> int:
    """Drop silences that ended long ago; returns how many."""
    return connection.execute(
        delete(silences).where(silences.c.ends_at < now - FORGET_AFTER)
    ).rowcount


def _of(tenant: str) -> Select[Any]:
    return select(silences).where(silences.c.tenant == tenant)


def _find(connection: Connection, tenant: str, id_: str) -> Silence:
    row = connection.execute(_of(tenant).where(silences.c.id == id_)).one_or_none()
    if row is None:
        raise NotFound("no such silence")
    return _silence(row)


def _columns(silence: Silence) -> dict[str, Any]:
    return {
        "tenant": silence.tenant,
        "id": silence.id,
        "matcher": silence.matcher.model_dump_json(exclude_none=True),
        "starts_at": silence.starts_at,
        "ends_at": silence.ends_at,
        "hours": None if silence.hours is None else silence.hours.model_dump_json(by_alias=True),
        "author": silence.author,
        "reason": silence.reason,
        "created_at": silence.created_at,
    }


def _silence(row: Row[Any]) -> Silence:
    return Silence(
        tenant=row.tenant,
        id=row.id,
        matcher=Matcher.model_validate_json(row.matcher),
        starts_at=row.starts_at,
        ends_at=row.ends_at,
        hours=None if row.hours is None else Hours.model_validate_json(row.hours),
        author=row.author,
        reason=row.reason,
        created_at=row.created_at,
    )
