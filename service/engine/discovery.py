"""Discovery: once a day, a search of the day's rows for slices that no one thought of watching.

It reads the journal, outside the engine, and asks the engine only for what is due of each cell.
What it finds goes into the journal, so that a replay adopts the same slices at the same place; the
fold tests them on the rows behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec
import numpy as np
import structlog

from detectors.slice_search import worst_combinations
from service.engine.fold import Fold
from service.engine.ports import ADOPT, BATCH, Entry, EventLog, Offset
from service.errors import DamagedEntry
from service.ingest.events import Bools, EventBatch, Floats
from service.ingest.frame import FrameError, from_frame
from service.monitor.config import LossName
from service.monitor.discovered import Condition
from service.monitor.join import Join
from service.monitor.losses import SCALED_LOSSES, score
from service.monitor.slices import Slices
from service.schedule import Job, Run

EVERY_SECONDS: Final = 86_400
LEASE_SECONDS: Final = 1_800
MAX_ROWS: Final = 50_000  # of a model that are searched: the newest
MAX_CONDITIONS: Final = 400
MIN_ROWS: Final = 30  # labelled, for a condition to count
MIN_SCORE: Final = 5.0  # of many thousand combinations one has 4 by chance
VALUES: Final = 20  # of an attribute or a feature, the most frequent
CUTS: Final = (0.2, 0.4, 0.6, 0.8)  # quantiles between which numbers are told apart
HORIZON: Final = 30 * 86_400 * 1_000_000

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Due:
    """What the engine knows of a model that a search needs; nothing the fold will change."""

    loss: LossName
    normaliser: str
    cap: float
    slices: dict[str, Any]
    rates: Floats
    told: list[int]  # cells of slices whose alert is open: what they lose is known
    dimensions: tuple[str, ...]
    order: int


class Discovery:
    """The work of one process's discovery job. `ask` and `submit` wait for the engine."""

    def __init__(
        self,
        event_log: EventLog,
        ask: Callable[[Callable[[Fold], Any]], Any],
        submit: Callable[[Entry], object],
        on_found: Callable[[str, int], None],
    ) -> None:
        self._log = event_log
        self._ask = ask
        self._submit = submit
        self._on_found = on_found

    def job(self) -> Job:
        """It, to be scheduled."""
        return Job("discovery", EVERY_SECONDS, self.search, LEASE_SECONDS)

    def search(self, run: Run) -> bool:
        """Search the last day's rows of every model, and have adopted what is found."""
        since = run.at - EVERY_SECONDS * 1_000_000
        for tenant, model in self._ask(_models):
            rows = self._rows(tenant, model, since)
            known: Due | None = self._ask(partial(_due, tenant=tenant, name=model))
            found = worst_of(rows, known) if known is not None and rows is not None else []
            if found:
                body = {"model": model, "slices": found}
                self._submit(Entry(tenant, ADOPT, msgspec.json.encode(body), run.at))
                self._on_found(tenant, len(found))
                log.info("slices_discovered", tenant=tenant, model=model, slices=len(found))
        with run.commit():
            return False

    def _rows(self, tenant: str, model: str, since: int) -> EventBatch | None:
        """The newest rows of a model that came since."""
        kept: list[EventBatch] = []
        for entry in self._whole_entries(self._log.before(since)):
            if entry.tenant == tenant and entry.codec == BATCH:
                kept += _of_model(entry, model)
                while len(kept) > 1 and sum(map(len, kept[1:])) >= MAX_ROWS:
                    del kept[0]
        return EventBatch.concatenate(kept) if kept else None

    def _whole_entries(self, after: Offset) -> Iterator[Entry]:
        """What is behind an entry, damaged ones left out: they are their tenant's trouble."""
        while True:
            try:
                yield from self._log.read(after)
                return
            except DamagedEntry as damage:
                after = damage.offset


def _models(fold: Fold) -> list[tuple[str, str]]:
    return [(t, m) for t, tenant in fold.tenants.items() for m in tenant.models]


def _of_model(entry: Entry, model: str) -> Iterable[EventBatch]:
    try:
        batch, _ = from_frame(entry.body)
    except FrameError:
        return []
    if model not in batch.model.values:
        return []
    rows = np.flatnonzero(batch.model.codes == batch.model.values.index(model))
    return [batch.take(rows)] if rows.size else []


def _due(fold: Fold, tenant: str, name: str) -> Due | None:
    known = fold.model(tenant, name)
    monitor = None if known is None or known[0].is_learning else known[0].monitor
    if monitor is None or monitor.watch is None:
        return None
    told = np.flatnonzero(monitor.watch.disparity.open)
    cells = np.flatnonzero(monitor.slices.membership()[told, :].sum(axis=0) > 0)
    return Due(
        loss=monitor.schema.loss,
        normaliser=monitor.config.normaliser,
        cap=monitor.cap,
        slices=monitor.slices.save(),
        rates=monitor.watch.rates.predict(monitor.slices.levels),
        told=cells.tolist(),
        dimensions=tuple(monitor.slices.dimensions),
        order=monitor.config.order,
    )


def worst_of(rows: EventBatch, known: Due) -> list[tuple[Condition, ...]]:
    """Slices of these rows that lose most beyond what is due of them, none that is watched."""
    matched = Join(known.loss, HORIZON).match(rows, np.arange(len(rows)))
    loss, exposure = score(known.loss, matched.outputs, matched.labels, known.normaliser)  # type: ignore[arg-type]
    fits = np.flatnonzero(~np.isnan(loss))
    labelled = rows.take(matched.cell[fits])
    cells = Slices.restore(known.slices).assign(labelled)
    use = (cells < known.rates.size) & ~np.isin(cells, known.told)
    labelled, cells, fits = labelled.take(np.flatnonzero(use)), cells[use], fits[use]
    if not len(labelled):
        return []
    unit = known.cap if known.loss in SCALED_LOSSES and np.isfinite(known.cap) else 1.0
    lost = np.minimum(loss[fits], known.cap) / unit
    conditions = list(_conditions(labelled))[:MAX_CONDITIONS]
    if not conditions:
        return []
    holds = np.array([condition.holds(labelled) for condition in conditions])
    fields = {field: k for k, field in enumerate(dict.fromkeys(c.field for c in conditions))}
    found = worst_combinations(
        holds,
        np.array([fields[condition.field] for condition in conditions]),
        lost,
        exposure[fits] * known.rates[cells],
        min_rows=MIN_ROWS,
        min_score=MIN_SCORE,
    )
    slices = [tuple(conditions[place] for place in one.conditions) for one in found]
    return [slice_ for slice_ in slices if not _is_watched(slice_, known)]


def _is_watched(slice_: tuple[Condition, ...], known: Due) -> bool:
    fields = {f"attributes.{dimension}" for dimension in known.dimensions}
    return len(slice_) <= known.order and {c.field for c in slice_} <= fields


def _conditions(rows: EventBatch) -> Iterable[Condition]:
    """Values of attributes and features that enough rows have, and spans of numbers."""
    texts = {f"attributes.{name}": column for name, column in rows.attributes.items()}
    texts |= {f"features.{n}": v.text for n, v in rows.features.items() if v.text is not None}
    for field, column in sorted(texts.items()):
        counts = np.bincount(column.codes[column.codes >= 0], minlength=len(column.values))
        for code in np.argsort(-counts, kind="stable")[:VALUES].tolist():
            if counts[code] >= MIN_ROWS:
                yield Condition(field, value=column.values[code])
    for name, value in sorted(rows.features.items()):
        if value.number is None:
            continue
        there: Bools = ~np.isnan(value.number)
        if there.sum() >= MIN_ROWS:
            cuts = np.unique(np.quantile(value.number[there], CUTS)).tolist()
            for low, high in zip([None, *cuts], [*cuts, None], strict=True):
                yield Condition(f"features.{name}", at_least=low, below=high)
