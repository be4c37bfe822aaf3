"""The two pictures: delay against false alarms, of single streams and of a fleet's week."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import gamma

from tests.benchmarks.bench_detectors.single_stream import (
    ENOUGH,
    HORIZON,
    RATE,
    RATIOS,
    Curve,
    Measured,
    median_delay,
    run_lengths,
)
from tests.benchmarks.bench_detectors.week import Score

COLOURS: Final = {"ours": "#c1272d", "river ADWIN": "#0000a7", "river PageHinkley": "#008176"}
GREY: Final = "#777777"
OTHER_MARKERS: Final = "sD^v<ph*"


def delay_against_run_length(
    path: Path, curves: Sequence[Curve], defaults: Sequence[Measured]
) -> None:
    """A row an error rate, a column a ratio; down and to the right is better."""
    rates = list(dict.fromkeys(curve.p for curve in curves))
    figure = Figure(figsize=(12, 3.4 * len(rates)), layout="constrained")
    axes = figure.subplots(len(rates), len(RATIOS), squeeze=False, sharex=True)
    for row, p in zip(axes, rates, strict=True):
        for ax, ratio in zip(row, RATIOS, strict=True):
            for curve in (curve for curve in curves if curve.p == p):
                _draw(ax, curve, ratio)
            if p == RATE:
                for marker, point in zip(OTHER_MARKERS, _other_defaults(defaults), strict=False):
                    at = _length(point), median_delay(point.found[ratio])
                    ax.plot(*at, marker, color=GREY, fillstyle="none", label=point.name)
            ax.set(xscale="log", yscale="log", title=f"errors {p:g} → ×{ratio:g}", ylim=(8, 3e4))
            ax.axhline(HORIZON, color=GREY, linewidth=0.6, linestyle=":")
            ax.grid(visible=True, which="major", linewidth=0.3)
    with_most = axes[rates.index(RATE) if RATE in rates else 0][0]
    figure.legend(*with_most.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    figure.supxlabel("events for each false alarm, measured; ▷: at least, for too few came to say")
    figure.supylabel("median delay, events (dotted: missed)")
    figure.savefig(path, dpi=110)


def _draw(ax: Axes, curve: Curve, ratio: float) -> None:
    """A line through what was measured, and hollow marks where too few alarms came."""
    colour = COLOURS[curve.name]
    delay = np.array([median_delay(point.found[ratio]) for point in curve.points])
    if curve.name == "ours":
        ax.plot(run_lengths(curve), delay, "o-", markersize=4, color=colour, label="ours")
        return
    lengths = np.array([_length(point) for point in curve.points])
    known = np.array([point.alarms >= ENOUGH for point in curve.points])
    ax.plot(lengths[known], delay[known], "o-", markersize=4, color=colour, label=curve.name)
    ax.plot(lengths[~known], delay[~known], ">", markersize=6, color=colour, fillstyle="none")


def _length(point: Measured) -> float:
    """Events for each false alarm; where too few came to say, the one-sided 95 % limit."""
    if point.alarms >= ENOUGH:
        return point.events / point.alarms
    return point.events / float(gamma.ppf(0.95, point.alarms + 1))  # Garwood's upper limit


def _other_defaults(defaults: Sequence[Measured]) -> list[Measured]:
    drawn = ("**ours**", "river ADWIN", "river PageHinkley")
    return [point for point in defaults if not point.name.startswith(drawn)]


def week(path: Path, scores: Sequence[Score]) -> None:
    """Recall against false alerts a week, a panel a world in which slices went bad."""
    worlds = list(dict.fromkeys(s.world for s in scores if not np.isnan(s.recall)))
    methods = list(dict.fromkeys(s.method for s in scores))
    markers = dict(zip(methods, "sD^v<oPXd*p", strict=False))
    n_columns = min(3, len(worlds))
    n_rows = -(-len(worlds) // n_columns)
    figure = Figure(figsize=(5 * n_columns, 3.8 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for ax, world in zip(axes, worlds, strict=False):
        for score in (s for s in scores if s.world == world):
            is_ours = score.method.startswith("**")
            ax.plot(
                score.false_a_week,
                score.recall,
                markers[score.method],
                color=COLOURS["ours" if is_ours else "river ADWIN"],
                fillstyle="full" if is_ours else "none",
                markersize=8,
                label=score.method.replace("*", "").replace("`", ""),
            )
        ax.set(title=world, ylim=(-0.05, 1.05), xlim=(-0.3, 1e5))
        ax.set_xscale("symlog", linthresh=1)
        ax.grid(visible=True, linewidth=0.3)
    for ax in axes[len(worlds) :]:
        ax.set_visible(False)
    handles: dict[str, Artist] = {}
    for ax in axes:
        found, labels = ax.get_legend_handles_labels()
        handles |= dict(zip(labels, found, strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=3)
    figure.supxlabel("false alerts a week")
    figure.supylabel("share of the bad slices that was found")
    figure.savefig(path, dpi=110)
