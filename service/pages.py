"""Pages of a list: `limit` and `cursor` in the query, `next` in the answer, keyed by (number, id).

    @router.get("/v1/alerts")
    def alerts(page: OnePage) -> dict[str, Any]:
        rows, next_ = fetch(connection, select(table), (table.c.detected_at, table.c.id), page)

A cursor names the last row that was shown, so rows that arrive meanwhile shift nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import Depends, Query
from sqlalchemy import ColumnElement, Connection, Row, Select, tuple_

from service.errors import InvalidRequest

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1000

_CURSOR: Final = re.compile(r"(-?\d{1,18})\.([A-Za-z0-9_-]{0,64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Page:
    """How many rows, and behind which."""

    limit: int = DEFAULT_LIMIT
    after: tuple[int, str] | None = None  # the key of the last row of the page before


def page_of_query(
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
    cursor: Annotated[str | None, Query(max_length=100)] = None,
) -> Page:
    """The page that a request asks for."""
    if cursor is None:
        return Page(limit)
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise InvalidRequest("cursor: must be a `next` that this list gave")
    return Page(limit, (int(match[1]), match[2]))


OnePage = Annotated[Page, Depends(page_of_query)]


def fetch(
    connection: Connection,
    query: Select[Any],
    key: tuple[ColumnElement[int], ColumnElement[str]],
    page: Page,
    *,
    descending: bool = True,
) -> tuple[list[Row[Any]], str | None]:
    """The rows of one page and the cursor of the next; `key` must be among the query's columns."""
    here = tuple_(*key)
    if page.after is not None:
        query = query.where(here < page.after if descending else here > page.after)
    order = [column.desc() if descending else column.asc() for column in key]
    rows = list(connection.execute(query.order_by(*order).limit(page.limit + 1)))
    if len(rows) <= page.limit:
        return rows, None
    rows.pop()
    last = rows[-1]._mapping
    return rows, f"{last[key[0]]}.{last[key[1]]}"
