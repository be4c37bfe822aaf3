"""House: one database, one clock, and delivery workers over them, without the rest."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from sqlalchemy import select

from service.clock import Clock
from service.database import Database
from service.engine.state_store import SqlStateStore
from service.metrics import Metrics
from service.notify import outbox
from service.notify.egress import Egress
from service.notify.endpoints import Endpoint, Endpoints
from service.notify.wants import EndpointSettings
from service.notify.worker import JITTER, Worker
from service.seal import Seal
from service.tables import attempts, deliveries
from tests.builders import ManualClock, a_transition
from tests.receiver import Receiver

SCHEDULE = (0, 5, 300)
DEADLINE = 2.0


class House:
    """One database, one clock, and workers over them."""

    def __init__(self, directory: Path, clock: Clock | None = None) -> None:
        self.database = Database.in_directory(directory)
        self.database.create_tables()
        self.clock: Any = clock or ManualClock()
        self.endpoints = Endpoints(self.database, self.clock, Seal())
        self.metrics = Metrics()

    def endpoint(self, receiver: Receiver, **settings: Any) -> Endpoint:
        """An endpoint of tenant acme that posts to a receiver."""
        stated = {"url": receiver.url, **settings}
        return self.endpoints.create("acme", EndpointSettings.model_validate(stated))

    def enqueue(self, **changes: Any) -> None:
        """Deliveries of a transition, to every endpoint there is."""
        with self.database.write() as connection:
            assert outbox.enqueue(connection, a_transition(**changes), self.clock.now())

    def happen(self, *changes: dict[str, Any]) -> int:
        """Transitions, stored as the engine does: with their alerts and their deliveries."""
        store = SqlStateStore(self.database, self.clock, outbox.enqueue)
        return store.commit(store.claim(), [a_transition(**each) for each in changes])

    def worker(self, egress: Egress | None = None, **more: Any) -> Worker:
        """A worker that may post to the loopback."""
        deadline = more.pop("deadline_seconds", DEADLINE)
        egress = egress or Egress(["127.0.0.0/8"], http=True, deadline_seconds=deadline)
        return Worker(
            self.database,
            self.clock,
            egress,
            Seal(),
            schedule_seconds=more.pop("schedule_seconds", SCHEDULE),
            rng=random.Random(7),
            metrics=self.metrics,
            **more,
        )

    def drain(self) -> int:
        """A worker that starts, attempts what is due now, and ends."""
        return asyncio.run(self.worker().drain())

    def delivery(self) -> Any:
        """The only one there is."""
        with self.database.read() as connection:
            return connection.execute(select(deliveries)).one()

    def attempts(self) -> list[tuple[int, int | None]]:
        """Number and status of each, in order."""
        with self.database.read() as connection:
            query = select(attempts.c.number, attempts.c.status).order_by(attempts.c.number)
            return [(row.number, row.status) for row in connection.execute(query)]

    def states(self) -> dict[tuple[str, int], str]:
        """By alert and sequence, where each delivery is."""
        d = deliveries.c
        with self.database.read() as connection:
            query = select(d.alert_id, d.sequence, d.state)
            return {(alert, n): state for alert, n, state in connection.execute(query)}

    def wait_out(self, delay: float) -> None:
        """Go to where a retry after this delay is due, whatever its jitter."""
        self.clock.advance(delay * (1 + JITTER))


def while_running(worker: Worker, script: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a script beside the worker's own loop, then cancel the worker."""

    async def both() -> None:
        task = asyncio.create_task(worker.run())
        try:
            await script()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(both())


def received(receiver: Receiver, n: int) -> bool:
    """Whether so many requests have come."""
    return len(receiver.requests) >= n


async def until(claim: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(seconds):
        while not claim():
            await asyncio.sleep(0.005)
