"""Addresses: which URLs may be delivered to; pure rules, no name is resolved here.

https on 443 or 8443 to public addresses. Networks in `allow` are lifted from the table, with any
port, and with plain http where `http` is set.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

from service.errors import InvalidRequest

Address = IPv4Address | IPv6Address

PORTS: Final = frozenset({443, 8443})
MAX_URL_LENGTH: Final = 2048

# An explicit table, because `is_private` lets 100.64/10 through and `is_global` lets NAT64, 6to4
# and multicast through. Outside 2000::/3 nothing of IPv6 is global unicast.
_DENIED: Final = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8",  # this host
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # carrier-grade NAT; the metadata service of some clouds
            "127.0.0.0/8",  # loopback
            "169.254.0.0/16",  # link-local; the metadata service of most clouds
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, broadcast
            "::/3",  # loopback, v4-mapped and v4-compatible, NAT64, discard
            "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4: an IPv4 address of anyone's choice inside
            "3fff::/20",  # documentation
            "4000::/2",  # unassigned
            "8000::/1",  # unassigned, unique local, link-local, site-local, multicast
        ),
    )
)

_URL: Final = re.compile(r"[\x21-\x5b\x5d-\x7e]+")  # printable ASCII without space and backslash
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Target:
    """A URL taken apart once, for the check and for the request alike."""

    scheme: str
    host: str
    port: int
    path: str  # with the query
    address: Address | None  # where the host is written as an address, in any spelling


class AddressRules:
    """What a deployment lets itself be told to connect to. Whoever breaks a rule gets
    InvalidRequest, which names the rule and neither the URL nor the address."""

    def __init__(self, allow: Iterable[str] = (), http: bool = False) -> None:
        self._allow = tuple(map(ip_network, allow))
        self._http = http

    def target(self, url: str) -> Target:
        """The parts of a URL that may be delivered to, as far as can be told without its name."""
        target = _parse(url)
        if target.address is not None:
            self.check(target, target.address)
        elif not self._allow:  # else the name may turn out to be in a network that is lifted
            _check_public(target)
        elif target.scheme == "http" and not self._http:
            raise InvalidRequest("url: must be https")
        return target

    def check(self, target: Target, address: Address) -> None:
        """Refuse this address of a target unless it may be connected to."""
        address = folded(address)
        if any(address in network for network in self._allow):
            if target.scheme == "http" and not self._http:
                raise InvalidRequest("url: must be https")
            return
        _check_public(target)
        if any(address in network for network in _DENIED):
            raise InvalidRequest("url: the address is not public")


def _check_public(target: Target) -> None:
    if target.scheme != "https":
        raise InvalidRequest("url: must be https")
    if target.port not in PORTS:
        raise InvalidRequest("url: port must be 443 or 8443")


def _parse(url: str) -> Target:
    if len(url) > MAX_URL_LENGTH:
        raise InvalidRequest(f"url: must have at most {MAX_URL_LENGTH} characters")
    if not _URL.fullmatch(url):
        raise InvalidRequest("url: must be printable ASCII; write other names as punycode")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidRequest("url: must be a URL with a valid host and port") from None
    if parts.scheme not in ("http", "https"):
        raise InvalidRequest("url: must be https")
    if "@" in parts.netloc:
        raise InvalidRequest("url: must not hold a user name or password")
    if "%" in parts.netloc:
        raise InvalidRequest("url: must have a valid host")
    host = parts.hostname or ""
    address = _literal(host)
    bracketed_name = "[" in parts.netloc and ":" not in host
    if bracketed_name or (address is None and not _NAME.fullmatch(host)):
        raise InvalidRequest("url: must have a valid host")
    if port is None:
        port = 443 if parts.scheme == "https" else 80
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, port, path, address)


def _literal(host: str) -> Address | None:
    """The address that a host spells, 0x7f.1 and 2130706433 included; None for a name."""
    try:
        return folded(ip_address(host))
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def folded(address: Address) -> Address:
    """::ffff:127.0.0.1 is 127.0.0.1."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped
