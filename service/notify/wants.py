"""Wants: what a tenant may say of an endpoint: which news, in which form, how and when.

`Wants` is what anyone of the tenant may read; `EndpointSettings` adds what is sealed at rest.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from service.alerts.hours import Hours
from service.alerts.matcher import Matcher
from service.monitor.findings import Severity
from service.notify.addresses import MAX_URL_LENGTH

PAGERDUTY_URL: Final = "https://events.pagerduty.com/v2/enqueue"
MAX_PER_MINUTE: Final = 600

_HEADER_NAME: Final = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$"
_HEADER_VALUE: Final = r"^[\x21-\x7e]([\x20-\x7e]{0,1022}[\x21-\x7e])?$"
_OURS: Final = re.compile(  # headers that say what we send and how the connection is used
    r"(?i:host|content-.*|transfer-encoding|connection|keep-alive|upgrade|te|trailer|expect"
    r"|proxy-.*|user-agent|webhook-.*)"
)


class Format(StrEnum):
    """In which form an endpoint is told."""

    STANDARD = "standard"  # Standard Webhooks, the contract's body
    ALERTMANAGER = "alertmanager"  # webhook v4, or alerts for an Alertmanager's own API v2
    PAGERDUTY = "pagerduty"  # Events API v2
    SLACK = "slack"  # an incoming webhook: text and blocks
    TEAMS = "teams"  # an Adaptive Card
    CLOUDEVENTS = "cloudevents"  # 1.0, structured mode


URL_IS_SECRET: Final = frozenset({Format.SLACK, Format.TEAMS})  # who has it may post there
OF_INCIDENTS: Final = frozenset({Format.ALERTMANAGER, Format.PAGERDUTY})  # alerts and no news

News = Literal["digest.daily", "endpoint.disabled"]


class QuietHours(Hours):
    """When an endpoint is told nothing but what is severe; what was held goes out at their end."""

    unless: list[Severity] = Field(default=[Severity.CRITICAL], max_length=len(Severity))


class Wants(BaseModel):
    """What an endpoint is told, and when."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Format = Format.STANDARD
    filters: Matcher = Matcher()
    group: Literal["incident", "alert"] = Field(
        default="incident",
        description="`incident`: its head alone; `alert`: also each alert that another explains",
    )
    also: list[News] = Field(default=[], max_length=2, description="news besides alerts")
    max_per_minute: int = Field(default=MAX_PER_MINUTE, ge=1, le=MAX_PER_MINUTE)
    quiet_hours: QuietHours | None = None

    @model_validator(mode="after")
    def _news_suits_the_format(self) -> Self:
        if self.also and self.format in OF_INCIDENTS:
            raise ValueError("also: this format carries alerts alone")
        return self


def _not_ours(name: str) -> str:
    if _OURS.fullmatch(name):
        raise ValueError("a header of ours")
    return name


class ClientCertificate(BaseModel):
    """What we show a receiver that asks who connects (mTLS): PEM, the chain and its key."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    certificate: str = Field(max_length=32_768)
    key: str = Field(max_length=16_384, repr=False)

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        theirs = self.leaf.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        ours = self._private_key().public_key()
        if theirs != ours.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
            raise ValueError("the key is not the certificate's")
        return self

    @property
    def leaf(self) -> x509.Certificate:
        """The certificate itself, first of its chain."""
        try:
            return x509.load_pem_x509_certificates(self.certificate.encode())[0]
        except ValueError:
            raise ValueError("certificate: must be one or more in PEM") from None

    @property
    def sha256(self) -> str:
        """The certificate's fingerprint."""
        return self.leaf.fingerprint(hashes.SHA256()).hex()

    def _private_key(self) -> PrivateKeyTypes:
        try:
            return load_pem_private_key(self.key.encode(), password=None)
        except (ValueError, TypeError):
            raise ValueError("key: must be a private key in PEM, without a password") from None


class EndpointSettings(Wants):
    """All that is said of an endpoint."""

    model_config = ConfigDict(hide_input_in_errors=True)

    url: str = Field(default="", max_length=MAX_URL_LENGTH, examples=["https://example.com/hooks"])
    headers: dict[
        Annotated[str, Field(pattern=_HEADER_NAME), AfterValidator(_not_ours)],
        Annotated[str, Field(pattern=_HEADER_VALUE)],
    ] = Field(default={}, max_length=20, description="sent with each delivery; never shown again")
    routing_key: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9_-]{1,64}$", description="of a PagerDuty integration"
    )
    client_certificate: ClientCertificate | None = None

    @model_validator(mode="before")
    @classmethod
    def _pagerduty_has_one_address(cls, given: object) -> object:
        if isinstance(given, dict) and given.get("format") == Format.PAGERDUTY:
            return {"url": PAGERDUTY_URL, **given}
        return given

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if not self.url:
            raise ValueError("url: must be given")
        if (self.format is Format.PAGERDUTY) != (self.routing_key is not None):
            raise ValueError("routing_key: is given with the format pagerduty, and with no other")
        return self

    @property
    def wants(self) -> Wants:
        """The part that is not secret."""
        return Wants(**{name: getattr(self, name) for name in Wants.model_fields})
