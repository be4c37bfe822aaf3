"""Replay: sends a file of rows through the API, in the stream's order, at a chosen speed.

Each request carries an Idempotency-Key made of the files, how they were read and the request's
number: a replay that was interrupted can be started again from the beginning, and nothing is
counted twice. With a `Bookmark` it goes on behind the last request that was answered.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Final

import httpx2
import msgspec
import zstandard

from service.errors import Forbidden, InvalidRequest, TryLater, Unauthorized
from service.ingest.events import EventBatch, Rejected
from service.ingest.files import read_flat
from service.ingest.json_rows import to_json_rows

BATCH_ROWS: Final = 500
TIMEOUT_SECONDS: Final = 30.0
RETRY_FOR_SECONDS: Final = 120.0  # how long one request is tried before the replay gives up
FIRST_WAIT_SECONDS: Final = 0.2
LONGEST_WAIT_SECONDS: Final = 30.0  # also the most that a Retry-After is honoured for
_RETRIED: Final = frozenset({408, 429, 500, 502, 503, 504})

_lines = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Source:
    """Files of rows, and how they are read."""

    paths: tuple[Path, ...]
    mapping: Mapping[str, str] = field(default_factory=dict)  # column: field of the contract
    model: str | None = None  # of rows that name none

    def batches(self, rows: int, on_rejected: Callable[[Rejected], None]) -> Iterator[EventBatch]:
        """The files' predictions and labels in the order of their times, `rows` at a time.

        Rows that break a rule are told to `on_rejected` and left out; the others go on.
        """
        return read_flat(
            self.paths, self.mapping, rows, default_model=self.model, on_rejected=on_rejected
        )

    def digest(self) -> str:
        """32 hex digits of the files' bytes and of how they are read."""
        content = [_digest(path) for path in self.paths]
        how = msgspec.json.encode([content, sorted(self.mapping.items()), self.model])
        return hashlib.blake2b(how, digest_size=16).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of the rows."""

    requests: int = 0
    left_out: tuple[Rejected, ...] = ()  # rows of the file that were not sent
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0

    def plus(self, answer: Mapping[str, int]) -> Replayed:
        """With the answer to one more request."""
        return replace(
            self,
            requests=self.requests + 1,
            accepted=self.accepted + answer["accepted"],
            duplicates=self.duplicates + answer["duplicates"],
            rejected=self.rejected + answer["rejected"],
        )


class Sender:
    """Posts batches to a service, each until it is answered."""

    def __init__(self, url: str, key: str, retry_for_seconds: float = RETRY_FOR_SECONDS) -> None:
        self._retry_for_seconds = retry_for_seconds
        self._http = httpx2.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/x-ndjson"},
            timeout=TIMEOUT_SECONDS,
            trust_env=False,  # a key goes where --url says, not to a proxy of the environment
        )
        self._compress = zstandard.ZstdCompressor(level=1).compress

    def __enter__(self) -> Sender:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def send(self, batch: EventBatch, idempotency_key: str) -> Mapping[str, int]:
        """The service's answer to one batch.

        Raises InvalidRequest where sending it again would not help, TryLater where the service
        did not take it for `retry_for_seconds`.
        """
        body = self._compress(b"\n".join(map(_lines.encode, to_json_rows(batch))))
        headers = {"Idempotency-Key": idempotency_key, "Content-Encoding": "zstd"}
        give_up_at = time.monotonic() + self._retry_for_seconds
        wait = FIRST_WAIT_SECONDS
        while True:
            try:
                answer = self._http.post("/v1/events", content=body, headers=headers)
            except httpx2.TransportError as error:
                trouble, asked = f"no answer ({type(error).__name__})", 0.0
            else:
                if answer.status_code not in _RETRIED:
                    return _counts(answer)
                trouble, asked = problem(answer), _retry_after(answer)
            if time.monotonic() + max(wait, asked) > give_up_at:
                raise TryLater(
                    f"the service took no rows for {self._retry_for_seconds:g} s: {trouble}"
                )
            time.sleep(max(wait, asked))
            wait = min(wait * 2, LONGEST_WAIT_SECONDS)


class Bookmark:
    """How far a replay came, in a small file that is replaced with each answer."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def n_answered(self, replay_id: str) -> int:
        """How many requests of this replay were answered before; 0 of any other."""
        if self._path is None or not self._path.exists():
            return 0
        try:
            known, n_answered = msgspec.json.decode(self._path.read_bytes(), type=tuple[str, int])
        except (msgspec.DecodeError, OSError):
            raise InvalidRequest(f"{self._path.name}: is not the bookmark of a replay") from None
        return n_answered if known == replay_id else 0

    def put(self, replay_id: str, n_answered: int) -> None:
        """Remember that so many were answered."""
        if self._path is not None:
            written = self._path.with_name(f"{self._path.name}.new")
            written.write_bytes(msgspec.json.encode((replay_id, n_answered)))
            written.replace(self._path)


def replay(
    source: Source,
    sender: Sender,
    *,
    speed: float | None = None,
    batch_rows: int = BATCH_ROWS,
    bookmark: Bookmark | None = None,
    progress: Callable[[EventBatch], None] = lambda batch: None,
) -> Replayed:
    """Send all rows; `speed` seconds of the stream a second, or as fast as it is taken.

    `progress` is told of each batch when it has been answered.
    """
    prefix = f"replay-{source.digest()}-{batch_rows}"
    bookmark = bookmark or Bookmark(None)
    n_answered = bookmark.n_answered(prefix)
    replayed = Replayed()
    left_out: list[Rejected] = []
    pace = _Pace(speed)
    for number, batch in enumerate(source.batches(batch_rows, left_out.append)):
        if number >= n_answered:
            pace.wait_for(int(batch.time[-1]))
            replayed = replayed.plus(sender.send(batch, f"{prefix}-{number}"))
            bookmark.put(prefix, number + 1)
        progress(batch)
    return replace(replayed, left_out=tuple(left_out))


class _Pace:
    """Holds a stream back to `speed` times its own time."""

    def __init__(self, speed: float | None) -> None:
        self._speed = speed
        self._start: tuple[int, float] | None = None  # the stream's time, and the machine's

    def wait_for(self, micros: int) -> None:
        if self._speed is None:
            return
        if self._start is None:
            self._start = micros, time.monotonic()
        first, started = self._start
        due = started + (micros - first) / 1e6 / self._speed
        time.sleep(max(0.0, due - time.monotonic()))


def problem(answer: httpx2.Response) -> str:
    """The status of an answer and what its problem document says."""
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = answer.reason_phrase
    return f"{answer.status_code} {detail}"


def _retry_after(answer: httpx2.Response) -> float:
    asked = answer.headers.get("Retry-After", "")
    return min(float(asked), LONGEST_WAIT_SECONDS) if asked.isdecimal() else 0.0


def _counts(answer: httpx2.Response) -> Mapping[str, int]:
    """The counts of a 200; any other answer would be the same if the batch were sent again."""
    if answer.status_code == 200:
        counts: dict[str, int] = answer.json()
        return counts
    if answer.status_code == 401:
        raise Unauthorized("key: the service knows no such key")
    if answer.status_code == 403:
        raise Forbidden("key: has no ingest scope")
    raise InvalidRequest(f"the service refused a batch: {problem(answer)}")
