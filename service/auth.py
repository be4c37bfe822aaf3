"""Auth: the dependency by which a route says which scopes it asks for, and learns the tenant."""

# Annotations are evaluated here: a dependency inside a closure has no name FastAPI could look up.
from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.errors import Forbidden
from service.keys import Key, Scope, Tenant
from service.services import Services, services

__all__ = ["Scope", "Tenant", "requires", "requires_key", "services"]

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
        key = running.keys.authenticate(request.headers.get("authorization"))
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
