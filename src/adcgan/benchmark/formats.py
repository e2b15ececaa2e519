"""Tables as text, for terminals and in Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from adcgan.benchmark.lines import MISSING, SEEDS_FOR_A_CLAIM, Line, Table
from adcgan.data import DATASETS

FORMATS = ("terminal", "markdown", "csv", "latex")
# Further columns that identify a line.
_SUBJECTS: dict[int, tuple[str, ...]] = {1: (), 3: ("class",), 4: ("score",)}
_CSV_COLUMNS = (
    *("table", "league", "protocol", "split", "dataset", "scheme", "subject", "method", "settings"),
    *("seeds", "ours", "spread", "interval_low", "interval_high", "paper", "state"),
)
_LATEX = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "±": r"$\pm$",
    "≥": r"$\geq$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def grid(table: Table) -> tuple[list[str], list[list[str]]]:
    """Return the column names and the cells of a table as text.

    Parameters
    ----------
    table : Table
        The table.

    Returns
    -------
    columns : list of str
        The first two are the data set and the scheme.
    rows : list of list of str
        One row per line; for categories, one row per category with a column per detector.
    """
    if table.figure:
        return _pivoted(table)
    subject = _SUBJECTS[table.number]
    columns = ["data", "scheme", *subject, "method", "settings", "seeds"]
    columns += ["ours", "95% interval", *(() if table.league else ("paper",))]
    rows = [
        [
            *(line.dataset, line.scheme, *(_subject(table, line) for _ in subject), line.detector),
            *(_settings(line), str(len(line.seeds) or "")),
            *(_ours(line), _interval(line), *(() if table.league else (_paper(line),))),
        ]
        for line in table.lines
    ]
    return columns, rows


def _pivoted(table: Table) -> tuple[list[str], list[list[str]]]:
    """Return a table of categories with detectors as columns."""
    methods = list(dict.fromkeys((line.detector, line.settings) for line in table.lines))
    by_subject: dict[tuple[str, str, str], list[str]] = {}
    for line in table.lines:
        place = (line.dataset, line.scheme, line.subject)
        by_subject.setdefault(place, []).append(_ours(line))
    headings = [name + (f" ({settings})" if settings else "") for name, settings in methods]
    return ["data", "scheme", "category", *headings], [[*k, *v] for k, v in by_subject.items()]


def markdown(tables: Iterable[Table]) -> str:
    """Format tables as Markdown."""
    return "\n".join(_markdown(table) for table in tables)


def latex(tables: Iterable[Table]) -> str:
    """Format tables as LaTeX that needs no packages."""
    return "\n".join(_latex(table) for table in tables)


def comma_separated(tables: Iterable[Table]) -> str:
    """Format all tables as one CSV file, with one figure in percent per line."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for table in tables:
        for line in table.lines:
            low, high = line.interval or (None, None)
            writer.writerow(
                {
                    "table": table.figure or table.number,
                    "league": table.league,
                    "protocol": table.protocol,
                    "split": table.split,
                    "dataset": line.dataset,
                    "scheme": line.scheme,
                    "subject": line.subject,
                    "method": line.detector,
                    "settings": line.settings,
                    "seeds": " ".join(map(str, line.seeds)),
                    "ours": _digits(line.ours),
                    "spread": _digits(line.spread),
                    "interval_low": _digits(low),
                    "interval_high": _digits(high),
                    "paper": _digits(line.paper),
                    "state": line.state,
                }
            )
    return buffer.getvalue()


def _subject(table: Table, line: Line) -> str:
    """Return the class number with its name, or the variant."""
    if table.number != 3:
        return line.subject
    name = DATASETS[line.dataset].class_names[int(line.subject)]
    return name if name == line.subject else f"{line.subject} ({name})"


def _settings(line: Line) -> str:
    """Return the settings that differ from the benchmark's defaults."""
    if line.settings:
        return line.settings
    return "" if line.state == MISSING else "default"


def _ours(line: Line) -> str:
    """Return our figure with its spread, or the reason why there is none."""
    if line.ours is None:
        return line.state
    return f"{line.ours:.1f}" + ("" if line.spread is None else f" ± {line.spread:.1f}")


def _interval(line: Line) -> str:
    """Return the confidence interval of our figure, or the reason why there is none."""
    if line.ours is None:
        return ""
    if len(line.seeds) < SEEDS_FOR_A_CLAIM:
        return f"under {SEEDS_FOR_A_CLAIM} seeds"
    if line.interval is None:
        return "no spread"
    low, high = line.interval
    return f"{low:.1f} to {high:.1f}"


def _paper(line: Line) -> str:
    """Return the paper's figure and its position relative to our interval."""
    if line.paper is None:
        return "–"
    text = f"{line.paper:.1f}"
    if line.interval is None:
        return text
    low, high = line.interval
    where = "above" if line.paper > high else "below" if line.paper < low else "inside"
    return f"{text} ({where})"


def _digits(value: float | None) -> str:
    """Return a figure in machine-readable form."""
    return "" if value is None else f"{value:.4f}"


def _markdown(table: Table) -> str:
    columns, rows = grid(table)
    lines = [f"## {table.title}", "", _piped(columns), _piped(["---"] * len(columns))]
    lines += [_piped(row) for row in rows]
    return "\n".join([*lines, "", *(f"- {note}" for note in table.notes), ""])


def _piped(cells: Sequence[str]) -> str:
    """Format one row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _latex(table: Table) -> str:
    columns, rows = grid(table)
    body = [" & ".join(map(_escaped, row)) + r" \\" for row in rows]
    head = " & ".join(map(_escaped, columns)) + r" \\"
    notes = r" \\ ".join(map(_escaped, table.notes))
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_escaped(table.title)}}}",
            rf"\begin{{tabular}}{{{'l' * len(columns)}}}",
            r"\hline",
            head,
            r"\hline",
            *body,
            r"\hline",
            r"\end{tabular}",
            rf"\par\footnotesize {notes}",
            r"\end{table}",
            "",
        ]
    )


def _escaped(text: str) -> str:
    """Escape text for LaTeX."""
    return "".join(_LATEX.get(c, c) for c in text).replace("–", "--")
