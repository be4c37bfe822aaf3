"""Services: the parts of a running server that its routes reach, in one frozen record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from fastapi import Request

if TYPE_CHECKING:
    from service.clock import Clock
    from service.database import Database
    from service.engine.engine import Engine
    from service.keys import Keys
    from service.metrics import Metrics
    from service.quotas import Quotas
    from service.seal import Seal
    from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Services:
    """Made by `service.app`; kept at `app.state.services`."""

    settings: Settings
    clock: Clock
    database: Database
    keys: Keys
    engine: Engine
    metrics: Metrics
    quotas: Quotas
    seal: Seal
    outbox_wake: Callable[[], None]  # tells the delivery worker to look now; any thread may


async def services(request: Request) -> Services:
    """The services of the app that a request came to; a dependency."""
    return cast(Services, request.app.state.services)
