"""Drawing: a board's panels by Grafana's own components, in Chromium without a screen."""

from __future__ import annotations

import html
import json
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from grafana.checks.prometheus import SCRAPE_SECONDS, interpolated
from grafana.checks.seeded import Seeded
from grafana.house import Json, panels

HERE: Final = Path(__file__).parent
WIDTH: Final = 1616
DRAWN_ALONE: Final = frozenset({"stat", "timeseries", "table", "bargauge"})
_REPORT: Final = re.compile(r'data-report="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Drawn:
    """What the page says that it drew."""

    panels: dict[str, dict[str, Any]]  # by title: type, text, painted
    errors: list[str]


def bundle(directory: Path) -> None:
    """The script of the page, made of draw.jsx and what it imports."""
    fonts = [f"--loader:.{kind}=dataurl" for kind in ("svg", "woff2", "ttf")]
    subprocess.run(
        [
            *("node_modules/.bin/esbuild", "draw.jsx", "--bundle", "--format=iife", "--minify"),
            # their ES modules import the defaults of CommonJS ones in Node's way, which fails here
            *(
                f"--alias:@grafana/{part}=./node_modules/@grafana/{part}/dist/cjs/index.cjs"
                for part in ("data", "ui")
            ),
            *(*fonts, '--define:process.env.NODE_ENV="production"', "--log-level=error"),
            # an editor of some 80 MB that no panel opens
            *("--alias:monaco-editor=./nothing.js", "--alias:@monaco-editor/react=./nothing.js"),
            f"--outfile={directory / 'draw.js'}",
        ],
        cwd=HERE,
        check=True,
    )


def answers(board: Json, run: Seeded, chosen: Mapping[str, str]) -> dict[int, dict[str, Any]]:
    """What Prometheus answers to each query of each panel."""
    found: dict[int, dict[str, Any]] = {}
    for panel in panels(board):
        for target in panel["targets"]:
            found.setdefault(panel["id"], {})[target["refId"]] = {
                "format": target.get("format", "time_series"),
                "legend": target.get("legendFormat", ""),
                "result": answer(target, run, chosen),
            }
    return found


def answer(target: Json, run: Seeded, chosen: Mapping[str, str]) -> list[dict[str, Any]]:
    """What Prometheus answers to one query, over the run or at its end."""
    expression = interpolated(target["expr"], chosen)
    if target.get("instant"):
        return run.prometheus.instant(expression, run.ended_at)
    return run.prometheus.range(expression, run.began_at, run.ended_at, SCRAPE_SECONDS)


def draw(
    board: Json, run: Seeded, directory: Path, chosen: Mapping[str, str], picture: Path
) -> Drawn:
    """Draw a board in `directory`, where `bundle` has put its script; and take its picture."""
    spec = {
        "board": board,
        "answers": answers(board, run, chosen),
        "from": run.began_at,
        "to": run.ended_at,
    }
    name = board["uid"]
    (directory / f"{name}.js").write_text(f"window.SPEC = {json.dumps(spec)};")
    page = directory / f"{name}.html"
    page.write_text(
        '<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="draw.css">'
        '<body style="margin:0"><div id="root"></div>'
        f'<script src="{name}.js"></script><script src="draw.js"></script>'
    )
    printed = _chromium(directory, page, "--dump-dom")
    report = _REPORT.search(printed)
    assert report is not None, printed[-2000:]
    told = json.loads(html.unescape(report[1]))
    size = f"--window-size={WIDTH},{_height(board)}"
    _chromium(directory, page, f"--screenshot={picture}", size)
    return Drawn({panel["title"]: panel for panel in told["drawn"]}, told["errors"])


def _height(board: Json) -> int:
    """Pixels, of the panels that are drawn."""
    bottom: int = max(
        panel["gridPos"]["y"] + panel["gridPos"]["h"]
        for panel in panels(board)
        if panel["type"] in DRAWN_ALONE
    )
    return 60 + 38 * bottom


def _chromium(directory: Path, page: Path, *options: str) -> str:
    done = subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *("--virtual-time-budget=10000", "--allow-file-access-from-files"),
            f"--user-data-dir={directory / 'profile'}",
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout
