"""Inbox: what waits for the engine thread, bounded by number and by bytes, taken tenant by tenant.

Where there are several tenants, each may hold half of it, and is answered 429 beyond: the other
half is there for the others, whose entries do not wait behind all of its.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from service.engine.fold import Fold, Receipt
from service.engine.ports import Entry
from service.errors import RateLimited, TryLater
from service.limits import QUESTIONS, QUEUE_SHARE
from service.metrics import Metrics
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Submission:
    """An entry on its way into the journal, and who waits for its receipt."""

    entry: Entry
    done: Future[Receipt] = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class Question:
    """A function of the fold, and who waits for what it gives."""

    ask: Callable[[Fold], Any]
    done: Future[Any] = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class Work:
    """What the engine thread took in one go; empty where nothing came in time."""

    submissions: list[Submission]
    questions: list[Question]


class Inbox:
    """Filled by any thread, emptied by one."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._limit_batches = settings.queue_batches
        self._limit_bytes = settings.queue_bytes
        self._metrics = metrics
        self._changed = threading.Condition()
        self._waiting: dict[str, deque[Submission]] = {}  # by tenant; whose turn is next, first
        self._held: Counter[str] = Counter()  # bytes, by tenant
        self._tenants: set[str] = set()  # who ever sent
        self._n_batches = 0
        self._questions: deque[Question] = deque()
        self._n_bytes = 0
        self._closed = False

    def submit(self, entry: Entry) -> Future[Receipt]:
        """Queue an entry. Raises TryLater where it is full or closed, RateLimited at the share."""
        submission = Submission(entry)
        with self._changed:
            self._refuse_if_closed()
            self._refuse_if_full(entry)
            self._tenants.add(entry.tenant)
            self._waiting.setdefault(entry.tenant, deque()).append(submission)
            self._count(submission, 1)
            self._changed.notify()
        return submission.done

    def _refuse_if_full(self, entry: Entry) -> None:
        """An entry larger than a whole bound may pass alone, or it never would."""
        n_bytes = len(entry.body)
        if self._n_batches >= self._limit_batches:
            raise self._full("queue_batches")
        if self._n_batches and self._n_bytes + n_bytes > self._limit_bytes:
            raise self._full("queue_bytes")
        own = self._waiting.get(entry.tenant, ())
        held = self._held[entry.tenant] + n_bytes
        shared = len(self._tenants | {entry.tenant}) > 1
        if shared and own and (len(own) >= self._limit_batches / 2 or held > self._limit_bytes / 2):
            self._metrics.overflow.labels(QUEUE_SHARE.name).inc()
            raise RateLimited("the tenant has half of the queue: too much of it waits already")

    def ask(self, function: Callable[[Fold], Any]) -> Future[Any]:
        """Queue a question. Raises TryLater where too many wait, or it is closed."""
        question = Question(function)
        with self._changed:
            self._refuse_if_closed()
            if len(self._questions) >= QUESTIONS.limit:
                raise self._full(QUESTIONS.name)
            self._questions.append(question)
            self._changed.notify()
        return question.done

    def take(self, limit: int, timeout_seconds: float) -> Work | None:
        """All questions and up to `limit` entries; None once it is closed and empty.

        Waits for at most `timeout_seconds` where there is nothing.
        """
        with self._changed:
            if not (self._waiting or self._questions or self._closed):
                self._changed.wait(timeout_seconds)
            if self._closed and not (self._waiting or self._questions):
                return None
            submissions = [self._next() for _ in range(min(limit, self._n_batches))]
            questions = list(self._questions)
            self._questions.clear()
        return Work(submissions, questions)

    def _next(self) -> Submission:
        """The oldest of the tenant whose turn it is, which is then the last in line."""
        tenant = next(iter(self._waiting))
        own = self._waiting.pop(tenant)
        submission = own.popleft()
        if own:
            self._waiting[tenant] = own
        self._count(submission, -1)
        return submission

    def close(self) -> None:
        """Take nothing new in; what waits may still be taken out."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    @property
    def is_closed(self) -> bool:
        """It takes nothing new in."""
        return self._closed

    def _count(self, submission: Submission, sign: int) -> None:
        entry, n_bytes = submission.entry, sign * len(submission.entry.body)
        self._n_batches += sign
        self._n_bytes += n_bytes
        self._held[entry.tenant] += n_bytes
        if entry.tenant not in self._waiting:
            del self._held[entry.tenant]
        self._metrics.queue_batches.set(self._n_batches)
        self._metrics.queue_bytes.set(self._n_bytes)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise TryLater("the service is draining", retry_after_seconds=5)

    def _full(self, cap: str) -> TryLater:
        self._metrics.overflow.labels(cap).inc()
        return TryLater("the service is behind: too much waits already")
