"""Model: a model's life from its first row: learn what is left open, then monitor.

Until `LEARN_ROWS` rows have come (fewer where the reference is shorter) they are only kept, and
whoever asks is answered from a monitor made of them on the spot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from service.ingest.events import LABEL, PREDICTION, EventBatch, hash_ids
from service.ingest.frame import from_frame, to_frame
from service.ingest.halves import Halves, is_half
from service.limits import HALVES, PLACES, SLICES
from service.monitor.config import MonitorConfig, ReferenceRows
from service.monitor.discovered import Condition
from service.monitor.findings import Finding
from service.monitor.learn import LEARN_ROWS, learn
from service.monitor.monitor import Counted, Monitor

# Fields of the configuration that decide what is summed, and how; the others may change in flight.
_STRUCTURE: Final = (
    "loss",
    "loss_scale",
    "normaliser",
    "dimensions",
    "order",
    "features",
    "reference",
    "labels",
)


class Model:
    """One model of one tenant."""

    def __init__(self, config: MonitorConfig, tick_seconds: int) -> None:
        self.config = config
        self.tick_seconds = tick_seconds
        self.versions: dict[str, int] = {}  # rows by version, in order of first appearance
        self.last_row_at = 0  # the newest time of a row, microseconds
        self._monitor: Monitor | None = None
        self._first: list[EventBatch] = []  # rows that came while learning, duplicates left out
        self._n_first = 0
        self._received_at = 0  # of the newest of them
        self._seen: set[tuple[int, int]] = set()  # (id hash, PREDICTION or LABEL) of them
        self.halves = Halves()  # requests and responses that wait for each other

    @property
    def is_learning(self) -> bool:
        """Whether the first rows are still being kept."""
        return self._monitor is None

    @property
    def monitor(self) -> Monitor | None:
        """The monitor; while learning, one made of what has come so far; None before any row."""
        if self._monitor is None and self._n_first:
            return self._make_monitor()[0]
        return self._monitor

    def absorb(self, batch: EventBatch, received_at: int) -> tuple[Counted, list[Finding]]:
        """Fold in a batch of this model's rows; halves of predictions wait until they are whole."""
        if not is_half(batch).any():
            return self._absorb(batch, received_at)
        repeated = is_half(batch) & self._is_predicted(batch)
        fresh = np.flatnonzero(is_half(batch) & ~repeated)
        met = self.halves.meet(batch.take(fresh), received_at)
        repeated[fresh[met.repeated]] = True
        others = np.flatnonzero(~is_half(batch))
        at = np.concatenate([others, fresh[met.rows]])
        order = np.argsort(at, kind="stable")
        rows = EventBatch.concatenate([batch.take(others), met.wholes]).take(order)
        counted, findings = self._absorb(rows, received_at)
        findings += self._let_go(met.released, received_at)
        return counted.spread(at[order], repeated), findings

    @property
    def overflowed(self) -> Counter[str]:
        """What gave way to something newer, or went to `other`, so far, by cap."""
        waited = Counter({HALVES.name: self.halves.n_overflowed})
        if self._monitor is not None:
            waited.update(self._monitor.join.overflowed)
            waited[PLACES.name] = self._monitor.slices.n_rows_other
            waited[SLICES.name] = self._monitor.slices.n_past_budget
        return waited

    def pass_time(self, now: int) -> list[Finding]:
        """Fold in halves that have waited too long, as they are; say if no row comes any more."""
        findings = self._let_go(self.halves.release(now), now) if len(self.halves) else []
        return findings + ([] if self._monitor is None else self._monitor.pass_time(now))

    def _let_go(self, released: EventBatch, now: int) -> list[Finding]:
        return self._absorb(released, now)[1] if len(released) else []

    def _is_predicted(self, batch: EventBatch) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which rows have the id of a prediction that has come already."""
        hashes = hash_ids(batch.ids)
        if self._monitor is not None:
            return self._monitor.join.has(hashes)
        return np.array([(hash_, PREDICTION) in self._seen for hash_ in hashes.tolist()], np.bool_)

    def _absorb(self, batch: EventBatch, received_at: int) -> tuple[Counted, list[Finding]]:
        self._note(batch)
        if self._monitor is not None:
            return self._monitor.absorb(batch, received_at)
        n_missing = max(self._learn_rows() - self._n_first, 0)  # a new reference may be shorter
        duplicate = self._known(batch)
        is_new = np.flatnonzero(~duplicate)
        keep = is_new[:n_missing]
        if keep.size:
            self._first.append(batch.take(keep))
            self._n_first += keep.size
        self._received_at = received_at
        none = np.zeros(len(batch), np.bool_)
        if keep.size < n_missing:
            return Counted(duplicate, none, none), []
        self._monitor, findings = self._make_monitor()
        self._first, self._seen, self._n_first = [], set(), 0
        # Duplicates among the rows behind the last one kept are told by the monitor.
        stop = int(keep[-1]) + 1 if keep.size else 0
        if stop == len(batch):
            return Counted(duplicate, none, none), findings
        counted, more = self._monitor.absorb(batch.take(np.arange(stop, len(batch))), received_at)
        head = Counted(duplicate[:stop], none[:stop], none[:stop])
        return Counted.concatenate([head, counted]), findings + more

    def _learn_rows(self) -> int:
        stated = self.config.reference
        return min(LEARN_ROWS, stated.rows) if isinstance(stated, ReferenceRows) else LEARN_ROWS

    def _first_rows(self) -> EventBatch:
        """The rows kept while learning, the same however they were cut into requests."""
        return EventBatch.concatenate(self._first).canonical()

    def _make_monitor(self) -> tuple[Monitor, list[Finding]]:
        rows = self._first_rows()
        monitor = Monitor(self.config, learn(self.config, rows), self.tick_seconds)
        _, findings = monitor.absorb(rows, self._received_at)
        return monitor, findings

    def _known(self, batch: EventBatch) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which rows bring nothing new, while learning: at most a thousand are remembered."""
        duplicate = np.zeros(len(batch), np.bool_)
        seen = self._seen
        for row, (hash_, kind) in enumerate(
            zip(hash_ids(batch.ids).tolist(), batch.kind.tolist(), strict=True)
        ):
            parts = {(hash_, part) for part in (PREDICTION, LABEL) if kind & part}
            duplicate[row] = parts <= seen
            seen |= parts
        return duplicate

    def _note(self, batch: EventBatch) -> None:
        if len(batch):
            self.last_row_at = max(self.last_row_at, int(batch.time.max()))
        counts = np.bincount(batch.version.codes + 1, minlength=len(batch.version.values) + 1)
        for version, count in zip(batch.version.values, counts[1:].tolist(), strict=True):
            if count and (version in self.versions or len(self.versions) < 1_000):
                self.versions[version] = self.versions.get(version, 0) + count

    def configure(self, config: MonitorConfig) -> bool:
        """Watch as stated from now on; say whether that begins anew, all that was seen forgotten.

        It does where the meaning of the sums changes and rows have been summed.
        """
        anew = any(getattr(config, name) != getattr(self.config, name) for name in _STRUCTURE)
        self.config = config
        if self._monitor is None:
            return False
        if anew:
            self._monitor = None
        else:
            self._monitor.reconfigure(config)
        return anew

    def adopt(self, found: Sequence[tuple[Condition, ...]]) -> int:
        """Watch slices that a search found, from the rows to come on; how many are new."""
        return 0 if self._monitor is None else self._monitor.adopt(found)

    def upload_reference(self, batch: EventBatch) -> tuple[int, list[Finding]]:
        """Take these labelled rows as what normal was; give how many could be scored.

        Rows that were kept while learning are seen behind them, and may have findings.
        """
        if self._monitor is not None:
            return self._monitor.upload_reference(batch), []
        rows = EventBatch.concatenate([*self._first, batch]).canonical()
        fresh = Monitor(self.config, learn(self.config, rows), self.tick_seconds)
        n_scored = fresh.upload_reference(batch)
        findings = fresh.absorb(self._first_rows(), self._received_at)[1] if self._first else []
        self._monitor, self._first, self._seen, self._n_first = fresh, [], set(), 0
        return n_scored, findings

    def save(self) -> dict[str, Any]:
        """The state."""
        first = [to_frame(self._first_rows())] if self._n_first else []
        return {
            "config": self.config.model_dump_json(by_alias=True),
            "tick_seconds": self.tick_seconds,
            "versions": self.versions,
            "last_row_at": self.last_row_at,
            "received_at": self._received_at if first else 0,
            "first": first,
            "halves": self.halves.save(),
            "monitor": None if self._monitor is None else self._monitor.save(),
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Model:
        """The model that `save` gave."""
        model = cls(MonitorConfig.model_validate_json(state["config"]), state["tick_seconds"])
        model.versions = dict(state["versions"])
        model.last_row_at = state["last_row_at"]
        model._received_at = state["received_at"]
        model.halves = Halves.restore(state["halves"])
        for frame in state["first"]:
            batch, _ = from_frame(frame)
            model._known(batch)
            model._first.append(batch)
            model._n_first += len(batch)
        if state["monitor"] is not None:
            model._monitor = Monitor.restore(state["monitor"])
        return model
