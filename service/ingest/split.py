"""Split: finds where the rows of a JSON body begin and end, whatever is wrong inside them.

It looks at quotes, brackets and commas alone, with arrays instead of recursion: its cost is linear
in the body however deeply that nests, and one malformed row does not hide those behind it. Only
bodies that the typed decoder refused as a whole come here, to find out which row it was.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np
import numpy.typing as npt

from service.errors import TooLarge

_STEP: Final = np.zeros(256, np.int8)
_STEP[[ord("{"), ord("[")]] = 1
_STEP[[ord("}"), ord("]")]] = -1
_STRUCTURAL: Final = _STEP != 0
_STRUCTURAL[[ord('"'), ord(",")]] = True

_EVENTS: Final = re.compile(rb'"events"[ \t\r\n]*:[ \t\r\n]*\Z')
_BETWEEN: Final = re.compile(rb"\}[ \t\r]*\{")  # two objects on one line
_BLANK_LINES: Final = re.compile(rb"[ \t\r\n]*\n[ \t\r\n]*")


def split_rows(body: bytes, max_rows: int) -> list[bytes]:
    """The rows of an array, of `{"events": [...]}`, of concatenated objects or of lines.

    Raises TooLarge where there are more than `max_rows`.
    """
    body = body.strip(b" \t\r\n")
    structure = _Structure(body)
    if body.startswith(b"["):
        return structure.elements(0, max_rows)
    if (events := structure.events()) is not None:
        return structure.elements(events, max_rows)
    if b"\n" not in body or not _is_lines(body):
        return structure.values(max_rows)
    body = _BLANK_LINES.sub(b"\n", body)
    _check(body.count(b"\n") + 1, max_rows)
    rows: list[bytes] = []
    for line in body.split(b"\n"):
        if _BETWEEN.search(line):
            rows += _Structure(line).values(max_rows - len(rows))
        else:
            rows.append(line)
    return rows


def _is_lines(body: bytes) -> bool:
    """Whether each line is a row: the first one closes what it opens, or the second opens anew."""
    first, _, rest = body.partition(b"\n")
    return not _Structure(first).is_open or rest.lstrip(b" \t\r\n").startswith(b"{")


def _check(n_rows: int, max_rows: int) -> None:
    if n_rows > max_rows:
        raise TooLarge(f"more than {max_rows} rows in one request")


class _Structure:
    """The brackets and commas of a body that are not inside a string."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        # Same length, no escapes: a quote that is left opens or closes a string.
        plain = body.replace(rb"\\", b"__").replace(rb"\"", b"__") if b"\\" in body else body
        bytes_ = np.frombuffer(plain, np.uint8)
        at = np.flatnonzero(_STRUCTURAL[bytes_])
        quotes = bytes_[at] == ord('"')
        inside = np.cumsum(quotes, dtype=np.uint8) & 1  # parity outlives the overflow
        at = at[~quotes & (inside == 0)]
        self._at: npt.NDArray[np.intp] = at
        self._char: npt.NDArray[np.uint8] = bytes_[at]
        self._depth = np.cumsum(_STEP[self._char], dtype=np.int32)  # behind each of them

    @property
    def is_open(self) -> bool:
        """Whether something is open at the end."""
        return bool(self._depth.size and self._depth[-1] > 0)

    def events(self) -> int | None:
        """Which token opens the array of a body that is `{"events": [...]}`."""
        if not self.body.startswith(b"{"):
            return None
        first_end = np.flatnonzero(self._depth == 0)[:1]
        opens = (self._char == ord("[")) & (self._depth == 2)
        for token in np.flatnonzero(opens[: first_end[0]] if first_end.size else opens)[:1000]:
            at = int(self._at[token])
            if _EVENTS.search(self.body, max(0, at - 64), at):
                return int(token)
        return None

    def elements(self, token: int, max_rows: int) -> list[bytes]:
        """The elements of the array that a token opens; all that is left where it never closes."""
        level = self._depth[token]
        closing = np.flatnonzero(self._depth[token:] < level)[:1] + token
        end = int(closing[0]) if closing.size else len(self._at)
        commas = (self._char[token:end] == ord(",")) & (self._depth[token:end] == level)
        cuts = self._at[token:end][commas]
        last = int(self._at[end]) if closing.size else len(self.body)
        starts = [int(self._at[token]) + 1, *(cuts + 1).tolist()]
        return self._pieces(starts, [*cuts.tolist(), last], max_rows)

    def values(self, max_rows: int) -> list[bytes]:
        """The objects that follow each other, and what is left behind the last."""
        ends = (self._at[(self._depth == 0) & (_STEP[self._char] == -1)] + 1).tolist()
        return self._pieces([0, *ends], [*ends, len(self.body)], max_rows)

    def _pieces(self, starts: list[int], ends: list[int], max_rows: int) -> list[bytes]:
        _check(len(starts) - 1, max_rows)  # the last may be blank; before any is made
        pieces = [self.body[i:j].strip() for i, j in zip(starts, ends, strict=True)]
        pieces = [piece for piece in pieces if piece]
        _check(len(pieces), max_rows)
        return pieces
