"""One journal, one state: bit for bit, however it is read, saved, stored, and hashed."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from service.database import Database
from service.engine.fold import Fold
from service.engine.journal import SqlEventLog
from service.engine.ports import TICK, Entry
from tests.figures import Figures
from tests.postgres import Postgres
from tests.rows import LATER, Stream, a_configuration, an_entry, in_requests

pytestmark = pytest.mark.fault

READS: Final = (1, 7, 500)
SNAPSHOTS: Final = (0, 3, 50)  # entries between two; 0: none
TENANTS: Final = ("acme", "beta", "gamma")
SEEDS: Final = ("0", "1", "4242")


def replayed(url: str, read: int, snapshot_every: int, *, ordered: bool = True) -> str:
    """The digest of a journal's state; `ordered` is taken away by the control."""
    database = Database(url)
    log, fold = SqlEventLog(database), Fold()
    offset = 0
    while entries := list(log.read(offset, read)):
        for entry in entries:
            fold.apply(entry)
            if snapshot_every and entry.offset % snapshot_every == 0:
                fold = Fold.restore(fold.save())
        if not ordered:
            fold.tenants = {name: fold.tenants[name] for name in {*fold.tenants}}
        offset = entries[-1].offset
    database.close()
    return fold.digest()


def journaled(url: str) -> int:
    """A journal of several tenants and models, with a change that alerts; how many entries."""
    database = Database(url)
    database.create_tables()
    log = SqlEventLog(database)
    watched = {"dimensions": ["floor", "accent"], "reference": {"rows": 300}}
    entries: list[Entry] = [a_configuration(watched, tenant=tenant) for tenant in TENANTS]
    streams = [
        in_requests(Stream(n_predictions=900, bad={"floor": "2"}, seed=seed).rows(), 90)
        for seed, _ in enumerate(TENANTS)
    ]
    for n, requests in enumerate(zip(*streams, strict=False)):
        for tenant, rows in zip(TENANTS, requests, strict=True):
            entries.append(an_entry(rows, tenant, batch_id=f"b{n}"))
        entries.append(Entry("", TICK, (LATER + n).to_bytes(8, "big"), LATER + n))
    for entry in entries:
        log.append([entry])
    database.close()
    return len(entries)


def in_a_process(url: str, seed: str) -> list[str]:
    """The digests under a hash seed, one for each read size and snapshot interval; then those of
    the control."""
    answer = subprocess.run(
        [sys.executable, __file__, url],
        env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    return list(json.loads(answer.stdout.splitlines()[-1]))


def main(url: str) -> None:
    """What `in_a_process` runs."""
    digests = [replayed(url, r, s) for r, s in itertools.product(READS, SNAPSHOTS)]
    control = replayed(url, 500, 0, ordered=False)
    sys.stdout.write(json.dumps([*digests, control]) + "\n")


def test_the_state_is_bit_equal(tmp_path: Path, postgres: Postgres, figures: Figures) -> None:
    urls = [f"sqlite:///{tmp_path / 'slicewatch.db'}", postgres.database()]
    n_entries = {journaled(url) for url in urls}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # each waits for a process
        found = [*pool.map(in_a_process, *zip(*itertools.product(urls, SEEDS), strict=True))]
    digests = {digest for each in found for digest in each[:-1]}
    controls = {each[-1] for each in found}
    figures(
        "deterministic replay",
        entries=n_entries.pop(),
        replays=sum(len(each) - 1 for each in found),
        digests=len(digests),
        digests_of_a_fold_with_a_set_in_it=len(controls),
    )
    assert len(digests) == 1
    assert len(controls) > 1, "the control is no different: the seeds prove nothing"


if __name__ == "__main__":
    main(sys.argv[1])
