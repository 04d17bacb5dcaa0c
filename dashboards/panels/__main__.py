"""Writes the files that users load: `dashboards/grafana/*.json` and `dashboards/sql/*.sql`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dashboards.panels import store
from dashboards.panels.grafana import LANGUAGES, text
from dashboards.panels.table import PANELS

FOLDER = Path(__file__).parent.parent


def files() -> Iterator[tuple[Path, str]]:
    """Where each file is, and what is in it."""
    for backend in LANGUAGES:
        yield FOLDER / "grafana" / f"{backend}.json", text(backend)
    for panel in PANELS:
        (query,) = store.QUERIES[panel.key]
        yield FOLDER / "sql" / f"{panel.key}.sql", f"-- {panel.title}. {panel.says}\n{query.text}"


if __name__ == "__main__":
    for path, content in files():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
        print(path.relative_to(FOLDER.parent))
