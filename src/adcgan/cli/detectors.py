"""``adcgan detectors``: what can be fitted."""

from __future__ import annotations

from adcgan.cli import options
from adcgan.cli.terminal import print_json, print_table


def detectors(json: options.Json = False) -> None:
    """List the detectors."""
    from adcgan.detectors import DETECTORS

    rows = [
        {"name": name, "description": (kind.__doc__ or "").strip().split("\n")[0]}
        for name, kind in DETECTORS.items()
    ]
    if json:
        print_json(rows)
    else:
        print_table(["name", "what it is"], [[row["name"], row["description"]] for row in rows])
