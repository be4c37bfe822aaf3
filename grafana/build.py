"""Build: the boards as the JSON that Grafana reads, into grafana/dashboards.

`python -m grafana.build` writes them; the same code gives the same bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana.boards.model import model
from grafana.boards.oncall import oncall
from grafana.boards.pipeline import pipeline
from grafana.boards.slice import slice_

DIRECTORY: Final = Path(__file__).parent / "dashboards"
INTERVALS_ALONE: Final = ("auto", "auto_count", "auto_min")  # the SDK writes them on all variables
BOARDS: Final = (oncall, model, slice_, pipeline)


def built() -> dict[str, str]:
    """The text of each file, by its name."""
    files = {}
    for make in BOARDS:
        board = json.loads(json.dumps(make().build(), cls=JSONEncoder))
        for variable in board["templating"]["list"]:
            for name in INTERVALS_ALONE:
                variable.pop(name, None)
        text = json.dumps(board, indent=1, sort_keys=True, ensure_ascii=False)
        files[f"{board['uid']}.json"] = f"{text}\n"
    return files


def main() -> None:
    """Write them, and take away what is no board any more."""
    DIRECTORY.mkdir(exist_ok=True)
    files = built()
    for path in DIRECTORY.glob("*.json"):
        if path.name not in files:
            path.unlink()
    for name, text in files.items():
        (DIRECTORY / name).write_text(text)


if __name__ == "__main__":
    main()
