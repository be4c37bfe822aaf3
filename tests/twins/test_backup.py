"""Backups are whole at one instant; a check sees what is wrong with a database; on both."""

from __future__ import annotations

import sqlite3
import stat
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Executable, delete, select, text, update
from typer.testing import CliRunner

from service.__main__ import app as commands
from service.app import create_app
from service.backup import backup, restore
from service.check import check
from service.database import Database
from service.errors import Conflict, InvalidRequest
from service.keys import Scope
from service.settings import Settings
from service.tables import journal, metadata, snapshots
from tests.postgres import Postgres


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a service that lived: rows, a key, an endpoint, two snapshots."""
    directory = tmp_path_factory.mktemp("lived")
    for start in range(2):
        app = create_app(Settings(data_dir=directory))
        with TestClient(app) as client:
            made = app.state.services.keys.create("acme", Scope)
            headers = {"authorization": f"Bearer {made}"}
            for n in range(5):
                rows = [a_row(f"{start}.{n}.{i}") for i in range(200)]
                assert client.post("/v1/events", json=rows, headers=headers).status_code == 200
            assert client.put("/v1/models/m", json={}, headers=headers).status_code == 200
            hook = {"url": "https://receiver.example/hook"}
            assert client.post("/v1/endpoints", json=hook, headers=headers).status_code == 201
    return directory


def a_row(id_: str) -> dict[str, object]:
    return {"id": id_, "model": "m", "output": "yes", "truth": "yes", "attributes": {"floor": "7"}}


@pytest.fixture(scope="module")
def of_lived(lived: Path) -> Path:
    """Its backup."""
    database = Database.in_directory(lived)
    backup(database, lived / "lived.backup")
    database.close()
    return lived / "lived.backup"


@pytest.fixture
def database(database: Database, of_lived: Path) -> Database:
    """The same in either database, to be broken."""
    restore(of_lived, database)
    return database


@pytest.fixture(params=["sqlite", "postgres"])
def other_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of either kind whatever the first one is."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'other.db'}"
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.database()


def contents(database: Database) -> dict[str, list[tuple[object, ...]]]:
    with database.read() as connection:
        return {
            table.name: sorted((tuple(row) for row in connection.execute(select(table))), key=repr)
            for table in metadata.sorted_tables
        }


def test_what_is_restored_is_what_was_there(
    database: Database, other_url: str, lived: Path, tmp_path: Path
) -> None:
    file = tmp_path / "monday.backup"
    backup(database, file)
    source, target = Database.in_directory(lived), Database(other_url)
    restore(file, target)
    assert contents(target) == contents(database) == contents(source)
    before, after = check(source), check(target)
    assert before.digest == after.digest is not None
    assert after.accounts["acme"] == (2_000, 2_000, 0, 0) and after.faults == []
    source.close()
    target.close()


def test_a_backup_is_one_private_file_and_leaves_no_part(
    database: Database, tmp_path: Path
) -> None:
    file = tmp_path / "b" / "monday.backup"
    file.parent.mkdir()
    backup(database, file)
    assert [each.name for each in file.parent.iterdir()] == ["monday.backup"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(Conflict, match="is there already"):
        backup(database, file)


def test_a_backup_is_of_one_instant(database: Database, tmp_path: Path) -> None:
    def write(_table: str, _n: int) -> None:
        with database.write() as connection:  # nobody who writes waits
            connection.execute(text("DELETE FROM keys"))
            connection.execute(text("DELETE FROM endpoints"))

    before = contents(database)
    backup(database, tmp_path / "monday.backup", progress=write)
    copy = Database(f"sqlite:///{tmp_path / 'monday.backup'}")
    assert contents(copy) == before != contents(database)
    copy.close()


def test_a_restore_is_into_an_empty_database_or_not_at_all(
    database: Database, tmp_path: Path
) -> None:
    backup(database, tmp_path / "monday.backup")
    with pytest.raises(Conflict, match="has rows"):
        restore(tmp_path / "monday.backup", database)
    (tmp_path / "note").write_text("not a backup")
    with pytest.raises(InvalidRequest, match="not a backup"):
        restore(tmp_path / "note", database)
    assert not list(tmp_path.glob("*.restoring*"))


def test_what_was_restored_can_be_served(
    database: Database, other_url: str, tmp_path: Path
) -> None:
    backup(database, tmp_path / "monday.backup")
    target = Database(other_url)
    restore(tmp_path / "monday.backup", target)
    target.close()
    app = create_app(Settings(data_dir=tmp_path / "new", database_url=other_url))
    with TestClient(app) as client:
        headers = {"authorization": f"Bearer {app.state.services.keys.create('acme', Scope)}"}
        again = client.post("/v1/events", json=[a_row("0.0.0"), a_row("new")], headers=headers)
        assert (again.json()["accepted"], again.json()["duplicates"]) == (1, 1)


# Check


def test_a_whole_database_has_no_faults_and_its_figures(database: Database) -> None:
    checked = check(database)
    assert checked.faults == []
    assert (checked.first, checked.n_snapshots, checked.n_quarantined) == (1, 2, 0)
    assert checked.n_entries == checked.last > 10


def swap_a_snapshot(database: Database) -> None:
    """The newest, with a good checksum, holds the state of the one before."""
    older, newest = _restored_offsets(database)
    with database.write() as connection:
        body = connection.scalar(select(snapshots.c.body).where(snapshots.c.offset == older))
        assert body is not None
        values = {"body": body, "crc32": zlib.crc32(body, newest)}
        connection.execute(update(snapshots).where(snapshots.c.offset == newest).values(values))


def _restored_offsets(database: Database) -> tuple[int, int]:
    with database.read() as connection:
        older, newest = connection.scalars(select(snapshots.c.offset).order_by(snapshots.c.offset))
    return older, newest


def change(statement: Executable) -> Callable[[Database], None]:
    def do(database: Database) -> None:
        with database.write() as connection:
            connection.execute(statement)

    return do


THIRD: Final = journal.c.seq == 3


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (change(update(journal).where(THIRD).values(body=bytes(9))), "entry 3: its checksum"),
        (change(update(journal).where(THIRD).values(tenant="evil")), "entry 3: its checksum"),
        (change(delete(journal).where(journal.c.seq.in_([4, 5]))), "entries 4 to 5 missing"),
        (change(update(snapshots).values(body=bytes(9))), "its checksum fails"),
        (change(update(snapshots).values(version=99)), "of version 99"),
        (swap_a_snapshot, "its journal gives another state"),
        (change(update(snapshots).values(offset=snapshots.c.offset + 900)), "snapshot 9"),
    ],
)
def test_what_is_wrong_is_named(
    database: Database, broken: Callable[[Database], None], told: str
) -> None:
    broken(database)
    faults = check(database).faults
    assert any(told in fault for fault in faults), faults


def test_a_journal_that_was_forgotten_behind_a_snapshot_is_whole(database: Database) -> None:
    whole = check(database)
    with database.write() as connection:
        older = connection.scalar(text('SELECT min("offset") FROM snapshots'))
        connection.execute(text(f"DELETE FROM journal WHERE seq <= {older}"))  # noqa: S608
    forgotten = check(database)
    assert forgotten.faults == [] and forgotten.digest == whole.digest


def test_a_file_that_is_damaged_is_told_and_not_a_traceback(lived: Path, tmp_path: Path) -> None:
    with sqlite3.connect(lived / "slicewatch.db") as source:
        with sqlite3.connect(tmp_path / "slicewatch.db") as target:
            source.backup(target)
    whole = (tmp_path / "slicewatch.db").read_bytes()
    half = bytearray(whole)
    half[20_000:120_000] = b"\xa5" * 100_000
    (tmp_path / "slicewatch.db").write_bytes(half)
    done = CliRunner().invoke(commands, ["check"], env={"SLICEWATCH_DATA_DIR": str(tmp_path)})
    assert done.exit_code == 1
    assert "wrong\t" in done.stdout and "Traceback" not in done.output


def test_a_directory_without_a_database_is_told_so(tmp_path: Path) -> None:
    done = CliRunner().invoke(commands, ["check"], env={"SLICEWATCH_DATA_DIR": str(tmp_path)})
    assert done.exit_code == 1 and "wrong" in done.stdout


def test_the_command_prints_the_sums_and_the_digest(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    env = {"SLICEWATCH_DATA_DIR": str(tmp_path), "SLICEWATCH_DATABASE_URL": database_url}
    done = CliRunner().invoke(commands, ["check"], env=env)
    assert done.exit_code == 0, done.output
    lines = dict(line.split("\t", 1) for line in done.stdout.splitlines())
    assert lines["rows of acme"] == "2000 = 2000 + 0 + 0"
    assert lines["digest"] == check(database).digest
