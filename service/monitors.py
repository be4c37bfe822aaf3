"""Monitors: what a `monitors.yaml` states of one model or many, read and put to a service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx2
import yaml
from pydantic import ValidationError

from service.errors import InvalidRequest, TryLater
from service.monitor.config import NamedMonitor
from service.replay import problem

LONGEST_FILE_BYTES: Final = 1 << 20


def read_monitors(path: Path) -> tuple[NamedMonitor, ...]:
    """The monitors of a file: a mapping, a list, `monitors: [...]`, or several YAML documents.

    Raises InvalidRequest that names the file, the monitor, the field and the problem.
    """
    try:
        with path.open("rb") as file:
            text = file.read(LONGEST_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidRequest(f"{path}: {error.strerror}") from None
    if len(text) > LONGEST_FILE_BYTES:
        raise InvalidRequest(f"{path}: longer than {LONGEST_FILE_BYTES >> 20} MiB")
    try:
        documents = list(yaml.safe_load_all(text))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"{path}: not YAML{_line(error)}") from None
    stated = [item for document in documents for item in _items(document)]
    if not stated:
        raise InvalidRequest(f"{path}: states no monitor")
    monitors = tuple(_monitor(f"{path}: {_place(n, item)}", item) for n, item in enumerate(stated))
    _refuse_repeats(path, monitors)
    return monitors


def put_monitors(monitors: Iterable[NamedMonitor], url: str, key: str) -> Iterator[str]:
    """Put each monitor to the service at `url`; gives the name of each model that took it.

    Raises InvalidRequest with the service's own words where it refuses one, TryLater where it
    does not answer.
    """
    headers = {"Authorization": f"Bearer {key}"}
    with httpx2.Client(base_url=url, headers=headers, trust_env=False, timeout=30.0) as http:
        for monitor in monitors:
            document = monitor.model_dump(
                mode="json", by_alias=True, exclude={"model"}, exclude_unset=True
            )
            try:
                answer = http.put(f"/v1/models/{quote(monitor.model, safe='')}", json=document)
            except httpx2.TransportError as error:
                raise TryLater(f"{url}: no answer ({type(error).__name__})") from None
            if not answer.is_success:
                raise InvalidRequest(f"{monitor.model}: {problem(answer)}")
            yield monitor.model


def _items(document: Any) -> list[Any]:
    if document is None:
        return []
    if isinstance(document, dict) and document.keys() == {"monitors"}:
        document = document["monitors"]
    return document if isinstance(document, list) else [document]


def _place(number: int, item: Any) -> str:
    model = item.get("model") if isinstance(item, dict) else None
    return f"monitor {number + 1}" + (f" ({model})" if isinstance(model, str) else "")


def _monitor(where: str, item: Any) -> NamedMonitor:
    if not isinstance(item, dict):
        raise InvalidRequest(f"{where}: must be a mapping")
    try:
        return NamedMonitor.model_validate(item)
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, found['loc'])) or 'monitor'}: {found['msg']}"
            for found in error.errors(include_url=False, include_input=False)
        )
        raise InvalidRequest(f"{where}: {'; '.join(problems)}") from None


def _refuse_repeats(path: Path, monitors: tuple[NamedMonitor, ...]) -> None:
    seen: set[str] = set()
    for monitor in monitors:
        if monitor.model in seen:
            raise InvalidRequest(f"{path}: model {monitor.model} is stated twice")
        seen.add(monitor.model)


def _line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return "" if mark is None else f" at line {mark.line + 1}"
