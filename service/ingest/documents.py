"""Documents: what another protocol's decoder made of its records, as an `EventBatch`.

A decoder of OTLP, CloudEvents or a capture file makes of each record a `Document`: the contract's
fields by name, as a JSON row has them. From there all go the way of JSON rows, so that each
protocol's rows are read, refused and told of alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
import numpy as np

from service.errors import NothingDecoded, TooLarge
from service.ingest.events import NO_ROWS, EventBatch, Rejected
from service.ingest.json_rows import NO_ROW_ACCEPTED, ROW_ERRORS, Row, refusal, rows_to_batch
from service.ingest.rules import ATTRIBUTE, FEATURE, well_formed_id, well_formed_name

_ROW: Final = msgspec.json.Decoder(Row)


@dataclass(frozen=True, slots=True)
class Document:
    """One record: the contract's fields that it gives, or why it gives none."""

    fields: Mapping[str, Any]
    refused: str | None = None  # names the field and the problem, never the value
    half: int = 0  # INPUT or OUTPUT of a prediction that comes in two records; 0: it is whole


def refused(reason: str, fields: Mapping[str, Any] | None = None) -> Document:
    """A record that can't be read; `fields` may hold its id and model."""
    return Document(fields or {}, reason)


def documents_to_batch(
    documents: Sequence[Document], received_at: int, max_rows: int
) -> tuple[EventBatch, list[Rejected]]:
    """The documents as columns, and those that were refused.

    Raises NothingDecoded where there were some and each was refused, TooLarge beyond `max_rows`.
    """
    check_rows(len(documents), max_rows)
    batch, rejected = accepted_of(documents, received_at)
    if rejected and not len(batch):
        raise NothingDecoded(NO_ROW_ACCEPTED, rejected)
    return batch, rejected


def accepted_of(
    documents: Sequence[Document], received_at: int
) -> tuple[EventBatch, list[Rejected]]:
    """`documents_to_batch`, where it may be that none is accepted."""
    rows, positions, refusals = [], [], []
    for index, document in enumerate(documents):
        row = _row(index, document)
        if isinstance(row, Rejected):
            refusals.append(row)
        else:
            rows.append(row)
            positions.append(index)
    if not rows:
        return NO_ROWS, refusals
    batch, rejected = rows_to_batch(rows, np.array(positions, np.int64), received_at)
    rejected = sorted(rejected + refusals, key=lambda row: row.index)
    assert batch.positions is not None  # noqa: S101 - they were given
    halves = np.array([document.half for document in documents], np.uint8)[batch.positions]
    kind = np.where(halves > 0, halves, batch.kind).astype(np.uint8)
    return replace(batch, kind=kind), rejected


def check_rows(n_rows: int, max_rows: int) -> None:
    """Raise TooLarge beyond `max_rows`."""
    if n_rows > max_rows:
        raise TooLarge(f"more than {max_rows} rows in one request")


def _row(index: int, document: Document) -> Row | Rejected:
    """The row that the typed decoder of JSON makes: it is the one that says what may be where."""
    if document.refused is not None:
        return _refusal(index, document)
    try:
        piece = msgspec.json.encode(document.fields)
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError):
        return _refusal(index, replace(document, refused="not valid Unicode"))
    try:
        return _ROW.decode(piece)
    except ROW_ERRORS as error:
        return refusal(index, piece, error)


def _refusal(index: int, document: Document) -> Rejected:
    id_, model = document.fields.get("id"), document.fields.get("model")
    return Rejected(
        index,
        id_ if isinstance(id_, str) and well_formed_id(id_) else None,
        document.refused or "",
        model if isinstance(model, str) and well_formed_name(model) else None,
    )


def nested(
    fields: Mapping[str, Any], mapping: Mapping[str, str], default_model: str | None = None
) -> dict[str, Any]:
    """Fields in the flat form (`attributes.floor`) or the API's, renamed, as the API has them.

    What is null or renamed to a field that is already there under its own name is left out.
    """
    taken = set(mapping.values())
    row: dict[str, Any] = {"attributes": {}, "features": {}, "model": default_model}
    for name, value in fields.items():
        if value is None or (name in taken and name not in mapping):
            continue
        field = mapping.get(name, name)
        group, dot, key = field.partition(".")
        if dot and field.startswith((ATTRIBUTE, FEATURE)):
            row[group][key] = value
        elif field in ("attributes", "features") and isinstance(value, dict):
            row[field] = {**value, **row[field]}
        else:
            row[field] = value
    return {name: value for name, value in row.items() if value is not None and value != {}}


def renamed(document: Document, mapping: Mapping[str, str]) -> Document:
    """The document with its fields in the flat form renamed, as a file's columns are."""
    flat: dict[str, Any] = {}
    for name, value in document.fields.items():
        if name in ("attributes", "features") and isinstance(value, dict):
            flat |= {f"{name}.{inner}": each for inner, each in value.items()}
        else:
            flat[name] = value
    return replace(document, fields=nested(flat, mapping))
