"""Fold: the state of every model, made of journal entries and of nothing else."""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np

from service.alerts.alert import Transition
from service.alerts.ledger import Ledger
from service.engine.ports import ADOPT, BATCH, CONFIGURE, REFERENCE, TICK, Entry
from service.engine.state_bytes import from_bytes, to_bytes
from service.errors import Damaged
from service.ingest.events import PREDICTION, EventBatch, Rejected
from service.ingest.frame import FrameError, from_frame
from service.monitor.config import MonitorConfig
from service.monitor.discovered import Condition
from service.monitor.model import Model

STATE_VERSION: Final = 7
TICK_SECONDS: Final = 600  # of stream time between looks at a model's evidence
MAX_RECEIPTS: Final = 10_000  # of a tenant; a batch id older than these is a new batch
MAX_MODELS: Final = 1_000  # of a tenant; rows of more are rejected
MAX_ERRORS: Final = 100  # that a receipt lists; all are counted


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to a batch: its rows, each counted in exactly one of three."""

    accepted: int
    duplicates: int
    rejected: int
    errors: tuple[Rejected, ...] = ()


@dataclass(frozen=True, slots=True)
class Applied:
    """What one entry did."""

    receipt: Receipt | None = None  # of a batch
    transitions: Sequence[Transition] = field(default_factory=tuple)
    overflowed: Mapping[str, int] = field(default_factory=dict)  # gave way to others, by cap
    applied: int = 0  # rows of a batch that changed the state; accepted is these three
    late: int = 0
    quarantined: int = 0


@dataclass(slots=True)
class Accounts:
    """Rows of one tenant, each counted where it is decided what becomes of it.

    Always received = accepted + duplicates + rejected, accepted = applied + late + quarantined.
    """

    received: int = 0
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    late: int = 0  # labels past their horizon, counted and not joined
    applied: int = 0
    quarantined: int = 0  # rows of entries that the fold failed on, or that it was kept from

    @property
    def are_exact(self) -> bool:
        """Both sums hold."""
        return (
            self.received == self.accepted + self.duplicates + self.rejected
            and self.accepted == self.applied + self.late + self.quarantined
        )

    def add(self, receipt: Receipt, applied: Applied) -> None:
        """Count one batch."""
        self.received += receipt.accepted + receipt.duplicates + receipt.rejected
        self.accepted += receipt.accepted
        self.duplicates += receipt.duplicates
        self.rejected += receipt.rejected
        self.late += applied.late
        self.applied += applied.applied
        self.quarantined += applied.quarantined


@dataclass(slots=True)
class Tenant:
    """Everything of one tenant."""

    models: dict[str, Model] = field(default_factory=dict)
    ledgers: dict[str, Ledger] = field(default_factory=dict)
    receipts: dict[str, tuple[Receipt, int]] = field(default_factory=dict)  # oldest first
    accounts: Accounts = field(default_factory=Accounts)


class Fold:
    """The state of every tenant's models. Not thread safe: the engine thread owns it."""

    def __init__(self, tick_seconds: int = TICK_SECONDS) -> None:
        self.tick_seconds = tick_seconds
        self.tenants: dict[str, Tenant] = {}
        self.wall_clock = 0  # of the newest tick

    def apply(self, entry: Entry) -> Applied:
        """Fold one entry in. Deterministic: no clock, no random, no set order.

        Raises Damaged where the entry's body can't be read.
        """
        if entry.codec == TICK:
            self.wall_clock = int.from_bytes(entry.body, "big")
            return Applied(transitions=self._pass_time())
        tenant = self.tenants.setdefault(entry.tenant, Tenant())
        if entry.codec == BATCH:
            return self._absorb(tenant, entry)
        if entry.codec == CONFIGURE:
            return self._configure(tenant, entry)
        if entry.codec == ADOPT:
            return self._adopt(tenant, entry)
        if entry.codec == REFERENCE:
            return self._upload_reference(tenant, entry)
        raise Damaged(f"entry {entry.offset} has the unknown codec {entry.codec}")

    def _pass_time(self) -> list[Transition]:
        """Let halves whose other half never came go on alone, and miss models that fell silent."""
        transitions: list[Transition] = []
        for tenant in self.tenants.values():
            for name, model in tenant.models.items():
                findings = model.pass_time(self.wall_clock)
                if findings:
                    transitions += tenant.ledgers[name].apply(findings)
        return transitions

    def _absorb(self, tenant: Tenant, entry: Entry) -> Applied:
        batch, rejected = _rows(entry.body)
        n_received = len(batch) + len(rejected)
        duplicate = np.zeros(len(batch), np.bool_)
        late = np.zeros(len(batch), np.bool_)
        transitions: list[Transition] = []
        n_applied = 0
        n_models = len(batch.model.values)
        overflowed: Counter[str] = Counter()
        for code, name in enumerate(batch.model.values):
            rows = np.flatnonzero(batch.model.codes == code)
            if not rows.size:
                continue
            if name not in tenant.models and len(tenant.models) >= MAX_MODELS:
                rejected += _refuse(batch, name, rows, f"model: more than {MAX_MODELS} of them")
                continue
            model = self._model(tenant, entry.tenant, name)
            part = batch if n_models == 1 else batch.take(rows)
            before = model.overflowed
            counted, findings = model.absorb(part, entry.received_at)
            overflowed += model.overflowed - before
            duplicate[rows], late[rows] = counted.duplicate, counted.late
            n_applied += int((~(counted.duplicate | counted.late | counted.refused)).sum())
            refused = rows[counted.refused]
            rejected += _refuse(
                batch, name, refused, "time: before the label horizon of this model"
            )
            transitions += tenant.ledgers[name].apply(findings)
        n_duplicates = int(duplicate.sum())
        rejected.sort(key=lambda row: row.index)
        receipt = Receipt(
            n_received - n_duplicates - len(rejected),
            n_duplicates,
            len(rejected),
            tuple(rejected[:MAX_ERRORS]),
        )
        applied = Applied(receipt, transitions, overflowed, n_applied, int(late.sum()))
        _note(tenant, entry, applied)
        return applied

    def quarantine(self, entry: Entry) -> Applied:
        """Count an entry that stays out of the state: it failed in it, or its tenant is stopped."""
        if entry.codec != BATCH:
            return Applied()
        try:
            batch, refused = from_frame(entry.body)
        except FrameError:
            return Applied(Receipt(0, 0, 0))
        receipt = Receipt(len(batch), 0, len(refused), tuple(refused[:MAX_ERRORS]))
        applied = Applied(receipt, quarantined=len(batch))
        _note(self.tenants.setdefault(entry.tenant, Tenant()), entry, applied)
        return applied

    def _model(self, tenant: Tenant, tenant_name: str, name: str) -> Model:
        model = tenant.models.get(name)
        if model is None:
            model = tenant.models[name] = Model(MonitorConfig(), self.tick_seconds)
            tenant.ledgers[name] = Ledger(tenant_name, name)
        return model

    def _configure(self, tenant: Tenant, entry: Entry) -> Applied:
        stated = _json(entry.body)
        name = stated["model"]
        model = self._model(tenant, entry.tenant, name)
        if not model.configure(MonitorConfig.model_validate(stated["config"])):
            return Applied()
        return Applied(transitions=tenant.ledgers[name].close_all(model.last_row_at))

    def _adopt(self, tenant: Tenant, entry: Entry) -> Applied:
        stated = _json(entry.body)
        if stated["model"] in tenant.models:
            found = msgspec.convert(stated["slices"], list[tuple[Condition, ...]])
            tenant.models[stated["model"]].adopt(found)
        return Applied()

    def _upload_reference(self, tenant: Tenant, entry: Entry) -> Applied:
        head, _, frame = entry.body.partition(b"\n")
        name = _json(head)["model"]
        batch, rejected = _rows(frame)
        n_labelled, findings = self._model(tenant, entry.tenant, name).upload_reference(batch)
        n_unscored = int(np.count_nonzero(batch.kind & PREDICTION)) - n_labelled
        receipt = Receipt(n_labelled, 0, n_unscored + len(rejected), tuple(rejected[:MAX_ERRORS]))
        return Applied(receipt, tenant.ledgers[name].apply(findings))

    def receipt_for(self, tenant: str, batch_id: str) -> tuple[Receipt, int] | None:
        """The receipt that this batch id was answered with, and the CRC-32 of its body."""
        known = self.tenants.get(tenant)
        return None if known is None else known.receipts.get(batch_id)

    def model(self, tenant: str, name: str) -> tuple[Model, Ledger] | None:
        """A model of this tenant, with its open alerts."""
        known = self.tenants.get(tenant)
        if known is None or name not in known.models:
            return None
        return known.models[name], known.ledgers[name]

    def save(self) -> bytes:
        """The whole state as bytes, the same for the same state."""
        return to_bytes(
            {
                "version": STATE_VERSION,
                "tick_seconds": self.tick_seconds,
                "wall_clock": self.wall_clock,
                "tenants": {name: _save_tenant(tenant) for name, tenant in self.tenants.items()},
            }
        )

    @classmethod
    def restore(cls, body: bytes) -> Fold:
        """The state that `save` gave; raises Damaged where the bytes are not that."""
        state = from_bytes(body)
        if not isinstance(state, dict) or state.get("version") != STATE_VERSION:
            raise Damaged(f"not a snapshot of version {STATE_VERSION}")
        fold = cls(state["tick_seconds"])
        fold.wall_clock = state["wall_clock"]
        for name, tenant in state["tenants"].items():
            fold.tenants[name] = _restore_tenant(name, tenant)
        return fold

    def digest(self) -> str:
        """64 hex digits of what follows from the rows; the wall clock takes no part."""
        tenants = {name: _save_tenant(tenant) for name, tenant in self.tenants.items()}
        return hashlib.blake2b(to_bytes(tenants), digest_size=32).hexdigest()


def _note(tenant: Tenant, entry: Entry, applied: Applied) -> None:
    """Count a batch, and remember its receipt where its sender may ask again."""
    assert applied.receipt is not None  # noqa: S101 - of a batch
    tenant.accounts.add(applied.receipt, applied)
    if entry.batch_id is not None:
        tenant.receipts[entry.batch_id] = (applied.receipt, zlib.crc32(entry.body))
        if len(tenant.receipts) > MAX_RECEIPTS:
            del tenant.receipts[next(iter(tenant.receipts))]


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise Damaged("a journal entry that should be JSON is not") from error


def _rows(frame: bytes) -> tuple[EventBatch, list[Rejected]]:
    try:
        return from_frame(frame)
    except FrameError as error:
        raise Damaged("a journal entry that should be rows is not") from error


def _refuse(batch: EventBatch, model: str, rows: Any, reason: str) -> list[Rejected]:
    return [Rejected(batch.position(row), batch.ids[row], reason, model) for row in rows.tolist()]


def _save_tenant(tenant: Tenant) -> dict[str, Any]:
    accounts = tenant.accounts
    return {
        "models": {name: model.save() for name, model in tenant.models.items()},
        "ledgers": {name: ledger.save() for name, ledger in tenant.ledgers.items()},
        "receipts": [
            [
                batch_id,
                crc,
                r.accepted,
                r.duplicates,
                r.rejected,
                [[e.index, e.id, e.reason] for e in r.errors],
            ]
            for batch_id, (r, crc) in tenant.receipts.items()
        ],
        "accounts": [
            accounts.received,
            accounts.accepted,
            accounts.duplicates,
            accounts.rejected,
            accounts.late,
            accounts.applied,
            accounts.quarantined,
        ],
    }


def _restore_tenant(name: str, state: dict[str, Any]) -> Tenant:
    tenant = Tenant(accounts=Accounts(*state["accounts"]))
    for model, saved in state["models"].items():
        tenant.models[model] = Model.restore(saved)
        tenant.ledgers[model] = Ledger.restore(name, model, state["ledgers"][model])
    for batch_id, crc, accepted, duplicates, rejected, errors in state["receipts"]:
        receipt = Receipt(accepted, duplicates, rejected, tuple(Rejected(*e) for e in errors))
        tenant.receipts[batch_id] = (receipt, crc)
    return tenant
