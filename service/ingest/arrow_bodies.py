"""Arrow bodies: IPC streams and Parquet files in a request, read no further than their bounds.

What a body claims is checked before anything is made of it: how many rows, of which types, and how
large. Types by which a few bytes stand for many (views, run ends, compressed buffers, extensions)
are refused; compress the request with Content-Encoding instead.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa

from service.errors import InvalidRequest, NothingDecoded, TooLarge
from service.ingest.arrow import columns_to_batch, is_list, is_number, is_text
from service.ingest.documents import check_rows
from service.ingest.events import EventBatch, Rejected
from service.ingest.json_rows import NO_ROW_ACCEPTED
from service.ingest.parquet_process import TOO_LARGE
from service.ingest.rules import admit

MAX_COLUMNS: Final = 4_096

_NOT_ARROW: Final = "the body is not an Arrow IPC stream"
_NOT_PARQUET: Final = "the body is not a Parquet file"
_PARQUET_SECONDS: Final = 60.0  # of the wall clock; the process has its own bound on the CPU's
_ERRORS: Final = (pa.ArrowException, OSError, EOFError, ValueError, IndexError, struct.error)


def decode_arrow(
    body: bytes, received_at: int, max_rows: int, max_bytes: int
) -> tuple[EventBatch, list[Rejected]]:
    """The rows of an Arrow IPC stream in the flat form, and those that were refused.

    Raises InvalidRequest where it can't be read or holds no rows, TooLarge over a limit,
    NothingDecoded where each row was refused.
    """
    try:
        _refuse_compressed_buffers(body)
        with pa.ipc.open_stream(body) as stream:
            _check_schema(stream.schema)
            table = pa.Table.from_batches(_bounded(stream, max_rows), stream.schema)
        return _admitted(table, received_at)
    except _ERRORS:
        raise InvalidRequest(_NOT_ARROW) from None


def decode_parquet(
    body: bytes, received_at: int, max_rows: int, max_bytes: int
) -> tuple[EventBatch, list[Rejected]]:
    """The rows of a Parquet file in the flat form, and those that were refused; raises alike.

    It is read in a process of its own, which takes half a second: Arrow streams are for volume.
    """
    module = "service.ingest.parquet_process"
    try:
        done = subprocess.run(  # noqa: S603 - our own module; the body goes in on standard input
            [sys.executable, "-m", module, str(max_rows), str(max_bytes)],
            input=body,
            capture_output=True,
            timeout=_PARQUET_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InvalidRequest(_NOT_PARQUET) from None
    if done.returncode == TOO_LARGE:
        raise TooLarge(f"the file has more than {max_rows} rows or {max_bytes} bytes")
    if done.returncode:
        raise InvalidRequest(_NOT_PARQUET)
    return decode_arrow(done.stdout, received_at, max_rows, max_bytes)


def _admitted(table: Any, received_at: int) -> tuple[EventBatch, list[Rejected]]:
    if not table.num_rows:
        raise InvalidRequest("the body holds no rows")
    refused: dict[int, str] = {}
    if any(pa.types.is_struct(kind) for kind in table.schema.types):
        table = table.flatten()
    batch, _ = columns_to_batch(table, None, refused, received_at)
    batch, rejected = admit(batch, received_at, refused)
    if not len(batch):
        raise NothingDecoded(NO_ROW_ACCEPTED, rejected)
    return batch, rejected


def _bounded(stream: Any, max_rows: int) -> Iterator[Any]:
    """The batches of a stream, each checked to the last offset and index."""
    n_rows = 0
    for batch in stream:
        n_rows += batch.num_rows
        check_rows(n_rows, max_rows)
        batch.validate(full=True)
        yield batch


def _check_schema(schema: Any) -> None:
    """Refuse types that no field has before any of their values is made."""
    fields = [inner for field in schema for inner in _flat(field)]
    if len(fields) > MAX_COLUMNS:
        raise TooLarge(f"more than {MAX_COLUMNS} columns")
    for kind in fields:
        if not _is_plain(kind.value_type if is_list(kind) else kind):
            raise InvalidRequest("a column is of a type that no field has")


def _flat(field: Any) -> list[Any]:
    if pa.types.is_struct(field.type):
        return [field.type.field(i).type for i in range(field.type.num_fields)]
    return [field.type]


def _is_plain(kind: Any) -> bool:
    if kind.id == _DICTIONARY:
        kind = kind.value_type
    return kind.id in _OTHERS or ((is_text(kind) or is_number(kind)) and kind.id != _VIEW)


_DICTIONARY: Final = pa.dictionary(pa.int8(), pa.string()).id
_VIEW: Final = pa.string_view().id
_OTHERS: Final = frozenset(
    kind.id for kind in (pa.bool_(), pa.null(), pa.timestamp("us"), pa.date32(), pa.date64())
)


# Flatbuffers, as far as it takes to see whether a message says that its buffers are compressed
# (https://arrow.apache.org/docs/format/Columnar.html, Message.fbs).

_HEADER_TYPE, _HEADER, _BODY_LENGTH = 1, 2, 3  # fields of Message
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3  # values of its header type
_DATA = 1  # field of DictionaryBatch
_COMPRESSION = 3  # field of RecordBatch
_CONTINUATION: Final = -1


def _refuse_compressed_buffers(body: bytes) -> None:
    at = 0
    while at < len(body):
        marker, size = struct.unpack_from("<iI", body, at)
        if marker != _CONTINUATION:
            raise ValueError("not a message")
        if size == 0:
            return  # the end of the stream
        message = at + 8 + struct.unpack_from("<I", body, at + 8)[0]
        if _has_compressed_buffers(body, message):
            raise InvalidRequest(
                "the Arrow stream has compressed buffers; use Content-Encoding instead"
            )
        length = _field(body, message, _BODY_LENGTH)
        at += 8 + size + (0 if length is None else struct.unpack_from("<Q", body, length)[0])


def _has_compressed_buffers(body: bytes, message: int) -> bool:
    kind, header = _field(body, message, _HEADER_TYPE), _field(body, message, _HEADER)
    if kind is None or header is None or body[kind] not in (_DICTIONARY_BATCH, _RECORD_BATCH):
        return False
    batch = _table(body, header)
    if body[kind] == _DICTIONARY_BATCH:
        data = _field(body, batch, _DATA)
        if data is None:
            return False
        batch = _table(body, data)
    return _field(body, batch, _COMPRESSION) is not None


def _field(buffer: bytes, table: int, number: int) -> int | None:
    """Where a field of the table at this place stands; None where the table lacks it."""
    vtable = table - struct.unpack_from("<i", buffer, table)[0]
    size = struct.unpack_from("<H", buffer, vtable)[0]
    slot = 4 + 2 * number
    if slot + 2 > size:
        return None
    offset: int = struct.unpack_from("<H", buffer, vtable + slot)[0]
    return table + offset if offset else None


def _table(buffer: bytes, at: int) -> int:
    """The table that an offset at this place leads to."""
    offset: int = struct.unpack_from("<I", buffer, at)[0]
    return at + offset
