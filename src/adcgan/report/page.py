"""One self-contained HTML page from sections, each of which names its template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from adcgan import __version__
from adcgan.report import wording


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Parameters
    ----------
    key : str
        Names the template ``templates/<key>.html``.
    title : str
        The heading.
    data : mapping
        What the template reads, by name.
    anchor : str, optional
        What a link leads to; `key` if not given. No two parts of a page share one.
    """

    key: str
    title: str
    data: Mapping[str, Any] = field(default_factory=dict)
    anchor: str = ""


@dataclass(frozen=True)
class Tile:
    """A figure at the top of the page: its name, its value and a note."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Page:
    """The content of a page.

    Parameters
    ----------
    title : str
        The page's name.
    verdict : str
        One sentence for a reader in a hurry.
    tiles : sequence of Tile
        A few figures.
    sections : sequence of Section
        In reading order.
    footer : str
        When and by what the page's figures were made.
    """

    title: str
    verdict: str
    tiles: Sequence[Tile]
    sections: Sequence[Section]
    footer: str


def render(page: Page) -> str:
    """Return the page as HTML that needs no other file and makes no request.

    Parameters
    ----------
    page : Page
        What it says. Every text is escaped; pictures come as SVG elements or ``data:`` addresses.

    Returns
    -------
    str
        The document. Encode it with ``errors="backslashreplace"``: a file name may hold
        characters that UTF-8 cannot.
    """
    environment = Environment(
        loader=PackageLoader("adcgan.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("percent", "duration", "counted", "value", "printable"):
        environment.filters[name] = getattr(wording, name)
    return environment.get_template("page.html").render(page=page, version=__version__)
