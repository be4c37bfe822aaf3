"""Admission: which values of a dimension have a place, by their traffic and not by who came first.

The first few hundred values have one at once. A dimension with more is crowded: what else comes
is `other`, counted, until a stretch of rows ends in which it has shown enough traffic. Counts of
what waits are exact within a stretch and then folded into the frequent ones, so nothing depends on
how the rows were cut into requests, and a million values take the room of a few thousand.
"""

from __future__ import annotations

from typing import Any, Final

from service.limits import PLACES

ABSENT: Final = 0  # codes of a dimension's values
OTHER: Final = 1
FIRST: Final = 2

FREE_VALUES: Final = 500  # have a place as they come
MAX_VALUES: Final = PLACES.limit  # of a dimension; more are `other`
STRETCH_ROWS: Final = 5_000  # rows of the model after which values may be admitted
FREQUENT: Final = 2_000  # values whose counts are kept from one stretch to the next
LEAST_ROWS: Final = 20  # of a value, to be admitted
LEAST_SHARE: Final = 0.001  # of the rows that have any value of the dimension
MEMORY_ROWS: Final = 100_000  # at which counts are halved: traffic is that of late
# What a value may not hold: what ingest put in a control character's place, and characters that
# turn the direction of the text around them.
HOSTILE: Final = frozenset("\ufffd\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Values:
    """The values of one dimension, by code in the order in which they got their place."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._codes: dict[str, int] = {}
        self._waiting: dict[str, int] = {}  # rows of the stretch whose value has no place
        self._frequent: dict[str, int] = {}  # the same of the stretches before, too few by a little
        self._n_rows = 0  # that had any value
        self._n_in_stretch = 0

    def code(self, value: str, n_rows: int) -> int:
        """The code of a value that so many rows have."""
        self._n_in_stretch += n_rows
        code = self._codes.get(value)
        if code is not None:
            return code
        if not HOSTILE.isdisjoint(value):
            return OTHER
        if len(self.names) < FREE_VALUES:
            return self._admit(value)
        self._waiting[value] = self._waiting.get(value, 0) + n_rows
        return OTHER

    def end_stretch(self) -> None:
        """Admit those that have shown enough traffic, the most frequent first.

        Misra and Gries ("Finding repeated elements", 1982) in blocks: of more counts than are kept
        the first that is not is taken off all, so no count is short by more than a share of
        1 / FREQUENT of the rows.
        """
        self._n_rows += self._n_in_stretch
        self._n_in_stretch = 0
        if not self._waiting:
            return
        counts = dict(self._frequent)
        for value, n_rows in self._waiting.items():
            counts[value] = counts.get(value, 0) + n_rows
        self._waiting = {}
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        least = max(LEAST_ROWS, LEAST_SHARE * self._n_rows)
        room = MAX_VALUES - len(self.names)
        admitted = [value for value, n_rows in ranked[:room] if n_rows >= least]
        for value in admitted:
            self._admit(value)
        surplus = ranked[FREQUENT][1] if len(ranked) > FREQUENT else 0
        halved = 2 if self._n_rows > MEMORY_ROWS else 1
        self._n_rows //= halved
        self._frequent = {
            value: (n_rows - surplus) // halved
            for value, n_rows in ranked
            if (n_rows - surplus) // halved > 0 and value not in self._codes
        }

    def _admit(self, value: str) -> int:
        code = self._codes[value] = len(self.names) + FIRST
        self.names.append(value)
        return code

    def save(self) -> dict[str, Any]:
        """The state."""
        return {
            "names": self.names,
            "waiting": sorted(self._waiting.items()),
            "frequent": sorted(self._frequent.items()),
            "rows": [self._n_rows, self._n_in_stretch],
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> Values:
        """The values that `save` gave."""
        values = cls()
        for name in state["names"]:
            values._admit(name)
        values._waiting = dict(state["waiting"])
        values._frequent = dict(state["frequent"])
        values._n_rows, values._n_in_stretch = state["rows"]
        return values
