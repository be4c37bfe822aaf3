"""Tenants: PostgreSQL shows a transaction the rows of the tenant that it named, and no others."""

from __future__ import annotations

from typing import Final

from alembic import op

# The setting is read once a statement, not once a row; one that was never set shows nothing.
_SHOWN: Final = (
    "(SELECT current_setting('slicewatch.tenant', true)) = '*'"
    " OR tenant = (SELECT nullif(current_setting('slicewatch.tenant', true), ''))"
)


def keep_apart(*tables: str) -> None:
    """Put row-level security behind the tenant of these tables; SQLite has none."""
    if op.get_context().dialect.name != "postgresql":
        return
    for table in tables:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")  # its owner is us
        op.execute(f"CREATE POLICY tenant ON {table} USING ({_SHOWN})")
