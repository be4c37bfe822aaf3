"""Of pairs of values that truly get worse each is named, first and alone.

What `make bench-slices` measures is held here in small: worlds of 217 overlapping slices.
"""

from __future__ import annotations

import pytest

from tests.benchmarks.bench_slices.worlds import WORLDS, tell

BY_NAME = {world.name: world for world in WORLDS}


@pytest.mark.parametrize(
    ("world", "replicate"),
    [("small, 2 bad", 0), ("small, 2 bad", 2), ("small, 1 bad, all ×1.5", 1)],
)
def test_the_slices_that_got_worse_are_named_and_no_others(world: str, replicate: int) -> None:
    told = tell(BY_NAME[world], replicate)
    assert set(told.named) == set(told.truth.bad)
    assert told.first in told.truth.bad
    assert told.n_told == len(told.truth.bad)
    assert told.worldwide <= told.n_true - len(told.truth.bad)
