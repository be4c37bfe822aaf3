"""river's detectors on single streams, each fed as its documentation says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from river import drift
from river.drift import binary

from tests.benchmarks.bench_detectors.page import Bools


@dataclass(frozen=True, slots=True)
class Peer:
    """One of river's detectors, and how to feed it."""

    name: str
    make: Callable[[], Any]
    takes_right: bool = False  # is fed 1 for a right answer, not for an error
    two_sided: bool = False  # falls are told by the mean, and not counted
    is_compiled: bool = False  # and so fast enough for long run lengths
    is_slow: bool = False


def adwin(delta: float = 0.002) -> Peer:
    """ADWIN at a confidence."""
    make: Callable[..., Any] = drift.ADWIN
    name = f"river ADWIN, delta {delta:g}"
    return Peer(name, partial(make, delta=delta), two_sided=True, is_compiled=True)


def page_hinkley(threshold: float = 50.0) -> Peer:
    """PageHinkley at a threshold, upwards only."""
    return Peer(
        f"river PageHinkley, threshold {threshold:g}",
        lambda: drift.PageHinkley(threshold=threshold, mode="up"),
    )


DEFAULTS: Final = (
    adwin(),
    adwin(1e-4),
    page_hinkley(),
    Peer("river DDM", binary.DDM),
    Peer("river EDDM", binary.EDDM),
    Peer("river HDDMA", binary.HDDMA),
    Peer("river HDDMW", binary.HDDMW),
    Peer("river KSWIN", lambda: drift.KSWIN(seed=1), is_slow=True),
    Peer("river FHDDM, 1 = error (as documented)", binary.FHDDM),
    Peer("river FHDDM, 1 = right", binary.FHDDM, takes_right=True),
)
CURVES: Final[Mapping[str, tuple[Peer, ...]]] = {
    "river ADWIN": tuple(adwin(delta) for delta in (0.9, 0.5, 0.2, 0.05, 0.002)),
    "river PageHinkley": tuple(page_hinkley(t) for t in (10.0, 15.0, 25.0, 50.0)),
}


def alarms(peer: Peer, errors: Bools) -> Iterator[int]:
    """After which events of a stream, shape (n_events,), the peer says that errors rose."""
    detector = peer.make()
    values = (errors != peer.takes_right).astype(np.int64).tolist()
    update = detector.update
    if not peer.two_sided:
        for at, value in enumerate(values):
            update(value)
            if detector.drift_detected:
                yield at
        return
    before = 0.0
    for at, value in enumerate(values):
        update(value)
        if detector.drift_detected:
            if detector.estimation > before:
                yield at
        before = detector.estimation
