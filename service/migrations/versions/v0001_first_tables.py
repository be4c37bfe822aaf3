"""The tables as they were when migrations began; some databases have them already."""

from alembic import op
from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Text,
    UniqueConstraint,
)

from service.migrations.tenants import keep_apart

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Run by alembic."""
    op.create_table(
        "acknowledgements",
        Column("tenant", Text(), nullable=False),
        Column("alert_id", Text(), nullable=False),
        Column("by", Text(), nullable=False),
        Column("comment", Text(), nullable=False),
        Column("at", BigInteger(), nullable=False),
        PrimaryKeyConstraint("tenant", "alert_id"),
        if_not_exists=True,
    )
    op.create_table(
        "alerts",
        Column("tenant", Text(), nullable=False),
        Column("id", Text(), nullable=False),
        Column("model", Text(), nullable=False),
        Column("kind", Text(), nullable=False),
        Column("state", Text(), nullable=False),
        Column("severity", Text(), nullable=False),
        Column("detected_at", BigInteger(), nullable=False),
        Column("revision", Integer(), nullable=False),
        Column("body", Text(), nullable=False),
        PrimaryKeyConstraint("tenant", "id"),
        if_not_exists=True,
    )
    op.create_index("alerts_by_model", "alerts", ["tenant", "model", "state"], if_not_exists=True)
    op.create_index("alerts_by_time", "alerts", ["tenant", "detected_at"], if_not_exists=True)
    op.create_table(
        "attempts",
        Column("tenant", Text(), nullable=False),
        Column("delivery_id", Text(), nullable=False),
        Column("number", Integer(), nullable=False),
        Column("at", BigInteger(), nullable=False),
        Column("status", Integer(), nullable=True),
        Column("error", Text(), nullable=False),
        Column("seconds", Float(), nullable=False),
        PrimaryKeyConstraint("tenant", "delivery_id", "number"),
        if_not_exists=True,
    )
    op.create_table(
        "audit",
        Column("tenant", Text(), nullable=False),
        Column("id", Text(), nullable=False),
        Column("at", BigInteger(), nullable=False),
        Column("who", Text(), nullable=False),
        Column("what", Text(), nullable=False),
        Column("object", Text(), nullable=False),
        Column("where", Text(), nullable=False),
        Column("status", Integer(), nullable=False),
        PrimaryKeyConstraint("tenant", "id"),
        if_not_exists=True,
    )
    op.create_index("audit_by_time", "audit", ["tenant", "at"], if_not_exists=True)
    op.create_table(
        "deliveries",
        Column("tenant", Text(), nullable=False),
        Column("id", Text(), nullable=False),
        Column("endpoint_id", Text(), nullable=False),
        Column("alert_id", Text(), nullable=True),
        Column("type", Text(), nullable=False),
        Column("sequence", Integer(), nullable=False),
        Column("body", Text(), nullable=False),
        Column("state", Text(), nullable=False),
        Column("held_by", Text(), nullable=True),
        Column("n_attempts", Integer(), nullable=False),
        Column("n_replays", Integer(), nullable=False),
        Column("next_attempt_at", BigInteger(), nullable=False),
        Column("created_at", BigInteger(), nullable=False),
        PrimaryKeyConstraint("tenant", "id"),
        if_not_exists=True,
    )
    op.create_index("deliveries_by_age", "deliveries", ["state", "created_at"], if_not_exists=True)
    op.create_index(
        "deliveries_by_endpoint",
        "deliveries",
        ["tenant", "endpoint_id", "created_at"],
        if_not_exists=True,
    )
    op.create_index(
        "deliveries_due",
        "deliveries",
        ["tenant", "endpoint_id", "state", "next_attempt_at", "sequence", "id"],
        if_not_exists=True,
    )
    op.create_index("deliveries_held", "deliveries", ["tenant", "held_by"], if_not_exists=True)
    op.create_index(
        "deliveries_of_alert",
        "deliveries",
        ["tenant", "alert_id", "endpoint_id"],
        if_not_exists=True,
    )
    op.create_table(
        "endpoints",
        Column("tenant", Text(), nullable=False),
        Column("id", Text(), nullable=False),
        Column("wants", Text(), nullable=False),
        Column("sealed", Text(), nullable=False),
        Column("state", Text(), nullable=False),
        Column("state_reason", Text(), nullable=False),
        Column("created_at", BigInteger(), nullable=False),
        PrimaryKeyConstraint("tenant", "id"),
        if_not_exists=True,
    )
    op.create_table(
        "epoch",
        Column("partition", Integer(), autoincrement=False, nullable=False),
        Column("epoch", BigInteger(), nullable=False),
        PrimaryKeyConstraint("partition"),
        if_not_exists=True,
    )
    op.create_table(
        "job_slots",
        Column("job", Text(), nullable=False),
        Column("slot", BigInteger(), nullable=False),
        Column("fence", BigInteger(), nullable=False),
        Column("started_at", BigInteger(), nullable=False),
        Column("ended_at", BigInteger(), nullable=False),
        PrimaryKeyConstraint("job", "slot"),
        if_not_exists=True,
    )
    op.create_table(
        "jobs",
        Column("job", Text(), nullable=False),
        Column("slot", BigInteger(), nullable=False),
        Column("fence", BigInteger(), nullable=False),
        Column("holder", Text(), nullable=False),
        Column("changed_at", BigInteger(), nullable=False),
        PrimaryKeyConstraint("job"),
        if_not_exists=True,
    )
    op.create_table(
        "journal",
        Column(
            "seq",
            BigInteger().with_variant(Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        Column("tenant", Text(), nullable=False),
        Column("batch_id", Text(), nullable=True),
        Column("received_at", BigInteger(), nullable=False),
        Column("codec", Text(), nullable=False),
        Column("crc32", BigInteger(), nullable=False),
        Column("body", LargeBinary(), nullable=False),
        PrimaryKeyConstraint("seq"),
        UniqueConstraint("tenant", "batch_id"),
        if_not_exists=True,
    )
    op.create_table(
        "keys",
        Column("id", Text(), nullable=False),
        Column("tenant", Text(), nullable=False),
        Column("scopes", Text(), nullable=False),
        Column("secret_sha256", LargeBinary(), nullable=False),
        Column("created_at", BigInteger(), nullable=False),
        Column("revoked_at", BigInteger(), nullable=True),
        PrimaryKeyConstraint("id"),
        if_not_exists=True,
    )
    op.create_index("keys_by_tenant", "keys", ["tenant"], if_not_exists=True)
    op.create_table(
        "lanes",
        Column("tenant", Text(), nullable=False),
        Column("endpoint_id", Text(), nullable=False),
        Column("wanted_at", BigInteger(), nullable=False),
        Column("free_at", BigInteger(), nullable=False),
        Column("leased_until", BigInteger(), nullable=False),
        Column("n_failures", Integer(), nullable=False),
        Column("failing_since", BigInteger(), nullable=True),
        PrimaryKeyConstraint("tenant", "endpoint_id"),
        if_not_exists=True,
    )
    op.create_index("lanes_wanted", "lanes", ["wanted_at"], if_not_exists=True)
    op.create_table(
        "rejected",
        Column("tenant", Text(), nullable=False),
        Column("seq", BigInteger(), nullable=False),
        Column("index", Integer(), nullable=False),
        Column("id", Text(), nullable=True),
        Column("model", Text(), nullable=True),
        Column("reason", Text(), nullable=False),
        Column("received_at", BigInteger(), nullable=False),
        PrimaryKeyConstraint("tenant", "seq", "index"),
        if_not_exists=True,
    )
    op.create_table(
        "sessions",
        Column("tenant", Text(), nullable=False),
        Column("token_sha256", LargeBinary(), nullable=False),
        Column("use", Text(), nullable=False),
        Column("key_id", Text(), nullable=False),
        Column("created_at", BigInteger(), nullable=False),
        Column("expires_at", BigInteger(), nullable=False),
        PrimaryKeyConstraint("tenant", "token_sha256"),
        if_not_exists=True,
    )
    op.create_index(
        "sessions_by_key", "sessions", ["tenant", "key_id", "created_at"], if_not_exists=True
    )
    op.create_table(
        "silences",
        Column("tenant", Text(), nullable=False),
        Column("id", Text(), nullable=False),
        Column("matcher", Text(), nullable=False),
        Column("starts_at", BigInteger(), nullable=False),
        Column("ends_at", BigInteger(), nullable=False),
        Column("hours", Text(), nullable=True),
        Column("author", Text(), nullable=False),
        Column("reason", Text(), nullable=False),
        Column("created_at", BigInteger(), nullable=False),
        PrimaryKeyConstraint("tenant", "id"),
        if_not_exists=True,
    )
    op.create_index("silences_by_end", "silences", ["ends_at"], if_not_exists=True)
    op.create_table(
        "snapshots",
        Column("offset", BigInteger(), autoincrement=False, nullable=False),
        Column("version", Integer(), nullable=False),
        Column("crc32", BigInteger(), nullable=False),
        Column("body", LargeBinary(), nullable=False),
        PrimaryKeyConstraint("offset"),
        if_not_exists=True,
    )
    op.create_table(
        "tenants",
        Column("tenant", Text(), nullable=False),
        Column("created_at", BigInteger(), nullable=False),
        Column("disabled_at", BigInteger(), nullable=True),
        Column("rows_per_second", BigInteger(), nullable=True),
        Column("bytes_per_second", BigInteger(), nullable=True),
        PrimaryKeyConstraint("tenant"),
        if_not_exists=True,
    )
    op.create_table(
        "transitions",
        Column("tenant", Text(), nullable=False),
        Column("alert_id", Text(), nullable=False),
        Column("revision", BigInteger(), nullable=False),
        Column("type", Text(), nullable=False),
        Column("at", BigInteger(), nullable=False),
        Column("reason", Text(), nullable=False),
        Column("body", Text(), nullable=False),
        PrimaryKeyConstraint("tenant", "alert_id", "revision"),
        if_not_exists=True,
    )
    keep_apart(
        "acknowledgements",
        "alerts",
        "attempts",
        "audit",
        "deliveries",
        "endpoints",
        "journal",
        "keys",
        "lanes",
        "rejected",
        "sessions",
        "silences",
        "tenants",
        "transitions",
    )
    if op.get_context().dialect.name == "postgresql":  # bytes that compress badly, or are already
        op.execute("ALTER TABLE journal ALTER COLUMN body SET STORAGE EXTERNAL")
        op.execute("ALTER TABLE snapshots ALTER COLUMN body SET STORAGE EXTERNAL")
