"""Seal: what must stay secret at rest, under keys of the deployment's own (AES-256-GCM).

    seal = Seal.from_keys([newest, older])     # each 32 bytes as base64
    text = seal.close('{"secret": …}', "acme/ep_1")
    seal.open(text, "acme/ep_1")

The newest key seals, each of them opens, so keys are rotated by putting a new one in front. A text
is bound to what it is about: moved to another row it does not open. Without keys texts are kept as
they are, marked so, and opened as they are, so that a key can be given later.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections.abc import Callable, Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from service.errors import Damaged

KEY_BYTES: Final = 32

_CLEAR: Final = "clear:"
_SEALED: Final = "aes256gcm:"  # then the key's id, a colon, and base64 of nonce and ciphertext
_NONCE_BYTES: Final = 12


class Seal:
    """Closes and opens texts."""

    def __init__(
        self, keys: Sequence[bytes] = (), entropy: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        self._ciphers = {_key_id(key): AESGCM(key) for key in keys}
        self._newest = _key_id(keys[0]) if keys else None
        self._entropy = entropy

    @classmethod
    def from_keys(cls, keys: Sequence[str]) -> Seal:
        """The seal of keys as they stand in the settings, the newest first."""
        return cls([decoded_key(key) for key in keys])

    @property
    def has_keys(self) -> bool:
        """Whether texts are sealed at all."""
        return self._newest is not None

    def close(self, text: str, about: str) -> str:
        """The text under the newest key, for this use alone."""
        if self._newest is None:
            return _CLEAR + text
        nonce = self._entropy(_NONCE_BYTES)
        body = self._ciphers[self._newest].encrypt(nonce, text.encode(), about.encode())
        return f"{_SEALED}{self._newest}:{base64.b64encode(nonce + body).decode()}"

    def open(self, closed: str, about: str) -> str:
        """The text again. Raises Damaged where its key is not given or it was altered."""
        if closed.startswith(_CLEAR):
            return closed.removeprefix(_CLEAR)
        key_id, _, body = closed.removeprefix(_SEALED).partition(":")
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise Damaged(f"sealed with the key {key_id}, which is not among secrets_keys")
        try:
            raw = base64.b64decode(body, validate=True)
            return cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], about.encode()).decode()
        except (InvalidTag, binascii.Error, ValueError):
            raise Damaged("a sealed text fails its check") from None

    def is_current(self, closed: str) -> bool:
        """Whether it is as `close` would make it now: under the newest key."""
        ours = _CLEAR if self._newest is None else f"{_SEALED}{self._newest}:"
        return closed.startswith(ours)


def decoded_key(text: str) -> bytes:
    """The key that a base64 text stands for. Raises ValueError unless it is 32 bytes."""
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError("must be base64 of 32 random bytes, as `openssl rand -base64 32` prints")
    return key


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"slicewatch seal" + key).hexdigest()[:8]
