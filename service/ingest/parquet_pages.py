"""Parquet pages: how many bytes the pages of a file will unfold to, by their own headers.

The footer's sizes are what a writer says they are; the decoder allocates by each page's header. So
the headers are walked: Thrift's compact protocol, of which little is needed here.
"""

from __future__ import annotations

from typing import Any, Final

_STOP, _TRUE, _FALSE, _BYTE, _BINARY, _STRUCT = 0, 1, 2, 3, 8, 12
_INTEGERS: Final = frozenset({4, 5, 6})
_DOUBLE: Final = 7
_UNCOMPRESSED, _COMPRESSED = 2, 3  # fields of PageHeader
MAX_PAGES: Final = 100_000
_MAX_DEPTH: Final = 16


def largest_pages(body: bytes, metadata: Any) -> int:
    """Bytes of all pages once they are decompressed, as their headers have it.

    Raises ValueError where a header can't be read.
    """
    total = n_pages = 0
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            starts = [chunk.data_page_offset]
            if chunk.has_dictionary_page and chunk.dictionary_page_offset is not None:
                starts.append(chunk.dictionary_page_offset)
            at = min(starts)
            end = at + chunk.total_compressed_size
            while at < end:
                header = _Header(body, at)
                total += header.uncompressed
                at = header.end + header.compressed
                n_pages += 1
                if n_pages > MAX_PAGES:
                    raise ValueError("too many pages")
    return total


class _Header:
    """A PageHeader: its two sizes, and where the page behind it begins."""

    def __init__(self, body: bytes, at: int) -> None:
        if at < 0:
            raise ValueError("a page before the file")
        self._body, self._at = body, at
        sizes: dict[int, int] = {}
        self._struct(sizes, 0)
        self.uncompressed = sizes.get(_UNCOMPRESSED, -1)
        self.compressed = sizes.get(_COMPRESSED, -1)
        self.end = self._at
        if min(self.uncompressed, self.compressed) < 0:
            raise ValueError("a page without its sizes")

    def _struct(self, sizes: dict[int, int] | None, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        number = 0
        while (head := self._byte()) & 0x0F != _STOP:
            delta, kind = head >> 4, head & 0x0F
            number = number + delta if delta else self._zigzag()
            if kind in _INTEGERS:
                value = self._zigzag()
                if sizes is not None:
                    sizes.setdefault(number, value)
            else:
                self._skip(kind, depth)

    def _skip(self, kind: int, depth: int) -> None:
        if kind in (_TRUE, _FALSE):
            return
        if kind == _BYTE:
            self._advance(1)
        elif kind == _DOUBLE:
            self._advance(8)
        elif kind == _BINARY:
            self._advance(self._varint())
        elif kind == _STRUCT:
            self._struct(None, depth + 1)
        else:  # lists and sets are in none of a page's headers
            raise ValueError("not a page header")

    def _byte(self) -> int:
        if self._at >= len(self._body):
            raise ValueError("cut off")
        self._at += 1
        return self._body[self._at - 1]

    def _advance(self, n: int) -> None:
        self._at += n

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 63:
                raise ValueError("a number beyond 64 bits")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
