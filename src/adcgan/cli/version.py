"""``adcgan --version``: what a bug report needs."""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, metadata, version

from adcgan import __version__

_PACKAGE = re.compile(r"[\w.-]+")
_EXTRA = re.compile(r"""extra == ['"]([\w.-]+)['"]""")


def installation() -> dict[str, str]:
    """Return what is installed, by name: adcgan, Python, torch with its device, and extras."""
    return {
        "adcgan": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": _torch(),
        "extras": _extras(),
    }


def _torch() -> str:
    """Return torch's version and the device that "auto" means; imports torch."""
    try:
        found = version("torch")
    except PackageNotFoundError:
        return "not installed"
    try:
        import torch

        from adcgan.training.device import resolve_device

        device = resolve_device("auto")
        name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    except (ImportError, OSError, RuntimeError) as error:
        return f"{found}, which does not work: {' '.join(str(error).split())}"
    return f"{found} on {device}{name}"


def _extras() -> str:
    """Return the extras that are installed, and those that lack a package."""
    try:
        about = metadata("adcgan")
    except PackageNotFoundError:
        return "unknown: adcgan runs from its source, without being installed"
    missing = dict.fromkeys(about.get_all("Provides-Extra", []), False)
    for requirement in about.get_all("Requires-Dist", []):
        extra, package = _EXTRA.search(requirement), _PACKAGE.match(requirement)
        if extra and package and not _is_installed(package[0]):
            missing[extra[1]] = True
    there = ", ".join(name for name, lacks in missing.items() if not lacks) or "none"
    absent = ", ".join(name for name, lacks in missing.items() if lacks)
    return there + (f"; not installed: {absent}" if absent else "")


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
