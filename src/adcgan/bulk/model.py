"""A model on its way to the cluster: its files, read once where the command was given."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adcgan import load
from adcgan.errors import InputError

if TYPE_CHECKING:
    from adcgan.scoring import Scorer

_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Model:
    """A model folder or .onnx file.

    Attributes
    ----------
    name : str
        Of the folder or file.
    files : dict of str to bytes
        Of a folder, its manifest and the files that the manifest names; else the .onnx file.
    is_folder : bool
    """

    name: str
    files: dict[str, bytes]
    is_folder: bool

    @classmethod
    def at(cls, path: str | Path) -> Model:
        """Read a model; `InputError` if there is none at `path`. `load` finds any damage."""
        path = Path(path)
        try:
            if not path.is_dir():
                return cls(path.name, {path.name: path.read_bytes()}, is_folder=False)
            names = [_MANIFEST, *json.loads((path / _MANIFEST).read_bytes())["sha256"]]
            files = {name: (path / name).read_bytes() for name in names}
        except (OSError, ValueError, KeyError, TypeError):
            # `load` knows best what is wrong with a model.
            load(path, device="cpu")
            raise InputError(f"The model {str(path)!r} cannot be read.") from None
        return cls(path.resolve().name, files, is_folder=True)

    def digest(self) -> str:
        """Return a hash of all files and their names."""
        digest = hashlib.sha256()
        for name, content in sorted(self.files.items()):
            digest.update(f"{hashlib.sha256(content).hexdigest()} {name}\n".encode())
        return digest.hexdigest()

    def load(self, device: str) -> Scorer:
        """Return the scorer on `device`, as `adcgan.load` does, from temporary files."""
        with tempfile.TemporaryDirectory(prefix="adcgan-") as scratch:
            folder = Path(scratch) / self.name if self.is_folder else Path(scratch)
            folder.mkdir(exist_ok=True)
            for name, content in self.files.items():
                (folder / name).write_bytes(content)
            return load(folder if self.is_folder else folder / self.name, device=device)
