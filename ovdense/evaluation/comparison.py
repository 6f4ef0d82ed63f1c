"""Several results side by side: numbers, and the protocol lines in which they differ; one Markdown table of many runs."""
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table

from ovdense.compat.json_text import loads
from ovdense.evaluation.report import format_number

MISSING = "-"
FACTS = ("images", "classes", "prompt", "templates", "background", "ap", "detections", "iou_type", "class_map", "split", "classes_per_chunk", "recall", "hit")


def read_report(path: str | Path) -> dict:
    """Return {"metrics", "protocol", ...} of a file that `write_report` wrote, null as nan; ValueError for anything else."""
    path = Path(path)
    try:
        content = loads(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"a result must be an existing file, got {path}") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: a result must be JSON, but {error}") from None
    if not isinstance(content, dict) or not all(isinstance(content.get(key), dict) for key in ("metrics", "protocol")):
        raise ValueError(f"{path}: a result must have 'metrics' and 'protocol', as tools/test.py writes test_metrics.json; got {_keys(content)}")
    return content | {"metrics": {k: float("nan") if v is None else v for k, v in content["metrics"].items()}}


def _keys(content: object) -> str:
    return str(sorted(content)[:6]) if isinstance(content, dict) else type(content).__name__


def short_names(files: Sequence[str | Path]) -> list[str]:
    """Return the shortest ends of the paths that tell them apart, without .json; a lone file gives its name."""
    parts = [Path(f).with_suffix("").absolute().parts for f in files]
    for n in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-n:]) for p in parts]
        if len(set(names)) == len(set(parts)):
            break
    shared = {p[-1] for p in parts}
    return ["/".join(p[-n:-1]) if n > 1 and len(shared) == 1 else name for p, name in zip(parts, names)]


def differing_lines(protocols: Sequence[Mapping[str, object]]) -> list[tuple[str, list[object]]]:
    """Return (line, its value in each protocol) for the lines that are not the same in all; "-" where a line is missing."""
    lines = []
    for key in dict.fromkeys(key for protocol in protocols for key in protocol):
        values = [protocol.get(key, MISSING) for protocol in protocols]
        if any(value != values[0] for value in values[1:]):
            lines.append((key, values))
    return lines


def comparison(names: Sequence[str], reports: Sequence[Mapping]) -> RenderableType:
    """Return tables of the numbers side by side (with two results their difference too) and of the protocol lines that differ."""
    numbers = Table("number", title="numbers", title_justify="left")
    for name in names:
        numbers.add_column(name, justify="right")
    if len(reports) == 2:
        numbers.add_column("difference", justify="right", no_wrap=True)
    for key in dict.fromkeys(key for report in reports for key in report["metrics"]):
        values = [report["metrics"].get(key) for report in reports]
        row = [MISSING if v is None else format_number(v) for v in values]
        if len(values) == 2:
            row.append(MISSING if None in values else _difference(values[1] - values[0]))
        numbers.add_row(key, *row)
    return Group(numbers, _protocol_table(names, [report["protocol"] for report in reports]))


def _difference(value: float) -> str:
    return MISSING if value != value else f"{value:+,d}" if isinstance(value, int) else f"{value:+.1f}"


def _protocol_table(names: Sequence[str], protocols: Sequence[Mapping[str, object]]) -> RenderableType:
    lines, same = differing_lines(protocols), len(dict.fromkeys(key for protocol in protocols for key in protocol))
    if not lines:
        return f"protocol: all {same} lines are the same"
    table = Table("protocol", *names, title=f"protocol: {len(lines)} of {same} lines differ", title_justify="left")
    for key, values in lines:
        table.add_row(key.replace("_", " "), *(f"{v:,}" if isinstance(v, int) and not isinstance(v, bool) else str(v) for v in values))
    return table


def markdown_table(names: Sequence[str], reports: Sequence[Mapping], *, numbers: Sequence[str] = (), facts: Sequence[str] = FACTS, most: int = 4) -> str:
    """Return a Markdown table of a row a result: its numbers and its protocol.

    `numbers`: names, or their ends after "/" ("mIoU"); by default the first `most` that are known of each kind of metric.
    `facts`: the protocol lines that are shown, where a result has them; the data are named by "dataset" or else "annotations".
    """
    rows = ["| run | numbers | protocol |", "|---|---|---|"]
    for name, report in zip(names, reports, strict=True):
        chosen = _chosen(report["metrics"], numbers, most)
        shown = "; ".join(f"{title}: " + ", ".join(f"{k} {format_number(v)}" for k, v in values) for title, values in chosen.items()) or MISSING
        protocol = report["protocol"]
        data = protocol.get("dataset") or protocol.get("annotations")
        told = ([str(data)] if data else []) + [_fact(key, protocol[key]) for key in facts if key in protocol]
        rows.append(f"| {_cell(name)} | {_cell(shown)} | {_cell('; '.join(told) or MISSING)} |")
    return "\n".join(rows)


def _chosen(metrics: Mapping[str, float], numbers: Sequence[str], most: int) -> dict[str, list[tuple[str, float]]]:
    """Return {kind of metric: [(number, value)]} of what a table shows."""
    found: dict[str, list[tuple[str, float]]] = {}
    for key, value in metrics.items():
        title, _, name = key.rpartition("/")
        wanted = key in numbers or name in numbers if numbers else value == value and len(found.get(title, ())) < most
        if wanted:
            found.setdefault(title or "result", []).append((name, value))
    return found


def _fact(key: str, value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,} {key.replace('_', ' ')}"
    return f"{key.replace('_', ' ')}: {value}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
