"""MonitorConfig: what a model's owner states, and what is learnt from the rows where they don't.

The fields are the contract's, the same in `PUT /v1/models/{model}`, `slicewatch apply` and
`slicewatch backtest --monitor`.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from detectors.single_stream import check
from service.ingest.events import FIELD_NAME, NAME

LossName = Literal[
    "zero_one", "absolute_error", "squared_error", "log_loss", "brier", "wer", "cer", "given"
]
# plain: NFKC, lower case, punctuation parts words; cased: the same, case kept; verbatim: as it is
Normaliser = Literal["plain", "cased", "verbatim"]
FeatureKind = Literal["numeric", "categorical", "boolean", "embedding", "ignore"]

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION: Final = re.compile(r"^(\d{1,6})(s|m|h|d|w)$")


def seconds(duration: str) -> int:
    """`30d` as seconds; units s, m, h, d, w."""
    match = _DURATION.match(duration)
    if match is None:
        raise ValueError("must be a whole number and a unit out of s, m, h, d, w, as in 30d")
    return int(match[1]) * _UNITS[match[2]]


def _duration(value: str) -> str:
    if seconds(value) <= 0:
        raise ValueError("must be longer than 0")
    return value


Duration = Annotated[str, AfterValidator(_duration), Field(examples=["30d", "24h", "90s"])]
FieldName = Annotated[str, Field(pattern=FIELD_NAME)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FalseAlerts(_Strict):
    """The budget: how many false alerts are expected at most, for the whole model."""

    at_most: float = Field(default=1.0, gt=0, le=1000)
    per: Duration = "7d"
    mode: Literal["calibrated", "proven"] = "calibrated"  # taken up with the next reference


class ReferenceRows(_Strict):
    """The first rows of the model."""

    rows: int = Field(default=5000, ge=50, le=1_000_000)


class ReferenceWindow(_Strict):
    """The rows of a span of time."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    from_: datetime = Field(alias="from")
    until: datetime

    @model_validator(mode="after")
    def _in_order(self) -> ReferenceWindow:
        if self.from_.tzinfo is None or self.until.tzinfo is None:
            raise ValueError("must give an offset or Z")
        if self.from_ >= self.until:
            raise ValueError("from must be before until")
        return self


class Matured(_Strict):
    """Count an hour's rows once their labels are in."""

    matured: Duration


class RiverDetector(BaseModel):
    """One of river's detectors for each slice, outside the budget: `{river: ADWIN, delta: 0.002}`.

    Beside `river` stand the detector's own parameters, by river's names.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    river: Literal["ADWIN", "PageHinkley", "KSWIN", "DDM", "EDDM", "FHDDM", "HDDMA", "HDDMW"]

    @model_validator(mode="after")
    def _parameters_hold(self) -> RiverDetector:
        check(self.river, self.parameters)
        return self

    @property
    def parameters(self) -> dict[str, Any]:
        """What is stated of the detector, by river's names."""
        return dict(self.model_extra or {})


def _entry_kind(entry: Any) -> str:
    return "own" if isinstance(entry, str) else "river"


DetectorEntry = Annotated[
    Annotated[Literal["slicewatch"], Tag("own")] | Annotated[RiverDetector, Tag("river")],
    Discriminator(_entry_kind),
]


class MonitorConfig(_Strict):
    """How one model is watched."""

    loss: LossName | None = None  # None: learnt from the types of output and truth
    loss_scale: float | None = Field(
        default=None, gt=0
    )  # None: 1, or learnt for errors without a scale
    normaliser: Normaliser = "plain"  # of the texts that WER and CER compare
    dimensions: list[FieldName] | None = Field(default=None, max_length=16)  # None: learnt
    order: int = Field(default=2, ge=1, le=3)
    features: Literal["auto"] | dict[FieldName, FeatureKind] = "auto"
    reference: ReferenceRows | ReferenceWindow = ReferenceRows()
    tolerance: float = Field(default=0.0, ge=0, le=10)
    false_alerts: FalseAlerts = FalseAlerts()
    labels: Literal["arrival"] | Matured = "arrival"
    label_horizon: Duration = "30d"
    publish_min_rows: int = Field(default=20, ge=0, le=1_000_000)
    detectors: list[DetectorEntry] = Field(default=["slicewatch"], min_length=1, max_length=16)

    @model_validator(mode="after")
    def _distinct_dimensions(self) -> MonitorConfig:
        if self.dimensions is not None and len(set(self.dimensions)) < len(self.dimensions):
            raise ValueError("dimensions: each may be given once")
        return self

    @model_validator(mode="after")
    def _distinct_detectors(self) -> MonitorConfig:
        names = [entry if isinstance(entry, str) else entry.river for entry in self.detectors]
        if len(set(names)) < len(names):
            raise ValueError("detectors: each may be given once")
        return self

    @property
    def is_within_budget(self) -> bool:
        """Whether our own detectors watch, which keep the budget."""
        return "slicewatch" in self.detectors

    @property
    def outside_budget(self) -> list[RiverDetector]:
        """Detectors that watch and keep no budget."""
        return [entry for entry in self.detectors if isinstance(entry, RiverDetector)]

    @property
    def alerts_a_week(self) -> float:
        """The budget X, in expected false alerts a week."""
        return self.false_alerts.at_most * 604_800 / seconds(self.false_alerts.per)

    @property
    def budget_text(self) -> str:
        """`1 per 7d`."""
        return f"{self.false_alerts.at_most:g} per {self.false_alerts.per}"


class NamedMonitor(MonitorConfig):
    """A monitor of `monitors.yaml`, which names its model."""

    model: str = Field(pattern=NAME)
