"""Auth: the dependency by which a route says which scopes it asks for, and learns the tenant."""

# Annotations are evaluated here: a dependency inside a closure has no name FastAPI could look up.
import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.errors import Forbidden
from service.keys import Key, Scope, Tenant
from service.quotas import Quota
from service.services import Services, services

__all__ = ["Scope", "Tenant", "requires", "requires_key", "requires_quota", "services"]

_scheme = HTTPBearer(auto_error=False, description="`sw_<key id>_<secret>`")  # for the OpenAPI page

_Documented = Annotated[HTTPAuthorizationCredentials | None, Security(_scheme)]


def requires_key(*scopes: Scope) -> Callable[..., Awaitable[Key]]:
    """A dependency that gives the caller's key where it has any one of `scopes`.

    Raises Unauthorized for no live key, Forbidden for one without such a scope.
    """
    if not scopes:
        raise ValueError("a route must ask for a scope")
    wanted = frozenset(scopes)
    refusal = f"the key needs one of the scopes {', '.join(sorted(wanted))}"

    async def authenticated(
        request: Request, running: Annotated[Services, Depends(services)], _shown: _Documented
    ) -> Key:
        header = request.headers.get("authorization")
        if running.keys.answers_at_once(header):
            key = running.keys.authenticate(header)
        else:  # the loop must go on while a database does not answer
            key = await asyncio.to_thread(running.keys.authenticate, header)
        if wanted == {Scope.ADMIN}:
            request.state.manager = key  # `service.audit` writes down what it does
        if not wanted & key.scopes:
            raise Forbidden(refusal)
        return key

    return authenticated


def requires(*scopes: Scope) -> Callable[..., Awaitable[Tenant]]:
    """`requires_key`, giving the tenant alone."""
    authenticated = requires_key(*scopes)

    async def tenant(key: Annotated[Key, Depends(authenticated)]) -> Tenant:
        return key.tenant

    return tenant


def requires_quota(*scopes: Scope) -> Callable[..., Awaitable[Tenant]]:
    """`requires`, for a route that takes rows in: raises RateLimited for a tenant over its rate.

    It is asked before the body is read.
    """
    authenticated = requires_key(*scopes)

    async def tenant(
        key: Annotated[Key, Depends(authenticated)],
        running: Annotated[Services, Depends(services)],
    ) -> Tenant:
        settings = running.settings
        quota = Quota(
            key.rows_per_second or settings.tenant_rows_per_second,
            key.bytes_per_second or settings.tenant_bytes_per_second,
        )
        running.quotas.admit(key.tenant, quota)
        return key.tenant

    return tenant
