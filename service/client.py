"""Client: sends predictions and labels to Slicewatch from any Python program, in one file.

Standard library only, so that it can be copied beside a model as it is:

    client = Client("http://127.0.0.1:8080", key, model="transcribe-medical", version="2026-10")
    client.predict("utt-1", output="the patient was stable", attributes={"floor": "7"})
    client.label("utt-1", truth="the patient is stable")
    client.close()

`predict` and `label` put a row into a bounded buffer and return at once: they never wait for the
network and never raise for what they are given. A background thread sends the rows in batches, and
sends a batch again until it is answered, with the key by which the service counts it once. Rows
that find the buffer full are dropped and counted, as are rows that the service refuses.
"""

from __future__ import annotations

import atexit
import gzip
import http.client
import json
import logging
import math
import random
import threading
import time
import urllib.parse
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

_log = logging.getLogger("slicewatch")

# Nothing is wrong with the batch: the same bytes may pass later. Anything else from 400 up will
# fail again, and is dropped and counted.
_RETRIED: Final = frozenset({408, 429, 500, 502, 503, 504})
_LONGEST_WAIT_SECONDS: Final = 60.0
_LONGEST_RETRY_AFTER_SECONDS: Final = 300.0
_LONGEST_ANSWER_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the rows: taken = accepted + duplicates + rejected + dropped + waiting."""

    taken: int = 0  # given to predict or label
    accepted: int = 0  # on the service's stable storage
    duplicates: int = 0  # the service had them already
    rejected: int = 0  # refused by the service, each for a reason of its own
    dropped: int = 0  # never sent: the buffer was full, the batch was refused, or time ran out

    @property
    def settled(self) -> int:
        """Rows that nothing more will happen to."""
        return self.accepted + self.duplicates + self.rejected + self.dropped


class Client:
    """Sends rows of a model from a thread of its own. Safe to use from many threads."""

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
        self._defaults = {"model": model, "version": version}
        self._batch_rows = batch_rows
        self._linger_seconds = linger_seconds
        self._max_buffered_bytes = max_buffered_bytes
        self._timeout_seconds = timeout_seconds
        self._first_wait_seconds = first_wait_seconds
        self._now = now
        self._jitter = random.Random()  # noqa: S311 - spreads retries, hides nothing

        self._changed = threading.Condition()  # guards everything below
        self._lines: deque[bytes] = deque()
        self._buffered_bytes = 0
        self._counts = Counts()
        self._urgent = 0  # rows up to this one are sent without lingering
        self._thread: threading.Thread | None = None
        self._connection: http.client.HTTPConnection | None = None  # the thread's own
        self._closed = threading.Event()  # set under the condition; waited for between retries
        atexit.register(self.close)

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
                "output": output,
                "features": features and {n: _feature(v) for n, v in features.items()},
                "attributes": attributes,
                "confidence": confidence,
                "cluster": cluster,
                "truth": truth,
                **self._named(model, version),
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
                "truth": truth,
                "loss": loss,
                "errors": errors,
                "total": total,
                "inclusion_probability": inclusion_probability,
                "stratum": stratum,
                "attributes": attributes,
                "model": model or self._defaults["model"],
            }
        )

    @property
    def counts(self) -> Counts:
        """What became of the rows so far."""
        with self._changed:
            return self._counts

    def flush(self, timeout_seconds: float = 30.0) -> bool:
        """Wait until every row taken so far is answered or dropped; False where time ran out."""
        with self._changed:
            target = self._urgent = self._counts.taken
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._counts.settled >= target, timeout_seconds)

    def close(self, timeout_seconds: float = 5.0) -> None:
        """Flush, then stop; rows that are still waiting after `timeout_seconds` are dropped."""
        atexit.unregister(self.close)
        self.flush(timeout_seconds)
        with self._changed:
            self._closed.set()
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(timeout=1.0)
        with self._changed:
            self._settle(dropped=self._counts.taken - self._counts.settled)
            self._lines.clear()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._host!r}, {self.counts})"

    # Taking: on the caller's thread.

    def _named(self, model: str | None, version: str | None) -> dict[str, str | None]:
        return {
            "model": model or self._defaults["model"],
            "version": version or self._defaults["version"],
        }

    def _take(self, row: dict[str, object]) -> bool:
        try:
            line = self._encode(row)
        except (TypeError, ValueError, RecursionError) as error:
            _log.warning("a row can't be written as JSON, dropped: %s", type(error).__name__)
            line = None
        with self._changed:
            self._counts = replace(self._counts, taken=self._counts.taken + 1)
            if (
                line is None
                or self._closed.is_set()
                or self._buffered_bytes + len(line) > self._max_buffered_bytes
            ):
                self._settle(dropped=1)
                return False
            self._lines.append(line)
            self._buffered_bytes += len(line)
            self._start_thread()
            self._changed.notify_all()
            return True

    def _encode(self, row: dict[str, object]) -> bytes:
        at = row["time"]
        if at is None:
            at = datetime.fromtimestamp(self._now(), UTC)
        if isinstance(at, datetime):
            if at.tzinfo is None:
                raise ValueError("time: needs an offset")
            at = at.astimezone(UTC).isoformat()
        stated = {name: value for name, value in row.items() if value is not None}
        stated["time"] = at
        return json.dumps(stated, default=_plain, allow_nan=False).encode()

    def _start_thread(self) -> None:
        # Not in __init__: a thread does not live through fork, and servers fork after set-up.
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="slicewatch", daemon=True)
            self._thread.start()

    def _settle(self, **more: int) -> None:
        counts = self._counts
        self._counts = replace(counts, **{n: getattr(counts, n) + k for n, k in more.items()})
        self._changed.notify_all()

    # Sending: on the client's own thread.

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            outcome = self._send(batch)
            with self._changed:
                if not self._closed.is_set():  # close has counted what was left
                    self._settle(**outcome)
        if self._connection is not None:
            self._connection.close()

    def _next_batch(self) -> list[bytes] | None:
        """The oldest rows, once there is a batch of them or they have lingered; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._closed.is_set())
            self._changed.wait_for(
                lambda: (
                    len(self._lines) >= self._batch_rows
                    or self._counts.settled < self._urgent
                    or self._closed.is_set()
                ),
                self._linger_seconds,
            )
            if self._closed.is_set():
                return None
            batch = [self._lines.popleft() for _ in range(min(len(self._lines), self._batch_rows))]
            self._buffered_bytes -= sum(map(len, batch))
            return batch

    def _send(self, batch: list[bytes]) -> dict[str, int]:
        """Send a batch until it is answered or the client is closed; what became of its rows."""
        body = gzip.compress(b"\n".join(batch), compresslevel=1)
        headers = {
            "Authorization": self._authorization,
            "Content-Type": "application/x-ndjson",
            "Content-Encoding": "gzip",
            "Idempotency-Key": uuid.uuid4().hex,  # made before the first try, kept for all
        }
        for attempt in range(1 << 30):
            status, retry_after, answer = self._post(body, headers)
            if status == 200:
                return _counted(answer, len(batch))
            if status is not None and status not in _RETRIED:
                _log.error("%d rows were refused with status %d, dropped", len(batch), status)
                return {"dropped": len(batch)}
            if self._closed.wait(self._wait_seconds(attempt, retry_after)):
                break
        return {"dropped": len(batch)}

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
