"""State as bytes: MessagePack with arrays as an extension type, and no pickle."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np

from service.errors import Damaged
from service.ingest.frame import FrameError, pack_array, unpack_array

_ARRAY: Final = 1  # MessagePack extension code of an array

_inner = msgspec.msgpack.Encoder()


def _encode_array(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return msgspec.msgpack.Ext(_ARRAY, _inner.encode(pack_array(value)))
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, np.floating):
        return float(value)
    raise TypeError(f"{type(value).__name__} has no place in a snapshot")


def _decode_array(code: int, data: memoryview) -> Any:
    if code != _ARRAY:
        raise FrameError(f"extension {code} is not an array")
    return unpack_array(msgspec.msgpack.decode(data))


def to_bytes(state: Any) -> bytes:
    """Plain values and arrays as bytes."""
    return msgspec.msgpack.encode(state, enc_hook=_encode_array)


def from_bytes(body: bytes) -> Any:
    """What `to_bytes` was given; raises Damaged where the bytes are not that."""
    try:
        return msgspec.msgpack.decode(body, ext_hook=_decode_array)
    except (msgspec.DecodeError, FrameError, ValueError) as error:
        raise Damaged(f"a snapshot can't be read: {error}") from error
