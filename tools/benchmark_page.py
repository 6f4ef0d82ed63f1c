"""A page and a plot of what the benchmarks wrote: python tools/benchmark_page.py A.json B.json --page docs/benchmarks.md"""
import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ovdense.cli.parser import Parser
from ovdense.compat.atomic import replace_file
from ovdense.runs import clean_errors

HEAD = """# Benchmarks

Made by `tools/benchmark_page.py` from what the other `tools/benchmark*.py` wrote, up to the last section; do not edit.
Ratios are measured in one run: both sides in turns, median, lowest and highest of the turns.
"""
BY_HAND, UNKNOWN = "<!-- by hand -->", "unknown machine"  # what follows the first in a page stays there


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description="Make a Markdown page of the files that the benchmarks wrote with --out: their tables, and a plot over sizes.")
    parser.add_argument("results", nargs="+", metavar="RESULT.json", help="files that tools/benchmark*.py wrote with --out")
    parser.add_argument("--page", metavar="FILE.md", default="docs/benchmarks.md", help="the page (default: %(default)s)")
    parser.add_argument("--plot", metavar="FILE.png", default="docs/images/benchmarks.png", help="the plot (default: %(default)s)")
    parser.add_argument("--remark", metavar="TEXT", help="a line about how the figures were taken, such as that the machine was busy")
    return parser.parse_args(argv)


def read_tables(path: Path) -> tuple[str, list[dict]]:
    """Return the machine and the tables of a file; ValueError for what no benchmark wrote."""
    try:
        content = json.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"a result must be an existing file, got {path}") from None
    except ValueError as error:
        raise ValueError(f"{path}: must be JSON, but {error}") from None
    tables = (content.get("tables") or _lists_of_rows(content)) if isinstance(content, dict) else None
    if not tables or not isinstance(tables, list) or not all(isinstance(t, dict) and t.get("rows") and t.get("title") for t in tables):
        raise ValueError(f"{path}: must have 'tables' with titles and rows, as tools/benchmark*.py --out writes")
    return str(content.get("machine", UNKNOWN)), tables


def _lists_of_rows(content: Mapping) -> list[dict]:
    """Return the tables of a file against the published arithmetic: each list of rows beside the conditions of the run."""
    conditions = {k: v for k, v in content.items() if k != "config" and not isinstance(v, dict) and not _is_rows(v)}
    note = ", ".join(f"{k.replace('_', ' ')} {'x'.join(map(str, v)) if isinstance(v, list) else v}" for k, v in conditions.items())
    name = f"{Path(content['config']).name}: " if isinstance(content.get("config"), str) else ""
    return [{"title": name + {"rows": "against the published arithmetic"}.get(k, k), "note": note, "rows": v} for k, v in content.items() if _is_rows(v)]


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def table_lines(rows: Sequence[Mapping]) -> list[str]:
    """Return a Markdown table, one column a key of any row."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(c.replace("_", " ") for c in columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(_cell(row.get(c, "")) for c in columns) + " |" for row in rows]


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value).replace("|", "\\|")


def draw(tables: Sequence[dict], path: Path) -> bool:
    """Draw each table with "x" and "y" columns as one axis with a line a column and group; return whether there was any."""
    chosen = [t for t in tables if t.get("x") and t.get("y") and len({row[t["x"]] for row in t["rows"]}) > 1]
    if not chosen:
        return False
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(chosen), figsize=(5 * len(chosen), 3.8), squeeze=False)
    for axis, table in zip(axes[0], chosen):
        group = table.get("group")
        for name in dict.fromkeys(row.get(group) for row in table["rows"]):
            rows = sorted((row for row in table["rows"] if row.get(group) == name), key=lambda row: row[table["x"]])
            for column in table["y"]:
                known = [row for row in rows if column in row]
                label = " ".join(part for part in (column.removesuffix("_s").replace("_", " "), name or "") if part)
                axis.plot([row[table["x"]] for row in known], [row[column] for row in known], marker="o", label=label)
        axis.set(title=table["title"], xlabel=table["x"].replace("_", " "), ylabel="seconds", xscale="log", yscale="log")
        axis.grid(True, which="both", alpha=0.3)
        axis.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with clean_errors():
        read = [read_tables(Path(r)) for r in args.results]
        tables = [table for _, of_file in read for table in of_file]
        page, plot = Path(args.page), Path(args.plot)
        machines = dict.fromkeys(machine for machine, _ in read)
        lines = [HEAD, "Machine: " + "; ".join([m for m in machines if m != UNKNOWN] or [UNKNOWN]) + "\n", *([args.remark + "\n"] if args.remark else [])]
        if draw(tables, plot):
            lines.append(f"![Seconds over size]({Path(os.path.relpath(plot, page.parent)).as_posix()})\n")
        for table in tables:
            lines += [f"## {table['title']}\n", *([table["note"] + "\n"] if table.get("note") else []), *table_lines(table["rows"]), ""]
        by_hand = page.read_text(encoding="utf8").partition(BY_HAND)[2] if page.is_file() else ""
        replace_file(page, "\n".join(lines) + (f"\n{BY_HAND}{by_hand}" if by_hand else ""))
        print(f"written to {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
