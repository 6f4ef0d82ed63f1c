"""Results for people (a table) and for machines (JSON), always with the protocol; and dumps of detections."""
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table

from ovdense.compat.atomic import replace_file
from ovdense.structures import Results

_MOST_COLUMNS = 10


def result_table(metrics: Mapping[str, float], protocol: Mapping[str, object]) -> RenderableType:
    """Return a rich renderable: numbers with one decimal ("-" for nan, without ground truth), then the protocol.

    The numbers of a metric stand in one line, average recalls in a second. Where several are given by group
    ("pair_accuracy", "pairs", "pair_accuracy_colour", "pairs_colour"), each group is a row.
    """
    parts: list[RenderableType] = []
    tables: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        title, _, name = key.rpartition("/")
        tables.setdefault(title, {})[name.removeprefix("bbox_")] = value
    for title, named in tables.items():
        groups = _groups(named)
        if groups:
            parts.append(_group_table(title, named, groups))
            continue
        recalls = [n for n in named if n.startswith("AR")]
        others = [n for n in named if n not in recalls]
        lines = [names[i : i + _MOST_COLUMNS] for names in (others, recalls) for i in range(0, len(names), _MOST_COLUMNS)]
        for line in lines:
            table = Table(title=title if line is lines[0] else None, title_justify="left")
            for name in line:
                table.add_column(name, justify="right", no_wrap=True)
            table.add_row(*(format_number(named[name]) for name in line))
            parts.append(table)
    conditions = Table("protocol", "", show_header=False, box=None)
    for key, value in protocol.items():
        conditions.add_row(key.replace("_", " "), f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value))
    return Group(*parts, conditions)


def _groups(named: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return {group: {name: value}} of the names "name_group" whose group two names or more are given by."""
    found: dict[str, dict[str, float]] = {}
    for key, value in named.items():
        base = max((b for b in named if key.startswith(f"{b}_")), key=len, default=None)
        if base is not None:
            found.setdefault(key.removeprefix(f"{base}_"), {})[base] = value
    return {group: values for group, values in found.items() if len(values) > 1}


def _group_table(title: str, named: Mapping[str, float], groups: Mapping[str, Mapping[str, float]]) -> Table:
    """Return a table of one row a group, after one for all; what a group does not have is left empty."""
    taken = {f"{name}_{group}" for group, values in groups.items() for name in values}
    whole = {name: value for name, value in named.items() if name not in taken}
    table = Table("group", title=title, title_justify="left")
    for name in whole:
        table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    for group, values in {"all": whole, **groups}.items():
        table.add_row(group, *(format_number(values[name]) if name in values else "" for name in whole), end_section=group == "all")
    return table


def format_number(value: float) -> str:
    """Return "-" for nan, an integer as it is, else one decimal."""
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if math.isnan(value) else f"{value:.1f}"


def class_table(per_class: Mapping[str, Mapping[str, float]]) -> Table:
    """Return a table of a row a class, in the order of the vocabulary."""
    names = list(dict.fromkeys(name for values in per_class.values() for name in values))
    table = Table("class", title="by class", title_justify="left")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    for kind, values in per_class.items():
        table.add_row(kind, *(format_number(values[name]) if name in values else "" for name in names))
    return table


def format_table(
    metrics: Mapping[str, float], protocol: Mapping[str, object], width: int = 100, per_class: Mapping[str, Mapping[str, float]] | None = None
) -> str:
    """Return `result_table`, and before it the numbers of each class where given, as plain text of at most `width` columns."""
    parts = ([class_table(per_class)] if per_class else []) + [result_table(metrics, protocol)]
    return plain_text(Group(*parts), width)


def plain_text(content: RenderableType, width: int = 100) -> str:
    """Return a rich renderable as plain text of at most `width` columns."""
    console = Console(width=width, color_system=None, force_terminal=False, legacy_windows=False)
    with console.capture() as capture:
        console.print(content)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def write_json(path: str | Path, content: object) -> Path:
    """Write JSON, whole or not at all; return the path."""
    return replace_file(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))


def write_report(
    path: str | Path, metrics: Mapping[str, float], protocol: Mapping[str, object], per_class: Mapping[str, float | Mapping[str, float]] | None = None
) -> Path:
    """Write {"metrics", "protocol", "per_class"} as JSON, nan as null; a class has one number or several by name. Return the path."""

    def plain(values: Mapping) -> dict:
        return {k: plain(v) if isinstance(v, Mapping) else None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}

    content = {"metrics": plain(metrics), "protocol": dict(protocol)}
    return write_json(path, content | ({"per_class": plain(per_class)} if per_class is not None else {}))


def write_predictions(results: Iterable[Results], path: str | Path, category_ids: Mapping[str, int] | None = None) -> Path:
    """Write detections in COCO's result form (xywh boxes of the original file, see `Results.to_coco`); return the path.

    `category_ids`: the annotation file's id of each class name. Without it, category_id is the index in the
    vocabulary. Every detection carries its category_name.
    """
    rows = [row for r in results for row in r.to_coco()]
    if category_ids is not None:
        unknown = sorted({row["category_name"] for row in rows} - set(category_ids))
        if unknown:
            raise KeyError(f"category_ids must have every predicted class; {len(unknown)} are missing: {unknown[:5]}")
        rows = [row | {"category_id": category_ids[row["category_name"]]} for row in rows]
    return write_json(path, rows)
