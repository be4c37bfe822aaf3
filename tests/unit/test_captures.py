"""Captures of SageMaker, Azure ML and BentoML are read as what they stand for."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from service.backtest import backtest
from service.errors import InvalidRequest
from service.ingest.events import EventBatch, Rejected
from service.ingest.files import read_flat
from service.ingest.json_rows import to_json_rows
from service.ingest.paths import files_of
from service.monitor.config import NamedMonitor
from service.replay import Bookmark, Source
from tests.builders import ManualClock
from tests.rows import Stream

AT = "2026-11-22T10:00:00Z"


def write(path: Path, *lines: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read(*paths: Path, model: str | None = None) -> tuple[list[dict[str, Any]], list[Rejected]]:
    rejected: list[Rejected] = []
    batches = list(read_flat(paths, default_model=model, on_rejected=rejected.append))
    rows = to_json_rows(EventBatch.concatenate(batches)) if batches else []
    return rows, rejected


def captured(id_: str, given: str, said: str, **output: Any) -> dict[str, Any]:
    return {
        "captureData": {
            "endpointInput": {
                "observedContentType": "text/csv",
                "mode": "INPUT",
                "data": given,
                "encoding": "CSV",
            },
            "endpointOutput": {
                "observedContentType": "text/csv; charset=utf-8",
                "mode": "OUTPUT",
                "data": said,
                "encoding": "CSV",
                **output,
            },
        },
        "eventMetadata": {"eventId": id_, "inferenceTime": AT},
        "eventVersion": "0",
    }


def truth(id_: str, data: str) -> dict[str, Any]:
    return {
        "groundTruthData": {"data": data, "encoding": "CSV"},
        "eventMetadata": {"eventId": id_},
        "eventVersion": "0",
    }


def test_sagemakers_capture_and_truth_are_predictions_and_labels(tmp_path: Path) -> None:
    place = tmp_path / "fraud" / "AllTraffic" / "2026" / "11" / "22" / "10"
    capture = write(
        place / "a.jsonl",
        captured("e1", "69,153.5,north\n", "0.25"),
        captured("e2", "1,2,south\n3,4,east\n", "0.5\n0.75\n"),
    )
    labels = write(tmp_path / "truth.jsonl", truth("e1", "1"), truth("e2-1", "0"), truth("no", "1"))
    rows, rejected = read(capture, labels, model="fraud")
    assert [(row["id"], row["kind"]) for row in rows] == [
        ("e1", "prediction"),
        ("e2-0", "prediction"),
        ("e2-1", "prediction"),
        ("e1", "label"),
        ("e2-1", "label"),
    ]
    assert rows[0]["features"] == {"input_0": 69, "input_1": 153.5, "input_2": "north"}
    assert (rows[0]["output"], rows[0]["attributes"]) == (0.25, {"variant": "AllTraffic"})
    assert (rows[3]["truth"], rows[3]["time"]) == (1, rows[0]["time"])
    (lost,) = rejected
    assert lost.id == "no" and lost.reason.startswith("time: required")


def test_sagemakers_model_is_the_endpoint_of_its_path(tmp_path: Path) -> None:
    place = tmp_path / "fraud" / "blue" / "2026" / "11" / "22" / "10"
    rows, _ = read(write(place / "a.jsonl", captured("e1", "1,2", "0.25")))
    assert rows[0]["model"] == "fraud"


@pytest.mark.parametrize(
    ("said", "output", "expected"),
    [
        ("cat,0.93", {}, ("cat", 0.93)),
        ("0.1,0.2,0.7", {}, ("2", 0.7)),
        ('{"predictions": [{"label": "cat", "score": 0.9}]}', {"encoding": "JSON"}, ("cat", 0.9)),
        (base64.b64encode(b"cat,0.5").decode(), {"encoding": "BASE64"}, ("cat", 0.5)),
    ],
)
def test_what_sagemakers_model_said_is_read_in_its_encoding(
    tmp_path: Path, said: str, output: dict[str, Any], expected: tuple[str, float]
) -> None:
    file = write(tmp_path / "a.jsonl", captured("e", "1,2", said, **output))
    rows, rejected = read(file, model="m")
    assert not rejected
    assert (rows[0]["output"], rows[0]["confidence"]) == expected


def test_azures_halves_are_joined_by_correlation(tmp_path: Path) -> None:
    about = {
        "specversion": "1.0",
        "source": "/subscriptions/s/onlineEndpoints/credit/deployments/main",
        "datacontenttype": "application/json",
        "time": AT,
        "correlationid": "c1",
        "modelversion": "3",
    }
    asked = [{"LIMIT_BAL": 502970, "SEX": "2"}, {"LIMIT_BAL": 1, "SEX": "1"}]
    write(
        tmp_path / "model_inputs" / "a.jsonl",
        about | {"id": "x", "type": "azureml.inference.model_inputs", "data": asked},
    )
    write(
        tmp_path / "model_outputs" / "a.jsonl",
        about
        | {"id": "y", "type": "azureml.inference.model_outputs", "data": [{"0": 1}, {"0": 0}]},
    )
    rows, rejected = read(*files_of([str(tmp_path)]))
    assert not rejected
    assert [(row["id"], row["model"], row["version"]) for row in rows] == [
        *(("c1-0", "credit", "3"), ("c1-1", "credit", "3"))
    ]
    assert rows[0]["features"] == {"LIMIT_BAL": 502970, "SEX": "2"}
    assert [row["output"] for row in rows] == [1, 0]


def test_bentos_columns_have_the_roles_of_their_schema(tmp_path: Path) -> None:
    columns = [
        {"name": "sepal length", "role": "feature", "type": "numerical"},
        {"name": "pred", "role": "prediction", "type": "categorical"},
        {"name": "truth", "role": "target", "type": "categorical"},
    ]
    schema = {"meta_data": {"bento_name": "iris", "bento_version": "v7"}, "columns": columns}
    write(tmp_path / "iris_monitor" / "schema" / "schema.1.log", schema)
    line = {
        "sepal length": 4.9,
        "pred": "setosa",
        "truth": "versicolor",
        "timestamp": "2026-11-22T10:00:00.5",
        "request_id": "7",
        "trace_id": "9",
    }
    write(tmp_path / "iris_monitor" / "data" / "data.1.log.2026-11-21", line, line)
    rows, rejected = read(*files_of([str(tmp_path)]))
    assert not rejected
    assert [row["id"] for row in rows] == ["7", "7-1"]
    assert (rows[0]["model"], rows[0]["version"]) == ("iris_monitor", "v7")
    assert rows[0]["features"] == {"sepal_length": 4.9}
    assert (rows[0]["output"], rows[0]["truth"]) == ("setosa", "versicolor")
    assert rows[0]["time"] == "2026-11-22T10:00:00.500000Z"


def test_a_line_that_is_no_capture_is_left_out_and_told_of(tmp_path: Path) -> None:
    bad: dict[str, Any] = {"captureData": {}, "eventMetadata": {}}
    file = write(tmp_path / "a.jsonl", captured("e", "1", "2"), bad, [], captured("f", "1", "2"))
    rows, rejected = read(file, model="m")
    assert [row["id"] for row in rows] == ["e", "f"]
    assert [row.index for row in rejected] == [1, 2]


def test_a_captured_endpoint_gives_the_alerts_of_the_same_rows_as_json(tmp_path: Path) -> None:
    """What the endpoint was given are features; --map makes dimensions of some."""
    bad = {"floor": "3"}
    rows = to_json_rows(Stream(n_predictions=6_000, bad=bad, bad_rate=0.7, delay=0).rows())
    for row in rows:
        row.pop("version", None)
    predictions = [row for row in rows if row["kind"] == "prediction"]
    labels = [truth(row["id"], row["truth"]) for row in rows if row["kind"] == "label"]
    captures = (
        write(tmp_path / "capture.jsonl", *map(as_capture, predictions)),
        write(tmp_path / "truth.jsonl", *labels),
    )
    mapping = {f"features.{name}": f"attributes.{name}" for name in ("floor", "accent", "device")}
    direct = alerts(Source((write(tmp_path / "ours.ndjson", *rows),), model="m"))
    assert alerts(Source(captures, mapping, "m")) == direct
    assert bad in [alert["slice"] for alert in direct]


def as_capture(row: dict[str, Any]) -> dict[str, Any]:
    """A prediction as an endpoint that answers JSON would have been captured."""
    line = captured(row["id"], "", "")
    line["eventMetadata"]["inferenceTime"] = row["time"]
    for part, payload in (
        ("endpointInput", {"instances": [row["attributes"]]}),
        ("endpointOutput", {"predictions": [{"output": row["output"]}]}),
    ):
        line["captureData"][part] |= {"data": json.dumps(payload), "encoding": "JSON"}
    return line


def alerts(source: Source) -> list[Any]:
    monitor = NamedMonitor.model_validate({"model": "m", "reference": {"rows": 2_000}})
    result = backtest(source, ManualClock(), monitors=(monitor,))
    return json.loads(result.to_json())["alerts"]  # type: ignore[no-any-return]


def test_arguments_name_files_directories_and_patterns(tmp_path: Path) -> None:
    row = {"id": "a", "model": "m", "time": AT, "output": 1}
    files = [write(tmp_path / name, row) for name in ("b.ndjson", "a.jsonl", "in/c.ndjson")]
    (tmp_path / "notes.txt").write_text("not rows")
    assert files_of([str(tmp_path)]) == tuple(sorted(files))
    assert files_of([f"{tmp_path}/*.ndjson", str(files[0])]) == (files[0],)
    assert files_of([f"{tmp_path}/**/*"]) == tuple(sorted(files))
    for none in (f"{tmp_path}/*.csv", f"{tmp_path}/no.csv"):
        with pytest.raises(InvalidRequest):
            files_of([none])


def test_rows_of_several_files_are_merged_by_time(tmp_path: Path) -> None:
    times = [[f"2026-11-22T10:00:0{s}Z" for s in some] for some in ((0, 2), (1, 3))]
    files = [
        write(
            tmp_path / f"{n}.ndjson",
            *({"id": at, "model": "m", "time": at, "output": 1} for at in some),
        )
        for n, some in enumerate(times)
    ]
    rows, _ = read(*files)
    assert [row["id"] for row in rows] == sorted(times[0] + times[1])


def test_a_bookmark_is_of_one_replay(tmp_path: Path) -> None:
    path = tmp_path / "bookmark"
    bookmark = Bookmark(path)
    assert bookmark.n_answered("a") == 0
    bookmark.put("a", 7)
    assert (Bookmark(path).n_answered("a"), Bookmark(path).n_answered("b")) == (7, 0)
    path.write_text("something else")
    with pytest.raises(InvalidRequest):
        bookmark.n_answered("a")
