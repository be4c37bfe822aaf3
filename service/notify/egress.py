"""Egress: posts to addresses that may be reached, and to no others.

*Every* address that a name resolves to must pass the rules of `addresses`; the connection goes to
an address that was checked, never to the name again; no redirects, no proxy from the environment,
one deadline over everything, a bounded reply.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import tempfile
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import httpcore2

from service.errors import InvalidRequest
from service.notify.addresses import AddressRules, Target

Resolve = Callable[[str, int], Awaitable[list[str]]]
Certificate = tuple[str, str]  # PEM of a chain, PEM of its key

DEADLINE_SECONDS: Final = 15.0  # of one attempt, name to reply: per-read limits don't stop a drip
CONNECT_SECONDS: Final = 5.0  # to one address, so that a dead one leaves time for the next
MAX_REPLY_BYTES: Final = 64 * 1024
MAX_CONTEXTS: Final = 128  # client certificates that are kept ready


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back of one request."""

    status: int | None  # None where nothing did
    error: str = ""  # why nothing did; names no address
    retry_after: str | None = None  # the header

    @property
    def is_success(self) -> bool:
        """2xx, and nothing else."""
        return self.status is not None and 200 <= self.status < 300


class Egress:
    """The way out.

    egress = Egress(allow=["127.0.0.0/8"], http=True)
    answer = await egress.post("http://127.0.0.1:9000/hook", {"content-type": "..."}, b"{}")
    """

    def __init__(
        self,
        allow: Iterable[str] = (),
        http: bool = False,
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
        resolve: Resolve | None = None,
        ca_file: Path | None = None,
    ) -> None:
        self.deadline_seconds = deadline_seconds
        self._rules = AddressRules(allow, http)
        self._resolve = _resolve if resolve is None else resolve
        self._ca_file = ca_file
        self._contexts: OrderedDict[Certificate | None, ssl.SSLContext] = OrderedDict()

    async def post(
        self,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        certificate: Certificate | None = None,
    ) -> Answer:
        """Post once. Whatever goes wrong on the way is in the answer, within the deadline.

        `certificate` is shown to a receiver that asks who connects.
        """
        status: int | None = None
        retry_after: str | None = None
        error = ""
        try:
            async with asyncio.timeout(self.deadline_seconds):
                target = self._rules.target(url)
                addresses = await self._addresses(target)
                async with (
                    self._connection(target, addresses, certificate) as connection,
                    connection.stream(
                        "POST",
                        _core_url(target),
                        headers=[("host", _host_header(target)), *headers.items()],
                        content=body,
                    ) as response,
                ):
                    status = response.status
                    retry_after = _header(response, b"retry-after")
                    await _read_some(response)
        except InvalidRequest as refused:
            error = refused.detail
        except TimeoutError:
            error = f"no answer within {self.deadline_seconds:g} s"
        except (httpcore2.NetworkError, httpcore2.TimeoutException, OSError) as failed:
            error = f"connection failed: {type(failed).__name__}"
        except httpcore2.ProtocolError:
            error = "the answer is not HTTP"
        # A status that arrived stands, however the rest of the reply went.
        return Answer(status, "" if status is not None else error, retry_after)

    async def _addresses(self, target: Target) -> list[str]:
        """The checked addresses of a target; one that must not be reached refuses them all."""
        if target.address is not None:
            return [str(target.address)]
        addresses = await self._resolve(target.host, target.port)
        if not addresses:
            raise InvalidRequest("url: the name does not resolve")
        for address in addresses:
            self._rules.check(target, ip_address(address))
        return addresses

    def _connection(
        self, target: Target, addresses: Sequence[str], certificate: Certificate | None
    ) -> httpcore2.AsyncHTTPConnection:
        # One connection an attempt: endpoints share nothing, and nothing outlives its check.
        return httpcore2.AsyncHTTPConnection(
            _core_url(target).origin,
            ssl_context=None if target.scheme == "http" else self._context(certificate),
            network_backend=_Pinned(addresses),
        )

    def _context(self, certificate: Certificate | None) -> ssl.SSLContext:
        """Made once for each certificate: reading the authorities takes milliseconds."""
        context = self._contexts.pop(certificate, None)
        if context is None:
            context = httpcore2.default_ssl_context()
            if self._ca_file is not None:
                context.load_verify_locations(self._ca_file)
            if certificate is not None:
                _load(context, certificate)
        self._contexts[certificate] = context  # the newest last
        if len(self._contexts) > MAX_CONTEXTS:
            self._contexts.popitem(last=False)
        return context


class _Pinned(httpcore2.AnyIOBackend):
    """Connects to given addresses, whatever name it is asked for."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        failed: Exception = httpcore2.ConnectError("no address")
        for address in self._addresses:
            try:
                return await super().connect_tcp(
                    address, port, CONNECT_SECONDS, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed = error
        raise failed


def _load(context: ssl.SSLContext, certificate: Certificate) -> None:
    """Take up a certificate, which OpenSSL reads from a file: one in memory where there are any."""
    pem = "\n".join(certificate).encode()
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
        with open(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(pem)
        file.flush()
        context.load_cert_chain(file.name)


def _host_header(target: Target) -> str:
    host = f"[{target.host}]" if ":" in target.host else target.host
    default = 443 if target.scheme == "https" else 80
    return host if target.port == default else f"{host}:{target.port}"


def _core_url(target: Target) -> httpcore2.URL:
    return httpcore2.URL(
        scheme=target.scheme, host=target.host, port=target.port, target=target.path
    )


async def _resolve(host: str, port: int) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        return []
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _header(response: httpcore2.Response, name: bytes) -> str | None:
    for key, value in response.headers:
        if key.lower() == name:
            return value.decode("latin-1")
    return None


async def _read_some(response: httpcore2.Response) -> None:
    n = 0
    async for chunk in response.aiter_stream():
        n += len(chunk)
        if n > MAX_REPLY_BYTES:
            return
