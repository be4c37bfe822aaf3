"""Parts: what is measured, piece by piece, kept as soon as it is there.

Two pieces run beside each other, timings alone. What was measured by the same code with the same
effort is not measured again, so that a run that was broken off goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from types import GenericAlias
from typing import Any, Final

import msgspec
import numpy as np

from service.ingest.frame import pack_array, unpack_array
from tests.benchmarks.bench_detectors import (
    labels,
    rest,
    single_stream,
    throughput,
    week,
    wer,
    worlds,
)
from tests.benchmarks.bench_detectors.page import Effort, Table

ROOT: Final = Path(__file__).parents[3]
LIBRARY: Final = ("detectors", "tests/benchmarks/bench_detectors")  # what figures depend on
WHOLE: Final = (*LIBRARY, "service")
LIBRARIES: Final = ("numpy", "scipy", "river")
WORKERS: Final = 2


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of the page."""

    name: str
    work: Callable[[Effort], Any]
    gives: Any  # the type of it
    is_timing: bool = False  # nothing may run beside it
    code: tuple[str, ...] = LIBRARY


@dataclass(frozen=True, slots=True)
class Result:
    """What a part gave."""

    value: Any
    seconds: float  # of the processor's time


def parts(effort: Effort) -> list[Part]:
    """All parts, what takes longest first."""
    points, one = list[single_stream.Measured], Table
    return [
        Part("throughput", throughput.table, one, is_timing=True),
        *(
            Part(f"curves-{p:g}", partial(single_stream.curves, p=p), list[single_stream.Curve])
            for p in effort.rates
        ),
        Part("defaults", single_stream.defaults, points),
        *(
            Part(
                f"world-{k}-{mode}",
                partial(worlds.counts, world=k, mode=mode),
                list[worlds.Count],
                code=WHOLE,
            )
            for k in range(min(effort.worlds, len(worlds.WORLDS)))
            for mode in worlds.MODES
        ),
        *(
            Part(f"found-{m}", partial(worlds.found, mode=m), list[worlds.Found], code=WHOLE)
            for m in worlds.MODES
        ),
        *(
            Part(f"week-{k}", partial(week.scores, world=k), list[week.Score], code=WHOLE)
            for k in range(min(effort.worlds, len(week.WORLDS)))
        ),
        Part("frequent", single_stream.frequent, one),
        Part("references", single_stream.references, one),
        Part("rest", rest.table, one),
        Part("wer", wer.table, one),
        Part("maturity", labels.maturity, one),
        Part("sampling", labels.sampling, one),
    ]


def measure(
    effort: Effort, wanted: Iterable[Part], kept_in: Path, say: Callable[[str], None]
) -> Mapping[str, Result]:
    """Every part's result by its name; those that are not kept already are measured."""
    directory = kept_in / effort.name
    directory.mkdir(parents=True, exist_ok=True)
    wanted = list(wanted)
    missing = [part for part in wanted if not _path(directory, part).exists()]
    for part in missing:
        if part.is_timing:
            _keep(part, effort, directory)
            say(part.name)
    with ProcessPoolExecutor(WORKERS) as pool:
        running = {
            pool.submit(_keep, part, effort, directory): part.name
            for part in missing
            if not part.is_timing
        }
        for done in as_completed(running):
            done.result()
            say(running[done])
    return {part.name: _read(directory, part) for part in wanted}


def _keep(part: Part, effort: Effort, directory: Path) -> None:
    started = time.process_time()
    value = part.work(effort)
    kept = [value, time.process_time() - started]
    path = _path(directory, part)
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_bytes(msgspec.msgpack.encode(kept, enc_hook=_packed))
    unfinished.replace(path)


def _read(directory: Path, part: Part) -> Result:
    body = _path(directory, part).read_bytes()
    kept = GenericAlias(tuple, (part.gives, float))
    value, seconds = msgspec.msgpack.decode(body, type=kept, dec_hook=_array)
    return Result(value, seconds)


def _packed(value: Any) -> Any:
    return pack_array(value) if isinstance(value, np.ndarray) else value.item()


def _array(_: Any, packed: Any) -> np.ndarray[Any, Any]:
    return unpack_array(packed)


def _path(directory: Path, part: Part) -> Path:
    return directory / f"{part.name}-{_digest(part.code)}.msgpack"


@cache
def _digest(code: tuple[str, ...]) -> str:
    digest = hashlib.blake2b(digest_size=6)
    for folder in code:
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    for library in LIBRARIES:
        digest.update(f"{library} {version(library)}".encode())
    return digest.hexdigest()
