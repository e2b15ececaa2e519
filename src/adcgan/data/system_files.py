"""Files that operating systems and servers leave in folders: neither images nor errors.

Every listing uses `is_left_out`: of folders, layouts, categories and object stores.
"""

from __future__ import annotations

from pathlib import Path

# In lower case. What begins with a dot (.DS_Store, .directory, ._NAME) is left out anyway.
SYSTEM_FILES = frozenset(
    {
        # Windows
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini"),
        *("$recycle.bin", "recycler", "system volume information"),
        # macOS
        *("__macosx", "icon\r"),
        # Linux
        "lost+found",
        # Synology and QNAP
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),
    }
)
# Of streams that Windows keeps within a file, and others show as one beside it, such as
# "photo.jpg:Zone.Identifier" of what was downloaded.
_STREAMS = (":zone.identifier", ":encryptable")


def is_left_out(name: str) -> bool:
    """Say whether a file or folder is hidden (a leading dot), or an operating system's own."""
    lower = name.lower()
    return name.startswith(".") or lower in SYSTEM_FILES or lower.endswith(_STREAMS)


def holds_something(folder: Path) -> bool:
    """Say whether a folder holds anything that is not left out."""
    return not all(is_left_out(path.name) for path in folder.iterdir())
