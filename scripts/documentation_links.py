"""A hook of mkdocs: links that leave docs/ lead to pages of the site.

The pages in docs/ link to one another and to the rest of the repository by relative paths, which
is what a reader of the repository needs. The site stands alone. So every file outside docs/ that a
page links to becomes a part of the site, a Markdown or Python file as a page and anything else as
it is, and each link is rewritten to where the site has what it leads to.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
# Files at the top of the repository: the first is what the home page stands for, the others are
# pages that the navigation names.
TOP = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<=\]\()[^)\s#:]+(?=[)#])")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of the repository that pages of the site link to, and those that these do."""
    for name in list(TOP)[1:]:
        files.append(outside(ROOT / name, config))
    pending = list(files.documentation_pages())
    while pending:
        page = pending.pop()
        for match in LINK.finditer(FENCE.sub("", page.content_string)):
            target = resolved(page, match[0])
            if target.is_file() and files.get_file_from_path(site_path(target)) is None:
                added = outside(target, config)
                files.append(added)
                if target.suffix == ".md":
                    pending.append(added)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Rewrite each link of a page to where the site has what it leads to."""
    here = posixpath.dirname(page.file.src_uri) or "."

    def rewritten(match: re.Match[str]) -> str:
        return posixpath.relpath(site_path(resolved(page.file, match[0])), here)

    parts = FENCE.split(markdown)
    parts[::2] = [LINK.sub(rewritten, part) for part in parts[::2]]
    return "".join(parts)


def resolved(page: File, link: str) -> Path:
    """Return the file of the repository that a relative link of `page` leads to."""
    folder = DOCS if page.abs_src_path is None else Path(page.abs_src_path).parent
    return Path(os.path.normpath(folder / link))


def site_path(file: Path) -> str:
    """Return the path that a file of the repository has in the site, as if it were in docs/."""
    if file.is_relative_to(DOCS):
        return file.relative_to(DOCS).as_posix()
    path = file.relative_to(ROOT).as_posix()
    return TOP.get(path, f"{path}.md" if file.suffix == ".py" else path)


def outside(file: Path, config: MkDocsConfig) -> File:
    """Return a file outside docs/ as a file of the site."""
    if file.suffix != ".py":
        return File.generated(config, site_path(file), abs_src_path=str(file))
    code = file.read_text(encoding="utf-8")
    content = f"# {file.relative_to(ROOT).as_posix()}\n\n```python\n{code}```\n"
    return File.generated(config, site_path(file), content=content)
