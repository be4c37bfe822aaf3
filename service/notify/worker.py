"""Worker: leases lanes that have something due and posts it, signed, until each delivery is done.

A lane an endpoint, one delivery in each, `max_at_once` lanes at a time: an endpoint that hangs
holds up no other. Lanes are given in turn, whoever had one longest ago first, so that many
endpoints that hang can't keep a good one waiting for longer than a round. A lane that keeps failing
is left alone for longer and longer, and then tried with one delivery.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Final, ParamSpec, TypeVar

import structlog

from service.clock import Clock
from service.database import Database
from service.errors import TryLater
from service.metrics import Metrics
from service.notify import lanes, outbox
from service.notify.egress import Answer, Egress
from service.notify.endpoints import Private, open_private
from service.notify.formats import Message, render
from service.notify.lanes import Attempt, Leased, Recorded, Verdict
from service.notify.outbox import DeliveryState
from service.notify.webhook import sign
from service.seal import Seal

CLAIMED_AT_ONCE: Final = 16  # lanes a commit: the first are tried while others are claimed
POLL_SECONDS: Final = (
    1.0  # between looks when nobody wakes us: for retries, and for other processes
)
JITTER: Final = 0.2  # a delay is drawn from ±20 %, so that an outage's end is not a stampede
MAX_RETRY_AFTER_SECONDS: Final = 86_400
BREAKS_AFTER: Final = 5  # failures in a row, from which an endpoint is probed and not pressed
FIRST_PAUSE_SECONDS: Final = 5.0  # at most, before the first probe; doubled with each that fails
LONGEST_PAUSE_SECONDS: Final = 300.0
LEASE_MARGIN_SECONDS: Final = 15.0  # beyond an attempt's deadline, to record it
DISABLE_AFTER_SECONDS: Final = 5 * 86_400  # of nothing but failures

_MICROS: Final = 1_000_000

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger()


@dataclass(slots=True)
class _Tried:
    """An attempt on its way into the log."""

    leased: Leased
    attempt: Attempt
    verdict: Verdict
    recorded: Recorded | None = None  # what it made of the lane; None where the lease was lost
    is_recorded: bool = False


class Worker:
    """Delivers what the outbox holds.

    worker = Worker(database, clock, egress, seal, schedule_seconds=(0, 5, 300), ...)
    task = asyncio.create_task(worker.run())
    worker.wake()  # from any thread, when there is something new
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        egress: Egress,
        seal: Seal,
        *,
        schedule_seconds: Sequence[float],
        rng: random.Random,
        metrics: Metrics,
        max_at_once: int = 128,
        disable_after_seconds: float = DISABLE_AFTER_SECONDS,
    ) -> None:
        self._database = database
        self._clock = clock
        self._egress = egress
        self._seal = seal
        self._schedule_seconds = schedule_seconds
        self._rng = rng
        self._metrics = metrics
        self._max_at_once = max_at_once
        self._lease = round((egress.deadline_seconds + LEASE_MARGIN_SECONDS) * _MICROS)
        self._disable_after = round(disable_after_seconds * _MICROS)
        self._lanes: set[asyncio.Task[None]] = set()
        self._held: dict[str, Leased] = {}  # by delivery: claimed, and nothing recorded yet
        self._tried: list[_Tried] = []  # to be recorded
        self._recording = asyncio.Lock()
        self._looked_at = 0
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
        """Deliver until cancelled; whoever comes next sends at once what is then in flight."""
        self._loop = asyncio.get_running_loop()
        try:
            while True:
                self._changed.clear()
                try:
                    await self._fill_lanes()
                    await self._look_around()
                except TryLater as refusal:
                    log.warning("outbox_unavailable", reason=refusal.detail)
                except Exception:  # what is due stays due, and is looked at again
                    log.exception("outbox_failed")
                await self._until_changed()
        finally:
            self._loop = None
            for lane in self._lanes:
                lane.cancel()
            await asyncio.gather(*self._lanes, return_exceptions=True)
            await _finished(self._give_back)

    async def drain(self) -> int:
        """Attempt all that is due at this instant, and what that makes due; returns how many."""
        n = 0
        while True:
            n_wanted, leased = await _finished(self._claim, self._max_at_once)
            await asyncio.gather(*map(self._attempt, leased))
            n += len(leased)
            if n_wanted == 0:
                return n

    async def _fill_lanes(self) -> None:
        free = min(self._max_at_once - len(self._lanes), CLAIMED_AT_ONCE)
        if free == 0:
            return
        n_wanted, claimed = await _finished(self._claim, free)
        for leased in claimed:
            lane = asyncio.create_task(self._lane(leased))
            self._lanes.add(lane)
            lane.add_done_callback(self._lane_ended)
        if n_wanted:  # there may be more lanes, and more in those of which all was put aside
            self._changed.set()

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

    def _claim(self, n: int) -> tuple[int, list[Leased]]:
        """How many lanes had something due, and what was leased of them."""
        now = self._clock.now()
        with self._database.read() as connection:
            wanted = lanes.due(connection, now, n)
        if not wanted:
            return 0, []
        until = now + self._lease
        with self._database.write() as connection:
            claimed = lanes.claim_all(connection, wanted, now, until)
        self._held |= {leased.id: leased for leased in claimed}
        return len(wanted), claimed

    def _give_back(self) -> None:
        """End the leases of what was interrupted; where that can't be, they run out."""
        if not self._held:
            return
        try:
            with self._database.write() as connection:
                lanes.give_back(connection, [*self._held.values()])
        except TryLater as refusal:
            log.warning("leases_not_given_back", n=len(self._held), reason=refusal.detail)

    async def _attempt(self, leased: Leased) -> None:
        at, started = self._clock.now(), asyncio.get_running_loop().time()
        answer = await self._post(leased, at)
        seconds = round(asyncio.get_running_loop().time() - started, 6)
        attempt = Attempt(at, answer.status, answer.error, seconds)
        now = self._clock.now()
        verdict = judge(answer, leased.n_attempts, self._schedule_seconds, now, self._rng)
        pace = leased.wants.max_per_minute
        free_at = max(at + 60 * _MICROS // pace, pause_until(answer, leased, now, self._rng))
        verdict = replace(verdict, free_at=free_at)
        recorded = await self._recorded(_Tried(leased, attempt, verdict))
        if recorded is not None:  # it may be free before anything is due, or the other way round
            self._wake_at(free_at)
            self._wake_at(recorded.ready_at)

    async def _post(self, leased: Leased, at: int) -> Answer:
        try:
            private = open_private(self._seal, leased.tenant, leased.endpoint_id, leased.sealed)
            format_ = leased.wants.format
            message = render(format_, leased.body, leased.id, leased.endpoint_id, private)
        except Exception:  # our fault: it fails by the schedule, and holds nothing else up
            log.exception("delivery_not_made", delivery=leased.id, endpoint=leased.endpoint_id)
            return Answer(None, "could not be put into the endpoint's format")
        headers = _headers(leased, message, private, at)
        return await self._egress.post(private.url, headers, message.body, private.certificate)

    async def _recorded(self, tried: _Tried) -> Recorded | None:
        """Record an attempt in one commit with the others that wait to be: whoever comes first
        writes for all."""
        self._tried.append(tried)
        async with self._recording:
            if not tried.is_recorded:
                all_tried, self._tried = self._tried, []
                await _finished(self._record_all, all_tried)
        self._tell(tried)
        return tried.recorded

    def _record_all(self, all_tried: Sequence[_Tried]) -> None:
        in_order = sorted(all_tried, key=lambda one: (one.leased.tenant, one.leased.endpoint_id))
        with self._database.write() as connection:
            for one in in_order:
                one.recorded = lanes.record(
                    connection, one.leased, one.attempt, one.verdict, self._disable_after
                )
        for one in in_order:
            one.is_recorded = True
            self._held.pop(one.leased.id, None)

    def _tell(self, tried: _Tried) -> None:
        leased, attempt, verdict = tried.leased, tried.attempt, tried.verdict
        recorded = tried.recorded
        retried = verdict.state is DeliveryState.WAITING
        self._metrics.deliveries.labels("retried" if retried else verdict.state.value).inc()
        if verdict.state is not DeliveryState.DELIVERED or recorded is None:
            log.info(
                "delivery_attempt",
                delivery=leased.id,
                endpoint=leased.endpoint_id,
                state="lease lost" if recorded is None else verdict.state.value,
                status=attempt.status,
                error=attempt.error,
            )
        if recorded is not None and recorded.disabled:
            self._metrics.endpoints_disabled.inc()
            log.warning(
                "endpoint_disabled",
                tenant=leased.tenant,
                endpoint=leased.endpoint_id,
                reason=recorded.disabled,
            )

    def _wake_at(self, instant: int) -> None:
        """Look again then, where that is before the next poll."""
        seconds = (instant - self._clock.now()) / _MICROS
        if self._loop is not None and seconds < POLL_SECONDS:
            self._loop.call_later(max(seconds, 0.0), self._changed.set)

    async def _look_around(self) -> None:
        """Once a poll: what waits, and what a silence no longer holds back."""
        now = self._clock.now()
        if 0 <= now - self._looked_at < POLL_SECONDS * _MICROS:
            return
        self._looked_at = now
        if await _finished(self._released, now):
            self._changed.set()

    def _released(self, now: int) -> int:
        with self._database.read() as connection:
            n, oldest = outbox.waiting(connection)
            ended = lanes.held_by_ended(connection, now)
        self._metrics.deliveries_waiting.set(n)
        self._metrics.deliveries_oldest.set(0 if oldest is None else max(0, now - oldest) / _MICROS)
        if not ended:
            return 0
        with self._database.write() as connection:
            return lanes.release(connection, ended, now)


async def _finished(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a function gives in a thread; who is cancelled waits for it, for a thread can't be."""
    thread = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.gather(thread, return_exceptions=True)
        raise


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
    if answer.is_success:
        return Verdict(DeliveryState.DELIVERED, now)
    if answer.status == 410:
        return Verdict(DeliveryState.FAILED, now, gone=True)
    if n_attempts + 1 >= len(schedule_seconds):
        return Verdict(DeliveryState.FAILED, now)
    delay = schedule_seconds[n_attempts + 1] * rng.uniform(1 - JITTER, 1 + JITTER)
    if answer.status in (429, 503):
        delay = max(delay, retry_after_seconds(answer.retry_after, now))
    return Verdict(DeliveryState.WAITING, now + round(delay * _MICROS))


def pause_until(answer: Answer, leased: Leased, now: int, rng: random.Random) -> int:
    """Until when an endpoint is left alone after this answer.

    For as long as it asks; and from its fifth failure in a row for a time drawn from zero to a
    limit that doubles with each, so that what comes then is one probe.
    """
    if answer.is_success:
        return 0
    asked = retry_after_seconds(answer.retry_after, now) if answer.status in (429, 503) else 0.0
    n_beyond = leased.n_failures + 1 - BREAKS_AFTER
    limit = 0.0
    if n_beyond >= 0:
        limit = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(n_beyond, 10))
    return now + round(max(asked, rng.uniform(0, limit)) * _MICROS)


def _headers(leased: Leased, message: Message, private: Private, at: int) -> dict[str, str]:
    """Ours after the tenant's own; the timestamp is of the attempt."""
    timestamp = at // _MICROS
    signature = sign(leased.id, timestamp, message.body, private.signing_secrets(at))
    return {
        **private.headers,
        "content-type": message.content_type,
        "user-agent": "slicewatch",
        "webhook-id": leased.id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature,
    }


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
