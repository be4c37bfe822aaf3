"""Quality: whether rows are still what they were: features, their types, units and range; clocks.

Rules, not tests (`quality_rules`), each left out where the reference itself breaks it. What they
find is outside the budget of false alerts. They judge the whole model and each slice of one
dimension, over stretches of rows: since the last look, or longer until there are enough.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from service.ingest.events import EventBatch, Floats
from service.monitor.config import MonitorConfig, ReferenceRows
from service.monitor.feature_sums import Columns, FeatureSums, enlarged
from service.monitor.findings import (
    BY_RULE,
    Effect,
    Evidence,
    Finding,
    Kind,
    Slice,
    State,
    slice_text,
)
from service.monitor.observer import SECOND, Look
from service.monitor.quality_rules import (
    AT_ONCE,
    OF_SOME_ROWS,
    Issue,
    Rule,
    broken,
    in_words,
    is_gappy,
    is_slow,
    issue,
    never_varied,
    owner,
    severity,
)
from service.monitor.slices import ROOT

if TYPE_CHECKING:
    from service.monitor.monitor import Monitor

Indices = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]

MAX_FEATURES: Final = 256  # that are judged, the first to come
MAX_VERSIONS: Final = 256  # that are told apart
MAX_CELLS: Final = 4_096  # that are told apart; rows of others count for the whole model alone
MAX_LOOK_ROWS: Final = 1_000  # that are read between looks; the others are like them
MIN_ROWS: Final = 100  # of a stretch, and of a slice's reference
HOUR: Final = 3_600 * SECOND
DAY: Final = 24 * HOUR


class Quality:
    """What was usual of each feature, and the stretch of rows that is being judged."""

    name = "quality"

    def __init__(self, config: MonitorConfig) -> None:
        stated = config.reference
        rows = stated.rows if isinstance(stated, ReferenceRows) else ReferenceRows().rows
        self._n_left = rows  # of the reference: the first predictions, labelled or not
        self._features: dict[str, int] = {}  # in order of appearance
        self._accepted: set[str] = set()  # features that were new, for a day
        self._cells = [FeatureSums(), FeatureSums()]  # since the last look: the reference, now
        self._last: Floats = np.empty((0, 0))  # token of the newest row of each cell
        self._range: Floats = np.empty((2, 0))  # of the reference's numbers, by feature
        self._slices: Indices = np.zeros(0, np.intp)  # of order 0 and 1, in order of appearance
        # By them:
        self._usual, self._learning, self._stretch = (FeatureSums() for _ in range(3))
        self._beside = FeatureSums()  # since the whole model was judged
        self._began: list[int] = []  # microseconds, each stretch
        self._varies: Bools = np.empty((0, 0), np.bool_)  # features that did so in the reference
        self._broken_at: dict[tuple[int, str, str], int] = {}  # place, rule, feature: since when
        self._owners: dict[tuple[str, str], int] = {}  # rule and feature: place
        self._everyones: dict[tuple[str, str], int] = {}  # of the whole model: when it last held
        self._open: dict[int, list[list[str]]] = {}  # place: rule and feature of each issue told
        self._onset: dict[int, int] = {}  # place: of its alert
        self._looked_at = 0
        self._n_read = 0  # rows since then
        self._versions: dict[str, int] = {}  # rows of the whole model's stretch by version
        self._ended: dict[str, int] = {}  # versions seen: 1 once ended, 2 when back since

    def add(self, batch: EventBatch, rows: Indices, cells: Indices, in_reference: bool) -> None:
        """Count predictions: the first are the reference, whether or not labels have come."""
        n = min(rows.size, max(MAX_LOOK_ROWS - self._n_read, self._n_left))
        self._n_read += n
        rows, cells = rows[:n], np.where(cells[:n] < MAX_CELLS, cells[:n], ROOT)
        n = min(self._n_left, rows.size)
        self._n_left -= n
        for which, part in ((0, slice(n)), (1, slice(n, None))):
            if rows[part].size:
                self._count(which, batch, rows[part], cells[part])
        codes = batch.version.codes[rows]
        for code in np.unique(codes[codes >= 0]).tolist():
            version = batch.version.values[code]
            if version in self._versions or len(self._versions) < MAX_VERSIONS:
                n_rows = int(np.count_nonzero(codes == code))
                self._versions[version] = self._versions.get(version, 0) + n_rows

    def _count(self, which: int, batch: EventBatch, rows: Indices, cells: Indices) -> None:
        columns = Columns(batch, rows, self._named(batch, rows))
        self._range = enlarged(self._range, (2, len(self._features)), np.nan)
        if which == 0:
            n_cells = max(int(cells.max()) + 1, len(self._last))
            self._last = enlarged(self._last, (n_cells, len(self._features)), np.nan)
            columns.follow(cells, self._last)
            self._range = columns.extend(self._range)
        else:
            columns.compare_with(self._range)
        behind = batch.time[rows] < self._looked_at - HOUR
        self._cells[which].count(cells, columns, behind)

    def _named(self, batch: EventBatch, rows: Indices) -> list[tuple[int, str]]:
        """The features that any of the rows has; new ones are entered while there is room."""
        named = []
        for name in sorted(batch.features):
            if batch.features[name].present(len(batch))[rows].any():
                if name not in self._features and len(self._features) < MAX_FEATURES:
                    self._features[name] = len(self._features)
                if name in self._features:
                    named.append((self._features[name], name))
        return named

    def look(self, monitor: Monitor, look: Look) -> list[Finding]:
        """Judge each slice that has rows enough since it was last judged."""
        slices = self._slices = np.flatnonzero(monitor.slices.orders() <= 1)
        membership = monitor.slices.membership()
        learnt, now = (cells.rolled_up(membership, slices) for cells in self._cells)
        self._cells = [FeatureSums(), FeatureSums()]
        for sums in (self._usual, self._learning, self._stretch, self._beside):
            sums.grow(slices.size, len(self._features))
        self._began += [self._looked_at or look.at] * (slices.size - len(self._began))
        self._usual.include(learnt)
        self._learning.include(learnt)
        self._excuse()
        self._stretch.include(now)
        self._beside.include(now)
        least = max(MIN_ROWS, monitor.config.publish_min_rows)
        due = np.flatnonzero((self._stretch.rows >= least) & (self._usual.rows >= MIN_ROWS))
        findings = self._judge(monitor, look, slices, due) if due.size else []
        self._stretch.clear(due)
        if ROOT in due:
            self._beside = FeatureSums()
        for place in due.tolist():
            self._began[place] = look.at
        self._looked_at, self._n_read = look.at, 0
        return findings

    def damaged(self, slice_: int) -> set[str]:
        """Features of a slice that an alert says are not what they were, here or everywhere."""
        places = [ROOT, *np.flatnonzero(self._slices == slice_).tolist()]
        return {feature for place in places for _, feature in self._open.get(place, [])}

    def in_use(self) -> list[int]:
        """Slices with an alert."""
        return [int(self._slices[place]) for place in self._open]

    def renew(self, places: Indices) -> None:
        """Other slices stand in these places: what is usual of them is to be learnt."""
        rows = np.flatnonzero(np.isin(self._slices, places))
        for sums in (self._usual, self._learning, self._stretch, self._beside):
            sums.clear(rows[rows < len(sums)])
        self._varies[rows[rows < len(self._varies)]] = True
        renewed = set(rows.tolist())
        self._broken_at = {k: at for k, at in self._broken_at.items() if k[0] not in renewed}

    def _excuse(self) -> None:
        """Leave alone what is constant over so many rows of the reference itself."""
        self._varies = enlarged(self._varies, self._usual.low.shape, True)
        full = np.flatnonzero(self._learning.rows >= MIN_ROWS)
        self._varies[full] &= ~never_varied(self._learning.take(full))
        self._learning.clear(full)

    def _find_owners(self) -> None:
        """Whose story it is, where since the last time some rows are of a kind that is told."""
        self._owners = {
            (rule.value, name): owner(self._beside.sums[:, f, what], self._beside.rows)
            for rule, what in OF_SOME_ROWS
            for name, f in self._features.items()
            if self._beside.sums[ROOT, f, what]
        }

    def _judge(self, monitor: Monitor, look: Look, slices: Indices, due: Indices) -> list[Finding]:
        everyones = self._usual.take(np.array([ROOT]))
        found = broken(self._usual.take(due), self._stretch.take(due), everyones)
        if ROOT in due:
            self._find_owners()
        for rule, _ in OF_SOME_ROWS:
            owners = [self._owners.get((rule.value, name), ROOT) for name in self._features]
            found[rule] &= due[:, None] == np.array(owners, np.intp)
        found[Rule.CONSTANT] &= self._varies[due]
        findings = []
        for row, place in enumerate(due.tolist()):
            issues = self._issues(look, {rule: holds[row] for rule, holds in found.items()}, place)
            if place == ROOT:
                issues = sorted([*issues, *self._versions_mixed_up()], key=_by_rule)
                self._everyones |= {(each.rule.value, each.feature): look.at for each in issues}
            elif place not in self._open:  # what everyone had meanwhile is no slice's own
                began = self._began[place]
                issues = [
                    each
                    for each in issues
                    if self._everyones.get((each.rule.value, each.feature), -1) < began
                ]
            state = self._state(look, place, issues)
            if state is not None:
                name = monitor.slices.names[int(slices[place])]
                where = f" of {slice_text(name)}" if name else ""
                finding = self._finding(monitor, look, place, name, state, issues, where)
                head = self._told_elsewhere(place)
                if head is not None:
                    under = monitor.slices.names[int(slices[head])]
                    finding = replace(finding, explained_by=under)
                findings.append(finding)
                if state is State.RESOLVED:
                    del self._onset[place]
        return findings

    def _told_elsewhere(self, place: int) -> int | None:
        """Another slice of which all that is wrong here is told already: one cause, most likely."""
        what = {tuple(each) for each in self._open.get(place, [])}
        for other, theirs in self._open.items():
            if other != place and what and what <= {tuple(each) for each in theirs}:
                return other
        return None

    def _issues(self, look: Look, found: dict[Rule, Bools], place: int) -> list[Issue]:
        """What is wrong in one slice, by rule and then by name."""
        names = list(self._features)
        issues = [
            issue(rule, name, self._usual.of_one(place, f), self._stretch.of_one(place, f))
            for rule, holds in found.items()
            for name, f in sorted((names[f], f) for f in np.flatnonzero(holds).tolist())
            if rule is not Rule.APPEARED or name not in self._accepted
        ]
        n, rows = int(self._stretch.behind[place]), int(self._stretch.rows[place])
        if n > rows / 2 and self._usual.behind[place] < self._usual.rows[place] / 10:
            words = f"{n / rows:.0%} of rows are more than an hour older than those before them"
            issues.append(Issue(Rule.CLOCK, "time", 0.0, n / rows, words))
        return sorted(self._lasting(look, place, issues), key=_by_rule)

    def _lasting(self, look: Look, place: int, issues: list[Issue]) -> list[Issue]:
        """What is told: at once, or after a day, where rows near in time have it in common."""
        broken_at = {
            (place, each.rule.value, each.feature): self._broken_at.get(
                (place, each.rule.value, each.feature), self._began[place]
            )
            for each in issues
        }
        self._broken_at = {
            key: at for key, at in self._broken_at.items() if key[0] != place
        } | broken_at
        slow, gappy = is_slow(self._usual), is_gappy(self._usual)
        told = []
        for each, at in zip(issues, broken_at.values(), strict=True):
            f = self._features.get(each.feature, -1)
            waits = f >= 0 and bool((gappy if each.rule is Rule.VANISHED else slow)[f])
            if not waits or each.rule in AT_ONCE or look.at - at >= DAY:
                told.append(each)
        return told

    def _versions_mixed_up(self) -> list[Issue]:
        """Versions that had ended and are back beside the one that took over."""
        n_rows = max(sum(self._versions.values()), 1)
        shares = {name: self._versions.get(name, 0) / n_rows for name in self._ended}
        issues = []
        for name, share in sorted(shares.items()):
            if share >= 0.95:
                self._ended[name] = 0
            elif share == 0.0 and max(shares.values()) >= 0.95:
                self._ended[name] = 1
            elif self._ended[name] == 1 and share >= 0.05:
                self._ended[name] = 2  # it may be taking over again
            elif self._ended[name] == 2 and share >= 0.05:
                words = f"version {name}, which had ended, is back in {share:.0%} of rows"
                issues.append(Issue(Rule.VERSION, "version", 0.0, share, words))
        for name, n in self._versions.items():
            if n >= MIN_ROWS and len(self._ended) < MAX_VERSIONS:
                self._ended.setdefault(name, 0)
        self._versions = {}
        return issues

    def _state(self, look: Look, place: int, issues: list[Issue]) -> State | None:
        """What becomes of a slice's alert; None where it was told all of this already."""
        known = self._open.get(place, [])
        what = [[each.rule.value, each.feature] for each in issues]
        if place in self._onset and look.at - self._onset[place] >= DAY:
            self._accepted |= {name for rule, name in known if rule == Rule.APPEARED.value}
        if what == known:
            return None
        if not what:
            del self._open[place]
            return State.RESOLVED
        self._open[place] = what
        since = [
            self._broken_at.get((place, rule, feature), self._began[place])
            for rule, feature in what
        ]
        self._onset.setdefault(place, min(since))
        return State.FIRING

    def _finding(
        self,
        monitor: Monitor,
        look: Look,
        place: int,
        name: Slice,
        state: State,
        issues: list[Issue],
        where: str,
    ) -> Finding:
        words, onset = in_words(issues), self._onset[place]
        return Finding(
            model="",  # the model's own name is put on by whoever knows it
            kind=Kind.DATA_QUALITY,
            slice=name,
            state=state,
            severity=severity(issues),
            onset=onset,
            onset_interval=(onset, look.at),
            detected_at=look.at,
            effect=Effect(
                metric="share_of_rows",
                because=None,
                before=issues[0].before if issues else 0.0,
                after=issues[0].after if issues else 0.0,
                rest_before=None,
                rest_after=None,
                gap_widened_by=None,
                interval=None,
                rows=int(self._stretch.rows[place]),
                labels=0,
                feature=issues[0].feature if issues else None,
                moved=words or None,
            ),
            evidence=Evidence(
                own_reference=1.0,
                rest=None,
                alarm_at=1.0,
                mode=BY_RULE,
                false_alerts=monitor.config.budget_text,
            ),
            summary=f"Rows{where} are not what they were: {words}." if issues else "",
        )

    def save(self) -> dict[str, Any]:
        """The state."""
        return {
            "n_left": self._n_left,
            "features": list(self._features),
            "accepted": sorted(self._accepted),
            "cells": [sums.save() for sums in self._cells],
            "last": self._last.copy(),
            "range": self._range.copy(),
            "slices": [
                sums.save() for sums in (self._usual, self._learning, self._stretch, self._beside)
            ],
            "watched": self._slices.copy(),
            "began": list(self._began),
            "varies": self._varies.copy(),
            "read": self._n_read,
            "broken_at": [[*key, at] for key, at in self._broken_at.items()],
            "owners": [[*key, place] for key, place in self._owners.items()],
            "everyones": [[*key, at] for key, at in self._everyones.items()],
            "open": [[place, what] for place, what in self._open.items()],
            "onset": [list(pair) for pair in self._onset.items()],
            "looked_at": self._looked_at,
            "versions": [list(pair) for pair in self._versions.items()],
            "ended": [list(pair) for pair in self._ended.items()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state that `save` gave."""
        self._n_left = state["n_left"]
        self._features = {name: f for f, name in enumerate(state["features"])}
        self._accepted = set(state["accepted"])
        self._cells = [FeatureSums.restore(sums) for sums in state["cells"]]
        self._last, self._range = np.array(state["last"]), np.array(state["range"])
        self._usual, self._learning, self._stretch, self._beside = map(
            FeatureSums.restore, state["slices"]
        )
        self._slices = np.array(state["watched"], np.intp)
        self._began = list(state["began"])
        self._varies = np.array(state["varies"])
        self._n_read = state["read"]
        self._broken_at = {(p, rule, name): at for p, rule, name, at in state["broken_at"]}
        self._owners = {(rule, name): place for rule, name, place in state["owners"]}
        self._everyones = {(rule, name): at for rule, name, at in state["everyones"]}
        self._open = {place: [list(pair) for pair in what] for place, what in state["open"]}
        self._onset = dict(state["onset"])
        self._looked_at = state["looked_at"]
        self._versions, self._ended = dict(state["versions"]), dict(state["ended"])


def _by_rule(issue: Issue) -> tuple[int, str]:
    return list(Rule).index(issue.rule), issue.feature
