"""Fold: the state of every model, made of journal entries and of nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from service.alerts.alert import Transition
from service.engine.ports import Entry
from service.ingest.events import Rejected


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


class Fold:
    """The state of every tenant's models. Not thread safe: the engine thread owns it."""

    def apply(self, entry: Entry) -> Applied:
        """Fold one entry in. Deterministic: no clock, no random, no set order."""
        raise NotImplementedError

    def receipt_for(self, tenant: str, batch_id: str) -> tuple[Receipt, int] | None:
        """The receipt that this batch id was answered with, and the CRC-32 of its body."""
        raise NotImplementedError

    def save(self) -> bytes:
        """The whole state as bytes, the same for the same state."""
        raise NotImplementedError

    @classmethod
    def restore(cls, body: bytes) -> Fold:
        """The state that `save` gave."""
        raise NotImplementedError

    def digest(self) -> str:
        """64 hex digits of the state."""
        raise NotImplementedError
