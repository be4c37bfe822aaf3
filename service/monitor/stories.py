"""Stories: which of the slices that crossed are incidents, and which ones another explains.

Where one slice is hurt, all that overlap it look hurt. So the slice whose excess speaks loudest is
told of, its rows are left out, and the others are asked again, until nothing is left that is more
than chance: greedy explain-away. Of slices that speak as loudly the more specific one is named,
and it need not have crossed itself, if what did has nothing left without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from service.ingest.events import Floats
from service.monitor.attribution import Replay, Strength
from service.monitor.findings import Slice

TIE_NATS: Final = 1.0  # of two slices this close the more specific one is named
# By so much louder is a suspect that is named in place of what crossed: 20 to 1. Of a floor that is
# hurt whole, the part that is hurt most is louder by less, and must not stand for it.
SUSPECT_NATS: Final = 3.0


@dataclass(frozen=True, slots=True)
class Story:
    """A slice to be told of."""

    slice: int
    strength: Strength
    head: int | None  # the slice whose incident it belongs to
    crossed: int  # the slice whose evidence raised it: itself, or one that it explains


class Teller:
    """Explains away, one culprit after another."""

    def __init__(
        self,
        replay: Replay,
        names: Sequence[Slice],
        dispersion: Floats,
        enough: float,
        may_be_told: Callable[[int, Strength], bool],
    ) -> None:
        self.whole = self.left = replay  # `left` is without the culprits' rows
        self.names = names
        self.dispersion = dispersion
        self.enough = enough  # nats that are more than chance
        self.may_be_told = may_be_told
        self.culprits: list[int] = []  # in the order in which they were found

    def blame(self, culprit: int, strength: Strength) -> None:
        """Leave a culprit's rows out from now on."""
        self.left = self.left.without(culprit, strength.onset)
        self.culprits.append(culprit)

    def tell(self, crossed: Sequence[int], suspects: Sequence[int]) -> list[Story]:
        """The stories of slices that crossed, heads before what they explain.

        `suspects` are slices that did not, and may explain some that did. While one of them speaks
        louder, what is no more than chance by itself is not told of: it may be the suspect's.
        """
        before = dict(zip(crossed, self._nats(crossed, self.whole), strict=True))
        waiting, stories = self._explained(before, list(crossed), self.culprits)
        others = untold = [s for s in suspects if s not in before]
        while waiting:
            culprit = self._foremost(waiting, others)
            if culprit is None:
                break
            strength = self._strength(culprit, self.left)
            waiting, others = _but(waiting, culprit), _but(others, culprit)
            if not self.may_be_told(culprit, strength):
                continue
            self.blame(culprit, strength)
            still_waiting, parts = self._explained(before, waiting, [culprit])
            relieved = [s for s in waiting if s not in still_waiting]
            if culprit in before or relieved:
                raised_by = culprit if culprit in before else relieved[0]
                stories += [Story(culprit, strength, None, raised_by), *parts]
            waiting = still_waiting
        louder = max(self._nats(untold, self.whole), default=0.0) - TIE_NATS
        for slice_ in sorted(waiting, key=lambda s: (-before[s], s)):
            strength = self._strength(slice_, self.whole)
            may_be_theirs = before[slice_] < min(self.enough, louder)
            if not may_be_theirs and self.may_be_told(slice_, strength):
                stories.append(Story(slice_, strength, None, slice_))
        return stories

    def _explained(
        self, before: dict[int, float], waiting: list[int], culprits: list[int]
    ) -> tuple[list[int], list[Story]]:
        """Who waits still, and the parts among those that these culprits explain.

        What holds a culprit, or is held by it, is a part of its incident; what merely overlaps it
        is not told of.
        """
        left, still, parts = self._nats(waiting, self.left), [], []
        for slice_, nats in zip(waiting, left, strict=True):
            inside, around = (self._first(slice_, culprits, outward) for outward in (False, True))
            is_relieved = nats < self.enough and nats < before[slice_] - TIE_NATS
            head = inside if inside is not None else around if is_relieved else None
            if head is not None:
                strength = self._strength(slice_, self.whole)
                if self.may_be_told(slice_, strength):
                    parts.append(Story(slice_, strength, head, slice_))
            elif not is_relieved:
                still.append(slice_)
        return still, parts

    def _first(self, slice_: int, culprits: list[int], is_around: bool) -> int | None:
        """The first culprit that a slice is part of, or that it holds."""
        name = set(self.names[slice_])
        for culprit in culprits:
            theirs = set(self.names[culprit])
            if name < theirs if is_around else theirs < name:
                return culprit
        return None

    def _foremost(self, crossed: list[int], suspects: list[int]) -> int | None:
        """Who speaks loudest now; of those that tie, the most specific. None: it may be chance."""
        candidates = [*crossed, *suspects]
        nats = self._nats(crossed, self.left)
        nats += [said - SUSPECT_NATS for said in self._nats(suspects, self.left)]
        loudest = max(nats)
        if loudest < self.enough:
            return None
        tied = [
            (len(self.names[s]), said, -s)
            for s, said in zip(candidates, nats, strict=True)
            if said >= loudest - TIE_NATS
        ]
        return -max(tied)[2]

    def _nats(self, slices: Sequence[int], replay: Replay) -> list[float]:
        places = np.array(slices, np.intp)
        nats: list[float] = replay.nats(places, self.dispersion[places]).tolist()
        return nats

    def _strength(self, slice_: int, replay: Replay) -> Strength:
        return replay.of_slice(slice_, float(self.dispersion[slice_]))


def _but(slices: list[int], one: int) -> list[int]:
    return [slice_ for slice_ in slices if slice_ != one]
