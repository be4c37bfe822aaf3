"""Inflate: a compressed body as bytes, never more of them than the cap and 64 KiB.

gzip (several members too), deflate (with the zlib header or bare, as senders do both), zstd
(several frames too), and up to two codings on top of each other. A bomb costs what the cap allows.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Final

import zstandard

from service.errors import InvalidRequest, TooLarge, UnsupportedMedia

CHUNK_BYTES: Final = 65_536
MAX_CODINGS: Final = 2
MAX_STREAMS: Final = 10_000  # members or frames of a body; empty ones cost time and no bytes
MAX_ZSTD_WINDOW_BYTES: Final = 8 << 20  # what RFC 9659 asks of a decoder of this coding


def inflate(body: bytes, encoding: str | None, max_bytes: int) -> bytes:
    """The body without its content codings.

    Raises TooLarge beyond `max_bytes`, UnsupportedMedia for an unknown coding, InvalidRequest where
    the data are damaged or cut off.
    """
    codings = [coding.strip().lower() for coding in (encoding or "").split(",")]
    codings = [coding for coding in codings if coding not in ("", "identity")]
    if len(codings) > MAX_CODINGS:
        raise UnsupportedMedia(f"Content-Encoding: more than {MAX_CODINGS} codings")
    if any(coding not in _CODINGS for coding in codings):
        raise UnsupportedMedia("Content-Encoding: must be gzip, deflate, zstd or identity")
    for coding in reversed(codings):  # listed in the order in which they were applied
        try:
            body = _bounded(_CODINGS[coding](body), max_bytes)
        except (zlib.error, zstandard.ZstdError, EOFError):
            raise InvalidRequest(f"the body is not whole {coding} data") from None
    if len(body) > max_bytes:
        raise _too_large(max_bytes)
    return body


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the body is over {max_bytes} bytes, counted after decompression")


def _bounded(chunks: Iterator[bytes], max_bytes: int) -> bytes:
    whole = bytearray()
    for chunk in chunks:
        whole += chunk
        if len(whole) > max_bytes:
            raise _too_large(max_bytes)
    return bytes(whole)


def _members(body: bytes, wbits: int) -> Iterator[bytes]:
    """What zlib makes of one stream after another, fed and taken in small pieces."""
    fed = 0
    for _ in range(MAX_STREAMS):
        stream = zlib.decompressobj(wbits)
        while not stream.eof:
            piece = stream.unconsumed_tail
            if not piece:
                piece = body[fed : fed + CHUNK_BYTES]
                fed += len(piece)
            chunk = stream.decompress(piece, CHUNK_BYTES)
            if not piece and not chunk:
                raise EOFError
            yield chunk
        fed -= len(stream.unused_data)
        if not body[fed:].strip(b"\0"):  # tar and tape pad gzip with zeros
            return
    raise EOFError


def _gzip(body: bytes) -> Iterator[bytes]:
    return _members(body, 16 + zlib.MAX_WBITS)


def _deflate(body: bytes) -> Iterator[bytes]:
    # RFC 9110 means the zlib format; some senders send the bare stream of RFC 1951.
    has_header = body[:1] == b"\x78" and int.from_bytes(body[:2], "big") % 31 == 0
    return _members(body, zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)


# A reader of frames stops without a word where the last one is cut off. So a frame of ours goes
# behind it: swallowed by one that was cut off, its text does not come out at the end.
_END: Final = b"slicewatch: the end of the body"
_END_FRAME: Final = zstandard.ZstdCompressor(write_checksum=True).compress(_END)


def _zstd(body: bytes) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW_BYTES)
    reader = decompressor.stream_reader(body + _END_FRAME, read_across_frames=True)
    held = b""
    while chunk := reader.read(CHUNK_BYTES):
        held += chunk
        yield held[: -len(_END)]
        held = held[-len(_END) :]
    if held != _END:
        raise EOFError


_CODINGS: Final[dict[str, Callable[[bytes], Iterator[bytes]]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "zstd": _zstd,
}
