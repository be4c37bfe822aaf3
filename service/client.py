"""Client: sends predictions and labels to Slicewatch from any Python program, in one file.

Standard library only, so that it can be copied beside a model as it is:

    client = Client("http://127.0.0.1:8080", key, model="transcribe-medical", version="2026-10")
    client.predict("utt-1", output="the patient was stable", attributes={"floor": "7"})
    if is_sampled("utt-1", 0.05):       # the same answer wherever it is asked
        client.label("utt-1", truth="the patient is stable", inclusion_probability=0.05)
    client.close()

`predict` and `label` put a row into a bounded buffer and return at once: they never wait for the
network and never raise for what they are given. One thread packs rows into batches, another sends
them, each again until it is answered, with the key by which the service counts it once. Rows that
find no room are dropped and counted, as are rows that the service refuses.

A recording stays where it is; what it sounds like travels as features, where the package of
detectors is installed too (`slicewatch acoustics FILE.wav --format json` prints the same):

    from detectors.acoustics import describe
    client.predict("utt-2", output=text, features=describe(samples, rate_hz).features())

With `spool_directory` batches wait on disk: an outage then costs disk and not memory, and what was
not answered when the program ended, or was killed, is sent by the next client of that directory.
Rows of the last `linger_seconds` are still in memory, and are lost to a kill.
"""

from __future__ import annotations

import atexit
import contextlib
import gzip
import hashlib
import http.client
import json
import logging
import math
import os
import random
import threading
import time
import urllib.parse
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

try:
    import fcntl
except ImportError:  # not everywhere: there, clients must not share a spool directory
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger("slicewatch")

# Nothing is wrong with the batch: the same bytes may pass later. Anything else from 400 up will
# fail again, and is dropped and counted.
_RETRIED: Final = frozenset({408, 429, 500, 502, 503, 504})
_LONGEST_WAIT_SECONDS: Final = 60.0
_LONGEST_RETRY_AFTER_SECONDS: Final = 300.0
_LONGEST_ANSWER_BYTES: Final = 1 << 20
_SPOOLED: Final = ".ndjson.gz"


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the rows: taken = accepted + duplicates + rejected + dropped + waiting."""

    taken: int = 0  # given to predict or label, or found in the spool
    accepted: int = 0  # on the service's stable storage
    duplicates: int = 0  # the service had them already
    rejected: int = 0  # refused by the service, each for a reason of its own
    dropped: int = 0  # never sent: no room, the batch was refused, or time ran out

    @property
    def settled(self) -> int:
        """Rows that nothing more will happen to."""
        return self.accepted + self.duplicates + self.rejected + self.dropped

    @property
    def waiting(self) -> int:
        """Rows in memory or in the spool."""
        return self.taken - self.settled


def is_sampled(id: str, probability: float, salt: str = "") -> bool:
    """Whether the row is among the share `probability` of rows that are to be labelled.

    A hash of the id decides, so every process gives the same answer and nothing need be kept. Send
    the probability back as `inclusion_probability` with the label; another salt draws anew.
    """
    digest = hashlib.blake2b(f"{salt}\0{id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) < probability * 2.0**64


class Client:
    """Sends rows of a model from threads of its own. Safe to use from many threads."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        model: str | None = None,
        version: str | None = None,
        batch_rows: int = 500,
        linger_seconds: float = 1.0,
        max_buffered_bytes: int = 16 << 20,
        spool_directory: str | Path | None = None,
        max_spooled_bytes: int = 1 << 30,
        timeout_seconds: float = 10.0,
        first_wait_seconds: float = 0.5,
        now: Callable[[], float] = time.time,  # noqa: TID251 - a copied file has no Clock to take
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("url: must be http://host[:port] or https://host[:port]")
        self._host, self._port = parts.hostname, parts.port
        self._encrypted = parts.scheme == "https"
        self._path = parts.path.rstrip("/") + "/v1/events"
        self._authorization = f"Bearer {key}"
        self._model, self._version = model, version
        self._batch_rows = batch_rows
        self._linger_seconds = linger_seconds
        self._max_buffered_bytes = max_buffered_bytes
        self._timeout_seconds = timeout_seconds
        self._first_wait_seconds = first_wait_seconds
        self._now = now
        self._jitter = random.Random()  # noqa: S311 - spreads retries, hides nothing

        self._spooling = None if spool_directory is None else Path(spool_directory)
        self._max_spooled_bytes = max_spooled_bytes
        self._begin()
        if self._spool is not None:
            self._start()  # what an earlier program left is sent whether or not rows come
        if hasattr(os, "register_at_fork"):
            this = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: _begin_anew(this()))
        atexit.register(self.close)

    def _begin(self) -> None:
        """Nothing is taken yet. A forked child begins too: its parent's rows are its parent's."""
        self._changed = threading.Condition()  # guards everything below
        self._lines: list[bytes] = []
        self._batches: deque[_Batch] = deque()  # the first is the one being sent
        self._buffered_bytes = 0  # of lines, and of batches in memory
        self._taken = self._accepted = self._duplicates = self._rejected = self._dropped = 0
        self._urgent = 0  # rows up to this one are sent without lingering
        self._threads: list[threading.Thread] = []
        self._connection: http.client.HTTPConnection | None = None  # the sender's own
        self._closed = threading.Event()  # set under the condition; waited for between retries
        self._spool: _Spool | None = None
        if self._spooling is not None:
            self._spool = _Spool(self._spooling, self._max_spooled_bytes)

    def predict(
        self,
        id: str,
        *,
        output: object = None,
        features: Mapping[str, object] | None = None,
        attributes: Mapping[str, object] | None = None,
        confidence: float | None = None,
        cluster: str | None = None,
        time: datetime | float | None = None,
        model: str | None = None,
        version: str | None = None,
        truth: object = None,
    ) -> bool:
        """Take a prediction for sending; False where it was dropped.

        `time` defaults to now, `model` and `version` to the client's. Features may hold numpy
        scalars and arrays; NaN is sent as missing.
        """
        return self._take(
            {
                "kind": "prediction",
                "id": id,
                "time": time,
                "model": model or self._model,
                "version": version or self._version,
                "output": output,
                "features": features,
                "attributes": attributes,
                "confidence": confidence,
                "cluster": cluster,
                "truth": truth,
            }
        )

    def label(
        self,
        id: str,
        *,
        truth: object = None,
        loss: float | None = None,
        errors: float | None = None,
        total: float | None = None,
        inclusion_probability: float | None = None,
        stratum: str | None = None,
        attributes: Mapping[str, object] | None = None,
        time: datetime | float | None = None,
        model: str | None = None,
    ) -> bool:
        """Take the label of the prediction `id` for sending; False where it was dropped.

        Give one of `truth`, `loss`, or `errors` and `total`.
        """
        return self._take(
            {
                "kind": "label",
                "id": id,
                "time": time,
                "model": model or self._model,
                "truth": truth,
                "loss": loss,
                "errors": errors,
                "total": total,
                "inclusion_probability": inclusion_probability,
                "stratum": stratum,
                "attributes": attributes,
            }
        )

    @property
    def counts(self) -> Counts:
        """What became of the rows so far."""
        with self._changed:
            return Counts(
                self._taken, self._accepted, self._duplicates, self._rejected, self._dropped
            )

    def flush(self, timeout_seconds: float = 30.0) -> bool:
        """Wait until every row taken so far is answered or dropped; False where time ran out."""
        with self._changed:
            target = self._urgent = self._taken
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._settled >= target, timeout_seconds)

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Flush, then stop. What still waits is left in the spool; without one it is dropped."""
        atexit.unregister(self.close)
        self.flush(timeout_seconds)
        with self._changed:
            self._closed.set()
            self._changed.notify_all()
            threads = self._threads
        for thread in threads:
            thread.join(timeout=1.0)
        with self._changed:
            self._batches.clear()
            self._lines.clear()
            if self._spool is None:
                self._settle(dropped=self._taken - self._settled)
            else:
                self._spool.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._host!r}, {self.counts})"

    # Taking: on the caller's thread.

    def _take(self, row: dict[str, object]) -> bool:
        try:
            line = self._encode(row)
        except (TypeError, ValueError, RecursionError) as error:
            _log.warning("a row can't be written as JSON, dropped: %s", type(error).__name__)
            line = None
        with self._changed:
            self._taken += 1
            if (
                line is None
                or self._closed.is_set()
                or self._buffered_bytes + len(line) > self._max_buffered_bytes
            ):
                self._settle(dropped=1)
                return False
            self._lines.append(line)
            self._buffered_bytes += len(line)
            if not self._threads:  # they would not live through fork, and servers fork late
                self._start()
            if len(self._lines) in (1, self._batch_rows):  # to wake a thread a row costs the caller
                self._changed.notify_all()
            return True

    def _encode(self, row: dict[str, object]) -> bytes:
        stated = {name: value for name, value in row.items() if value is not None}
        at = stated.get("time")
        if at is None:
            stated["time"] = round(self._now(), 6)
        elif isinstance(at, datetime):
            if at.tzinfo is None:
                raise ValueError("time: needs an offset")
            stated["time"] = at.astimezone(UTC).isoformat()
        try:
            return _TO_JSON(stated).encode()
        except ValueError:  # NaN or infinity: in a feature that is missing, elsewhere a mistake
            features = stated.get("features")
            if not isinstance(features, Mapping):
                raise
            stated["features"] = {name: _feature(value) for name, value in features.items()}
            return _TO_JSON(stated).encode()

    def _start(self) -> None:
        if self._spool is not None:
            for batch in self._spool.open():
                self._taken += batch.n_rows
                self._batches.append(batch)
        self._threads = [
            threading.Thread(target=run, name=f"slicewatch-{run.__name__}", daemon=True)
            for run in (self._pack, self._send)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def _settled(self) -> int:
        return self._accepted + self._duplicates + self._rejected + self._dropped

    def _settle(
        self, accepted: int = 0, duplicates: int = 0, rejected: int = 0, dropped: int = 0
    ) -> None:
        self._accepted += accepted
        self._duplicates += duplicates
        self._rejected += rejected
        self._dropped += dropped
        if self._settled >= self._urgent:
            self._changed.notify_all()

    # Packing: on a thread that never waits for the network.

    def _pack(self) -> None:
        while (lines := self._next_lines()) is not None:
            if not lines:
                continue
            batch = _Batch(uuid.uuid4().hex, len(lines), gzip.compress(b"\n".join(lines), 1))
            kept = batch if self._spool is None else self._spool.keep(batch)
            with self._changed:
                self._buffered_bytes -= sum(map(len, lines))
                if kept is None:
                    self._settle(dropped=batch.n_rows)
                    continue
                self._buffered_bytes += len(kept.body)
                self._batches.append(kept)
                self._changed.notify_all()

    def _next_lines(self) -> list[bytes] | None:
        """The oldest rows, once there is a batch of them or they have lingered; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._closed.is_set())
            self._changed.wait_for(
                lambda: (
                    len(self._lines) >= self._batch_rows
                    or self._settled < self._urgent
                    or self._closed.is_set()
                ),
                self._linger_seconds,
            )
            if self._closed.is_set() and (self._spool is None or not self._lines):
                return None
            lines = self._lines[: self._batch_rows]
            del self._lines[: self._batch_rows]
            return lines

    # Sending: on a thread of its own, a batch at a time, the oldest first.

    def _send(self) -> None:
        while (batch := self._next_batch()) is not None:
            outcome = self._deliver(batch)
            with self._changed:
                if outcome is None or (self._closed.is_set() and self._spool is None):
                    break  # close has counted what was left
                self._batches.popleft()
                self._buffered_bytes -= len(batch.body)
                if self._spool is not None:
                    self._spool.forget(batch)
                self._settle(**outcome)
        if self._connection is not None:
            self._connection.close()

    def _next_batch(self) -> _Batch | None:
        with self._changed:
            self._changed.wait_for(lambda: self._batches or self._closed.is_set())
            return None if self._closed.is_set() else self._batches[0]

    def _deliver(self, batch: _Batch) -> dict[str, int] | None:
        """Send a batch until it is answered or the client is closed; what became of its rows."""
        try:
            body = batch.read()
        except OSError as error:
            _log.error("a spooled batch can't be read, dropped: %s", type(error).__name__)
            return {"dropped": batch.n_rows}
        headers = {
            "Authorization": self._authorization,
            "Content-Type": "application/x-ndjson",
            "Content-Encoding": "gzip",
            "Idempotency-Key": batch.key,  # made before the first try, kept for all
        }
        for attempt in range(1 << 30):
            status, retry_after, answer = self._post(body, headers)
            if status == 200:
                return _counted(answer, batch.n_rows)
            if status is not None and status not in _RETRIED:
                _log.error("%d rows were refused with status %d, dropped", batch.n_rows, status)
                return {"dropped": batch.n_rows}
            if self._closed.wait(self._wait_seconds(attempt, retry_after)):
                break
        return None

    def _post(self, body: bytes, headers: dict[str, str]) -> tuple[int | None, str | None, bytes]:
        """Status, Retry-After and answer; no status where there was no answer."""
        if self._connection is None:
            kind = http.client.HTTPSConnection if self._encrypted else http.client.HTTPConnection
            self._connection = kind(self._host, self._port, timeout=self._timeout_seconds)
        try:
            self._connection.request("POST", self._path, body, headers)
            response = self._connection.getresponse()
            answer = response.read(_LONGEST_ANSWER_BYTES)
            if response.will_close or not response.isclosed():
                self._disconnect()
            return response.status, response.getheader("Retry-After"), answer
        except (OSError, http.client.HTTPException) as error:
            _log.warning("no answer, will try again: %s", type(error).__name__)
            self._disconnect()
            return None, None, b""

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _wait_seconds(self, attempt: int, retry_after: str | None) -> float:
        """Exponential with full jitter, and never sooner than the service asks."""
        ceiling = min(self._first_wait_seconds * 2.0 ** min(attempt, 16), _LONGEST_WAIT_SECONDS)
        wait = self._jitter.uniform(0.0, ceiling)
        if retry_after is not None and retry_after.isdecimal():
            wait += min(float(retry_after), _LONGEST_RETRY_AFTER_SECONDS)
        return wait


def _begin_anew(client: Client | None) -> None:
    if client is not None:
        client._begin()


class LogHandler(logging.Handler):
    """Sends what log records carry: `log.info("done", extra={"prediction": {"id": …, …}})`.

    `prediction` and `label` hold the arguments of `Client.predict` and `Client.label`; records
    without them pass by.
    """

    def __init__(self, client: Client, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self.client = client

    def emit(self, record: logging.LogRecord) -> None:
        """Take the record's rows for sending."""
        try:
            if (prediction := getattr(record, "prediction", None)) is not None:
                self.client.predict(**prediction)
            if (label := getattr(record, "label", None)) is not None:
                self.client.label(**label)
        except TypeError:  # an argument that there is not: as logging treats a bad record
            self.handleError(record)


@dataclass(frozen=True, slots=True)
class _Batch:
    key: str
    n_rows: int
    body: bytes  # gzip; empty where it is on disk
    path: Path | None = None

    def read(self) -> bytes:
        return self.body if self.path is None else self.path.read_bytes()


class _Spool:
    """Batches as files, a directory a client: whose lock is free, its client is no more."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self.directory, self.max_bytes = directory, max_bytes
        self._guard = threading.Lock()  # of the bytes: one thread keeps, another forgets
        self._n_bytes = 0
        self._own: Path | None = None
        self._n_kept = 0
        self._locks: list[IO[bytes]] = []

    def open(self) -> list[_Batch]:
        """Make a directory of one's own; give what clients that are no more left in theirs."""
        self.directory.mkdir(parents=True, exist_ok=True)
        left = [b for path in sorted(self.directory.iterdir()) for b in self._adopt(path)]
        self._own = self.directory / f"{time.time_ns():020d}-{uuid.uuid4().hex}"  # noqa: TID251
        self._own.mkdir()
        self._lock(self._own)
        return left

    def keep(self, batch: _Batch) -> _Batch | None:
        """The batch on disk; None where it has no room there."""
        with self._guard:
            if self._own is None or self._n_bytes + len(batch.body) > self.max_bytes:
                return None
            self._n_bytes += len(batch.body)
        self._n_kept += 1
        name = f"{self._n_kept:012d}-{batch.n_rows}-{batch.key}{_SPOOLED}"
        path, unfinished = self._own / name, self._own / "unfinished"
        try:
            unfinished.write_bytes(batch.body)
            unfinished.rename(path)
        except OSError as error:
            _log.error("the spool can't be written: %s", type(error).__name__)
            with self._guard:
                self._n_bytes -= len(batch.body)
            return None
        return _Batch(batch.key, batch.n_rows, b"", path)

    def forget(self, batch: _Batch) -> None:
        """Remove a batch that was answered, and its directory behind the last of one left."""
        if batch.path is None:
            return
        with contextlib.suppress(OSError), self._guard:
            self._n_bytes -= batch.path.stat().st_size
            batch.path.unlink()
        if batch.path.parent != self._own and not any(batch.path.parent.glob(f"*{_SPOOLED}")):
            self._remove(batch.path.parent)

    def close(self) -> None:
        """Let go of the directories; what is in them waits for the next client."""
        if self._own is not None and not any(self._own.glob(f"*{_SPOOLED}")):
            self._remove(self._own)
        for lock in self._locks:
            lock.close()
        self._locks, self._own = [], None

    def _adopt(self, path: Path) -> list[_Batch]:
        if not path.is_dir() or not self._lock(path):
            return []
        batches = []
        for file in sorted(path.glob(f"*{_SPOOLED}")):
            parts = file.name.removesuffix(_SPOOLED).split("-")
            if len(parts) == 3 and parts[1].isdecimal():
                self._n_bytes += file.stat().st_size
                batches.append(_Batch(parts[2], int(parts[1]), b"", file))
        if not batches:
            self._remove(path)
        return batches

    def _lock(self, path: Path) -> bool:
        lock = (path / "lock").open("wb")
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            return False
        self._locks.append(lock)
        return True

    def _remove(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            for file in path.iterdir():
                file.unlink()
            path.rmdir()


def _counted(answer: bytes, n_rows: int) -> dict[str, int]:
    """The counts of a 200; all rows as accepted where it can't be read."""
    try:
        counts = json.loads(answer)
        return {name: int(counts[name]) for name in ("accepted", "duplicates", "rejected")}
    except (ValueError, KeyError, TypeError):
        return {"accepted": n_rows}


def _feature(value: object) -> object:
    """A feature as JSON can hold it: NaN and infinities become missing."""
    value = _plain(value) if hasattr(value, "tolist") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> object:
    """Numpy's scalars and arrays as Python's; TypeError for anything else that JSON lacks."""
    if not hasattr(value, "tolist"):
        raise TypeError(f"no JSON for {type(value).__name__}")
    return value.tolist()


_TO_JSON: Final = json.JSONEncoder(
    default=_plain, allow_nan=False, check_circular=False, separators=(",", ":")
).encode
