"""Torn, flipped and forged records of the journal: none goes undetected."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import Row, select, update

from service.database import Database
from service.engine import journal as journal_module
from service.engine.journal import SqlEventLog
from service.engine.ports import Entry
from service.errors import Damaged
from service.tables import journal
from tests.figures import Figures
from tests.rows import Stream, an_entry, in_requests

pytestmark = pytest.mark.fault

N_FLIPS: Final = 20_000
N_LAST: Final = 15
SEED: Final = 5
NUMBERS: Final = ("seq", "received_at", "crc32")
TEXTS: Final = ("tenant", "batch_id", "codec")


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[list[Row[Any]]]:
    """The rows of a journal of real requests, as the database holds them."""
    database = Database.in_directory(tmp_path)
    database.create_tables()
    batches = in_requests(Stream(n_predictions=600).rows(), 40)
    entries = [an_entry(rows, batch_id=f"b{n}") for n, rows in enumerate(batches)]
    SqlEventLog(database).append(entries)
    with database.read() as connection:
        found = list(connection.execute(select(journal).order_by(journal.c.seq)).all())
    yield found
    database.close()


class FromMemory(SqlEventLog):
    """The log's own reading, of rows that lie in memory."""

    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows

    def _page(self, after: int, limit: int) -> Any:
        rows, self._rows = sorted(self._rows, key=lambda row: row.seq), []
        return rows

    def _is_tenant(self, name: str, offset: int) -> bool:
        return name == "acme"


class Changed:
    """A row with some columns changed."""

    def __init__(self, row: Row[Any], **changes: Any) -> None:
        self.__dict__.update(row._mapping)
        self.__dict__.update(changes)


def is_detected(rows: list[Row[Any]], row: Row[Any], **changes: Any) -> bool:
    """A reader of this row, with its neighbours whole, refuses to go on."""
    before = rows[max(0, row.seq - 2) : row.seq - 1]
    try:
        changed = [*before, Changed(row, **changes), *rows[row.seq : row.seq + 1]]
        list(FromMemory(changed).read(row.seq - 1 - len(before)))
    except Damaged:
        return True
    return False


def flipped(row: Row[Any], rng: random.Random) -> dict[str, Any]:
    """One bit of one column changed."""
    name = rng.choice(("body", "body", "body", *NUMBERS, *TEXTS))
    value = row._mapping[name]
    if name in NUMBERS:
        return {name: value ^ 1 << rng.randrange(63 if name == "received_at" else 31)}
    raw = bytearray(value if name == "body" else value.encode())
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return {name: bytes(raw) if name == "body" else raw.decode("utf-8", "replace")}


def n_undetected_flips(rows: list[Row[Any]]) -> int:
    rng = random.Random(SEED)
    picked = (rng.choice(rows) for _ in range(N_FLIPS))
    return sum(not is_detected(rows, row, **flipped(row, rng)) for row in picked)


def truncations(rows: list[Row[Any]]) -> Iterator[tuple[Row[Any], bytes]]:
    for row in rows[-N_LAST:]:
        for length in range(len(row.body)):
            yield row, row.body[:length]


def forgeries(rows: list[Row[Any]]) -> Iterator[tuple[Row[Any], dict[str, Any]]]:
    """Whole rows in places that are not theirs, a row twice, another tenant's, another time's."""
    for row, other in pairwise(rows):
        yield row, {"body": other.body, "crc32": other.crc32}
        yield row, {"body": other.body, "crc32": other.crc32, "batch_id": other.batch_id}
        yield row, {"tenant": "evil"}
        yield row, {"received_at": other.received_at + 1}
        yield row, {"batch_id": None}
        yield row, {"body": row.body + b"\x00"}


def test_every_truncation_flip_and_forgery_is_detected(
    rows: list[Row[Any]], figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(FromMemory(list(rows)).read(0))  # whole, it reads
    torn = [not is_detected(rows, row, body=body) for row, body in truncations(rows)]
    forged = [not is_detected(rows, row, **changes) for row, changes in forgeries(rows)]
    undetected = n_undetected_flips(rows)
    monkeypatch.setattr(journal_module, "checksum", _none(rows))
    control = n_undetected_flips(rows)
    figures(
        "torn, flipped, forged records",
        truncations=len(torn),
        flips=N_FLIPS,
        forgeries=len(forged),
        undetected=sum(torn) + sum(forged) + undetected,
        undetected_without_checksum=control,
    )
    assert sum(torn) == sum(forged) == undetected == 0
    assert control > N_FLIPS // 2


def _none(rows: list[Row[Any]]) -> Callable[[int, Entry], int]:
    """The control: a checksum that finds every row good."""
    known = {row.seq: row.crc32 for row in rows}
    return lambda offset, _: known.get(offset, 0)


def test_what_is_found_in_memory_is_found_in_the_file(rows: list[Row[Any]], tmp_path: Path) -> None:
    rng = random.Random(SEED)
    database = Database.in_directory(tmp_path)
    log = SqlEventLog(database)
    for row in rng.sample(rows, 10):
        whole = row.body
        body = bytearray(whole)
        body[rng.randrange(len(body))] ^= 1
        for changed in (bytes(body), whole[:-1]):
            its = update(journal).where(journal.c.seq == row.seq)
            with database.write() as connection:
                connection.execute(its.values(body=changed))
            with pytest.raises(Damaged, match=f"entry {row.seq} "):
                list(log.read(0))
            with database.write() as connection:
                connection.execute(its.values(body=whole))
    assert list(log.read(0))
    database.close()
