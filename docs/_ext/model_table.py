"""The table of all models, made from the configs while the pages are built: it cannot go stale."""
from docutils import nodes
from docutils.parsers.rst import Directive

HEAD = ("config", "short names", "answers with", "what it is", "needs")
SHORT = {"nothing": "nothing", "photos": "photos below the data root", "training": "minutes of training on a CPU",
         "released": "a released checkpoint, converted",
         "own": "your own training", "files": "files of its parts"}


def rows() -> dict[str, list[tuple[str, ...]]]:
    """Return the rows of each method, config by config, with the first line of the config's header."""
    from ovdense.zoo import cards

    found: dict[str, list[tuple[str, ...]]] = {}
    for card in cards():
        aliases = ", ".join(f"``{a}``" for a in card.aliases)
        found.setdefault(card.method, []).append((f"``{card.config}``", aliases, card.task, card.about.rstrip("."),
                                                 SHORT[card.needs] + (f", on {card.trained_on}" if card.trained_on else "")))  # fmt: skip
    return found


class ModelTable(Directive):
    """One table a method; with an argument, that method's alone."""

    optional_arguments = 1

    def run(self):
        wanted = self.arguments[0] if self.arguments else None
        found = rows()
        if wanted is not None and wanted not in found:
            raise self.error(f"model-table: the methods are {', '.join(found)}, got {wanted}")
        out = []
        for method, lines in found.items():
            if wanted in (None, method):
                if wanted is None:
                    out.append(nodes.rubric(text=f"{method} ({len(lines)} configs)"))
                out.append(self._table(lines))
        return out

    def _table(self, lines):
        group = nodes.tgroup(cols=len(HEAD))
        group += [nodes.colspec(colwidth=width) for width in (22, 14, 12, 44, 16)]
        head, body = nodes.thead(), nodes.tbody()
        head += self._row(HEAD)
        for line in lines:
            body += self._row(line)
        group += [head, body]
        return nodes.table("", group, classes=["models"])

    def _row(self, cells):
        row = nodes.row()
        for cell in cells:
            entry, paragraph = nodes.entry(), nodes.paragraph()
            paragraph += [nodes.literal(text=part) if n % 2 else nodes.Text(part) for n, part in enumerate(cell.split("``")) if part]
            entry += paragraph
            row += entry
        return row


def setup(app):
    app.add_directive("model-table", ModelTable)
    return {"parallel_read_safe": True}
