"""The seal: what is closed opens under its keys, for what it is about, and for nothing else."""

from __future__ import annotations

import base64

import pytest

from service.errors import Damaged
from service.seal import Seal, decoded_key

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
TEXT = "whsec_abc"


def test_what_is_closed_opens_again_and_shows_nothing() -> None:
    seal = Seal([OLD])
    closed = seal.close(TEXT, "acme/ep_1")
    assert TEXT not in closed
    assert seal.open(closed, "acme/ep_1") == TEXT


def test_each_closing_is_another() -> None:
    seal = Seal([OLD])
    assert len({seal.close(TEXT, "acme/ep_1") for _ in range(50)}) == 50


def test_it_opens_for_what_it_is_about_alone() -> None:
    seal = Seal([OLD])
    with pytest.raises(Damaged, match="fails its check"):
        seal.open(seal.close(TEXT, "acme/ep_1"), "other/ep_1")


def test_any_changed_character_is_noticed() -> None:
    seal = Seal([OLD])
    closed = seal.close(TEXT, "a")
    for i in range(len(closed)):
        changed = closed[:i] + chr(ord(closed[i]) ^ 1) + closed[i + 1 :]
        with pytest.raises(Damaged):
            seal.open(changed, "a")


def test_a_newer_key_seals_and_the_older_one_still_opens() -> None:
    before, after = Seal([OLD]), Seal([NEW, OLD])
    closed = before.close(TEXT, "a")
    assert after.open(closed, "a") == TEXT
    assert before.is_current(closed) and not after.is_current(closed)
    assert after.is_current(after.close(TEXT, "a"))
    with pytest.raises(Damaged, match="not among secrets_keys"):
        before.open(after.close(TEXT, "a"), "a")


def test_without_a_key_texts_are_kept_as_they_are_until_one_is_given() -> None:
    clear = Seal().close(TEXT, "a")
    assert clear == "clear:" + TEXT
    assert Seal([OLD]).open(clear, "a") == TEXT
    assert not Seal([OLD]).is_current(clear)
    with pytest.raises(Damaged, match="not among secrets_keys"):
        Seal().open(Seal([OLD]).close(TEXT, "a"), "a")


@pytest.mark.parametrize("text", ["", "short", "!" * 44, base64.b64encode(bytes(31)).decode()])
def test_a_key_is_32_bytes_of_base64(text: str) -> None:
    with pytest.raises(ValueError, match="32 random bytes"):
        decoded_key(text)
