"""Selectors: the PromQL that boards share, over the variables that they all have."""

from __future__ import annotations

from typing import Final

TENANT: Final = 'tenant=~"$tenant"'
MODEL: Final = f'{TENANT},model=~"$model"'
SLICE: Final = f'{MODEL},slice=~"$slice"'
MEASURED: Final = 'and on (tenant, model) slicewatch_model_info{metric=~"$metric"}'
ALERT: Final = "tenant, model, kind, slice"
LOSS_WORDS: Final = "In the model's own metric: a WER of 0.08 is 8 %."
SHARES: Final = "Share of the evidence that an alarm takes; it alarms at 1."

EVIDENCE: Final = {"url": "${slicewatch_url}/alerts/${__data.fields.alert}", "title": "Evidence"}
THE_SLICE: Final = {
    "url": "/d/slicewatch-slice?var-tenant=${__data.fields.tenant}"
    "&var-model=${__data.fields.model}&var-slice=${__data.fields.slice}",
    "title": "This slice",
}


def of_alerts(figure: str, head: str) -> str:
    """A figure of open alerts, with what is told of them as labels."""
    info = f'slicewatch_alert_info{{{MODEL},metric=~"$metric",{head}}}'
    told = f"{ALERT}, alert, severity, change, rest, widened, cause, head"
    return (
        f"max by ({told}) ({info}) * on ({ALERT}) group_left () "
        f"max by ({ALERT}) ({figure}{{{MODEL}}})"
    )


def in_incidents(figure: str) -> str:
    """A figure of the slices that head an incident at the end of what is shown, all along."""
    heads = f'slicewatch_alert_info{{{MODEL},metric=~"$metric",head=""}} @ end()'
    return f"{figure}{{{MODEL}}} and on (tenant, model, slice) ({heads})"


def of_slice(figure: str) -> str:
    """A figure of the slices chosen."""
    return f"slicewatch_slice_{figure}{{{SLICE}}} {MEASURED}"


def whole(figure: str) -> str:
    """A figure of whole models."""
    return f'slicewatch_slice_{figure}{{{MODEL},slice="everyone"}} {MEASURED}'


def most(n: int, figure: str) -> str:
    """A figure of the slices that have most of it at the end of what is shown, all along."""
    selector = f"slicewatch_slice_{figure}{{{MODEL}}}"
    return f"{selector} {MEASURED} and topk({n}, {selector} @ end() {MEASURED})"
