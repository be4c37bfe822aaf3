"""Settings: every knob of the service, from the environment or `slicewatch.toml`.

A setting `x` is the variable `SLICEWATCH_X` or the line `x = ...` of `slicewatch.toml` in the
working directory; the environment wins. Lists are written comma separated in the environment.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from service.ingest.rules import is_field
from service.seal import decoded_key

MINUTE: Final = 60
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
MIB: Final = 1024 * 1024

Nat = Annotated[int, Field(ge=1)]


class Settings(BaseSettings):
    """What an operator may choose; each has its unit in its name or beside it."""

    model_config = SettingsConfigDict(
        env_prefix="SLICEWATCH_", toml_file="slicewatch.toml", extra="forbid", frozen=True
    )

    # Where state lives.
    data_dir: Path = Path("slicewatch-data")
    database_url: str | None = Field(default=None, repr=False)  # None: slicewatch.db in data_dir
    min_free_disk_bytes: int = Field(default=128 * MIB, ge=0)  # below it, nothing new is accepted

    # Where it listens, and to whom for how long.
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65_535)  # 0: any free one, printed at the start
    public_url: str | None = None  # how people reach this server, for links in alerts
    max_connections: Nat = 1024
    head_deadline_seconds: float = Field(default=10.0, gt=0)  # until a request's headers are in
    body_deadline_seconds: float = Field(default=30.0, gt=0)  # from then until its body is
    keep_alive_seconds: Nat = 75
    answer_deadline_seconds: float = Field(default=10.0, gt=0)  # for storage to take a request in
    drain_seconds: float = Field(default=6.0, gt=0, le=60)  # for a stop to finish its queue
    metrics_token: SecretStr | None = None  # asked for at /metrics as a Bearer token, where set

    # What is taken in.
    max_body_bytes: Nat = 32 * MIB  # counted after decompression
    max_rows_per_request: Nat = 100_000
    tenant_rows_per_second: Nat = 1_000_000  # a tenant for which `slicewatch tenants` says nothing
    tenant_bytes_per_second: Nat = 1024 * MIB  # of bodies as they are sent
    queue_batches: Nat = 256  # accepted from the wire and not yet on storage
    queue_bytes: Nat = 256 * MIB
    # Log records of others at /v1/logs: {event name: {attribute: field of the contract}}; JSON in
    # the environment, tables in the file.
    otlp_events: dict[str, dict[str, str]] = Field(default_factory=dict)

    # How long it is kept, what is no longer needed to go on. Room is made a piece at a time.
    journal_retention_seconds: int = Field(default=DAY, ge=0)  # kept though snapshots contain it
    journal_retention_bytes: int = Field(default=4096 * MIB, ge=0)  # and no more than so much
    rejected_retention_seconds: Nat = 30 * DAY
    delivery_retention_seconds: Nat = 30 * DAY  # from when it was made; while it waits it stays
    alert_retention_seconds: Nat = 400 * DAY  # from the last change of one that is over
    audit_retention_seconds: Nat = 400 * DAY

    # How it is folded.
    tick_seconds: Nat = MINUTE  # of wall time between journaled ticks
    snapshot_bytes: Nat = 16 * MIB  # journaled since the last snapshot, at least, before the next
    publish_seconds: Nat = 5  # between refreshes of what /metrics says of models and slices
    metrics_window_seconds: Nat = 3 * DAY  # of a model's own time, that its slices' figures cover
    max_slice_series: Nat = 200  # slices of a model at /metrics; the rest is slice="other"

    # Whom it may tell, and how patiently.
    egress_allow: Annotated[tuple[str, ...], NoDecode] = ()  # networks (CIDR) besides public ones
    egress_http: bool = False  # plain http and any port, for addresses in egress_allow only
    retry_schedule_seconds: Annotated[tuple[float, ...], NoDecode] = (
        0,
        5,
        5 * MINUTE,
        30 * MINUTE,
        2 * HOUR,
        5 * HOUR,
        10 * HOUR,
        14 * HOUR,
        20 * HOUR,
        24 * HOUR,
    )
    delivery_deadline_seconds: float = Field(default=15.0, gt=0)  # one attempt, all of it
    max_deliveries_at_once: Nat = 128
    disable_endpoint_after_seconds: float = Field(default=5 * DAY, gt=0)  # of failures alone
    egress_ca_file: Path | None = None  # PEM of authorities besides the system's
    secrets_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()  # seal endpoints' secrets; newest
    # first, each base64 of 32 random bytes; without any they are stored as they are

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @field_validator("egress_allow", "retry_schedule_seconds", "secrets_keys", mode="before")
    @classmethod
    def _comma_separated(cls, value: Any) -> Any:
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return value

    @field_validator("egress_allow")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            try:
                ipaddress.ip_network(network)
            except ValueError:
                raise ValueError("each must be a network, as in 10.0.0.0/8") from None
        return value

    @field_validator("retry_schedule_seconds")
    @classmethod
    def _schedule(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or any(not 0 <= delay <= 7 * DAY for delay in value):
            raise ValueError("must be one or more delays between 0 and 604800")
        return value

    @field_validator("otlp_events")
    @classmethod
    def _fields(cls, value: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        for mapping in value.values():
            if not all(map(is_field, mapping.values())):
                raise ValueError("each attribute must be mapped to a field of the flat form")
        return value

    @field_validator("secrets_keys")
    @classmethod
    def _keys(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for key in value:
            decoded_key(key.get_secret_value())
        return value

    @field_validator("database_url")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("sqlite:///", "postgresql://")):
            raise ValueError("must be a sqlite:/// or postgresql:// URL")
        return value
