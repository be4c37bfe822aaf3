"""Settings from arguments, environment and file."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from service.limits import caps
from service.settings import Settings


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_defaults_serve_on_loopback_from_a_directory_here() -> None:
    settings = Settings()
    assert settings.host == "127.0.0.1"
    assert settings.port == 8080
    assert settings.data_dir == Path("slicewatch-data")
    assert settings.max_body_bytes == 33_554_432
    assert settings.egress_allow == () and not settings.egress_http


def test_the_environment_wins_over_the_file_and_an_argument_over_both(
    empty_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty_directory / "slicewatch.toml").write_text(
        'port = 1\nhost = "file"\ntick_seconds = 7\negress_allow = ["10.0.0.0/8"]\n'
    )
    monkeypatch.setenv("SLICEWATCH_PORT", "2")
    monkeypatch.setenv("SLICEWATCH_HOST", "environment")
    settings = Settings(port=3)
    assert (settings.port, settings.host, settings.tick_seconds) == (3, "environment", 7)
    assert settings.egress_allow == ("10.0.0.0/8",)


def test_lists_are_comma_separated_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLICEWATCH_EGRESS_ALLOW", "10.0.0.0/8, 127.0.0.0/8")
    monkeypatch.setenv("SLICEWATCH_RETRY_SCHEDULE_SECONDS", "0,0.5,10")
    settings = Settings()
    assert settings.egress_allow == ("10.0.0.0/8", "127.0.0.0/8")
    assert settings.retry_schedule_seconds == (0, 0.5, 10)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "65536"),
        ("QUEUE_BATCHES", "0"),
        ("EGRESS_ALLOW", "10.0.0.1/8"),
        ("EGRESS_ALLOW", "everyone"),
        ("RETRY_SCHEDULE_SECONDS", ""),
        ("RETRY_SCHEDULE_SECONDS", "0,-1"),
        ("RETRY_SCHEDULE_SECONDS", "nan"),
        ("DATABASE_URL", "mysql://u:p@host/db"),
    ],
)
def test_a_setting_out_of_bounds_is_refused_by_name(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"SLICEWATCH_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


def test_a_line_of_the_file_that_is_no_setting_is_refused(empty_directory: Path) -> None:
    (empty_directory / "slicewatch.toml").write_text("prot = 8080\n")
    with pytest.raises(ValidationError, match="prot"):
        Settings()


def test_secrets_do_not_show_when_settings_are_printed() -> None:
    settings = Settings(metrics_token=SecretStr("s3cret"), database_url="sqlite:///hidden.db")
    assert "s3cret" not in repr(settings) and "hidden" not in repr(settings)


def test_every_cap_has_its_own_name_and_follows_its_setting() -> None:
    every = caps(Settings(queue_batches=7))
    assert len({cap.name for cap in every}) == len(every)
    assert {cap.name: cap.limit for cap in every}["queue_batches"] == 7
    assert all(cap.limit > 0 and cap.unit for cap in every)
