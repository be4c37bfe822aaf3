"""Inbox: what waits for the engine thread, bounded by number and by bytes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from service.engine.fold import Fold, Receipt
from service.engine.ports import Entry
from service.errors import TryLater
from service.limits import QUESTIONS
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
        self._submissions: deque[Submission] = deque()
        self._questions: deque[Question] = deque()
        self._n_bytes = 0
        self._closed = False

    def submit(self, entry: Entry) -> Future[Receipt]:
        """Queue an entry. Raises TryLater where it is full or closed."""
        submission = Submission(entry)
        with self._changed:
            self._refuse_if_closed()
            if len(self._submissions) >= self._limit_batches:
                raise self._full("queue_batches")
            # An entry larger than the whole bound may pass alone, or it never would.
            if self._submissions and self._n_bytes + len(entry.body) > self._limit_bytes:
                raise self._full("queue_bytes")
            self._submissions.append(submission)
            self._count(len(entry.body))
            self._changed.notify()
        return submission.done

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
            if not (self._submissions or self._questions or self._closed):
                self._changed.wait(timeout_seconds)
            if self._closed and not (self._submissions or self._questions):
                return None
            n = min(limit, len(self._submissions))
            submissions = [self._submissions.popleft() for _ in range(n)]
            questions = list(self._questions)
            self._questions.clear()
            self._count(-sum(len(submission.entry.body) for submission in submissions))
        return Work(submissions, questions)

    def close(self) -> None:
        """Take nothing new in; what waits may still be taken out."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    @property
    def is_closed(self) -> bool:
        """It takes nothing new in."""
        return self._closed

    def _count(self, n_bytes: int) -> None:
        self._n_bytes += n_bytes
        self._metrics.queue_batches.set(len(self._submissions))
        self._metrics.queue_bytes.set(self._n_bytes)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise TryLater("the service is draining", retry_after_seconds=5)

    def _full(self, cap: str) -> TryLater:
        self._metrics.overflow.labels(cap).inc()
        return TryLater("the service is behind: too much waits already")
