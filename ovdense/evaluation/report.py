"""Results for people (a table) and for machines (JSON), always with the protocol; and dumps of detections."""
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table

from ovdense.structures import Results


def result_table(metrics: Mapping[str, float], protocol: Mapping[str, object]) -> RenderableType:
    """Return a rich renderable: numbers with one decimal ("-" for nan, without ground truth), up to six a row, then the protocol."""
    parts: list[RenderableType] = []
    rows: dict[str, list[tuple[str, float]]] = {}
    for key, value in metrics.items():
        group, _, name = key.rpartition("/")
        rows.setdefault(group, []).append((name, value))
    for group, named in rows.items():
        for start in range(0, len(named), 6):
            table = Table(title=group if start == 0 else None, title_justify="left")
            for name, _ in named[start : start + 6]:
                table.add_column(name.removeprefix("bbox_"), justify="right", no_wrap=True)
            table.add_row(*(format_number(v) for _, v in named[start : start + 6]))
            parts.append(table)
    conditions = Table("protocol", "", show_header=False, box=None)
    for key, value in protocol.items():
        conditions.add_row(key.replace("_", " "), f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value))
    return Group(*parts, conditions)


def format_number(value: float) -> str:
    """Return "-" for nan, an integer as it is, else one decimal."""
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if math.isnan(value) else f"{value:.1f}"


def format_table(metrics: Mapping[str, float], protocol: Mapping[str, object], width: int = 120) -> str:
    """Return `result_table` as plain text of at most `width` columns."""
    console = Console(width=width, color_system=None, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(result_table(metrics, protocol))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _write_json(path: str | Path, content: object) -> Path:
    """Write through a temporary file beside it, so that an interrupted write leaves no half file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_report(
    path: str | Path, metrics: Mapping[str, float], protocol: Mapping[str, object], per_class: Mapping[str, float] | None = None
) -> Path:
    """Write {"metrics", "protocol", "per_class"} as JSON, nan as null; return the path."""

    def plain(values: Mapping[str, float]) -> dict:
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}

    content = {"metrics": plain(metrics), "protocol": dict(protocol)}
    return _write_json(path, content | ({"per_class": plain(per_class)} if per_class is not None else {}))


def write_predictions(results: Iterable[Results], path: str | Path, category_ids: Mapping[str, int] | None = None) -> Path:
    """Write detections in COCO's result form (xywh boxes of the original file); return the path.

    `category_ids`: the annotation file's id of each class name. Without it, category_id is the index in the
    vocabulary. Every detection carries its category_name.
    """
    rows = [row for r in results for row in r.to_coco()]
    if category_ids is not None:
        unknown = sorted({row["category_name"] for row in rows} - set(category_ids))
        if unknown:
            raise KeyError(f"category_ids must have every predicted class; {len(unknown)} are missing: {unknown[:5]}")
        rows = [row | {"category_id": category_ids[row["category_name"]]} for row in rows]
    return _write_json(path, rows)
