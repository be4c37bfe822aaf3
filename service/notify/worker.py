"""Worker: leases deliveries that are due and posts them, signed, until each is done.

A lane an endpoint, one delivery in each, `max_at_once` lanes at a time: an endpoint that hangs
holds up no other. Lanes are given in turn, whoever had one longest ago first, so that many
endpoints that hang can't keep a good one waiting for longer than a round.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import Final

import structlog
from sqlalchemy.exc import OperationalError

from service.clock import Clock
from service.database import Database
from service.metrics import Metrics
from service.notify import outbox
from service.notify.egress import Answer, Egress
from service.notify.outbox import Attempt, DeliveryState, Leased, Verdict
from service.notify.webhook import sign

POLL_SECONDS: Final = (
    1.0  # between looks when nobody wakes us: for retries, and for other processes
)
JITTER: Final = 0.2  # a delay is drawn from ±20 %, so that an outage's end is not a stampede
MAX_RETRY_AFTER_SECONDS: Final = 86_400
LEASE_MARGIN_SECONDS: Final = 15.0  # beyond an attempt's deadline, to record it
MAX_TURNS: Final = 10_000  # endpoints of which it is known when they had a lane

_MICROS: Final = 1_000_000

log = structlog.get_logger()


class Worker:
    """Delivers what the outbox holds.

    worker = Worker(database, clock, egress, schedule_seconds=(0, 5, 300), rng=Random(7), ...)
    task = asyncio.create_task(worker.run())
    worker.wake()  # from any thread, when there is something new
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        egress: Egress,
        *,
        schedule_seconds: Sequence[float],
        rng: random.Random,
        metrics: Metrics,
        max_at_once: int = 32,
    ) -> None:
        self._database = database
        self._clock = clock
        self._egress = egress
        self._schedule_seconds = schedule_seconds
        self._rng = rng
        self._metrics = metrics
        self._max_at_once = max_at_once
        self._lease = round((egress.deadline_seconds + LEASE_MARGIN_SECONDS) * _MICROS)
        self._lanes: set[asyncio.Task[None]] = set()
        self._turns: dict[tuple[str, str], int] = {}  # (tenant, endpoint): its last turn
        self._n_turns = 0
        self._changed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def wake(self) -> None:
        """Look now. Any thread may call this, before and after the worker runs as well."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        try:
            loop.call_soon_threadsafe(self._changed.set)
        except RuntimeError:  # it closed meanwhile
            return

    async def run(self) -> None:
        """Deliver until cancelled; what is then in flight goes out again when its lease ends."""
        self._loop = asyncio.get_running_loop()
        try:
            while True:
                self._changed.clear()
                try:
                    await self._fill_lanes()
                except OperationalError as error:  # busy or full; the engine judges worse
                    name = getattr(error.orig, "sqlite_errorname", type(error.orig).__name__)
                    log.warning("outbox_unavailable", error=name)
                except Exception:  # what is due stays due, and is looked at again
                    log.exception("outbox_failed")
                await self._until_changed()
        finally:
            self._loop = None
            for lane in self._lanes:
                lane.cancel()
            await asyncio.gather(*self._lanes, return_exceptions=True)

    async def drain(self) -> int:
        """Attempt all that is due at this instant, and what that makes due; returns how many."""
        n = 0
        while leased := await asyncio.to_thread(self._claim, self._max_at_once):
            await asyncio.gather(*map(self._attempt, leased))
            n += len(leased)
        return n

    async def _fill_lanes(self) -> None:
        free = self._max_at_once - len(self._lanes)
        if free == 0:
            return
        for leased in await asyncio.to_thread(self._claim, free):
            lane = asyncio.create_task(self._lane(leased))
            self._lanes.add(lane)
            lane.add_done_callback(self._lane_ended)

    def _lane_ended(self, lane: asyncio.Task[None]) -> None:
        self._lanes.discard(lane)
        self._changed.set()

    async def _until_changed(self) -> None:
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _lane(self, leased: Leased) -> None:
        try:
            await self._attempt(leased)
        except Exception:  # the lease runs out and it is tried again: at least once
            log.exception("delivery_interrupted", delivery=leased.id, endpoint=leased.endpoint_id)

    def _claim(self, n: int) -> list[Leased]:
        now = self._clock.now()
        with self._database.read() as connection:
            self._metrics.deliveries_waiting.set(outbox.n_waiting(connection))
            wanted = outbox.due(connection, now)
        if not wanted:
            return []
        wanted.sort(key=lambda due: self._turns.get((due.tenant, due.endpoint_id), 0))
        until = now + self._lease
        with self._database.write() as connection:
            claimed = [outbox.claim(connection, due, until) for due in wanted[:n]]
        leased = [each for each in claimed if each is not None]
        for each in leased:
            lane = (each.tenant, each.endpoint_id)
            self._turns.pop(lane, None)  # so that the dict is in order of turns
            self._turns[lane] = self._n_turns = self._n_turns + 1
        while len(self._turns) > MAX_TURNS:
            del self._turns[next(iter(self._turns))]  # forgotten is as good as longest ago
        return leased

    async def _attempt(self, leased: Leased) -> None:
        at, started = self._clock.now(), asyncio.get_running_loop().time()
        body = leased.body.encode()
        seconds_since_1970 = at // _MICROS
        headers = {
            "content-type": "application/json",
            "user-agent": "slicewatch",
            "webhook-id": leased.id,
            "webhook-timestamp": str(seconds_since_1970),
            "webhook-signature": sign(
                leased.id, seconds_since_1970, body, leased.signing_secrets(at)
            ),
        }
        answer = await self._egress.post(leased.url, headers, body)
        seconds = round(asyncio.get_running_loop().time() - started, 6)
        attempt = Attempt(at, answer.status, answer.error, seconds)
        verdict = judge(
            answer, leased.n_attempts, self._schedule_seconds, self._clock.now(), self._rng
        )
        await asyncio.to_thread(self._record, leased, attempt, verdict)

    def _record(self, leased: Leased, attempt: Attempt, verdict: Verdict) -> None:
        with self._database.write() as connection:
            recorded = outbox.record(connection, leased, attempt, verdict)
        retried = verdict.state is DeliveryState.WAITING
        self._metrics.deliveries.labels("retried" if retried else verdict.state.value).inc()
        if verdict.state is not DeliveryState.DELIVERED or not recorded:
            log.info(
                "delivery_attempt",
                delivery=leased.id,
                endpoint=leased.endpoint_id,
                state=verdict.state.value if recorded else "lease lost",
                status=attempt.status,
                error=attempt.error,
            )


def judge(
    answer: Answer,
    n_attempts: int,
    schedule_seconds: Sequence[float],
    now: int,
    rng: random.Random,
) -> Verdict:
    """What an answer makes of a delivery that had `n_attempts` attempts before it.

    Only 2xx is success; a redirect is a failure like any other; 410 ends the endpoint.
    """
    if answer.status is not None and 200 <= answer.status < 300:
        return Verdict(DeliveryState.DELIVERED, now)
    if answer.status == 410:
        return Verdict(DeliveryState.FAILED, now, gone=True)
    if n_attempts + 1 >= len(schedule_seconds):
        return Verdict(DeliveryState.FAILED, now)
    delay = schedule_seconds[n_attempts + 1] * rng.uniform(1 - JITTER, 1 + JITTER)
    if answer.status in (429, 503):
        delay = max(delay, retry_after_seconds(answer.retry_after, now))
    return Verdict(DeliveryState.WAITING, now + round(delay * _MICROS))


def retry_after_seconds(header: str | None, now: int) -> float:
    """How long a receiver asks us to wait: seconds or a date, between 0 and a day."""
    if header is None:
        return 0.0
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(min(int(text[:9]), MAX_RETRY_AFTER_SECONDS))
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(date.timestamp() - now / _MICROS, 0.0), float(MAX_RETRY_AFTER_SECONDS))
