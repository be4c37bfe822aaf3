"""Parquet process: a Parquet file on standard input as an Arrow stream on standard output.

`python -m service.ingest.parquet_process MAX_ROWS MAX_BYTES`. Arrow's reader of Parquet ends its
process on some damaged files, and believes what a page says of its size: so a stranger's file is
read in a process of its own, which may have so much memory and so much time and no more.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

TOO_LARGE: Final = 3  # exit code; any other but 0 says that it can't be read
SECONDS: Final = 20
_SPARE_BYTES: Final = 256 << 20  # of address space, for the allocator and its arenas


def main(max_rows: int, max_bytes: int) -> int:
    """Read, check, write; the exit code."""
    body = sys.stdin.buffer.read()
    _limit(4 * max_bytes + len(body))
    file = pq.ParquetFile(pa.BufferReader(body))
    if file.metadata.num_rows > max_rows:
        return TOO_LARGE
    columns = [file.metadata.schema.column(i) for i in range(file.metadata.num_columns)]
    # A text that all rows share stands there once, and so it stays.
    texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
    file = pq.ParquetFile(pa.BufferReader(body), read_dictionary=texts)
    table = file.read(use_threads=False)
    if table.num_rows > max_rows or table.nbytes > max_bytes:
        return TOO_LARGE
    with pa.ipc.new_stream(sys.stdout.buffer, table.schema) as stream:
        stream.write_table(table)
    return 0


def _limit(n_bytes: int) -> None:
    """So much more address space than is taken already."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    most = taken + n_bytes + _SPARE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
