from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import adcgan.cli
from adcgan import ADCGAN, DivergedError, InputError, MissingExtraError
from adcgan.detectors import adcgan as module
from adcgan.training import trackers

QUICK: dict[str, Any] = {
    "width": 0.06,
    "warmup_epochs": 1,
    "epochs": 2,
    "min_steps": 0,
    "fpr": 0.5,
    "device": "cpu",
}

# Where SQLAlchemy is installed too: of what MLflow still uses of it.
sqlalchemys_own = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (64, 16, 16), np.uint8)


def last_value(detector: ADCGAN, name: str) -> float:
    (row,) = [row for row in detector.history_[-1:] if name in row]
    return float(row[name])


def test_tensorboard_gets_the_losses_of_every_logged_step(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        detector = ADCGAN(**QUICK).fit(images(), run_dir=tmp_path, trackers=["tensorboard"])
    written = sorted((tmp_path / "adcgan").glob("events.out*"))
    assert len(written) == 1
    events = EventAccumulator(str(written[0]))
    events.Reload()
    scalars = {event.step: event.value for event in events.Scalars("critic/adversarial")}
    logged = {
        row["step"]: row["critic/adversarial"]
        for row in detector.history_
        if "critic/adversarial" in row
    }
    assert scalars == pytest.approx(logged)
    assert logged


@pytest.mark.parametrize("name", trackers.TRACKERS)
def test_a_tracker_that_is_not_installed_is_named_with_what_installs_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "available_trackers", list)
    with pytest.raises(MissingExtraError, match=f"'{name}' is not installed: pip install {name}"):
        ADCGAN(**QUICK).fit(images(), run_dir=tmp_path / "run", trackers=[name])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["wandb", "abacus"])
def test_the_command_refuses_a_tracker_before_it_writes_anything(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "available_trackers", list)
    arguments = ["fit", "digits", "--normal", "0", "--out", str(tmp_path / "m"), "--tracker", name]
    run = CliRunner().invoke(adcgan.cli.app, arguments)
    assert run.exit_code == 2
    assert name in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert not (tmp_path / "m").exists()


def test_trackers_need_a_folder_and_a_name_that_accelerate_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "available_trackers", lambda: list(trackers.TRACKERS))
    with pytest.raises(InputError, match="needs 'run_dir'"):
        ADCGAN(**QUICK).fit(images(), trackers=["tensorboard"])
    with pytest.raises(InputError, match=r"'trackers' parameter must be among .* 'abacus'"):
        ADCGAN(**QUICK).fit(images(), run_dir=tmp_path, trackers=["abacus"])


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return MLflow as a new session finds it, told nothing of where to write."""
    found = pytest.importorskip("mlflow")
    for key in [key for key in os.environ if key.startswith("MLFLOW_")]:
        monkeypatch.delenv(key)
    found.set_tracking_uri(None)
    yield found
    found.set_tracking_uri(None)


def runs_in(folder: Path, mlflow: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    database = folder / "mlflow.db"
    store = f"sqlite:///{database}" if database.exists() else (folder / "mlruns").as_uri()
    client = mlflow.MlflowClient(store)
    (experiment,) = client.search_experiments(filter_string="name = 'adcgan'")
    return list(client.search_runs([experiment.experiment_id]))


@pytest.mark.peers
@sqlalchemys_own
def test_mlflow_keeps_losses_and_parameters_in_the_run_folder_and_nowhere_else(
    tmp_path: Path, mlflow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        folder = tmp_path / name
        detector = ADCGAN(**QUICK).fit(images(), run_dir=folder, trackers=["mlflow"])
        assert not [key for key in os.environ if key.startswith("MLFLOW_")]
        assert not mlflow.is_tracking_uri_set()
    assert {path.name for path in tmp_path.iterdir()} == {"first", "second"}
    (run,) = runs_in(folder, mlflow, monkeypatch)
    assert (run.info.run_name, run.info.status) == ("second", "FINISHED")
    for name in ("critic/adversarial", "generator/contrastive", "autoencoder/reconstruction"):
        assert run.data.metrics[name] == pytest.approx(last_value(detector, name))
    assert run.data.params["lam"] == "0.1"
    assert run.data.params["image_size"] == "None"
    assert set(run.data.params) == set(detector.get_params())


@pytest.mark.peers
@sqlalchemys_own
def test_a_run_that_diverged_is_not_a_finished_one_in_mlflow(
    tmp_path: Path, mlflow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "reconstruction_loss", lambda x, x_hat: (x_hat - x).sum() / 0)
    with pytest.raises(DivergedError):
        ADCGAN(**QUICK).fit(images(), run_dir=tmp_path, trackers=["mlflow"])
    (run,) = runs_in(tmp_path, mlflow, monkeypatch)
    assert run.info.status == "FAILED"
    assert mlflow.active_run() is None


@pytest.mark.peers
@sqlalchemys_own
def test_mlflow_writes_where_the_user_told_it_to(
    tmp_path: Path, mlflow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mine" / "mlruns").as_uri())
    with mlflow.start_run() as outer:
        ADCGAN(**QUICK).fit(images(), run_dir=tmp_path / "run", trackers=["mlflow"])
        assert mlflow.active_run().info.run_id == outer.info.run_id
    assert not list((tmp_path / "run").glob("ml*"))
    (run,) = runs_in(tmp_path / "mine", mlflow, monkeypatch)
    assert run.data.tags["mlflow.parentRunId"] == outer.info.run_id


class Wandb(SimpleNamespace):
    """Takes the calls that Accelerate makes, in the order they come."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.config = SimpleNamespace(update=lambda values, **_: self.note("config", values))

    def note(self, name: str, said: Any) -> None:
        self.calls.append((name, said))

    def init(self, **options: Any) -> Wandb:
        self.note("init", options)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.note("log", (step, values))

    def finish(self, exit_code: int = 0) -> None:
        self.note("finish", exit_code)

    def of(self, name: str) -> list[Any]:
        return [said for called, said in self.calls if called == name]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Wandb:
    """Return a stand-in that counts as installed: the package itself is no dependency of ours."""
    from accelerate import tracking
    from accelerate.utils import LoggerType

    stand_in = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", stand_in)  # type: ignore[arg-type]
    monkeypatch.setattr(tracking, "_available_trackers", [LoggerType.WANDB])
    return stand_in


def test_wandb_is_given_the_folder_the_parameters_and_every_logged_step(
    tmp_path: Path, wandb: Wandb
) -> None:
    folder = tmp_path / "m1"
    detector = ADCGAN(**QUICK).fit(images(), run_dir=folder, trackers=["wandb"])
    assert wandb.of("init") == [{"project": "adcgan", "dir": str(folder), "name": "m1"}]
    (settings,) = wandb.of("config")
    assert settings["lam"] == 0.1
    rows = [row for row in detector.history_ if "phase" in row]
    assert [step for step, _ in wandb.of("log")] == [row["step"] for row in rows]
    assert wandb.of("log")[-1][1]["critic/adversarial"] == rows[-1]["critic/adversarial"]
    assert wandb.calls[-1] == ("finish", 0)


def test_a_run_that_diverged_is_not_a_finished_one_in_wandb(
    tmp_path: Path, wandb: Wandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "reconstruction_loss", lambda x, x_hat: (x_hat - x).sum() / 0)
    with pytest.raises(DivergedError):
        ADCGAN(**QUICK).fit(images(), run_dir=tmp_path, trackers=["wandb"])
    assert wandb.calls[-1] == ("finish", 1)
