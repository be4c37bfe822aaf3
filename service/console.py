"""Console: what every command shares: settings, the database, and problems told on one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from service.database import Database
    from service.settings import Settings


def settings_of(**stated: Any) -> Settings:
    """The settings, with what the command line states; raises InvalidRequest that names one."""
    from tomllib import TOMLDecodeError

    from pydantic import ValidationError

    from service.errors import InvalidRequest
    from service.settings import Settings

    try:
        return Settings(**{name: value for name, value in stated.items() if value is not None})
    except ValidationError as error:
        problems = (
            f"setting {'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_input=False)
        )
        raise InvalidRequest("; ".join(problems)) from None
    except TOMLDecodeError as error:
        raise InvalidRequest(f"slicewatch.toml: {error}") from None


@contextmanager
def problems_told() -> Iterator[None]:
    """A problem that we raise on purpose is one line on standard error and exit code 1."""
    from service.errors import SlicewatchError

    try:
        yield
    except SlicewatchError as error:
        typer.echo(f"slicewatch: {error}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@contextmanager
def opened(has_tables: bool = False) -> Iterator[Database]:
    """The database that the settings name, a running server's as well; problems are told.

    Its tables are made where they are not there, or where `has_tables` must be.
    """
    from service.database import Database

    with problems_told():
        settings = settings_of()
        database = Database.of(settings)
        try:
            if not has_tables:
                database.create_tables()
            yield database
        finally:
            database.close()
