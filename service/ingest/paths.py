"""Paths: the files of rows that arguments name: files, directories and patterns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import Final

from service.errors import InvalidRequest

COMPRESSIONS: Final = {".gz": "gzip", ".zst": "zstd"}
KINDS: Final = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".ndjson": "lines",
    ".jsonl": "lines",
    ".log": "lines",  # of BentoML's monitors
}
_ROTATED: Final = re.compile(r"(\.log)\.\d{4}-\d\d-\d\d\Z")


def kind_of(path: Path) -> str | None:
    """`parquet`, `csv` or `lines`, by the file's name; None where it is none of them."""
    suffixes = [s.lower() for s in Path(_ROTATED.sub(r"\1", path.name)).suffixes[-2:]]
    if suffixes and suffixes[-1] in COMPRESSIONS and suffixes[0] != ".parquet":
        suffixes.pop()
    return KINDS.get(suffixes[-1]) if suffixes else None


def files_of(arguments: Sequence[str]) -> tuple[Path, ...]:
    """The files that these name, each once: of a directory or a pattern those that hold rows, by
    name.

    Raises InvalidRequest where one of them names none.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            files = _rows_below(path)
        elif path.exists():
            files = [path]
        elif has_magic(argument):
            matched = sorted(map(Path, glob(argument, recursive=True)))
            files = [file for each in matched for file in _rows_below(each)]
        else:
            raise InvalidRequest(f"{argument}: no such file")
        if not files:
            raise InvalidRequest(f"{argument}: no files of rows there")
        found |= dict.fromkeys(files)
    return tuple(found)


def _rows_below(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if kind_of(path) else []
    below = sorted(file for file in path.rglob("*") if file.is_file())
    # What BentoML says of its columns is read with the data beside it.
    return [file for file in below if kind_of(file) and file.parent.name != "schema"]
