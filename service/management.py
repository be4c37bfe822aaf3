"""Management: the commands of who runs the service.

`keys`, `tenants`, `audit`, `backup`, `restore`, `check` work on the database itself, while a server
runs or not.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.console import opened, problems_told, settings_of

if TYPE_CHECKING:
    from service.database import Database

keys_app = typer.Typer(help="Make, list, rotate and revoke keys.", no_args_is_help=True)
tenants_app = typer.Typer(help="List, limit, disable and enable tenants.", no_args_is_help=True)

TenantName = Annotated[str, typer.Argument(metavar="TENANT")]
OfTenant = Annotated[str | None, typer.Option(help="Of this tenant alone.")]


class ScopeName(StrEnum):
    """What a key may do."""

    INGEST = "ingest"
    READ = "read"
    ADMIN = "admin"


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(keys_app, name="keys")
    app.add_typer(tenants_app, name="tenants")
    for command in (audit, backup, restore, check):
        app.command()(command)


@keys_app.command("create")
def create_key(
    tenant: Annotated[str, typer.Option(help="Comes to be with its first key.")],
    scope: Annotated[list[ScopeName], typer.Option(help="May be given several times.")],
) -> None:
    """Print a new key, once, on a line of its own."""
    from service.clock import SystemClock
    from service.keys import Keys, Scope

    with opened() as database:
        key = Keys(database, SystemClock()).create(tenant, [Scope(name) for name in scope])
        _write_down(database, tenant, "keys create", key.split("_")[1])
    typer.echo("This key is shown once; only its hash is kept.", err=True)
    typer.echo(key)


@keys_app.command("list")
def list_keys(tenant: OfTenant = None) -> None:
    """Print each key's id, tenant, scopes, and when it was made or revoked; never a secret."""
    from service.clock import SystemClock, to_rfc3339
    from service.keys import Keys

    with opened() as database:
        for key in Keys(database, SystemClock()).list(tenant):
            ends = "" if key.revoked_at is None else f"revoked {to_rfc3339(key.revoked_at)}"
            scopes = ",".join(sorted(key.scopes))
            typer.echo(f"{key.id}\t{key.tenant}\t{scopes}\t{to_rfc3339(key.created_at)}\t{ends}")


@keys_app.command("rotate")
def rotate_key(key_id: Annotated[str, typer.Argument(metavar="KEY-ID")]) -> None:
    """Print a new key like this one, which lives on beside it for a day."""
    from service.clock import SystemClock
    from service.keys import Keys

    with opened() as database:
        keys = Keys(database, SystemClock())
        key = keys.rotate(key_id)
        _write_down(database, keys.find(key_id).tenant, "keys rotate", key_id)
    typer.echo("This key is shown once; the old one works for another day.", err=True)
    typer.echo(key)


@keys_app.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(metavar="KEY-ID")]) -> None:
    """End a key; running servers notice within a second."""
    from service.clock import SystemClock
    from service.keys import Keys

    with opened() as database:
        keys = Keys(database, SystemClock())
        keys.revoke(key_id)
        _write_down(database, keys.find(key_id).tenant, "keys revoke", key_id)
    typer.echo(f"{key_id}: revoked", err=True)


@tenants_app.command("list")
def list_tenants() -> None:
    """Print each tenant: how many keys, its own quota where it has one, and if it is disabled."""
    from service.clock import SystemClock, to_rfc3339
    from service.tenants import Tenants

    with opened() as database:
        for each in Tenants(database, SystemClock()).list():
            ended = "" if each.disabled_at is None else f"disabled {to_rfc3339(each.disabled_at)}"
            rows, bytes_ = each.rows_per_second or "", each.bytes_per_second or ""
            typer.echo(f"{each.tenant}\t{each.n_keys} keys\t{rows}\t{bytes_}\t{ended}")


@tenants_app.command("limit")
def limit_tenant(
    tenant: TenantName,
    rows: Annotated[int | None, typer.Option(help="A second; left out: the default.")] = None,
    bytes_: Annotated[
        int | None, typer.Option("--bytes", help="Of bodies, a second; left out: the default.")
    ] = None,
) -> None:
    """State what a tenant may send a second; running servers notice within a second."""
    from service.clock import SystemClock
    from service.tenants import Tenants

    with opened() as database:
        Tenants(database, SystemClock()).limit(tenant, rows, bytes_)
        _write_down(database, tenant, "tenants limit", tenant)
    typer.echo(f"{tenant}: limited", err=True)


@tenants_app.command("disable")
def disable_tenant(tenant: TenantName) -> None:
    """Close the service to a tenant's keys; what it has is kept."""
    from service.clock import SystemClock
    from service.tenants import Tenants

    with opened() as database:
        Tenants(database, SystemClock()).disable(tenant)
        _write_down(database, tenant, "tenants disable", tenant)
    typer.echo(f"{tenant}: disabled", err=True)


@tenants_app.command("enable")
def enable_tenant(tenant: TenantName) -> None:
    """Open the service to a tenant's keys again."""
    from service.clock import SystemClock
    from service.tenants import Tenants

    with opened() as database:
        Tenants(database, SystemClock()).enable(tenant)
        _write_down(database, tenant, "tenants enable", tenant)
    typer.echo(f"{tenant}: enabled", err=True)


def audit(tenant: OfTenant = None, limit: Annotated[int, typer.Option(min=1)] = 100) -> None:
    """Print who did what to keys, models, endpoints and alerts, when and from where; newest first.

    Columns: when, tenant, who, what, to which, from where, and the answer's status.
    """
    from service.audit import newest
    from service.clock import to_rfc3339

    with opened() as database:
        for each in newest(database, tenant, limit):
            status = each.status or ""
            typer.echo(
                f"{to_rfc3339(each.at)}\t{each.tenant}\t{each.who}\t{each.what}\t{each.object}"
                f"\t{each.where}\t{status}"
            )


def backup(file: Annotated[Path, typer.Argument(metavar="FILE", dir_okay=False)]) -> None:
    """Write the whole database to a file, as it is at this instant, while the service runs."""
    from service.backup import backup as run

    with opened() as database:
        run(database, file, _counted)
    typer.echo(f"{file}: written", err=True)


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False)],
) -> None:
    """Put a backup into an empty data directory, or an empty PostgreSQL database."""
    from service.backup import restore as run
    from service.hold import held

    with problems_told():
        settings = settings_of()
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with held(settings.data_dir), opened() as database:
            run(file, database, _counted)
    typer.echo("restored", err=True)


def check() -> None:
    """Verify checksums, offsets, snapshots and sums; exit with 1 and say so where one is wrong."""
    from service.check import check as run

    with opened(has_tables=True) as database:
        checked = run(database)
    typer.echo(
        f"journal\t{checked.n_entries} entries\t{checked.first} to {checked.last}\n"
        f"snapshots\t{checked.n_snapshots}\nquarantined\t{checked.n_quarantined}"
    )
    for tenant, (received, accepted, duplicates, rejected) in sorted(checked.accounts.items()):
        typer.echo(f"rows of {tenant}\t{received} = {accepted} + {duplicates} + {rejected}")
    typer.echo(f"digest\t{checked.digest or 'none'}")
    for fault in checked.faults:
        typer.echo(f"wrong\t{fault}")
    if checked.faults:
        raise typer.Exit(1)


def _counted(table: str, n_rows: int) -> None:
    if n_rows:
        typer.echo(f"{table}\t{n_rows} rows", err=True)


def _write_down(database: Database, tenant: str, what: str, object_: str) -> None:
    from service.audit import by_command, write_down
    from service.clock import SystemClock

    with database.write() as connection:
        write_down(connection, by_command(tenant, what, object_, SystemClock()))
