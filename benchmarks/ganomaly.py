"""A training step of AD-CGAN beside one of anomalib's GANomaly: same image size and batch.

Takes anomalib's network and losses from its files alone, as its package needs torchvision and more
to import: ``pip install --no-deps --target DIR anomalib``. The step is that of its Lightning
module, at its defaults. The two take turns in one process.

    python benchmarks/ganomaly.py --anomalib DIR/anomalib --out FILE.json
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from circumstances import circumstances, sentence
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from adcgan import ADCGAN
from adcgan.training import cost, make_accelerator
from adcgan.training.device import denormals_flushed
from adcgan.training.memory import memory_kept

BATCH, LATENT, FEATURES = 32, 100, 64


def read_module(path: Path) -> ModuleType:
    """Import one file of anomalib; what it takes from the rest of the package is left empty."""
    for name in ("anomalib", "anomalib.data", "anomalib.data.utils", "anomalib.data.utils.image"):
        sys.modules.setdefault(name, ModuleType(name))
    sys.modules["anomalib.data"].InferenceBatch = tuple  # type: ignore[attr-defined]
    # Sides that are powers of 2 need no padding.
    sys.modules["anomalib.data.utils.image"].pad_nextpow2 = lambda x: x  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ganomaly_step(anomalib: Path, x: torch.Tensor) -> Callable[[], None]:
    """Return GANomaly's training step on images `x` (B, C, H, W)."""
    folder = anomalib / "models" / "image" / "ganomaly"
    losses = read_module(folder / "loss.py")
    size = (x.shape[2], x.shape[3])
    model: nn.Module = read_module(folder / "torch_model.py").GanomalyModel(
        size, x.shape[1], FEATURES, LATENT
    )
    model.train()
    generator, discriminator = (
        torch.optim.Adam(part.parameters(), lr=0.0002, betas=(0.5, 0.999))  # type: ignore[union-attr]
        for part in (model.generator, model.discriminator)
    )
    generator_loss, discriminator_loss = losses.GeneratorLoss(), losses.DiscriminatorLoss()
    judge: Any = model.discriminator

    def step() -> None:
        padded, fake, latent_i, latent_o = model(x)
        pred_real, _ = judge(padded)
        pred_fake, _ = judge(fake)
        loss = generator_loss(latent_i, latent_o, padded, fake, pred_real, pred_fake)
        generator.zero_grad()
        loss.backward(retain_graph=True)
        generator.step()
        loss = discriminator_loss(pred_real, judge(fake.detach())[0])
        discriminator.zero_grad()
        loss.backward()
        discriminator.step()

    return step


def our_step(width: float, x: torch.Tensor) -> Callable[[], None]:
    """Return AD-CGAN's joint step on random images of the same shape."""
    detector = ADCGAN(width=width, batch_size=len(x), device="cpu")
    shape = (x.shape[1], x.shape[2], x.shape[3])
    recipe = detector.make_model(shape).recipe(5000, make_accelerator("cpu", "auto"))

    def step() -> None:
        with denormals_flushed():
            cost.take_step(recipe, 1, shape, len(x))

    return step


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each contender."""
    x = torch.rand(BATCH, 3, options.size, options.size)
    steps = {"anomalib GANomaly": ganomaly_step(options.anomalib, x)}
    steps |= {f"adcgan, width {width:g}": our_step(width, x) for width in (1.0, 0.25)}
    times: dict[str, list[float]] = {name: [] for name in steps}
    flops = {}
    for name, step in steps.items():
        with FlopCounterMode(display=False) as counter:
            step()
        flops[name] = counter.get_total_flops()
    with memory_kept():
        for _ in range(options.rounds + 1):
            for name, step in steps.items():
                begun = time.perf_counter()
                step()
                times[name].append(time.perf_counter() - begun)
    return [
        {
            "contender": name,
            "size": options.size,
            "batch": BATCH,
            "gflop": flops[name] / 1e9,
            "step_seconds": statistics.median(times[name][1:]),
            "step_seconds_all": times[name][1:],
        }
        for name in steps
    ]


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    text = sentence(result) + "\n\n| | GFLOP a step | ms a step | GFLOP/s |\n|---|---|---|---|\n"
    for row in result["rows"]:
        seconds, gflop = row["step_seconds"], row["gflop"]
        text += f"| {row['contender']} | {gflop:.3g} | {1000 * seconds:.0f} "
        text += f"| {gflop / seconds:.0f} |\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--anomalib", type=Path, required=True, help="the package's folder")
    parser.add_argument("--size", type=int, choices=[32, 64], default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    command = f"python benchmarks/ganomaly.py --size {options.size}"
    result = {**circumstances(), "command": command, "rows": measure(options)}
    result["versions"] |= {"anomalib": _version(options.anomalib)}
    if options.out:
        from adcgan.files import write_json

        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, result)
    print(table(result))


def _version(package: Path) -> str:
    """Return the version in the name of the package's record."""
    names = [path.name for path in package.parent.glob("anomalib-*.dist-info")]
    return names[0].removeprefix("anomalib-").removesuffix(".dist-info") if names else "unknown"


if __name__ == "__main__":
    main()
