"""Migrations: the tables of every version of Slicewatch brought up to this one, forward only.

A change of `service.tables` is a new file in `versions/`, named after the one before it; a test
holds the two against each other on both databases. All that is missing runs in one transaction,
so a process that dies half-way leaves what it found.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from service.errors import Conflict

_DIRECTORY: Final = Path(__file__).parent


def is_current(connection: Connection) -> bool:
    """The tables are those of this program. Raises Conflict where they are newer."""
    found = MigrationContext.configure(connection).get_current_revision()
    if found is not None and found not in _revisions():
        raise Conflict(f"database: its tables are of a newer Slicewatch ({found})")
    return found == _revisions()[0]


def upgrade(connection: Connection) -> None:
    """Run what is missing, in the transaction of `connection`."""
    if is_current(connection):
        return
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@cache
def _revisions() -> tuple[str, ...]:
    """Every revision, the newest first."""
    scripts = ScriptDirectory.from_config(_config())
    return tuple(script.revision for script in scripts.walk_revisions())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_DIRECTORY).replace("%", "%%"))
    return config
