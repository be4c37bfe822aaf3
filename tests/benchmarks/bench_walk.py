"""What the walk costs: events a CPU-second over HTTP, beside river's ADWIN on the same events.

The service runs in a process of its own, as users run it, and its CPU time is read from /proc: all
that it does for an event is in the figure, from the socket to the fsync to the detectors' ticks.
river's figure is its `update` calls alone, in a dict by slice, without decoding or storage.

The same events go in as NDJSON and as Arrow; Arrow in larger requests as well, as it is for volume;
and `slicewatch backtest` reads them from a file. They come at 100 a second of the stream's time, so
that ticks are few: where a tick has few rows, a file costs what its ticks cost, about a millisecond
each.

    make bench               five runs of each, medians, ratios, the machine
    make bench PROFILE=1     where the time of an event goes, stage by stage
"""

from __future__ import annotations

import argparse
import http.client
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from river.drift import ADWIN

from service.backtest import backtest
from service.clock import SystemClock
from service.database import Database
from service.demo.server import serving
from service.ingest.events import EventBatch
from service.keys import Keys, Scope
from service.replay import Source

ROWS_A_REQUEST: Final = 500
ARROW_ROWS_A_REQUEST: Final = 5_000
REQUESTS_A_RUN: Final = 400
RUNS: Final = 5
CONNECTIONS: Final = 4
WRONG: Final = 0.08  # of the predictions
LABELS: Final = 0.05  # of all events
LABEL_DELAY_EVENTS: Final = 1000  # a label's prediction was so many events before
EVENTS_A_SECOND: Final = 100  # of the stream's own time: what the ticks go by
START: Final = np.datetime64("2026-11-01T00:00:00.000", "ms")
CARDINALITIES: Final = (12, 8, 5)  # of the attributes: 221 slices to order 2, and all rows
REQUESTS_FOR_11: Final = 40  # a run of the 7 × 11 figure, which is slow


@dataclass(frozen=True, slots=True)
class Events:
    """The events of one run as arrays; a row an event."""

    run: int
    attributes: npt.NDArray[np.int64]  # shape (n, 3), codes
    numbers: npt.NDArray[np.float64]  # shape (n, 10)
    categories: npt.NDArray[np.int64]  # shape (n, 3)
    is_wrong: npt.NDArray[np.bool_]
    is_label: npt.NDArray[np.bool_]

    @property
    def n(self) -> int:
        """How many."""
        return len(self.is_wrong)


def events(run: int, requests: int = REQUESTS_A_RUN) -> Events:
    """The same events for the same run."""
    rng = np.random.default_rng(run)
    n = requests * ROWS_A_REQUEST
    return Events(
        run,
        np.stack([rng.integers(0, k, n) for k in CARDINALITIES], axis=1),
        rng.normal(size=(n, 10)).round(3),
        rng.integers(0, 6, (n, 3)),
        rng.random(n) < WRONG,
        (rng.random(n) < LABELS) & (np.arange(n) >= LABEL_DELAY_EVENTS),
    )


def bodies(of: Events) -> list[bytes]:
    """The events as NDJSON, a request's worth each."""
    instants = START + (np.arange(of.n) + of.run * of.n) * (1000 // EVENTS_A_SECOND)
    times = [f"{text}Z" for text in np.datetime_as_string(instants).tolist()]
    attributes, numbers = of.attributes.tolist(), of.numbers.tolist()
    categories = of.categories.tolist()
    encode = msgspec.json.Encoder().encode
    lines = [
        encode(
            _label(of.run, i - LABEL_DELAY_EVENTS, times[i])
            if of.is_label[i]
            else _prediction(
                of.run, i, times[i], attributes[i], numbers[i], categories[i], of.is_wrong[i]
            )
        )
        for i in range(of.n)
    ]
    return [b"\n".join(lines[at : at + ROWS_A_REQUEST]) for at in range(0, of.n, ROWS_A_REQUEST)]


def arrow_bodies(of: Events, rows: int) -> list[bytes]:
    """The events as Arrow IPC streams of so many rows."""
    whole = arrow_rows(of)
    return [_arrow_stream(whole.slice(at, rows)) for at in range(0, of.n, rows)]


def arrow_rows(of: Events) -> Any:
    """The events in the flat form, text in dictionaries."""
    instants = START + (np.arange(of.n) + of.run * of.n) * (1000 // EVENTS_A_SECOND)
    place = np.arange(of.n) - np.where(of.is_label, LABEL_DELAY_EVENTS, 0)
    zeros = np.zeros(of.n, np.int64)

    def coded(codes: npt.NDArray[Any], values: Sequence[str], absent: npt.NDArray[Any]) -> Any:
        return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int8), mask=absent), values)

    def of_prediction(codes: npt.NDArray[Any], prefix: str, n_values: int) -> Any:
        return coded(codes, [f"{prefix}{code}" for code in range(n_values)], of.is_label)

    names = zip(("site", "group", "device"), "sgd", CARDINALITIES, strict=True)
    columns = {
        "kind": coded(of.is_label, ["prediction", "label"], zeros > 0),
        "id": pa.array([f"r{of.run}-{i:07d}" for i in place.tolist()]),
        "model": coded(zeros, ["bench"], zeros > 0),
        "version": coded(zeros, ["1"], of.is_label),
        "time": pa.array(instants.astype("datetime64[us]"), pa.timestamp("us", "UTC")),
        "output": coded(of.is_wrong, ["0", "1"], of.is_label),
        "truth": coded(zeros, ["0"], ~of.is_label),
        **{
            f"attributes.{name}": of_prediction(of.attributes[:, k], prefix, n_values)
            for k, (name, prefix, n_values) in enumerate(names)
        },
        **{
            f"features.number_{k}": pa.array(of.numbers[:, k], mask=of.is_label)
            for k in range(of.numbers.shape[1])
        },
        **{
            f"features.category_{k}": of_prediction(of.categories[:, k], "v", 6)
            for k in range(of.categories.shape[1])
        },
    }
    return pa.RecordBatch.from_pydict(columns)


def _arrow_stream(batch: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def _prediction(
    run: int,
    i: int,
    at: str,
    attributes: Sequence[int],
    numbers: Sequence[float],
    categories: Sequence[int],
    is_wrong: np.bool_,
) -> dict[str, object]:
    site, group, device = attributes
    features: dict[str, object] = {f"number_{k}": value for k, value in enumerate(numbers)}
    features |= {f"category_{k}": f"v{code}" for k, code in enumerate(categories)}
    return {
        "kind": "prediction",
        "id": f"r{run}-{i:07d}",
        "model": "bench",
        "version": "1",
        "time": at,
        "attributes": {"site": f"s{site}", "group": f"g{group}", "device": f"d{device}"},
        "features": features,
        "output": "1" if is_wrong else "0",
    }


def _label(run: int, i: int, at: str) -> dict[str, object]:
    return {"kind": "label", "id": f"r{run}-{i:07d}", "model": "bench", "time": at, "truth": "0"}


def memberships(of: Events) -> Iterator[tuple[tuple[int, ...], ...]]:
    """The seven slices that each event is in: all rows, three of order 1, three of order 2."""
    for codes in of.attributes.tolist():
        pairs = tuple(enumerate(codes))
        yield tuple(sum(some, ()) for order in (0, 1, 2) for some in combinations(pairs, order))


@dataclass(frozen=True, slots=True)
class Form:
    """A way to send events."""

    words: str
    content_type: str
    rows: int  # a request
    bodies: Callable[[Events], list[bytes]]


FORMS: Final = (
    Form("NDJSON", "application/x-ndjson", ROWS_A_REQUEST, bodies),
    *(
        Form(
            "Arrow",
            "application/vnd.apache.arrow.stream",
            rows,
            partial(arrow_bodies, rows=rows),
        )
        for rows in (ROWS_A_REQUEST, ARROW_ROWS_A_REQUEST)
    ),
)


def send(url: str, key: str, form: Form, bodies: Sequence[bytes]) -> None:
    """Post all bodies over a few kept connections; each must be accepted whole."""
    parts = urlsplit(url)
    local = threading.local()

    def post(body: bytes) -> None:
        if not hasattr(local, "connection"):
            local.connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
        headers = {
            "Authorization": f"Bearer {key}",
            "Content-Type": form.content_type,
            "Idempotency-Key": os.urandom(8).hex(),
        }
        local.connection.request("POST", "/v1/events", body, headers)
        response = local.connection.getresponse()
        answer = response.read()
        if response.status != 200 or msgspec.json.decode(answer)["accepted"] != form.rows:
            raise SystemExit(f"status {response.status}: {answer[:300]!r}")

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for _ in pool.map(post, bodies):
            pass


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all its threads: proc(5), fields 14 and 15 of stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def run_walk(form: Form) -> tuple[list[float], list[float], float]:
    """Events a CPU-second and a second of each run after a first that only warms up, and RSS."""
    with tempfile.TemporaryDirectory() as name, serving(Path(name)) as service:
        database = Database.in_directory(Path(name))
        key = Keys(database, SystemClock()).create("bench", [Scope.INGEST])
        database.close()
        by_cpu, by_wall = [], []
        for run in range(RUNS + 1):
            work = form.bodies(events(run))
            before, started = cpu_seconds(service.pid), time.perf_counter()
            send(service.url, key, form, work)
            wall, cpu = time.perf_counter() - started, cpu_seconds(service.pid) - before
            if run:
                by_cpu.append(len(work) * form.rows / cpu)
                by_wall.append(len(work) * form.rows / wall)
        return by_cpu, by_wall, resident_mb(service.pid)


def run_backtest() -> list[float]:
    """Rows a CPU-second of `slicewatch backtest` on Parquet files of the same events."""
    figures = []
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "rows.parquet"
        for run in range(RUNS + 1):
            of = events(run)
            pq.write_table(pa.table(arrow_rows(of)), file)
            started = time.process_time()
            found = backtest(Source((file,)), SystemClock())
            seconds = time.process_time() - started
            if found.rows + found.labels != of.n:
                raise SystemExit(f"backtest: {found.rows} and {found.labels} of {of.n} rows read")
            if run:
                figures.append(of.n / seconds)
    return figures


def run_river(n_signals: int, requests: int) -> list[float]:
    """Events a CPU-second through one ADWIN for each slice and signal, which live on like ours.

    The signals are the loss, of every event and not of the labelled alone, and the numbers.
    """
    detectors: dict[tuple[tuple[int, ...], int], ADWIN] = {}
    figures = []
    for run in range(RUNS + 1):
        of = events(run, requests)
        signals = np.column_stack([of.is_wrong, of.numbers])[:, :n_signals].tolist()
        slices = list(memberships(of))
        started = time.process_time()
        for names, values in zip(slices, signals, strict=True):
            for name in names:
                for signal, value in enumerate(values):
                    key = (name, signal)
                    if key not in detectors:
                        detectors[key] = ADWIN()  # type: ignore[no-untyped-call]
                    detectors[key].update(value)  # type: ignore[no-untyped-call]
        if run:
            figures.append(of.n / (time.process_time() - started))
    return figures


def machine() -> str:
    """The processor, how many, and the Python."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    model = names[0] if names else platform.processor()
    return f"{os.cpu_count()} × {model}, Python {platform.python_version()}"


def compare() -> None:
    """Print the table."""
    work = bodies(events(0, requests=10))
    size = sum(map(len, work)) / (len(work) * ROWS_A_REQUEST)
    print(f"{machine()}; medians of {RUNS}, CPU time; {ROWS_A_REQUEST} rows a request,")
    print(f"{size:.0f} bytes an event, {LABELS:.0%} of them labels, 7 slices an event\n")
    walks = {form: run_walk(form) for form in FORMS}
    ours = statistics.median(walks[FORMS[0]][0])
    rows = [
        *(
            (
                f"slicewatch, {form.words}, {form.rows:,} rows a request",
                statistics.median(by_cpu),
            )
            for form, (by_cpu, _, _) in walks.items()
        ),
        ("slicewatch backtest, a Parquet file", statistics.median(run_backtest())),
        (
            "river ADWIN in a dict, 7 slices × 1 signal",
            statistics.median(run_river(1, REQUESTS_A_RUN)),
        ),
        ("river ADWIN in a dict, 7 × 11", statistics.median(run_river(11, REQUESTS_FOR_11))),
    ]
    print(f"{'':48}{'events/CPU-s':>14}{'µs an event':>14}{'ours, times':>14}")
    for what, figure in rows:
        print(f"{what:48}{figure:14,.0f}{1e6 / figure:14.1f}{ours / figure:14.1f}")
    for form, (by_cpu, by_wall, rss) in walks.items():
        print(f"\n{form.words}, {form.rows} a request: ", end="")
        print(f"{min(by_cpu):,.0f} to {max(by_cpu):,.0f} events/CPU-s; ", end="")
        print(f"{statistics.median(by_wall):,.0f} events/s of wall time; {rss:,.0f} MB", end="")
    print()


def profile() -> None:
    """Print what each stage of the walk costs, in one process and on one thread."""
    from service.engine.fold import Fold
    from service.engine.journal import SqlEventLog
    from service.engine.ports import BATCH, Entry
    from service.ingest.frame import to_frame

    for form in FORMS:
        stages = dict.fromkeys(("decode", "frame", "append", "fold"), 0.0)
        now = SystemClock().now()
        fold = Fold()
        n = 0
        with tempfile.TemporaryDirectory() as name:
            database = Database.in_directory(Path(name))
            database.create_tables()
            log = SqlEventLog(database)
            for run in range(3):
                for number, body in enumerate(form.bodies(events(run))):
                    marks = [time.process_time()]
                    batch = _decoded(form, body, now)
                    marks.append(time.process_time())
                    frame = to_frame(batch)
                    marks.append(time.process_time())
                    entry = Entry("bench", BATCH, frame, now, f"{run}-{number}")
                    log.append([entry])
                    marks.append(time.process_time())
                    fold.apply(entry)
                    marks.append(time.process_time())
                    if run:
                        n += len(batch)
                        for stage, start, end in zip(stages, marks, marks[1:], strict=False):
                            stages[stage] += end - start
            database.close()
        print(f"\n{form.words}, {form.rows} a request")
        for stage, seconds in stages.items():
            print(f"{stage:10}{seconds / n * 1e6:8.2f} µs an event")
        print(f"{'all':10}{sum(stages.values()) / n * 1e6:8.2f} µs an event")


def _decoded(form: Form, body: bytes, now: int) -> EventBatch:
    from service.ingest.arrow_bodies import decode_arrow
    from service.ingest.json_rows import decode_json

    if form.words == "Arrow":
        return decode_arrow(body, now, form.rows, len(body))[0]
    return decode_json(body, now, form.rows)[0]


def main() -> None:
    """Compare, or with --profile say where the time goes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", action="store_true", help="where the time of an event goes")
    if parser.parse_args().profile:
        profile()
    else:
        compare()


if __name__ == "__main__":
    main()
