"""The README's page for receivers: each of its programs believes what is ours and nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from service.clock import SystemClock
from service.notify.webhook import body_for, new_secret, sign
from tests.builders import a_transition

README = (Path(__file__).parents[2] / "README.md").read_text()
SECRET, OLDER, OTHER = (new_secret(bytes([i]) * 32) for i in (1, 2, 3))
BODY = body_for(a_transition(summary="Größe, 'quoted' \"twice\" $(and not run)")).encode()

RUN = {
    "python": """
import json, sys
given = json.load(open(sys.argv[1]))
body = open(sys.argv[2], "rb").read()
sys.exit(not verify(given["headers"], body, given["secret"]))
""",
    "javascript": """
const fs = require("node:fs");
const given = JSON.parse(fs.readFileSync(process.argv[2]));
const body = fs.readFileSync(process.argv[3]);
process.exit(verify(given.headers, body, given.secret) ? 0 : 1);
""",
    "shell": """
SECRET=$3 ID=$4 TIMESTAMP=$5 SIGNATURE=$6 BODY=$2
verify
""",
}
COMMAND = {"python": sys.executable, "javascript": "node", "shell": "sh"}
LANGUAGES = [
    pytest.param(
        language,
        marks=pytest.mark.skipif(
            shutil.which(command) is None, reason=f"{command} is not installed"
        ),
    )
    for language, command in COMMAND.items()
]


def shown(language: str) -> str:
    """The README's program."""
    (text,) = (
        each
        for each in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
        if "verify" in each
    )
    return str(text)


def believed(
    directory: Path,
    language: str,
    *,
    body: bytes = BODY,
    signed: bytes = BODY,
    late: int = 0,  # seconds
    by: tuple[str, ...] = (SECRET,),
    id_: str = "msg_1",
) -> bool:
    """Whether the README's program believes a delivery."""
    program, given, sent = (directory / name for name in ("program", "given.json", "body"))
    program.write_text(shown(language) + RUN[language])
    sent.write_bytes(body)
    at = SystemClock().now() // 1_000_000 - late
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(at),
        "webhook-signature": sign(id_, at, signed, by),
    }
    given.write_text(json.dumps({"headers": headers, "secret": SECRET}))
    command = [COMMAND[language], str(program), str(given), str(sent), SECRET, *headers.values()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 1), done.stderr
    assert done.stderr == ""
    return done.returncode == 0


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_ours_is_believed_during_a_rotation_too(tmp_path: Path, language: str) -> None:
    assert believed(tmp_path, language)
    assert believed(tmp_path, language, by=(OLDER, SECRET))
    assert believed(tmp_path, language, by=(SECRET, OLDER))


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_was_altered_is_forged_or_is_old_is_not(tmp_path: Path, language: str) -> None:
    altered = BODY.replace(b"critical", b"criticaL")
    assert not believed(tmp_path, language, body=altered)
    assert not believed(tmp_path, language, by=(OTHER,))
    assert not believed(tmp_path, language, id_="msg_2")
    assert not believed(tmp_path, language, late=360)
    assert not believed(tmp_path, language, late=-360)
