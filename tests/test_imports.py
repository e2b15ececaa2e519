from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import adcgan

PACKAGE = Path(adcgan.__file__).parent
# From left to right: a module imports from its own layer and from layers before it.
LAYERS = [
    {"errors", "progress", "files", "processes", "threads", "__init__"},
    {"cluster", "data"},
    {"networks", "losses"},
    {"training", "scoring"},
    {"detectors"},
    {"benchmark"},
    {"selection"},
    {"report", "onnx", "serve", "bulk"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def layer_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_layers(path: Path) -> set[str]:
    """Return the layers that a module imports, whether at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "adcgan":
                names = [f"adcgan.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "adcgan" and len(parts) > 1 and parts[1] in RANK:
                found.add(parts[1])
    return found


def test_modules_import_only_from_layers_to_their_left() -> None:
    checked = 0
    for path in PACKAGE.rglob("*.py"):
        layer = layer_of(path)
        assert layer in RANK, f"{path} belongs to no layer"
        if layer == "__init__":
            continue
        for other in imported_layers(path):
            checked += 1
            same = other == layer or RANK[other] < RANK[layer]
            assert same, f"{path.relative_to(PACKAGE)} imports {other}"
    assert checked > 50


def test_no_module_imports_pickle() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                for name in names:
                    assert name.split(".")[0] not in {"pickle", "joblib", "dill", "cloudpickle"}


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )


def test_importing_the_package_loads_none_of_its_heavy_dependencies() -> None:
    loaded = run("import adcgan, sys; print(*sys.modules)").stdout.split()
    assert "adcgan" in loaded
    assert not {"torch", "sklearn", "numpy", "PIL", "accelerate", "typer"} & set(loaded)


def test_help_loads_no_torch() -> None:
    code = (
        "import sys\nfrom adcgan.cli import main\nsys.argv = ['adcgan', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\nprint('torch' in sys.modules)"
    )
    assert run(code).stdout.splitlines()[-1] == "False"


def test_every_public_name_is_there() -> None:
    for name in adcgan.__all__:
        assert getattr(adcgan, name) is not None
    assert dir(adcgan) == sorted(adcgan.__all__)
