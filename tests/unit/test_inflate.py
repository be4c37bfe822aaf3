"""Bodies come out of their codings whole, bounded, or not at all."""

from __future__ import annotations

import gzip
import os
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
import zstandard

from service.errors import InvalidRequest, TooLarge, UnsupportedMedia
from service.ingest.inflate import CHUNK_BYTES, MAX_STREAMS, inflate

MIB = 1 << 20
TEXT = os.urandom(50_000) + b"abc" * 100_000


def bare_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def zstd_stream(data: bytes) -> bytes:
    """A frame that does not say how long its content is, as streaming senders make."""
    compressor = zstandard.ZstdCompressor().compressobj()
    return compressor.compress(data) + compressor.flush()


CODERS = [
    pytest.param("gzip", gzip.compress, id="gzip"),
    pytest.param("deflate", zlib.compress, id="deflate with its header"),
    pytest.param("deflate", bare_deflate, id="bare deflate"),
    pytest.param("zstd", zstd, id="zstd"),
    pytest.param("zstd", zstd_stream, id="zstd stream"),
]
coders = pytest.mark.parametrize(("encoding", "compress"), CODERS)
Coder = Callable[[bytes], bytes]


@coders
@pytest.mark.parametrize("data", [b"{}", b"", TEXT], ids=["small", "empty", "large"])
def test_what_was_compressed_comes_out(encoding: str, compress: Coder, data: bytes) -> None:
    assert inflate(compress(data), encoding, MIB) == data


@pytest.mark.parametrize("encoding", [None, "", "identity", "IDENTITY"])
def test_no_coding_leaves_the_body_as_it_is(encoding: str | None) -> None:
    assert inflate(b"{}", encoding, 2) == b"{}"


def test_names_of_codings_do_not_mind_case_or_spaces() -> None:
    assert inflate(gzip.compress(b"{}"), " GZip ", MIB) == b"{}"


@pytest.mark.parametrize(("encoding", "compress"), [CODERS[0].values, CODERS[3].values])
def test_members_and_frames_follow_each_other(encoding: str, compress: Coder) -> None:
    assert inflate(compress(b"one") + compress(TEXT) + compress(b""), encoding, MIB) == (
        b"one" + TEXT
    )


def test_two_codings_are_undone_from_the_last() -> None:
    assert inflate(zstd(gzip.compress(TEXT)), "gzip, zstd", MIB) == TEXT


def test_three_codings_are_refused() -> None:
    with pytest.raises(UnsupportedMedia):
        inflate(b"", "gzip, gzip, gzip", MIB)


def test_an_unknown_coding_is_refused_without_an_echo() -> None:
    with pytest.raises(UnsupportedMedia) as refusal:
        inflate(b"", "brotli<script>", MIB)
    assert "brotli" not in refusal.value.detail
    assert refusal.value.status == 415


@coders
def test_a_body_that_was_cut_off_is_refused_wherever_the_cut(
    encoding: str, compress: Coder
) -> None:
    whole = compress(os.urandom(300) + b"abc" * 1000)
    for end in range(1, len(whole)):
        with pytest.raises(InvalidRequest) as refusal:
            inflate(whole[:end], encoding, MIB)
        assert refusal.value.status == 422


@coders
def test_what_is_not_compressed_is_refused(encoding: str, compress: Coder) -> None:
    with pytest.raises(InvalidRequest):
        inflate(b'{"id": "a"}', encoding, MIB)
    with pytest.raises(InvalidRequest):
        inflate(compress(b"{}") + b"and more", encoding, MIB)


def test_zeros_behind_gzip_are_padding() -> None:
    assert inflate(gzip.compress(b"{}") + b"\0" * 512, "gzip", MIB) == b"{}"


@coders
def test_the_cap_is_on_what_comes_out(encoding: str, compress: Coder) -> None:
    assert len(inflate(compress(b"a" * 1000), encoding, 1000)) == 1000
    with pytest.raises(TooLarge):
        inflate(compress(b"a" * 1001), encoding, 1000)


def test_the_cap_is_on_plain_bodies_too() -> None:
    with pytest.raises(TooLarge):
        inflate(b"aaa", None, 2)


@coders
def test_a_bomb_is_stopped_at_the_cap_and_a_chunk(encoding: str, compress: Coder) -> None:
    bomb, cap = compress(b"\0" * (64 * MIB)), MIB
    tracemalloc.start()
    with pytest.raises(TooLarge):
        inflate(bomb, encoding, cap)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * cap + 4 * CHUNK_BYTES + len(bomb)  # a bytearray grows ahead of its content


def test_a_bomb_in_a_bomb_is_stopped_too() -> None:
    bomb = gzip.compress(gzip.compress(b"\0" * (64 * MIB)))
    with pytest.raises(TooLarge):
        inflate(bomb, "gzip, gzip", MIB)


def test_endless_empty_members_are_refused() -> None:
    with pytest.raises(InvalidRequest):
        inflate(gzip.compress(b"") * (MAX_STREAMS + 1), "gzip", MIB)


def test_a_zstd_window_beyond_8_mib_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    body = compressor.compress(b"abc" * 1000) + compressor.flush()
    with pytest.raises(InvalidRequest):
        inflate(body, "zstd", MIB)
