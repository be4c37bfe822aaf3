"""Frame: an `EventBatch` as the bytes that the journal stores, and back.

A MessagePack map of columns, each array as (dtype, shape, bytes). No pickle; a reader of version v
reads v and v - 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from service.ingest.events import Categories, EventBatch, Floats, Rejected, Value, Vectors

FRAME_VERSION: Final = 1

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder()


class FrameError(ValueError):
    """A stored frame can't be read: it is damaged, or of a version from the future."""


def pack_array(array: npt.NDArray[Any]) -> list[Any]:
    """An array as a list that MessagePack can hold: dtype, shape, bytes."""
    return [array.dtype.str, list(array.shape), np.ascontiguousarray(array).tobytes()]


def unpack_array(packed: list[Any]) -> npt.NDArray[Any]:
    """The array that `pack_array` packed, read-only."""
    dtype, shape, data = packed
    if dtype not in _DTYPES:
        raise FrameError(f"dtype not among {sorted(_DTYPES)}")
    array = np.frombuffer(data, np.dtype(dtype))
    return array.reshape(shape)


_DTYPES: Final = frozenset({"<f8", "<f4", "<i8", "<i4", "<i2", "|i1", "|u1", "<u8", "<u4", "|b1"})


def _pack_text(column: Categories | None) -> list[Any] | None:
    if column is None:
        return None
    return [pack_array(column.codes), column.values]


def _unpack_text(packed: list[Any] | None) -> Categories | None:
    return None if packed is None else Categories(unpack_array(packed[0]), packed[1])


def _pack_floats(column: Floats | None) -> list[Any] | None:
    return None if column is None else pack_array(column)


def _unpack_floats(packed: list[Any] | None) -> Floats | None:
    return None if packed is None else unpack_array(packed)


def _pack_value(value: Value) -> list[Any]:
    vector = value.vector
    return [
        _pack_floats(value.number),
        _pack_text(value.text),
        None if vector is None else [pack_array(vector.offsets), pack_array(vector.values)],
    ]


def _unpack_value(packed: list[Any]) -> Value:
    number, text, vector = packed
    return Value(
        _unpack_floats(number),
        _unpack_text(text),
        None if vector is None else Vectors(unpack_array(vector[0]), unpack_array(vector[1])),
    )


_FLOAT_COLUMNS: Final = ("confidence", "loss", "errors", "total", "inclusion_probability")


def to_frame(batch: EventBatch, rejected: Sequence[Rejected] = ()) -> bytes:
    """The bytes that the journal stores for one request: its rows, and what was refused of it."""
    return _encoder.encode(
        {
            "frame": FRAME_VERSION,
            "ids": batch.ids,
            "kind": pack_array(batch.kind),
            "time": pack_array(batch.time),
            "model": _pack_text(batch.model),
            "version": _pack_text(batch.version),
            "attributes": {name: _pack_text(c) for name, c in batch.attributes.items()},
            "features": {name: _pack_value(v) for name, v in batch.features.items()},
            "output": _pack_value(batch.output),
            "truth": _pack_value(batch.truth),
            "cluster": _pack_text(batch.cluster),
            "stratum": _pack_text(batch.stratum),
            **{name: _pack_floats(getattr(batch, name)) for name in _FLOAT_COLUMNS},
            "positions": None if batch.positions is None else pack_array(batch.positions),
            "rejected": [[r.index, r.id, r.reason, r.model] for r in rejected],
        }
    )


def from_frame(frame: bytes) -> tuple[EventBatch, list[Rejected]]:
    """The rows and the refusals that `to_frame` stored.

    Raises FrameError where the bytes are not such a frame.
    """
    try:
        columns = _decoder.decode(frame)
        if columns["frame"] != FRAME_VERSION:
            raise FrameError(f"frame version {columns['frame']} is not {FRAME_VERSION}")
        model, version = _unpack_text(columns["model"]), _unpack_text(columns["version"])
        if model is None or version is None:
            raise FrameError("frame without a model column")
        positions = columns["positions"]
        batch = EventBatch(
            ids=columns["ids"],
            kind=unpack_array(columns["kind"]),
            time=unpack_array(columns["time"]),
            model=model,
            version=version,
            attributes={
                n: Categories(unpack_array(c[0]), c[1]) for n, c in columns["attributes"].items()
            },
            features={n: _unpack_value(v) for n, v in columns["features"].items()},
            output=_unpack_value(columns["output"]),
            truth=_unpack_value(columns["truth"]),
            cluster=_unpack_text(columns["cluster"]),
            stratum=_unpack_text(columns["stratum"]),
            **{name: _unpack_floats(columns[name]) for name in _FLOAT_COLUMNS},
            positions=None if positions is None else unpack_array(positions),
        )
        return batch, [Rejected(*row) for row in columns["rejected"]]
    except (msgspec.DecodeError, KeyError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, FrameError):
            raise
        raise FrameError(f"not a frame: {type(error).__name__}") from error
