"""Matcher: which alerts are meant by an endpoint or a silence, by four lists."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from service.alerts.alert import Alert
from service.ingest.events import NAME
from service.monitor.config import FieldName
from service.monitor.findings import Kind, Severity

_SliceValue = Annotated[str, Field(max_length=256)]
_SliceMatcher = Annotated[dict[FieldName, _SliceValue], Field(min_length=1, max_length=16)]


class Matcher(BaseModel):
    """Those alerts that match every list that is given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: list[Annotated[str, Field(pattern=NAME)]] | None = Field(default=None, max_length=100)
    kinds: list[Kind] | None = Field(default=None, max_length=len(Kind))
    severities: list[Severity] | None = Field(default=None, max_length=len(Severity))
    slices: list[_SliceMatcher] | None = Field(
        default=None,
        max_length=100,
        description="Any of these; {floor: 7} matches floor=7,accent=scottish",
    )

    @property
    def matches_all(self) -> bool:
        """Whether no list is given."""
        return self == Matcher()

    def match(self, alert: Alert) -> bool:
        """Whether an alert is meant."""
        pairs = set(alert.slice)
        return (
            (self.models is None or alert.model in self.models)
            and (self.kinds is None or alert.kind in self.kinds)
            and (self.severities is None or alert.severity in self.severities)
            and (self.slices is None or any(pairs >= set(some.items()) for some in self.slices))
        )
