"""Captured steps. Without a GPU a stand-in for CUDA graphs shows that they are fit for capture.

The stand-in has a graph's rules: what is captured is not done; a replay repeats the device's part
alone, at the same addresses, without a line of Python; nothing may be read back meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typer.testing import CliRunner

from adcgan import ADCGAN, Detector, DivergedError, InputError, load_images
from adcgan.cli import app
from adcgan.detectors import DETECTORS, LocalADCGAN
from adcgan.detectors import adcgan as module
from adcgan.networks import layers, products
from adcgan.progress import Progress, silent
from adcgan.training import graphs
from adcgan.training.optimizers import Optimizers

# 200 images are 5 steps an epoch: 5 of the warm-up, 10 joint ones.
QUICK: dict[str, Any] = {
    "width": 0.06,
    "warmup_epochs": 1,
    "epochs": 2,
    "min_steps": 0,
    "fpr": 0.5,
    "device": "cpu",
}
STEPS, CAPTURES = 15, 2
# The last makes a tensor of what Python holds: on a device, a copy that waits for the host.
REFUSED = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.lift_fresh.default,
)
# Of the detectors that have no test of their own below: what to try each with, so that no part of a
# step is left out, and how many captures its ten steps take.
TINY: dict[str, tuple[dict[str, Any], int]] = {
    "adcgan-ss": (
        {"warmup_steps": 0, "trunk": "small", "critic_steps": 2, "views": 0.3, "last_rate": 0.0},
        2,
    ),
    "adgan": ({"restarts": 1, "search_steps": 1}, 1),
    "aegan": ({"weight_decay": 0.1}, 1),
    "alad": ({"ema_decay": 0.9}, 1),
    "anogan": ({"search_steps": 1}, 1),
    "egbad": ({"ema_decay": 0.9}, 1),
    "rda": ({"rounds": 2}, 2),
}
CAPTURABLE = {"adcgan", "adcgan-local", *TINY}

State = dict[str, Tensor]


def blobs(n: int = 200, size: int = 16) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    centres = rng.uniform(4, 12, (n, 2, 1, 1))
    y, x = np.mgrid[:size, :size]
    distance = (y - centres[:, 0]) ** 2 + (x - centres[:, 1]) ** 2
    return np.uint8(255 * np.exp(-distance / 8))


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class Recording(TorchDispatchMode):
    """Notes every operation below autograd; undoes them all at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], Any, Any, list[Any]]] = []
        self.before: dict[int, tuple[Tensor, Any]] = {}
        self.made: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in REFUSED:
            raise RuntimeError("operation not permitted when stream is capturing")
        for given in tree_leaves((args, kwargs)):
            if isinstance(given, Tensor) and storage(given) not in self.made | self.before.keys():
                self.before[storage(given)] = (given, given.untyped_storage().clone())
        result = func(*args, **kwargs)
        outputs = [out for out in tree_leaves(result) if isinstance(out, Tensor)]
        self.made |= {storage(out) for out in outputs} - self.before.keys()
        self.calls.append((func, args, kwargs, outputs))
        return result

    def undo(self) -> None:
        for tensor, content in self.before.values():
            tensor.untyped_storage().copy_(content)

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, outputs in self.calls:
            again = [out for out in tree_leaves(func(*args, **kwargs)) if isinstance(out, Tensor)]
            for out, new in zip(outputs, again, strict=True):
                if storage(out) != storage(new):
                    # Torch drops dimensions of some results in place, once they are made.
                    out.view(new.shape).copy_(new)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Let CPUs take the place of CUDA devices; count the captures and the replays."""
    counted = SimpleNamespace(captures=0, replays=0, orders=[], on_stream=False, capturing=False)
    update = Optimizers.update

    def checked_update(self: Optimizers, name: str, losses: State) -> None:
        # Torch raises where a capture is not told of, and warns of one that is not made.
        assert self.named[name].param_groups[0]["capturable"] == counted.capturing
        update(self, name, losses)

    class Recorder:
        def __init__(self, _: torch.device, rng: torch.Generator) -> None:
            self.rng = rng

        @contextmanager
        def ordered(self) -> Iterator[None]:
            counted.orders.append("in")
            try:
                yield
            finally:
                counted.orders.append("out")

        @contextmanager
        def stream(self) -> Iterator[None]:
            assert not counted.on_stream
            counted.on_stream = True
            try:
                yield
            finally:
                counted.on_stream = False

        def record(self, work: Callable[[], None]) -> Callable[[], None]:
            assert counted.on_stream
            counted.captures += 1
            seeds = torch.get_rng_state(), self.rng.get_state()
            counted.capturing = True
            with Recording() as recording:
                work()
            counted.capturing = False
            recording.undo()
            torch.set_rng_state(seeds[0])
            self.rng.set_state(seeds[1])

            def replay() -> None:
                assert counted.on_stream
                counted.replays += 1
                recording.replay()

            return replay

    monkeypatch.setattr(graphs, "CudaRecorder", Recorder)
    monkeypatch.setattr(Optimizers, "update", checked_update)
    monkeypatch.setattr(Detector, "check_cuda_graphs", lambda *_: None)
    # What the layers do on CUDA devices.
    monkeypatch.setattr(layers, "on_cpu", lambda _: False)
    monkeypatch.setattr(products, "_ONEDNN", False)
    return counted


def weights(detector: Detector) -> State:
    return dict(detector.model_.state_dict())


def figures(detector: Detector) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in detector.history_]


@pytest.mark.parametrize(
    "settings",
    [{}, {"critic_steps": 2, "latent": "none"}, {"precision": "bf16", "negatives": "all"}],
    ids=["default", "two critic steps, no D_z", "bf16"],
)
def test_replayed_steps_do_what_the_steps_do(
    stand_in: SimpleNamespace, settings: dict[str, Any]
) -> None:
    plain = ADCGAN(**QUICK, **settings).fit(blobs())
    assert stand_in.captures == 0
    graphed = ADCGAN(**QUICK, **settings).fit(blobs(), cuda_graphs=True)
    assert stand_in.captures == CAPTURES
    assert stand_in.replays == STEPS - CAPTURES * graphs.WARM_UP_STEPS
    assert stand_in.orders == ["in", "out"]
    for key, value in weights(plain).items():
        torch.testing.assert_close(weights(graphed)[key], value, rtol=0, atol=0, msg=key)
    assert figures(graphed) == figures(plain)


@pytest.mark.parametrize("settings", [{}, {"reconstruction": 0.0}], ids=["all", "critic alone"])
def test_replayed_steps_of_the_local_detector_do_what_the_steps_do(
    stand_in: SimpleNamespace, settings: dict[str, Any]
) -> None:
    quick = {"width": 0.1, "epochs": 1, "min_steps": 12, "memory": 64, "fpr": 0.5, **settings}
    plain, graphed = (
        LocalADCGAN(device="cpu", **quick).fit(blobs(), cuda_graphs=captured)
        for captured in (False, True)
    )
    assert stand_in.captures == 1
    for key, value in weights(plain).items():
        torch.testing.assert_close(weights(graphed)[key], value, rtol=0, atol=0, msg=key)
    assert figures(graphed) == figures(plain)


def tiny(name: str, device: str = "cpu") -> Detector:
    shared = {"width": 0.05, "batch_size": 8, "epochs": 1, "min_steps": 10, "fpr": 0.5}
    return DETECTORS[name](**shared, **TINY[name][0], precision="float32", device=device)


def fitted(name: str, **options: Any) -> Detector:
    return tiny(name).fit(blobs(40), progress=silent, **options)


@pytest.mark.parametrize("name", TINY)
def test_replayed_and_resumed_steps_of_other_detectors_do_what_the_steps_do(
    stand_in: SimpleNamespace, name: str, tmp_path: Path
) -> None:
    plain, (_, captures) = fitted(name), TINY[name]
    graphed = fitted(name, cuda_graphs=True)
    assert stand_in.captures == captures
    assert figures(graphed) == figures(plain)
    options: dict[str, Any] = {"run_dir": tmp_path, "checkpoint_every": 2, "cuda_graphs": True}
    with pytest.raises(KeyboardInterrupt):
        tiny(name).fit(blobs(40), progress=StopAfter(3, interrupt), **options)
    assert stand_in.captures == captures
    resumed = fitted(name, resume=True, **options)
    assert stand_in.captures > captures
    for key, value in weights(plain).items():
        torch.testing.assert_close(weights(graphed)[key], value, rtol=0, atol=0, msg=key)
        torch.testing.assert_close(weights(resumed)[key], value, rtol=0, atol=0, msg=key)


def interrupt() -> None:
    raise KeyboardInterrupt


class StopAfter(Progress):
    """Does something once `steps` steps are done."""

    def __init__(self, steps: int, what: Callable[[], None]) -> None:
        self.left, self.what = steps, what

    def start(self, description: str, total: int) -> None: ...

    def advance(self, steps: int = 1, **_: Any) -> None:
        self.left -= steps
        if self.left == 0:
            self.what()

    def finish(self) -> None: ...


def test_a_run_that_is_resumed_captures_again_and_ends_the_same(
    stand_in: SimpleNamespace, tmp_path: Path
) -> None:
    whole = ADCGAN(**QUICK).fit(blobs())
    options: dict[str, Any] = {"run_dir": tmp_path, "checkpoint_every": 4, "cuda_graphs": True}
    with pytest.raises(KeyboardInterrupt):
        ADCGAN(**QUICK).fit(blobs(), progress=StopAfter(10, interrupt), **options)
    assert stand_in.orders == ["in", "out"]
    resumed = ADCGAN(**QUICK).fit(blobs(), resume=True, **options)
    # Both phases before the stop at step 10, and from the checkpoint at step 8 on the joint one.
    assert stand_in.captures == 3
    for key, value in weights(whole).items():
        torch.testing.assert_close(weights(resumed)[key], value, rtol=0, atol=0, msg=key)


def test_captured_runs_in_turn_end_with_the_weights_of_runs_one_after_another(
    stand_in: SimpleNamespace,
) -> None:
    def detectors() -> list[Detector]:
        others: list[dict[str, Any]] = [{}, {"precision": "bf16", "epochs": 1, "random_state": 1}]
        return [ADCGAN(**{**QUICK, **other}) for other in others]

    images = blobs()
    alone = [detector.fit(images, cuda_graphs=True) for detector in detectors()]
    captures, stand_in.captures = stand_in.captures, 0
    together = detectors()
    for _ in zip_longest(*(each.fitting(images, cuda_graphs=True) for each in together)):
        assert not stand_in.on_stream
    assert stand_in.captures == captures
    for one, other in zip(alone, together, strict=True):
        for key, value in weights(one).items():
            torch.testing.assert_close(weights(other)[key], value, rtol=0, atol=0, msg=key)
        assert figures(other) == figures(one)
        assert other.threshold_ == one.threshold_


@pytest.mark.usefixtures("stand_in")
def test_a_loss_that_is_not_finite_is_named_with_the_step_of_its_replay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real_loss, factor = module.reconstruction_loss, torch.ones(())
    monkeypatch.setattr(module, "reconstruction_loss", lambda *x: real_loss(*x) * factor)
    poisoned = StopAfter(12, lambda: factor.fill_(float("nan")) and None)
    detector = ADCGAN(**QUICK)
    with pytest.raises(DivergedError, match=r"'autoencoder/reconstruction' .* at step 12"):
        detector.fit(blobs(), cuda_graphs=True, progress=poisoned)
    assert all(torch.isfinite(value).all() for value in weights(detector).values())


def test_the_stand_in_refuses_what_a_capture_does() -> None:
    for what in (lambda: torch.ones(3).sum().item(), lambda: torch.tensor([1.0])):
        with pytest.raises(RuntimeError, match="capturing"), Recording():
            what()


# -- where there is nothing to capture -----------------------------------------------------------


def test_graphs_are_refused_without_a_cuda_device(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'cuda_graphs' parameter must be False .* on 'cpu'"):
        ADCGAN(**QUICK).fit(blobs(), run_dir=tmp_path / "run", cuda_graphs=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", sorted(DETECTORS.keys() - CAPTURABLE))
def test_graphs_are_refused_for_detectors_whose_steps_are_not_known_to_be_fit(name: str) -> None:
    kind = DETECTORS[name]
    assert not kind.capturable
    with pytest.raises(InputError, match=f"must be False for {kind.__name__}"):
        kind(device="cpu").check_cuda_graphs()


@pytest.mark.parametrize("name", DETECTORS)
def test_graphs_are_used_where_they_can_be_unless_told_otherwise(name: str) -> None:
    detector = DETECTORS[name]()
    for device, processes in (("cuda", 1), ("cuda", 2), ("cpu", 1)):
        where = SimpleNamespace(device=torch.device(device), num_processes=processes)
        expected = name in CAPTURABLE and device == "cuda" and processes == 1
        assert detector._can_capture(where) == expected


def test_a_run_says_whether_its_steps_were_captured(
    stand_in: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ADCGAN, "_can_capture", lambda *_: True)
    for number, (asked, used) in enumerate(((None, True), (False, False))):
        folder = tmp_path / str(number)
        ADCGAN(**QUICK).fit(blobs(), run_dir=folder, cuda_graphs=asked)
        assert json.loads((folder / "run.json").read_text())["in_force"]["cuda_graphs"] is used
    assert stand_in.captures == CAPTURES


def test_the_expected_time_is_that_of_captured_steps_of_each_kind(
    stand_in: SimpleNamespace,
) -> None:
    cost = tiny("adcgan-ss").fit_cost(load_images(blobs(40)), cuda_graphs=True)
    assert cost is not None
    assert cost.seconds > 0
    assert (stand_in.captures, stand_in.replays) == (2, 4)


def test_graphs_are_refused_in_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    from adcgan.detectors import base

    monkeypatch.setattr(base, "resolve_device", lambda _: torch.device("cuda"))
    ADCGAN().check_cuda_graphs(1)
    with pytest.raises(InputError, match=r"several processes train\. Got True with 2"):
        ADCGAN().check_cuda_graphs(2)


@pytest.mark.parametrize(
    "command",
    [
        ["fit", "digits", "--normal", "0", "--detector", "adcgan", "--device", "cpu"],
        ["benchmark", "--dataset", "digits", "--device", "cpu"],
    ],
    ids=["fit", "benchmark"],
)
def test_commands_refuse_graphs_on_a_cpu_and_leave_nothing(
    command: list[str], tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "R"), "--cuda-graphs"])
    assert result.exit_code == 2
    assert "cuda_graphs" in result.stderr
    assert not (tmp_path / "R").exists()


# -- on a CUDA device ----------------------------------------------------------------------------


@pytest.mark.cuda
def test_captured_steps_give_the_losses_of_the_steps_on_cuda(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("adcgan.training.loop.LOG_EVERY", 1)
    # 60 joint steps: 3 before the capture and more than 50 replays. Within the drift that
    # `tests/training/test_parity.py` allows of rounding in so many steps.
    settings = {**QUICK, "device": "cuda", "warmup_epochs": 0, "epochs": 12}
    settings |= {"width": 0.25, "precision": "float32", "dropout": 0.0}
    plain, graphed = (
        ADCGAN(**settings).fit(blobs(), cuda_graphs=captured, progress=silent)
        for captured in (False, True)
    )
    for before, after in zip(figures(plain)[:50], figures(graphed)[:50], strict=True):
        for key, value in before.items():
            if "/" in key:
                assert after[key] == pytest.approx(value, rel=0.15, abs=0.15), (key, before["step"])
    # The third step after the capture has had no time to drift.
    for key, value in figures(plain)[5].items():
        if "/" in key:
            assert figures(graphed)[5][key] == pytest.approx(value, rel=1e-2, abs=1e-3), key


@pytest.mark.cuda
@pytest.mark.parametrize("name", TINY)
def test_captured_steps_of_other_detectors_give_the_losses_of_the_steps_on_cuda(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("adcgan.training.loop.LOG_EVERY", 1)
    plain, graphed = (
        tiny(name, "cuda").fit(blobs(40), cuda_graphs=captured, progress=silent)
        for captured in (False, True)
    )
    for before, after in zip(figures(plain), figures(graphed), strict=True):
        assert after.keys() == before.keys()
        for key, value in before.items():
            if "/" in key:
                assert after[key] == pytest.approx(value, rel=0.15, abs=0.15), (key, before["step"])


@pytest.mark.cuda
def test_a_replay_draws_new_numbers_from_the_seed_of_its_step() -> None:
    device = torch.device("cuda")
    rng = torch.Generator(device=device)
    recorder = graphs.CudaRecorder(device, rng)
    with recorder.ordered(), recorder.stream():
        x = torch.ones(1000, device=device)
        drawn = torch.empty(2, 1000, device=device)

        def work() -> None:
            drawn[0].copy_(nn.functional.dropout(x, 0.5))
            drawn[1].copy_(torch.rand(1000, device=device, generator=rng))

        work()
        replay, seen = recorder.record(work), []
        for seed in (1, 2, 1):
            torch.manual_seed(seed)
            rng.manual_seed(seed)
            replay()
            seen.append(drawn.clone())
        torch.manual_seed(1)
        rng.manual_seed(1)
        work()
    torch.testing.assert_close(seen[0], seen[2], rtol=0, atol=0)
    torch.testing.assert_close(seen[0], drawn, rtol=0, atol=0)
    assert not torch.equal(seen[0][0], seen[1][0])
    assert not torch.equal(seen[0][1], seen[1][1])


@pytest.mark.cuda
def test_runs_in_turn_draw_what_each_draws_alone() -> None:
    device = torch.device("cuda")

    def drawing(seed: int) -> Iterator[Tensor]:
        rng = torch.Generator(device=device)
        recorder = graphs.CudaRecorder(device, rng)
        drawn = torch.empty(2, 2**20, device=device)

        def work() -> None:
            # Long enough for the host to be at another run's seed before it has ended.
            for _ in range(20):
                drawn[0].copy_(nn.functional.dropout(torch.ones_like(drawn[0]), 0.5))
                drawn[1].copy_(torch.rand(2**20, device=device, generator=rng))

        replay = None
        with recorder.ordered():
            for step in range(6):
                with recorder.stream():
                    replay = replay or recorder.record(work)
                    torch.manual_seed(1000 * seed + step)
                    rng.manual_seed(1000 * seed + step)
                    replay()
                    copy = drawn.clone()
                yield copy

    alone = [list(drawing(seed)) for seed in range(4)]
    in_turn = list(zip(*(drawing(seed) for seed in range(4)), strict=True))
    torch.cuda.synchronize()
    for seed, expected in enumerate(alone):
        for step, value in enumerate(expected):
            assert torch.equal(in_turn[step][seed], value)


@pytest.mark.cuda
def test_a_replay_does_not_make_the_host_wait(
    without_waiting: Callable[[], AbstractContextManager[None]],
) -> None:
    detector = ADCGAN(**{**QUICK, "device": "cuda"})
    accelerator = detector._accelerator(None, ())
    recipe = detector.make_model((1, 28, 28)).cuda().train().recipe(1000, accelerator)
    rng = torch.Generator(device="cuda")
    x = torch.rand(32, 1, 28, 28, device="cuda")
    steps = graphs.GraphedSteps(recipe.optimizers, rng, accelerator.autocast)
    with steps.ordered(), steps.stream():
        for _ in range(graphs.WARM_UP_STEPS + 1):
            steps.take(recipe.phases[1].step, x)
        with without_waiting():
            steps.take(recipe.phases[1].step, x)
    assert {key for key in recipe.optimizers.losses if key.startswith("critic/")}
