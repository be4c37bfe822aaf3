"""Standard Webhooks: the body of a delivery, its id and its signatures.

The signed text is `{id}.{timestamp}.{body}`; the header holds one `v1,<base64>` for each secret
that is live, separated by spaces (https://www.standardwebhooks.com, "Signature scheme").
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from service.alerts.alert import Transition
from service.alerts.public import public_alert
from service.clock import to_rfc3339

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what secrets start with
SECRET_BYTES: Final = 32  # the standard asks for 24 to 64
TEST_TYPE: Final = "endpoint.test"


def new_secret(entropy: bytes) -> str:
    """The secret that these random bytes make: `whsec_` and their base64."""
    if not 24 <= len(entropy) <= 64:
        raise ValueError(f"entropy must be 24 to 64 bytes, not {len(entropy)}")
    return SECRET_PREFIX + base64.b64encode(entropy).decode()


def sign(id_: str, timestamp: int, body: bytes, secrets: Sequence[str]) -> str:
    """The `webhook-signature` header: a signature by each secret, in their order.

    `timestamp` is of the attempt, in whole seconds since 1970.
    """
    message = b"%b.%d.%b" % (id_.encode(), timestamp, body)
    keys = (base64.b64decode(secret.removeprefix(SECRET_PREFIX)) for secret in secrets)
    digests = (hmac.digest(key, message, hashlib.sha256) for key in keys)
    return " ".join("v1," + base64.b64encode(digest).decode() for digest in digests)


def verify(
    headers: Mapping[str, str], body: bytes, secret: str, now: int, tolerance_seconds: int = 300
) -> bool:
    """Whether a received webhook is ours and fresh; header names in lower case, `now` in s."""
    id_, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        return False
    if abs(now - int(timestamp)) > tolerance_seconds:
        return False
    due = sign(id_, int(timestamp), body, [secret]).encode()
    given = headers.get("webhook-signature", "").encode(errors="replace").split()
    return any([hmac.compare_digest(due, signature) for signature in given])  # noqa: C419 - all


def delivery_id(tenant: str, alert_id: str, revision: int, endpoint_id: str) -> str:
    """The `webhook-id`: a hash of what the delivery is about, so that a replay gives it again."""
    about = msgspec.json.encode([tenant, alert_id, revision, endpoint_id])
    return "msg_" + hashlib.blake2b(about, digest_size=16).hexdigest()


def body_for(
    transition: Transition,
    acknowledged: dict[str, Any] | None = None,
    public_url: str | None = None,
) -> str:
    """The body that tells of a transition: its type, its instant, the alert as it then was.

    `url`, the page of its evidence, is in it where the service knows how people reach it.
    """
    alert = transition.alert
    data = {**public_alert(alert, acknowledged), "sequence": alert.revision}
    if public_url is not None:
        data["url"] = f"{public_url.rstrip('/')}/alerts/{alert.id}"
    return body_of_news(transition.type, transition.at, data)


def body_for_test(endpoint_id: str, now: int) -> str:
    """The body of `endpoint.test`."""
    return body_of_news(TEST_TYPE, now, {"endpoint": endpoint_id})


def body_of_news(type_: str, at: int, data: dict[str, Any]) -> str:
    """A body of any type."""
    document = {"type": type_, "timestamp": to_rfc3339(at), "data": data}
    return msgspec.json.encode(document).decode()
