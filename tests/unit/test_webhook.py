"""Webhooks: their signatures hold for the verifiers that receivers use, and for nothing altered."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
import standardwebhooks
import svix.webhooks
import time_machine

from service.alerts.public import public_alert, rounded
from service.clock import to_rfc3339
from service.notify.webhook import body_for, body_for_test, delivery_id, new_secret, sign, verify
from tests.builders import NOW, a_transition, an_alert

SECRET = new_secret(bytes(range(32)))
OTHER = new_secret(bytes(range(32, 64)))
AT = NOW // 1_000_000
BODY = body_for(a_transition()).encode()
VERIFIERS = (standardwebhooks.Webhook, svix.webhooks.Webhook)


def headers(
    id_: str = "msg_1", at: int = AT, secrets: tuple[str, ...] = (SECRET,)
) -> dict[str, str]:
    return {
        "webhook-id": id_,
        "webhook-timestamp": str(at),
        "webhook-signature": sign(id_, at, BODY, secrets),
    }


@pytest.fixture(autouse=True)
def at_that_time() -> object:
    """The verifiers read the wall clock; it stands where the test's does."""
    with time_machine.travel(datetime.fromtimestamp(AT, UTC), tick=False):
        yield


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_signature_is_accepted_by_public_verifiers(verifier: type) -> None:
    verifier(SECRET).verify(BODY, headers())
    assert verify(headers(), BODY, SECRET, AT)


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_any_flipped_byte_of_the_body_is_refused(verifier: type) -> None:
    for i in range(0, len(BODY), 97):
        tampered = BODY[:i] + bytes([BODY[i] ^ 1]) + BODY[i + 1 :]
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            verifier(SECRET).verify(tampered, headers())
        assert not verify(headers(), tampered, SECRET, AT)


@pytest.mark.parametrize("changed", ["webhook-id", "webhook-timestamp"])
def test_the_id_and_the_timestamp_are_signed_too(changed: str) -> None:
    forged = {**headers(), changed: headers("msg_2", AT + 1)[changed]}
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(SECRET).verify(BODY, forged)
    assert not verify(forged, BODY, SECRET, AT)


def test_two_secrets_give_two_signatures_and_either_verifies() -> None:
    both = headers(secrets=(OTHER, SECRET))
    assert len(both["webhook-signature"].split(" ")) == 2
    for secret in (SECRET, OTHER):
        standardwebhooks.Webhook(secret).verify(BODY, both)
        assert verify(both, BODY, secret, AT)
    third = new_secret(b"\x07" * 32)
    assert not verify(both, BODY, third, AT)


def test_signature_equals_the_other_implementation_s() -> None:
    theirs = standardwebhooks.Webhook(SECRET).sign(
        "msg_1", datetime.fromtimestamp(AT, UTC), BODY.decode()
    )
    assert sign("msg_1", AT, BODY, [SECRET]) == theirs


@pytest.mark.parametrize("skew", [-301, 301])
def test_an_old_or_early_timestamp_is_refused(skew: int) -> None:
    assert verify(headers(at=AT + skew - skew // abs(skew)), BODY, SECRET, AT)
    assert not verify(headers(at=AT + skew), BODY, SECRET, AT)


@pytest.mark.parametrize("timestamp", ["", "soon", "-5", "١٢٣", "9" * 40])
def test_a_timestamp_that_is_no_number_is_refused(timestamp: str) -> None:
    assert not verify({**headers(), "webhook-timestamp": timestamp}, BODY, SECRET, AT)


@pytest.mark.parametrize("n_bytes", [23, 65])
def test_a_secret_has_24_to_64_bytes(n_bytes: int) -> None:
    with pytest.raises(ValueError, match="24 to 64"):
        new_secret(bytes(n_bytes))


def test_the_same_transition_and_endpoint_give_the_same_id_and_others_another() -> None:
    about = ("acme", "al_1", 1, "ep_1")
    others = {("b", *about[1:]), ("acme", "al_2", 1, "ep_1"), ("acme", "al_1", 2, "ep_1"),
              ("acme", "al_1", 1, "ep_2")}  # fmt: skip
    assert delivery_id(*about) == delivery_id(*about)
    assert len({delivery_id(*each) for each in others | {about}}) == 5


def test_the_parts_of_an_id_cannot_run_into_each_other() -> None:
    assert delivery_id("a", "b1", 1, "e") != delivery_id("a", "b", 11, "e")


def test_body_is_the_alert_under_its_type_and_sequence() -> None:
    transition = a_transition("alert.revised", at=NOW + 5_000_000, revision=3)
    document = json.loads(body_for(transition))
    assert document == {
        "type": "alert.revised",
        "timestamp": to_rfc3339(NOW + 5_000_000),
        "data": {**public_alert(transition.alert), "sequence": 3},
    }


def test_test_body_names_its_endpoint() -> None:
    document = json.loads(body_for_test("ep_1", NOW))
    assert document["type"] == "endpoint.test"
    assert document["data"] == {"endpoint": "ep_1"}


def test_public_alert_has_the_fields_of_the_contract() -> None:
    alert = public_alert(an_alert())
    contract = {
        "id", "model", "kind", "state", "severity", "slice", "order", "onset", "onset_interval",
        "detected_at", "effect", "evidence", "explained_by", "explains", "likely_causes", "summary",
        "acknowledged", "silenced_by", "inhibited_by", "revision",
    }  # fmt: skip
    assert alert.keys() >= contract
    assert alert["slice"] == {"accent": "scottish", "floor": "7"}
    assert alert["order"] == 2
    assert alert["detected_at"] == "2026-11-18T11:06:40Z"
    assert alert["effect"]["interval"] == [0.061, 0.153]
    assert alert["evidence"]["false_alerts"] == "1 per 7d"


def test_a_global_incident_is_about_the_empty_slice() -> None:
    alert = public_alert(an_alert(slice=()))
    assert (alert["slice"], alert["order"]) == ({}, 0)


def test_the_instant_of_a_cause_is_rfc3339() -> None:
    cause = {"kind": "input_shift", "feature": "band_1k_db", "since": NOW}
    alert = public_alert(an_alert(likely_causes=(cause,)))
    assert alert["likely_causes"] == [{**cause, "since": "2026-11-18T11:06:40Z"}]


def test_numbers_outside_are_finite_with_six_digits() -> None:
    inside = {"a": 0.123456789, "b": [float("nan"), float("inf")], "c": 1234567.0, "d": 3}
    assert rounded(inside) == {"a": 0.123457, "b": [None, None], "c": 1234570.0, "d": 3}
