"""Routes of silences: `/v1/silences`, maintenance windows among them."""

from __future__ import annotations

from typing import Annotated, Any, Final, Self

from fastapi import APIRouter, Depends
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator

from service.alerts.hours import Hours
from service.alerts.matcher import Matcher
from service.alerts.silences import Silence, Silences, SilenceState
from service.auth import Scope, Tenant, requires, requires_key
from service.clock import from_datetime, to_rfc3339
from service.errors import InvalidRequest, TooLarge
from service.keys import Key
from service.limits import SILENCES
from service.pages import OnePage
from service.services import Services, services

router = APIRouter(tags=["silences"])

Running = Annotated[Services, Depends(services)]
Reader = Annotated[Tenant, Depends(requires(Scope.READ, Scope.ADMIN))]
Admin = Annotated[Tenant, Depends(requires(Scope.ADMIN))]
AdminKey = Annotated[Key, Depends(requires_key(Scope.ADMIN))]

LONGEST: Final = 366 * 86_400 * 1_000_000  # µs: what no one ends is forgotten, and hides things


class NewSilence(BaseModel):
    """Alerts that match are told to no one until it ends; they are still found and listed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    matcher: Matcher
    starts_at: AwareDatetime | None = Field(default=None, description="default: now")
    ends_at: AwareDatetime
    hours: Hours | None = Field(
        default=None, description="a maintenance window: only in these hours of each week"
    )
    author: str = Field(
        default="", max_length=200, pattern=r"^[^\x00]*$", description="default: the key's id"
    )
    reason: str = Field(min_length=1, max_length=2000, pattern=r"^[^\x00]*$")

    @field_validator("matcher")
    @classmethod
    def _says_which(cls, value: Matcher) -> Matcher:
        if value.matches_all:
            raise ValueError("give at least one of models, kinds, severities, slices")
        return value

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> Self:
        if self.starts_at is not None and self.ends_at <= self.starts_at:
            raise ValueError("ends_at: must be after starts_at")
        return self


@router.post("/v1/silences", status_code=201)
def create(key: AdminKey, running: Running, body: NewSilence) -> dict[str, Any]:
    """Keep quiet about alerts that match, for a time, for a reason."""
    now = running.clock.now()
    starts_at = now if body.starts_at is None else from_datetime(body.starts_at)
    ends_at = from_datetime(body.ends_at)
    if ends_at <= now:
        raise InvalidRequest("ends_at: must be in the future")
    if ends_at - max(starts_at, now) > LONGEST:
        raise InvalidRequest("ends_at: must be within 366 days of its start")
    try:
        silence = _silences(running).create(
            key.tenant,
            body.matcher,
            starts_at=starts_at,
            ends_at=ends_at,
            hours=body.hours,
            author=body.author or key.id,
            reason=body.reason,
        )
    except TooLarge:
        running.metrics.overflow.labels(SILENCES.name).inc()
        raise
    return _public(silence, now)


@router.get("/v1/silences")
def list_silences(
    tenant: Reader, running: Running, page: OnePage, state: SilenceState | None = None
) -> dict[str, Any]:
    """The silences, newest first, those that have ended in the last thirty days included."""
    found, next_ = _silences(running).list(tenant, page, state)
    now = running.clock.now()
    return {"silences": [_public(silence, now) for silence in found], "next": next_}


@router.get("/v1/silences/{silence_id}")
def get(tenant: Reader, running: Running, silence_id: str) -> dict[str, Any]:
    """One silence."""
    return _public(_silences(running).get(tenant, silence_id), running.clock.now())


@router.delete("/v1/silences/{silence_id}", status_code=204)
def end(tenant: Admin, running: Running, silence_id: str) -> None:
    """End it now: what it kept quiet and still fires is told. It stays in the list."""
    _silences(running).end(tenant, silence_id)
    running.outbox_wake()


def _silences(running: Services) -> Silences:
    return Silences(running.database, running.clock)


def _public(silence: Silence, now: int) -> dict[str, Any]:
    hours = silence.hours
    return {
        "id": silence.id,
        "matcher": silence.matcher.model_dump(mode="json", exclude_none=True),
        "starts_at": to_rfc3339(silence.starts_at),
        "ends_at": to_rfc3339(silence.ends_at),
        "hours": None if hours is None else hours.model_dump(mode="json", by_alias=True),
        "state": silence.state(now).value,
        "author": silence.author,
        "reason": silence.reason,
        "created_at": to_rfc3339(silence.created_at),
    }
