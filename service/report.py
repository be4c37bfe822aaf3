"""Report: how every slice of a model was served over a span of time, to be dated and published.

    card = make(Source(url, key), "transcribe-medical", since=None, until=None, now=now)
    html(card), markdown(card)

All of it is asked of a running service through the API, so a report shows what its key may see.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import httpx2
import numpy as np
import pandas as pd

from service import words
from service.errors import InvalidRequest, TryLater
from service.replay import problem

DEFAULT_DAYS: Final = 28
N_PARTS: Final = 8  # of the span, between which the trend is drawn
MIN_PARTS: Final = 3  # with labels, for a trend to be told
Z: Final = 1.96
WEEK: Final = timedelta(days=7)
PAGE: Final = 2_000

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Card:
    """A report, ready to be written: everything in it is of one span."""

    about: Json  # the model, as the API has it
    since: datetime
    until: datetime
    made_at: datetime
    whole: Json  # the slice of everyone
    slices: pd.DataFrame  # one row a slice, by dimension and value; columns as `_frame` has them
    alerts: list[Json]  # that were open in the span, by onset
    n_hidden: int  # slices with too few rows for this key to be shown

    @property
    def metric(self) -> str:
        """The loss by its name."""
        return str(self.about["loss"])

    @property
    def judged(self) -> pd.DataFrame:
        """Slices of which something can be said."""
        return self.slices[self.slices["not_judged"] == ""]

    @property
    def not_judged(self) -> pd.DataFrame:
        """Slices of which nothing can be said, with the reason."""
        return self.slices[self.slices["not_judged"] != ""]

    @property
    def worse(self) -> pd.DataFrame:
        """Slices that were served worse than the rest, beyond their interval; the worst first."""
        clear = self.judged[self.judged["disparity_lower"] > 0]
        return clear.sort_values("disparity", ascending=False)

    @property
    def rising(self) -> pd.DataFrame:
        """Slices whose loss rose over the span, beyond its interval; the steepest first."""
        clear = self.judged[self.judged["trend_lower"] > 0]
        return clear.sort_values("trend", ascending=False)


class Source:
    """A running service, asked as the holder of a key. Raises InvalidRequest, TryLater."""

    def __init__(self, url: str, key: str) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        self._http = httpx2.Client(base_url=url, headers=headers, trust_env=False, timeout=60.0)
        self._url = url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def model(self, model: str) -> Json:
        """The model."""
        return self._get(f"/v1/models/{quote(model, safe='')}", {})

    def slices(self, model: str, since: datetime, until: datetime) -> list[Json]:
        """Every slice over a span."""
        path = f"/v1/models/{quote(model, safe='')}/slices"
        span = {"since": since.isoformat(), "until": until.isoformat(), "limit": PAGE}
        return list(self._all(path, "slices", span))

    def alerts(self, model: str) -> list[Json]:
        """Every alert of a model."""
        return list(self._all("/v1/alerts", "alerts", {"model": model, "limit": 1000}))

    def _all(self, path: str, name: str, params: Json) -> Iterator[Json]:
        cursor = None
        while True:
            page = self._get(path, params | ({"cursor": cursor} if cursor else {}))
            yield from page[name]
            cursor = page["next"]
            if cursor is None:
                return

    def _get(self, path: str, params: Json) -> Json:
        try:
            answer = self._http.get(path, params=params)
        except httpx2.TransportError as error:
            raise TryLater(f"{self._url}: no answer ({type(error).__name__})") from None
        if not answer.is_success:
            raise InvalidRequest(problem(answer))
        document: Json = answer.json()
        return document


def make(
    source: Source, model: str, since: datetime | None, until: datetime | None, now: datetime
) -> Card:
    """The card of a model between two instants: by default the four weeks up to its newest row."""
    about = source.model(model)
    if about["last_row_at"] is None:
        raise InvalidRequest("model: no rows have come yet")
    newest = datetime.fromisoformat(about["last_row_at"])
    until = until or _next_hour(newest)
    since = since or until - timedelta(days=DEFAULT_DAYS)
    if since >= until:
        raise InvalidRequest("--from: must be before --until")
    rows = source.slices(model, since, until)
    edges = [since + (until - since) * i / N_PARTS for i in range(N_PARTS + 1)]
    parts = [
        source.slices(model, *edges[i : i + 2]) if edges[i] <= newest else []
        for i in range(N_PARTS)
    ]
    whole = next((row for row in rows if not row["slice"]), None)
    if whole is None or not whole["rows"]:
        raise InvalidRequest("--from, --until: the model has no rows between them")
    return Card(
        about=about,
        since=since,
        until=until,
        made_at=now,
        whole=whole,
        slices=_frame(rows, _trends(parts, (until - since) / N_PARTS), whole),
        alerts=_open_between(source.alerts(model), since, until),
        n_hidden=max(0, about["slices"] - len(rows)),
    )


def _next_hour(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)


def _frame(rows: list[Json], trends: pd.DataFrame, whole: Json) -> pd.DataFrame:
    """One row a slice: names, counts, loss, disparity and trend with intervals, and the verdict."""
    columns = [
        {
            "slice": words.slice_text(row),
            "order": len(row["slice"]),
            "dimension": ", ".join(row["slice"]),
            "value": ", ".join(row["slice"].values()),
            "rows": row["rows"],
            "labels": row["labels"],
            "loss": row["loss"],
            **_interval("loss", row["loss_interval"]),
            "reference_loss": row["reference_loss"],
            "disparity": row["disparity"],
            **_interval("disparity", row["disparity_interval"]),
            "not_judged": _why_not_judged(row, whole),
        }
        for row in rows
        if row["slice"]
    ]
    if not columns:
        columns = [dict.fromkeys(_COLUMNS)]
    frame = pd.DataFrame(columns, columns=list(_COLUMNS)).dropna(subset=["slice"])
    frame = frame.merge(trends, how="left", left_on="slice", right_index=True)
    numbers = [*_FIGURES, "trend", "trend_lower", "trend_upper"]
    frame[numbers] = frame[numbers].astype("float64")
    return frame.sort_values(["order", "dimension", "value"]).reset_index(drop=True)


_FIGURES: Final = (
    "loss",
    "loss_lower",
    "loss_upper",
    "reference_loss",
    "disparity",
    "disparity_lower",
    "disparity_upper",
)
_COLUMNS: Final = (
    *("slice", "order", "dimension", "value", "rows", "labels"),
    *_FIGURES,
    "not_judged",
)


def _interval(name: str, pair: list[float] | None) -> Json:
    lower, upper = pair or (None, None)
    return {f"{name}_lower": lower, f"{name}_upper": upper}


def _why_not_judged(row: Json, whole: Json) -> str:
    """Why nothing can be said of a slice; nothing where something can.

    It can where its interval leaves out either the model's own loss or twice that.
    """
    if not row["labels"]:
        return "no labels" if row["rows"] else "no predictions"
    if row["loss_interval"] is None or not whole["loss"]:
        return ""
    lower, upper = row["loss_interval"]
    if lower <= whole["loss"] and upper >= 2 * whole["loss"]:
        return "too few labels: it may be as well served as all, or half as well"
    return ""


def _trends(parts: list[list[Json]], apart: timedelta) -> pd.DataFrame:
    """Change of loss a week by slice, with its interval: least squares, weighted by precision.

    The parts' intervals hold at all times, so they and the trend's are wider than one look needs.
    """
    points = pd.DataFrame(
        [
            (words.slice_text(row), place, row["loss"], *row["loss_interval"])
            for place, part in enumerate(parts)
            for row in part
            if row["loss_interval"] is not None
        ],
        columns=["slice", "place", "loss", "lower", "upper"],
    )
    points["weight"] = (2 * Z / (points["upper"] - points["lower"]).clip(lower=1e-9)) ** 2
    points["week"] = points["place"].astype("float64") * (apart / WEEK)
    told = {
        name: _slope(group) for name, group in points.groupby("slice") if len(group) >= MIN_PARTS
    }
    names = ["trend", "trend_lower", "trend_upper"]
    return pd.DataFrame.from_dict(told, orient="index", columns=names)


def _slope(points: pd.DataFrame) -> tuple[float, float, float]:
    weight, week, loss = (points[name].to_numpy(np.float64) for name in ("weight", "week", "loss"))
    centred = week - np.average(week, weights=weight)
    information = float((weight * centred**2).sum())
    slope = float((weight * centred * loss).sum()) / information
    margin = Z / float(np.sqrt(information))
    return slope, slope - margin, slope + margin


def _open_between(alerts: list[Json], since: datetime, until: datetime) -> list[Json]:
    def was_open(alert: Json) -> bool:
        resolved = alert["resolved_at"]
        ends = until if resolved is None else datetime.fromisoformat(resolved)
        return datetime.fromisoformat(alert["onset"]) < until and ends >= since

    return sorted(filter(was_open, alerts), key=lambda alert: str(alert["onset"]))


def instant_of(text: str) -> datetime:
    """`2026-03-02` or an RFC 3339 instant; UTC where it gives no offset. Raises ValueError."""
    at = datetime.fromisoformat(text)
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at
