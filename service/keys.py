"""Keys: who may call, by `sw_<key id>_<secret>`.

A key belongs to one tenant and has scopes. Its secret is 256 random bits, shown once; only its
SHA-256 is kept. A rotation makes a second key and lets the first live on for a day.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NewType

from sqlalchemy import Row, insert, select, update

from service.clock import Clock
from service.database import Database
from service.errors import Conflict, Forbidden, InvalidRequest, NotFound, Unauthorized
from service.tables import keys as table
from service.tables import tenants
from service.tenants import introduce

Tenant = NewType("Tenant", str)

TENANT: Final = r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}"

_HEADER: Final = re.compile(r"(?i:bearer) +sw_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
_CACHE_MICROSECONDS: Final = 1_000_000  # a revoked key stops within a second
_CACHED_KEYS: Final = 10_000  # then the cache starts again
ROTATION_OVERLAP_SECONDS: Final = 86_400

_WITH_TENANT: Final = select(
    table, tenants.c.disabled_at, tenants.c.rows_per_second, tenants.c.bytes_per_second
).outerjoin(tenants, tenants.c.tenant == table.c.tenant)


class Scope(StrEnum):
    """What a key may do."""

    INGEST = "ingest"
    READ = "read"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Key:
    """A key without its secret."""

    id: str
    tenant: Tenant
    scopes: frozenset[Scope]
    created_at: int  # microseconds since 1970, UTC
    revoked_at: int | None  # in the future while a rotation overlaps
    is_disabled: bool  # its tenant is
    rows_per_second: int | None  # what its tenant may send; None: the settings' default
    bytes_per_second: int | None

    def is_live(self, now: int) -> bool:
        """It may be used now."""
        return self.revoked_at is None or now < self.revoked_at


@dataclass(frozen=True, slots=True)
class _Looked:
    """What a look into the table gave, and when."""

    key: Key
    secret_sha256: bytes
    at: int


class Keys:
    """The keys of every tenant."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._cache: dict[str, _Looked] = {}

    def create(self, tenant: str, scopes: Iterable[Scope]) -> str:
        """A new key, whole: the only time that its secret is seen.

        A tenant comes to be with its first key.
        """
        if not re.fullmatch(TENANT, tenant):
            raise InvalidRequest("tenant: must be 1 to 63 letters, digits, - or _")
        wanted = sorted(set(scopes))
        if not wanted:
            raise InvalidRequest("scopes: at least one of ingest, read, admin")
        key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
        now = self._clock.now()
        with self._database.write() as connection:
            introduce(connection, tenant, now)
            connection.execute(
                insert(table).values(
                    id=key_id,
                    tenant=tenant,
                    scopes=" ".join(wanted),
                    secret_sha256=_sha256(secret),
                    created_at=now,
                )
            )
        return f"sw_{key_id}_{secret}"

    def list(self, tenant: str | None = None) -> Sequence[Key]:
        """The keys of a tenant or of all, oldest first."""
        query = _WITH_TENANT.order_by(table.c.created_at, table.c.id)
        if tenant is not None:
            query = query.where(table.c.tenant == tenant)
        with self._database.read() as connection:
            return [_key(row) for row in connection.execute(query)]

    def rotate(self, key_id: str, overlap_seconds: int = ROTATION_OVERLAP_SECONDS) -> str:
        """A new key like this one, which lives on for `overlap_seconds` beside it.

        Raises Conflict for a key that is revoked, or is being rotated already.
        """
        key = self._find(key_id).key
        if key.revoked_at is not None:
            raise Conflict("key: it is revoked or rotated already")
        replacement = self.create(key.tenant, key.scopes)
        self._revoke(key_id, self._clock.now() + overlap_seconds * 1_000_000)
        return replacement

    def revoke(self, key_id: str) -> None:
        """End a key now; running servers notice within a second."""
        self.find(key_id)
        self._revoke(key_id, self._clock.now())

    def find(self, key_id: str) -> Key:
        """The key with this id. Raises NotFound."""
        return self._find(key_id).key

    def authenticate(self, authorization: str | None) -> Key:
        """The live key that an Authorization header proves.

        Raises Unauthorized; Forbidden where its tenant is disabled.
        """
        match = _HEADER.fullmatch(authorization or "")
        if match is None:
            raise Unauthorized("Authorization: expected Bearer and a key that starts with sw_")
        now = self._clock.now()
        looked = self._look(match[1], now)
        if looked is None or not hmac.compare_digest(looked.secret_sha256, _sha256(match[2])):
            raise Unauthorized("Authorization: no such key")
        if not looked.key.is_live(now):
            raise Unauthorized("Authorization: the key is revoked")
        if looked.key.is_disabled:
            raise Forbidden("Authorization: the tenant is disabled")
        return looked.key

    def live(self, key_id: str) -> Key:
        """The key with this id, proven by other means, if it may be used. Raises Unauthorized."""
        now = self._clock.now()
        looked = self._look(key_id, now)
        if looked is None or not looked.key.is_live(now):
            raise Unauthorized("the key is revoked")
        return looked.key

    def answers_at_once(self, authorization: str | None) -> bool:
        """`authenticate` will not ask the database, which may take its time."""
        match = _HEADER.fullmatch(authorization or "")
        cached = None if match is None else self._cache.get(match[1])
        return match is None or (cached is not None and self._is_fresh(cached, self._clock.now()))

    @staticmethod
    def _is_fresh(looked: _Looked, now: int) -> bool:
        return 0 <= now - looked.at < _CACHE_MICROSECONDS

    def _look(self, key_id: str, now: int) -> _Looked | None:
        cached = self._cache.get(key_id)
        if cached is not None and self._is_fresh(cached, now):
            return cached
        try:
            looked = self._find(key_id)
        except NotFound:  # unknown ids are not remembered: anyone can make them up
            self._cache.pop(key_id, None)
            return None
        if len(self._cache) >= _CACHED_KEYS:
            self._cache.clear()
        self._cache[key_id] = looked
        return looked

    def _find(self, key_id: str) -> _Looked:
        with self._database.read() as connection:
            row = connection.execute(_WITH_TENANT.where(table.c.id == key_id)).one_or_none()
        if row is None:
            raise NotFound("key: no such key")
        return _Looked(_key(row), row.secret_sha256, self._clock.now())

    def _revoke(self, key_id: str, at: int) -> None:
        with self._database.write() as connection:
            connection.execute(update(table).where(table.c.id == key_id).values(revoked_at=at))
        self._cache.pop(key_id, None)


def _sha256(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _key(row: Row[tuple[object, ...]]) -> Key:
    return Key(
        id=row.id,
        tenant=Tenant(row.tenant),
        scopes=frozenset(Scope(scope) for scope in row.scopes.split()),
        created_at=row.created_at,
        revoked_at=row.revoked_at,
        is_disabled=row.disabled_at is not None,
        rows_per_second=row.rows_per_second,
        bytes_per_second=row.bytes_per_second,
    )
