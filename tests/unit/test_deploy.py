"""What is in deploy/, held against the formats' own schemas and what a sender must keep."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SIDECAR = DEPLOY / "sidecar"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
COMPOSES = [DEPLOY / "compose.yaml", SIDECAR / "compose.yaml"]
KUBERNETES = "1.31"


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def read(name: str) -> dict[str, Any]:
    (document,) = documents(SIDECAR / name)
    return document


def test_hadolint_has_nothing_against_the_dockerfile() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run(
        [hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_would_have_something_against_a_worse_one(tmp_path: Path) -> None:
    worse = (DEPLOY / "Dockerfile").read_text().replace("'uv==0.9.*'", "uv")
    (tmp_path / "Dockerfile").write_text(worse)
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, tmp_path / "Dockerfile"], capture_output=True, check=False)
    assert b"DL3013" in done.stdout


def test_the_image_runs_as_nobody_in_particular_and_says_how_it_is() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    assert "USER 10001:10001" in lines
    assert any(line.startswith("HEALTHCHECK") for line in lines)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", "\n".join(lines), re.MULTILINE)
    for name in " ".join(copied).split():
        assert f"!{name}" in ignored, f"{name} is copied but kept out of the build"


@pytest.mark.parametrize("path", COMPOSES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_compose_files_keep_to_the_compose_specification(path: Path) -> None:
    check = Path(sys.executable).parent / "check-jsonschema"
    done = subprocess.run(
        [check, "--builtin-schema", "vendor.compose-spec", path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", COMPOSES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_what_compose_mounts_is_in_the_repository_and_images_have_a_version(path: Path) -> None:
    (compose,) = documents(path)
    for service in compose["services"].values():
        assert re.search(r":[\w.-]+$", service["image"])
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (path.parent / source).exists(), source
            else:
                assert source in compose["volumes"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_keep_to_kubernetes_schemas(path: Path) -> None:
    for document in documents(path):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_a_manifest_with_a_misspelt_field_would_be_refused() -> None:
    manifest = next(d for d in documents(MANIFESTS[-1]) if d["kind"] == "StatefulSet")
    manifest["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_containers_have_limits_and_no_rights(path: Path) -> None:
    for document in documents(path):
        if document["kind"] not in ("StatefulSet", "Deployment"):
            continue
        pod = document["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        for container in pod["containers"]:
            assert "memory" in container["resources"]["limits"]
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]


def test_the_service_is_one_writer_with_probes_and_a_read_only_root() -> None:
    manifests = {d["kind"]: d for d in documents(DEPLOY / "kubernetes" / "slicewatch.yaml")}
    assert manifests["StatefulSet"]["spec"]["replicas"] == 1
    (container,) = manifests["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert set(manifests["NetworkPolicy"]["spec"]["policyTypes"]) == {"Ingress", "Egress"}


def test_fluent_bit_buffers_on_disk_and_retries_for_ever() -> None:
    config = read("fluent-bit.yaml")
    (source,), (sink,) = config["pipeline"]["inputs"], config["pipeline"]["outputs"]
    assert source["storage.type"] == "filesystem"
    assert config["service"]["storage.path"]
    assert sink["retry_limit"] == "no_limits"
    assert sink["uri"] == "/v1/events"


def test_vector_buffers_on_disk_and_retries_for_ever() -> None:
    sink = read("vector.yaml")["sinks"]["slicewatch"]
    assert sink["buffer"]["type"] == "disk"
    assert sink["buffer"]["when_full"] == "block"
    assert sink["request"]["retry_attempts"] == 2**63 - 1
    assert sink["acknowledgements"]["enabled"]


def test_the_collector_queues_on_disk_and_retries_for_ever() -> None:
    config = read("otel-collector.yaml")
    exporter = config["exporters"]["otlphttp/slicewatch"]
    assert exporter["sending_queue"]["storage"] == "file_storage"
    assert "file_storage" in config["service"]["extensions"]
    assert exporter["retry_on_failure"]["max_elapsed_time"] == "0s"
    assert exporter["logs_endpoint"].endswith("/v1/logs")


def test_syslog_ng_takes_its_configuration(tmp_path: Path) -> None:
    if shutil.which("syslog-ng") is None:
        pytest.skip("syslog-ng is not installed: apt-get install syslog-ng-core syslog-ng-mod-http")
    environment = {
        "SLICEWATCH_URL": "http://127.0.0.1:8080",
        "SLICEWATCH_KEY": "sw_k_s",
        "SLICEWATCH_ROWS": str(tmp_path / "rows"),
        "SLICEWATCH_BUFFER": str(tmp_path),
    }
    done = subprocess.run(
        ["syslog-ng", "--syntax-only", "--no-caps", "-f", SIDECAR / "syslog-ng.conf"],
        env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reliable(yes)" in (SIDECAR / "syslog-ng.conf").read_text()


def test_the_collectors_and_shippers_are_all_in_the_table() -> None:
    table = (SIDECAR / "README.md").read_text()
    for config in {*SIDECAR.iterdir()} - {SIDECAR / "README.md"}:
        assert config.name in table
