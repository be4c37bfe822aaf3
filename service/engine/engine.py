"""Engine: the thread that owns the state, and the doors to it.

    engine = Engine(processor, settings, metrics)
    engine.start()                                # restores and replays, then is ready
    receipt = await engine.submit(entry)          # on stable storage when it returns
    models = await engine.ask(lambda fold: fold.models(tenant))
    engine.stop()                                 # drains and snapshots

Callers wait in a bounded inbox. The thread takes what waits, up to 64 entries, and gives it one
commit: under load batches share an fsync, and alone none waits for company.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final, TypeVar, cast

import structlog

from service.clock import Clock
from service.engine.fold import Fold, Receipt
from service.engine.inbox import Inbox, Question, Submission
from service.engine.ports import BATCH, Entry
from service.engine.processor import Processor
from service.errors import Conflict, Damaged, StorageFailed, TryLater
from service.ingest.events import Rejected
from service.limits import GROUP_BATCHES
from service.metrics import Metrics
from service.settings import Settings

T = TypeVar("T")

log = structlog.get_logger()

_IDLE_SECONDS: Final = 0.5  # between two looks at the clock where nothing comes in

# What the process exits with when the thread can't go on; a supervisor starts it again.
_EXIT_CODES: Final = (
    (StorageFailed, os.EX_IOERR),  # 74
    (Damaged, os.EX_DATAERR),  # 65: a person must look
    (Conflict, os.EX_TEMPFAIL),  # 75: another process took the epoch over
    (TryLater, os.EX_TEMPFAIL),  # 75: storage went away in the middle of a start
    (BaseException, os.EX_SOFTWARE),  # 70
)


class Phase(StrEnum):
    """Where the engine is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


class Engine:
    """One thread around one processor. `end` ends the process at once, with a code."""

    def __init__(
        self,
        processor: Processor,
        clock: Clock,
        settings: Settings,
        metrics: Metrics,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self._processor = processor
        self._clock = clock
        self._settings = settings
        self._metrics = metrics
        self._end = end
        self._inbox = Inbox(settings, metrics)
        self._phase = Phase.STARTING
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def phase(self) -> Phase:
        """Where it is in its life."""
        return self._phase

    def why_not_ready(self) -> str | None:
        """Why it takes nothing in now; None where it does."""
        if self._phase is not Phase.READY:
            return f"the service is {self._phase}"
        return self._processor.trouble

    @property
    def n_stopped(self) -> int:
        """How many tenants are stopped, for a journal entry of theirs is damaged."""
        return len(self._processor.stopped)

    def start(self) -> None:
        """Start the thread; it is ready once the journal is replayed."""
        self._thread.start()

    def wait_until_ready(self, timeout_seconds: float) -> bool:
        """Block until the replay is done; False where it took longer."""
        return self._is_ready.wait(timeout_seconds)

    def stop(self) -> bool:
        """Refuse what is new, finish what waits, store a snapshot; True if that was in time.

        What is not finished is no loss: receipts were given for journaled entries only.
        """
        if self._phase is not Phase.STOPPED:
            self._phase = Phase.DRAINING
        self._metrics.ready.set(0)
        self._inbox.close()
        if self._thread.ident is None:  # never started
            return True
        self._thread.join(self._settings.drain_seconds)
        return not self._thread.is_alive()

    async def submit(self, entry: Entry) -> Receipt:
        """The receipt of an entry, once it is on stable storage.

        Raises TryLater where it can't be taken in now, InvalidRequest for a batch id that was
        used with another body.
        """
        self._refuse_unless_ready()
        try:
            async with asyncio.timeout(self._settings.answer_deadline_seconds):
                return await asyncio.wrap_future(self._inbox.submit(entry))
        except TimeoutError:  # it may be stored yet: a retry is answered from its receipt
            raise TryLater("storage is slow", retry_after_seconds=5) from None

    async def submit_batch(
        self,
        tenant: str,
        frame: bytes,
        received_at: int,
        batch_id: str | None,
        refused: Sequence[Rejected],
    ) -> Receipt:
        """Journal and fold the rows of one request, those that were refused beside them."""
        return await self.submit(Entry(tenant, BATCH, frame, received_at, batch_id, tuple(refused)))

    async def submit_control(self, codec: str, tenant: str, body: bytes) -> Receipt:
        """Journal and fold what an owner said of a model: CONFIGURE or REFERENCE."""
        return await self.submit(Entry(tenant, codec, body, self._clock.now()))

    async def ask(self, function: Callable[[Fold], T]) -> T:
        """What `function` gives of the live state; it runs between two groups of entries.

        Ingest waits meanwhile: it must be short, and give nothing that the fold will change.
        """
        self._refuse_unless_ready()
        return cast(T, await asyncio.wrap_future(self._inbox.ask(function)))

    def ask_and_wait(self, function: Callable[[Fold], T], timeout_seconds: float) -> T:
        """What `ask` gives, for a thread that may wait; raises TryLater where that is too long.

        Whoever waits must hold no lock that the engine may want, a write transaction least of all.
        """
        self._refuse_unless_ready()
        try:
            return cast(T, self._inbox.ask(function).result(timeout_seconds))
        except TimeoutError:
            raise TryLater("the service is busy") from None

    def submit_and_wait(self, entry: Entry, timeout_seconds: float) -> Receipt:
        """What `submit` gives, for a thread that may wait, as with `ask_and_wait`."""
        self._refuse_unless_ready()
        try:
            return self._inbox.submit(entry).result(timeout_seconds)
        except TimeoutError:  # it may be stored yet; to say the same again changes nothing
            raise TryLater("the service is busy") from None

    def _refuse_unless_ready(self) -> None:
        if self._phase is not Phase.READY:
            raise TryLater(f"the service is {self._phase}", retry_after_seconds=5)

    def _run(self) -> None:
        try:
            self._processor.recover(lambda: self._inbox.is_closed)
            self._become_ready()
            while (work := self._inbox.take(GROUP_BATCHES, _IDLE_SECONDS)) is not None:
                self._answer(work.questions)
                self._process(work.submissions)
                self._processor.keep_time()
            self._processor.finish()
        except BaseException as error:
            log.critical("engine failed", reason=str(error), exc_info=True)
            self._end(next(code for kind, code in _EXIT_CODES if isinstance(error, kind)))
        finally:
            self._phase = Phase.STOPPED

    def _become_ready(self) -> None:
        if not self._inbox.is_closed:
            self._phase = Phase.READY
            self._metrics.ready.set(1)
            self._is_ready.set()

    def _answer(self, questions: list[Question]) -> None:
        for question in questions:
            if question.done.set_running_or_notify_cancel():
                try:
                    question.done.set_result(question.ask(self._processor.fold))
                except Exception as error:
                    question.done.set_exception(error)

    def _process(self, submissions: list[Submission]) -> None:
        wanted = [s for s in submissions if s.done.set_running_or_notify_cancel()]
        answers = self._processor.answer([submission.entry for submission in wanted])
        for submission, answer in zip(wanted, answers, strict=True):
            if isinstance(answer, Receipt):
                submission.done.set_result(answer)
            else:
                submission.done.set_exception(answer)
