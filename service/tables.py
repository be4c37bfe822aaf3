"""The tables, tenant first in every key: journal, snapshots, alerts, outbox, keys, models.

Instants are integers, microseconds since 1970, UTC. Documents are JSON text. What changes here
is a new file in `service/migrations/versions` as well.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

# INTEGER is SQLite's own row number, so that the newest entry is found at once; PostgreSQL's
# would be too small.
_Offset = BigInteger().with_variant(Integer, "sqlite")

journal = Table(
    "journal",
    metadata,
    Column("seq", _Offset, primary_key=True, autoincrement=False),
    Column("tenant", Text, nullable=False),
    Column("batch_id", Text),
    Column("received_at", BigInteger, nullable=False),
    Column("codec", Text, nullable=False),
    Column("crc32", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    UniqueConstraint("tenant", "batch_id"),
)

epoch = Table(  # one row: who may commit
    "epoch",
    metadata,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("offset", BigInteger, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
    Column("crc32", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

rejected = Table(  # refused rows, kept for inspection, the newest of each tenant
    "rejected",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("index", Integer, primary_key=True),
    Column("id", Text),
    Column("model", Text),
    Column("reason", Text, nullable=False),
    Column("received_at", BigInteger, nullable=False),
)

alerts = Table(
    "alerts",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("model", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("detected_at", BigInteger, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("body", Text, nullable=False),  # the Alert, service.alerts.alert
    Index("alerts_by_time", "tenant", "detected_at"),
    Index("alerts_by_model", "tenant", "model", "state"),
)

acknowledgements = Table(  # beside the alert, never in it: a replay must not undo what a person did
    "acknowledgements",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("alert_id", Text, primary_key=True),
    Column("by", Text, nullable=False),
    Column("comment", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
)

transitions = Table(
    "transitions",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("alert_id", Text, primary_key=True),
    Column("revision", BigInteger, primary_key=True),
    Column("type", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("body", Text, nullable=False),  # the Alert as this transition left it
)

silences = Table(
    "silences",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("matcher", Text, nullable=False),  # service.alerts.matcher
    Column("starts_at", BigInteger, nullable=False),
    Column("ends_at", BigInteger, nullable=False),
    Column("hours", Text),  # service.alerts.hours; NULL: all the time between
    Column("author", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("silences_by_end", "ends_at"),
)

endpoints = Table(
    "endpoints",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("wants", Text, nullable=False),  # service.notify.wants
    Column("sealed", Text, nullable=False),  # service.notify.endpoints.Private, under service.seal
    Column("state", Text, nullable=False),  # "active", "paused", "disabled"
    Column("state_reason", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

lanes = Table(  # one an endpoint: its deliveries go out one after another
    "lanes",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("endpoint_id", Text, primary_key=True),
    Column("wanted_at", BigInteger, nullable=False),  # when its next delivery is due
    Column("free_at", BigInteger, nullable=False),  # no sooner: its pace, its breaker, Retry-After
    Column("leased_until", BigInteger, nullable=False),  # a worker has it
    Column("n_failures", Integer, nullable=False),  # in a row
    Column("failing_since", BigInteger),  # NULL unless the last attempt failed
    Index("lanes_wanted", "wanted_at"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("id", Text, primary_key=True),  # the webhook-id: a hash of what the delivery is about
    Column("endpoint_id", Text, nullable=False),
    Column("alert_id", Text),  # NULL for what is of no alert
    Column("type", Text, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("body", Text, nullable=False),  # what is told, before an endpoint's format
    Column("state", Text, nullable=False),  # service.notify.outbox.DeliveryState
    Column("held_by", Text),  # what kept it back when it was last due: an id, or "quiet_hours"
    Column("n_attempts", Integer, nullable=False),  # of this round; a replay begins a new one
    Column("n_replays", Integer, nullable=False),  # how often it was asked for again
    Column("next_attempt_at", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("deliveries_due", "tenant", "endpoint_id", "state", "next_attempt_at", "sequence", "id"),
    Index("deliveries_by_endpoint", "tenant", "endpoint_id", "created_at"),
    Index("deliveries_of_alert", "tenant", "alert_id", "endpoint_id"),
    Index("deliveries_held", "tenant", "held_by"),
    Index("deliveries_by_age", "state", "created_at"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("delivery_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("status", Integer),  # the answer's, NULL where there was none
    Column("error", Text, nullable=False),  # "" or why there was no answer
    Column("seconds", Float, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("scopes", Text, nullable=False),  # space separated
    Column("secret_sha256", LargeBinary, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    Index("keys_by_tenant", "tenant"),
)

tenants = Table(
    "tenants",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("disabled_at", BigInteger),
    Column("rows_per_second", BigInteger),  # NULL: as the settings have it for everyone
    Column("bytes_per_second", BigInteger),
)

audit = Table(  # what was done to a tenant's own things; service.audit
    "audit",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("who", Text, nullable=False),
    Column("what", Text, nullable=False),
    Column("object", Text, nullable=False),
    Column("where", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Index("audit_by_time", "tenant", "at"),
)

jobs = Table(  # who runs a job's next slot; service.schedule
    "jobs",
    metadata,
    Column("job", Text, primary_key=True),
    Column("slot", BigInteger, nullable=False),  # the last that was run
    Column("fence", BigInteger, nullable=False),  # of the newest lease
    Column("holder", Text, nullable=False),  # of that lease; "" once it is given back
    Column("changed_at", BigInteger, nullable=False),
)

job_slots = Table(  # what was run, written with its effect
    "job_slots",
    metadata,
    Column("job", Text, primary_key=True),
    Column("slot", BigInteger, primary_key=True),
    Column("fence", BigInteger, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger, nullable=False),
)

sessions = Table(  # of browsers: who signed in with which key
    "sessions",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("token_sha256", LargeBinary, primary_key=True),
    Column("use", Text, nullable=False),  # "session", or "link": a way in that works once
    Column("key_id", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Index("sessions_by_key", "tenant", "key_id", "created_at"),
)
