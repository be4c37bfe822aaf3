"""Schedule: jobs that run every so often, each slot of theirs once, however many processes do it.

    def forget(run: Run) -> bool:
        with run.commit() as connection:      # the slot is taken in the same transaction
            n = connection.execute(delete(...)).rowcount
        return n == LIMIT                     # there is more: the next slot follows at once

    schedule = Schedule(database, [Job("forget", 60, forget)], clock, metrics, holder="host:17")
    task = asyncio.create_task(schedule.run())

A job's slots are numbered 1, 2, 3, …, and a slot is a row. To run one, a process

1. takes the job's lease, which gives it a fence, a number that only grows;
2. does the work;
3. commits, in one transaction, the work's effect and the slot's row, where the fence is still the
   job's newest. Whoever was stopped or killed meanwhile left its lease to another, and is refused.

APScheduler beats the time in each process, and would by itself run a job once a process. What is
due is told by a clock that nobody sets: a slot when the last one was seen to be so old, a lease
when it was seen unchanged for so long. The wall clock tells the age of what a process finds at its
first look and nothing else, so one that is set, or two machines that disagree, neither stop a job
nor make it run in bursts. Slots are counted, and summer time does not enter.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger
from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from service.clock import Clock
from service.database import Database
from service.errors import Conflict
from service.metrics import Metrics
from service.tables import job_slots, jobs

LEASE_SECONDS: Final = 30  # a holder that is not through by then may lose its lease to another
LOOK_SECONDS: Final = 1.0  # between two looks at whether a job is due
JOBS_AT_ONCE: Final = 2
_STEP_SECONDS: Final = 1.0  # a wall clock that moves by more against the steady one was set
_MICROS: Final = 1_000_000
_NOBODY: Final = ""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Job:
    """Work that is done again and again.

    It is to be through well within `lease_seconds`, and to leave what is too much for that to its
    next slot.
    """

    name: str
    every_seconds: float
    work: Callable[[Run], bool]  # True: there is more to do, the next slot is due at once
    lease_seconds: float = LEASE_SECONDS


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to run a job's next slot, until someone takes a newer one."""

    job: str
    fence: int  # grows with every lease of the job
    slot: int  # to be run


@dataclass(slots=True)
class Run:
    """One slot being run, as the work sees it."""

    lease: Lease
    at: int  # microseconds since 1970, UTC, at its start
    _database: Database
    _clock: Clock
    is_done: bool = False

    @contextmanager
    def commit(self) -> Iterator[Connection]:
        """The transaction of the slot and of its effect; a slot has one.

        Raises Conflict where another has taken the lease over: nothing is stored then.
        """
        lease, now = self.lease, self._clock.now()
        held = jobs.c.job == lease.job, jobs.c.fence == lease.fence, jobs.c.slot == lease.slot - 1
        done = {"slot": lease.slot, "holder": _NOBODY, "changed_at": now}
        slot = {"job": lease.job, "slot": lease.slot, "fence": lease.fence}
        with self._database.write() as connection:
            if connection.execute(update(jobs).where(*held).values(done)).rowcount == 0:
                raise Conflict(f"job {lease.job}: lease {lease.fence} was taken over")
            connection.execute(insert(job_slots).values(**slot, started_at=self.at, ended_at=now))
            yield connection
        self.is_done = True


@dataclass(slots=True)
class _Seen:
    """What a job's row said, and since when, by the steady clock, it is known to say so."""

    fence: int = 0
    slot: int = -1
    fence_since: float = 0.0
    slot_since: float = 0.0
    has_more: bool = False


class Schedule:
    """The jobs of one process. `holder` names the process in what it leases.

    `may_run` says whether it is time to work at all; `steady` counts seconds and is never set.
    """

    def __init__(
        self,
        database: Database,
        jobs: Sequence[Job],
        clock: Clock,
        metrics: Metrics,
        *,
        holder: str,
        may_run: Callable[[], bool] = lambda: True,
        steady: Callable[[], float] = time.monotonic,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._database = database
        self._jobs = tuple(jobs)
        self._clock = clock
        self._metrics = metrics
        self._holder = holder
        self._may_run = may_run
        self._steady = steady
        self._look_seconds = look_seconds
        self._seen: dict[str, _Seen] = {}

    async def run(self) -> None:
        """Run jobs as they fall due, until cancelled; what is then at work may end first."""
        scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(JOBS_AT_ONCE)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        for job in self._jobs:
            beat = IntervalTrigger(seconds=self._look_seconds, timezone=UTC)
            scheduler.add_job(self.look, beat, [job], id=job.name)
        scheduler.start()
        try:
            await self._follow_the_clock(scheduler)
        finally:
            await asyncio.to_thread(scheduler.shutdown)

    async def _follow_the_clock(self, scheduler: BackgroundScheduler) -> None:
        """Make APScheduler look anew when the wall clock was set.

        It would wait for the time that it had noted: for an hour, when set back by one.
        """
        ahead = self._ahead()
        while True:
            await asyncio.sleep(self._look_seconds)
            if abs(self._ahead() - ahead) > _STEP_SECONDS:
                ahead = self._ahead()
                now = datetime.fromtimestamp(self._clock.now() / _MICROS, UTC)
                for each in scheduler.get_jobs():
                    each.modify(next_run_time=now)
                log.warning("wall clock was set")

    def _ahead(self) -> float:
        return self._clock.now() / _MICROS - self._steady()

    def look(self, job: Job) -> bool:
        """Run the job's next slot if it is due and nobody has it; True if this ran one."""
        if not self._may_run():
            return False
        try:
            lease = self._take(job)
            if lease is None:
                return False
            self._work(job, lease)
        except Conflict as refusal:
            self._failed(job, "refused")
            log.warning("job refused", job=job.name, reason=refusal.detail)
            return False
        except Exception:
            self._failed(job, "failed")
            log.exception("job failed", job=job.name)
            return False
        return True

    def _take(self, job: Job) -> Lease | None:
        """The lease of a slot that is due; None where none is, or another process has it."""
        seen = self._seen.setdefault(job.name, _Seen())
        if seen.slot >= 0 and not self._is_due(job, seen):
            return None  # without asking the database
        self._observe(job, seen)
        return self._claim(job, seen) if self._is_due(job, seen) else None

    def _is_due(self, job: Job, seen: _Seen) -> bool:
        return seen.has_more or self._steady() - seen.slot_since >= job.every_seconds

    def _observe(self, job: Job, seen: _Seen) -> None:
        """Read the job's row, and note what of it is new."""
        with self._database.read() as connection:
            row = connection.execute(select(jobs).where(jobs.c.job == job.name)).one_or_none()
        now = self._steady()
        if row is None:
            self._introduce(job)
            seen.slot, seen.slot_since = 0, now - job.every_seconds
            seen.fence, seen.fence_since = 0, now - job.lease_seconds
            return
        age = self._age(row.changed_at) if seen.slot < 0 else 0.0
        if row.slot != seen.slot:
            seen.slot, seen.slot_since, seen.has_more = row.slot, now - age, False
        if row.fence != seen.fence:
            seen.fence, seen.fence_since = row.fence, now - age
        if row.holder != _NOBODY:  # it found the slot due; who takes over from it need not wait
            seen.slot_since = now - job.every_seconds
        if row.holder in (_NOBODY, self._holder):  # free, or left by a run of ours that failed
            seen.fence_since = now - job.lease_seconds

    def _age(self, changed_at: int) -> float:
        """Seconds since then by the wall clock; none if that was set back since."""
        return max(0.0, (self._clock.now() - changed_at) / _MICROS)

    def _introduce(self, job: Job) -> None:
        row = {"slot": 0, "fence": 0, "holder": _NOBODY, "changed_at": self._clock.now()}
        try:
            with self._database.write() as connection:
                connection.execute(insert(jobs).values(job=job.name, **row))
        except IntegrityError:
            return  # another process was first

    def _claim(self, job: Job, seen: _Seen) -> Lease | None:
        """Take the lease where it is free or was held for too long, by compare-and-set."""
        if self._steady() - seen.fence_since < job.lease_seconds:
            return None
        unchanged = jobs.c.job == job.name, jobs.c.fence == seen.fence, jobs.c.slot == seen.slot
        ours = {"fence": seen.fence + 1, "holder": self._holder, "changed_at": self._clock.now()}
        with self._database.write() as connection:
            if connection.execute(update(jobs).where(*unchanged).values(ours)).rowcount == 0:
                return None  # another process was first
        seen.fence, seen.fence_since = seen.fence + 1, self._steady()
        return Lease(job.name, seen.fence, seen.slot + 1)

    def _work(self, job: Job, lease: Lease) -> None:
        run = Run(lease, self._clock.now(), self._database, self._clock)
        try:
            has_more = job.work(run)
        except BaseException:
            self._give_back(lease)
            raise
        if not run.is_done:
            self._give_back(lease)
            raise RuntimeError(f"job {job.name} ended without a commit")
        seen = self._seen[job.name]
        seen.slot, seen.slot_since, seen.has_more = lease.slot, self._steady(), has_more
        self._metrics.job_runs.labels(job.name, "done").inc()
        self._metrics.job_done_at.labels(job.name).set(self._clock.now() / _MICROS)

    def _give_back(self, lease: Lease) -> None:
        """Let the next look have the slot, in this process or another."""
        held = jobs.c.job == lease.job, jobs.c.fence == lease.fence
        with self._database.write() as connection:
            connection.execute(update(jobs).where(*held).values(holder=_NOBODY))

    def _failed(self, job: Job, result: str) -> None:
        """Count it; the same slot is due again once the job's time has passed, not at each look."""
        seen = self._seen[job.name]
        seen.slot_since, seen.has_more = self._steady(), False
        self._metrics.job_runs.labels(job.name, result).inc()
