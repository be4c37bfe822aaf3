"""Migrations give the tables of `service.tables`, once, and keep tenants apart; on both."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect, select, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import ProgrammingError

from service import migrations
from service.database import Database
from service.errors import Conflict
from service.tables import alerts, journal, metadata
from tests.postgres import Postgres

FORK = multiprocessing.get_context("forkserver")  # from a process that has our modules
FORK.set_forkserver_preload(["service.database"])


@pytest.fixture(params=["sqlite", "postgres"])
def two_urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Two empty databases of a kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'a.db'}", f"sqlite:///{tmp_path / 'b.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.database(), server.database()


@pytest.fixture
def url(two_urls: tuple[str, str]) -> str:
    return two_urls[0]


@contextmanager
def opened(url: str) -> Iterator[Database]:
    database = Database(url)
    yield database
    database.close()


def shape(engine: Engine) -> dict[str, Any]:
    """Every table as the database itself describes it."""
    looked = inspect(engine)
    return {
        name: {
            "columns": [
                (c["name"], str(c["type"]), c["nullable"], c["default"])
                for c in looked.get_columns(name)
            ],
            "key": looked.get_pk_constraint(name)["constrained_columns"],
            "indexes": sorted(
                (i["name"], i["column_names"], i["unique"]) for i in looked.get_indexes(name)
            ),
            "unique": sorted(u["column_names"] for u in looked.get_unique_constraints(name)),
        }
        for name in looked.get_table_names()
        if name != "alembic_version"
    }


def test_the_migrated_tables_are_those_of_the_code(two_urls: tuple[str, str]) -> None:
    """A table or column that is new in `service.tables` needs a file in migrations/versions."""
    with opened(two_urls[0]) as migrated, opened(two_urls[1]) as stated:
        migrated.create_tables()
        metadata.create_all(stated.engine)
        assert shape(migrated.engine) == shape(stated.engine)


def test_the_comparison_sees_a_column_that_no_migration_makes(two_urls: tuple[str, str]) -> None:
    with opened(two_urls[0]) as migrated, opened(two_urls[1]) as stated:
        migrated.create_tables()
        metadata.create_all(stated.engine)
        with stated.write() as connection:
            connection.execute(text("ALTER TABLE keys ADD COLUMN colour TEXT"))
        assert shape(migrated.engine) != shape(stated.engine)


def test_tables_that_were_there_before_migrations_are_taken_over(url: str) -> None:
    with opened(url) as database:
        metadata.create_all(database.engine)
        with database.write() as connection:
            connection.execute(
                journal.insert(),
                {"seq": 1, "tenant": "", "received_at": 1, "codec": "c", "crc32": 1, "body": b""},
            )
        database.create_tables()
        database.create_tables()
        with database.read() as connection:
            assert migrations.is_current(connection)
            assert connection.scalar(select(journal.c.seq)) == 1


def test_tables_of_a_newer_program_are_left_alone(url: str) -> None:
    with opened(url) as database:
        database.create_tables()
        with database.write() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(Conflict, match="newer Slicewatch"):
            database.create_tables()


def _migrate(url: str, started: Any) -> None:
    database = Database(url)
    started.wait()
    database.create_tables()


def test_of_processes_that_start_together_one_migrates(url: str) -> None:
    together = FORK.Barrier(3)
    processes = [FORK.Process(target=_migrate, args=(url, together)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    with opened(url) as database, database.read() as connection:
        assert migrations.is_current(connection)
        assert connection.scalar(text("SELECT count(*) FROM alembic_version")) == 1


def _die_half_way(url: str, after: int) -> None:
    """Migrate, and be killed before the given statement."""
    from sqlalchemy import event

    database, seen = Database(url), 0

    @event.listens_for(database.engine, "before_cursor_execute")
    def count(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == after:
            os.kill(os.getpid(), signal.SIGKILL)

    database.create_tables()


@pytest.mark.parametrize("after", [8, 16, 24])
def test_a_migration_that_is_killed_half_way_is_done_by_the_next(
    two_urls: tuple[str, str], after: int
) -> None:
    url, whole = two_urls
    killed = FORK.Process(target=_die_half_way, args=(url, after))
    killed.start()
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL, "it was through before"
    with opened(url) as database, opened(whole) as undisturbed:
        assert "alembic_version" not in inspect(database.engine).get_table_names()  # all or nothing
        database.create_tables()
        undisturbed.create_tables()
        assert shape(database.engine) == shape(undisturbed.engine)


ALERT = {
    "id": "al_1",
    "model": "m",
    "kind": "disparity",
    "state": "firing",
    "severity": "critical",
    "detected_at": 1,
    "revision": 1,
    "body": "{}",
}


@pytest.fixture
def rows_of_two(postgres: Postgres, with_tables: str) -> Iterator[Database]:
    """Two tenants' alerts on PostgreSQL."""
    with opened(postgres.database(with_tables)) as database:
        with database.write() as connection:
            connection.execute(alerts.insert(), [ALERT | {"tenant": t} for t in ("acme", "evil")])
        yield database


def test_a_query_that_forgot_its_tenant_sees_no_one_elses_rows(rows_of_two: Database) -> None:
    with rows_of_two.read("acme") as connection:
        assert connection.scalars(select(alerts.c.tenant)).all() == ["acme"]
    with rows_of_two.read() as connection:  # the engine and the worker are everyone's
        assert len(connection.scalars(select(alerts.c.tenant)).all()) == 2


def test_a_write_that_forgot_its_tenant_changes_no_one_elses_rows(rows_of_two: Database) -> None:
    with rows_of_two.write("acme") as connection:
        assert connection.execute(alerts.update().values(revision=2)).rowcount == 1
    with pytest.raises(ProgrammingError, match="row-level security"):
        with rows_of_two.write("acme") as connection:
            connection.execute(alerts.insert(), ALERT | {"tenant": "evil", "id": "al_2"})


def test_a_connection_that_named_no_one_sees_nothing(rows_of_two: Database) -> None:
    with rows_of_two.read("acme"):
        pass  # the setting of a transaction does not outlive it
    with rows_of_two.engine.connect() as connection:
        assert connection.scalars(select(alerts.c.tenant)).all() == []


def test_every_table_with_a_tenant_keeps_tenants_apart(rows_of_two: Database) -> None:
    query = text(
        "SELECT relname FROM pg_class WHERE relrowsecurity AND relforcerowsecurity"
        " AND oid IN (SELECT polrelid FROM pg_policy)"
    )
    with rows_of_two.read() as connection:
        secured = set(connection.scalars(query))
    assert secured == {name for name, table in metadata.tables.items() if "tenant" in table.c}
