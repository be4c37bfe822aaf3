"""Proxy: a TCP proxy on the loopback that does to connections what bad networks do."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum


class Harm(StrEnum):
    """What is done to a connection."""

    NONE = "none"
    LATENCY = "latency"  # every piece comes late
    DRIP = "drip"  # a few bytes at a time
    CUT = "cut"  # closed after some bytes, either way
    RESET = "reset"  # the same, with RST
    BLACKHOLE = "blackhole"  # nothing passes any more, and nobody is told
    LOST_ANSWER = "lost answer"  # the request arrives, its answer does not


class FlakyProxy:
    """Listens on `port`, passes on to `target`, and harms each connection as its dice say."""

    def __init__(self, target: int, harms: Sequence[Harm], rng: random.Random) -> None:
        self.target, self.harms, self.rng = target, harms, rng
        self.done: dict[Harm, int] = dict.fromkeys(Harm, 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sender, _ = self._listener.accept()
            except OSError:
                return
            harm, after = self.rng.choice(self.harms), self.rng.randrange(1, 20_000)
            self.done[harm] += 1
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                sender.close()
                continue
            for source, sink, is_answer in ((sender, server, False), (server, sender, True)):
                threading.Thread(
                    target=self._pass_on, args=(source, sink, harm, after, is_answer), daemon=True
                ).start()

    def _pass_on(
        self, source: socket.socket, sink: socket.socket, harm: Harm, after: int, is_answer: bool
    ) -> None:
        n_bytes = 0
        with suppress(OSError):
            while piece := source.recv(64 if harm is Harm.DRIP else 4096):
                n_bytes += len(piece)
                if harm is Harm.LOST_ANSWER and is_answer:
                    break
                if harm in (Harm.CUT, Harm.RESET, Harm.BLACKHOLE) and n_bytes > after:
                    if harm is Harm.BLACKHOLE:
                        continue
                    if harm is Harm.RESET:
                        linger = struct.pack("ii", 1, 0)
                        sink.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    break
                if harm in (Harm.LATENCY, Harm.DRIP):
                    threading.Event().wait(0.02 if harm is Harm.LATENCY else 0.0005)
                sink.sendall(piece)
        for each in (source, sink):
            with suppress(OSError):
                each.close()
