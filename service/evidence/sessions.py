"""Sessions: browsers that have shown a key, told again by a cookie.

A session is 256 random bits; only their SHA-256 is kept. It ends after twelve hours, when it is
signed out, and with its key. A *link* is a way in that works once: who opens it gets a session.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable
from typing import Final

from sqlalchemy import ColumnElement, and_, delete, insert, select

from service.clock import Clock
from service.database import Database
from service.errors import Unauthorized
from service.keys import TENANT, Key, Keys
from service.limits import SESSIONS
from service.tables import sessions as table

SESSION_SECONDS: Final = 12 * 3600

_TOKEN: Final = re.compile(rf"({TENANT})\.([A-Za-z0-9_-]{{43}})")


class Sessions:
    """The sessions of every tenant. `overflowed` is told how many gave way to newer ones."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        keys: Keys,
        overflowed: Callable[[int], None] = lambda n: None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._keys = keys
        self._overflowed = overflowed

    def begin(self, key: Key) -> str:
        """The token of a new session of this key."""
        return self._make(key, "session")

    def link(self, key: Key) -> str:
        """A token that can be exchanged for a session, once."""
        return self._make(key, "link")

    def exchange(self, link: str) -> str:
        """The token of a new session, for that of a link. Raises Unauthorized where it is used."""
        mine = _rows(link, "link")
        key = self._keys.live(self._key_id(mine))
        with self._database.write() as connection:
            if not connection.execute(delete(table).where(mine)).rowcount:
                raise Unauthorized(_GONE)  # someone else was faster
        return self.begin(key)

    def key_of(self, token: str) -> Key:
        """The live key of a session that goes on. Raises Unauthorized."""
        return self._keys.live(self._key_id(_rows(token, "session")))

    def end(self, token: str) -> None:
        """Sign out. Raises Unauthorized for what was never a session's token."""
        with self._database.write() as connection:
            connection.execute(delete(table).where(_rows(token, "session")))

    def _key_id(self, mine: ColumnElement[bool]) -> str:
        going_on = table.c.expires_at > self._clock.now()
        with self._database.read() as connection:
            key_id = connection.scalar(select(table.c.key_id).where(mine, going_on))
        if key_id is None:
            raise Unauthorized(_GONE)
        return str(key_id)

    def _make(self, key: Key, use: str) -> str:
        """A new row; those of this key that ended, or are too many, give way to it."""
        token, now = secrets.token_urlsafe(32), self._clock.now()
        theirs = and_(table.c.tenant == key.tenant, table.c.key_id == key.id)
        with self._database.write(key.tenant) as connection:
            connection.execute(delete(table).where(theirs, table.c.expires_at <= now))
            newest = select(table.c.token_sha256).where(theirs)
            newest = newest.order_by(table.c.created_at.desc(), table.c.token_sha256)
            kept = connection.scalars(newest.limit(SESSIONS.limit - 1)).all()
            too_many = delete(table).where(theirs, table.c.token_sha256.not_in(kept))
            self._overflowed(connection.execute(too_many).rowcount)
            connection.execute(
                insert(table).values(
                    tenant=key.tenant,
                    token_sha256=_sha256(token),
                    use=use,
                    key_id=key.id,
                    created_at=now,
                    expires_at=now + SESSION_SECONDS * 1_000_000,
                )
            )
        return f"{key.tenant}.{token}"


_GONE: Final = "the session has ended, or the link was used"


def _rows(token: str, use: str) -> ColumnElement[bool]:
    """The one row, at most, that a token proves. Raises Unauthorized for what is no token."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        raise Unauthorized(_GONE)
    return and_(
        table.c.tenant == match[1],
        table.c.token_sha256 == _sha256(match[2]),
        table.c.use == use,
    )


def _sha256(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
