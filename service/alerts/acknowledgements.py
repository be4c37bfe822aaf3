"""Acknowledgements: who has taken an alert in hand. Beside the alert, which goes on as it is."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, and_, delete, insert, select

from service.clock import to_rfc3339
from service.tables import acknowledgements


def acknowledge(
    connection: Connection, tenant: str, alert_id: str, *, by: str, comment: str, at: int
) -> None:
    """Note who has it in hand; the newest note stands."""
    take_back(connection, tenant, alert_id)
    connection.execute(
        insert(acknowledgements).values(
            tenant=tenant, alert_id=alert_id, by=by, comment=comment, at=at
        )
    )


def take_back(connection: Connection, tenant: str, alert_id: str) -> None:
    """Nobody has it in hand."""
    connection.execute(
        delete(acknowledgements).where(
            and_(acknowledgements.c.tenant == tenant, acknowledgements.c.alert_id == alert_id)
        )
    )


def acknowledgement_of(connection: Connection, tenant: str, alert_id: str) -> dict[str, Any] | None:
    """Who has it in hand, as an alert shows it; None where nobody does."""
    row = connection.execute(
        select(acknowledgements).where(
            acknowledgements.c.tenant == tenant, acknowledgements.c.alert_id == alert_id
        )
    ).one_or_none()
    return None if row is None else public_acknowledgement(row)


def public_acknowledgement(row: Row[Any]) -> dict[str, Any] | None:
    """The note of a row that has `by`, `at` and `comment`; None where they are empty."""
    if row.by is None:
        return None
    return {"by": row.by, "at": to_rfc3339(row.at), "comment": row.comment}
