"""The power fails at any write: what was acknowledged is there when it comes back.

A VFS notes every write and sync that SQLite makes. A cut leaves of each file what was synced, and
of what was written since each sector or not, as it happens. Then the files are opened anew.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import apsw
import pytest
from sqlalchemy import insert
from sqlalchemy.dialects import sqlite as dialect
from sqlalchemy.schema import CreateTable

from service.engine.journal import _row
from service.engine.ports import BATCH, Entry
from service.sqlite import PRAGMAS
from service.tables import journal
from tests.figures import Figures

pytestmark = pytest.mark.fault

SEED: Final = 11
N_CUTS: Final = (1_000, 10_000)  # in CI, in the long run
N_COMMITS: Final = 150
SECTOR: Final = 512
FILES: Final = ("journal.db", "journal.db-wal")


@dataclass(frozen=True, slots=True)
class Write:
    """One change of one file; a truncation has no data."""

    file: str
    at: int
    data: bytes | None


@dataclass(slots=True)
class Recording:
    """What SQLite asked of the disk, in order, and how many commits had returned by then."""

    steps: list[Write | str] = field(default_factory=list)  # a string: that file was synced
    committed_by: list[int] = field(default_factory=list)  # commits returned before each step
    n_committed: int = 0

    def note(self, step: Write | str) -> None:
        """One more."""
        self.steps.append(step)
        self.committed_by.append(self.n_committed)


class RecordingVFS(apsw.VFS):
    """The machine's own file system, watched."""

    def __init__(self, recording: Recording) -> None:
        super().__init__("recording", "")
        self.recording = recording

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return RecordingFile(self.recording, name, flags)


class RecordingFile(apsw.VFSFile):
    """One file of it."""

    def __init__(self, recording: Recording, name: Any, flags: list[int]) -> None:
        super().__init__("", name, flags)
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        self._recording, self._file = recording, Path(path).name

    def xWrite(self, data: Any, offset: int) -> None:
        self._recording.note(Write(self._file, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:
        self._recording.note(Write(self._file, size, None))
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        self._recording.note(self._file)


def recorded(directory: Path, synchronous: str) -> Recording:
    """The journal's own schema and pragmas under commits of all sizes, several checkpoints."""
    recording, rng = Recording(), random.Random(SEED)
    vfs = RecordingVFS(recording)
    connection = apsw.Connection(str(directory / FILES[0]), vfs="recording")
    for pragma in (*PRAGMAS, f"synchronous={synchronous}", "wal_autocheckpoint=40"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute(str(CreateTable(journal).compile(dialect=dialect.dialect())))
    recording.n_committed = 0
    statement = str(insert(journal).compile(dialect=dialect.dialect(paramstyle="named")))
    for offset in range(1, N_COMMITS + 1):
        row = _row(offset, Entry("acme", BATCH, rng.randbytes(rng.randrange(1, 20_000)), offset))
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(statement, row)
        connection.execute("COMMIT")
        recording.n_committed = offset
    connection.close()
    vfs.unregister()
    return recording


class Disk:
    """What of the files is sure to stay, and what is not."""

    def __init__(self) -> None:
        self.synced: dict[str, bytearray] = {name: bytearray() for name in FILES}
        self.pending: dict[str, list[Write]] = {name: [] for name in FILES}

    def do(self, step: Write | str) -> None:
        """One step of the recording."""
        if isinstance(step, Write):
            self.pending.setdefault(step.file, []).append(step)
            return
        image = self.synced.setdefault(step, bytearray())
        for write in self.pending.get(step, ()):
            put(image, write, lambda: True)
        self.pending[step] = []

    def after_a_cut(self, rng: random.Random) -> Iterator[tuple[str, bytes]]:
        """The files as a cut may leave them."""
        for name in FILES:
            image = bytearray(self.synced[name])
            odds = rng.choice((0.0, 0.5, 0.9, 1.0))
            for write in self.pending[name]:
                put(image, write, lambda odds=odds: rng.random() < odds)
            yield name, bytes(image)


def put(image: bytearray, write: Write, survives: Any) -> None:
    """Write into an image the sectors that survive."""
    if write.data is None:
        if survives():
            del image[write.at :]
        return
    for start in range(0, len(write.data), SECTOR):
        if survives():
            part = write.data[start : start + SECTOR]
            at = write.at + start
            if len(image) < at:
                image.extend(bytes(at - len(image)))
            image[at : at + len(part)] = part


def lost_after(directory: Path, acknowledged: int) -> bool:
    """Something acknowledged is missing, or the file is damaged, once it is opened anew."""
    connection = apsw.Connection(str(directory / FILES[0]))
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # looked at, and thrown away
    try:
        connection.execute("PRAGMA synchronous=OFF")
        found = connection.execute("SELECT count(*), max(seq) FROM journal").fetchone()
        whole = connection.execute("PRAGMA quick_check(1)").fetchone()
        assert found is not None and whole is not None
        return bool(found[0] < acknowledged or whole[0] != "ok" or found[0] != (found[1] or 0))
    except apsw.Error:
        return acknowledged > 0
    finally:
        connection.close()


def n_losing_cuts(directory: Path, synchronous: str, n_cuts: int) -> int:
    """Of so many cuts, how many lost something that was acknowledged."""
    recording = recorded(directory, synchronous)
    rng, disk, n_lost = random.Random(SEED), Disk(), 0
    cuts = sorted(rng.choices(range(len(recording.steps)), k=n_cuts))
    done = 0
    after = directory / "after"
    after.mkdir()
    for cut in cuts:
        while done < cut:
            disk.do(recording.steps[done])
            done += 1
        for name, image in disk.after_a_cut(rng):
            (after / name).write_bytes(image)
        (after / f"{FILES[0]}-shm").unlink(missing_ok=True)
        n_lost += lost_after(after, recording.committed_by[cut])
    return n_lost


def test_a_power_cut_loses_nothing_acknowledged(
    tmp_path: Path, figures: Figures, is_full: bool
) -> None:
    n_cuts = N_CUTS[is_full]
    (tmp_path / "full").mkdir()
    (tmp_path / "normal").mkdir()
    lost = n_losing_cuts(tmp_path / "full", "FULL", n_cuts)
    control = n_losing_cuts(tmp_path / "normal", "NORMAL", n_cuts)
    figures("power loss", cuts=n_cuts, lost=lost, lost_with_synchronous_normal=control)
    assert lost == 0
    assert control > 0, "the control loses nothing: the cuts prove nothing"
