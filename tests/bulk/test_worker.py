"""Shards scored in this process, against scoring in one piece."""

from __future__ import annotations

import numpy as np
import pytest

from adcgan import load
from adcgan.data.image_file import Target
from adcgan.detectors import ADCGAN
from adcgan.errors import InputError

pa = pytest.importorskip("pyarrow")

from pyarrow import dataset, fs, parquet  # noqa: E402

from adcgan.bulk.decoder import Decoder  # noqa: E402
from adcgan.bulk.listing import list_images  # noqa: E402
from adcgan.bulk.manifest import Manifest, Summary  # noqa: E402
from adcgan.bulk.model import Model  # noqa: E402
from adcgan.bulk.output import Output  # noqa: E402
from adcgan.bulk.worker import Task, check_visible, score_shard  # noqa: E402


@pytest.fixture(scope="module")
def scorer():
    images = np.random.default_rng(0).integers(0, 256, (60, 16, 16), np.uint8)
    settings = {"width": 0.0625, "warmup_epochs": 1, "epochs": 1, "min_steps": 0, "fpr": 0.2}
    return ADCGAN(**settings, device="cpu").fit(images)


@pytest.fixture
def score(scorer, tmp_path):
    """Return a function that scores a listing, and returns rows and their summary."""
    scorer.save(tmp_path / "model")

    def run(listing, shard_size=2048):
        manifest = Manifest(
            n_images=listing.n_images,
            listing=listing.digest(),
            model="",
            threshold=scorer.threshold_,
            shard_size=shard_size,
            components=["discrimination", "residual", "encoded", "latent"],
        )
        output = Output.at(str(tmp_path / f"out-{shard_size}"))
        output.begin(manifest)
        task = Task(listing, output, manifest, Model.at(tmp_path / "model"), "cpu")
        decoder = Decoder(scorer.target_)
        summaries = [score_shard(task, scorer, decoder, i) for i in range(manifest.n_shards)]
        decoder.close()
        rows = dataset.dataset(output.path, format="parquet").to_table().to_pylist()
        return rows, Summary.of(summaries)

    return run


def values(rows, name):
    return np.array([np.nan if row[name] is None else row[name] for row in rows])


def assert_same(rows, expected, **tolerance):
    assert [row["path"] for row in rows] == expected.names
    assert [row["error"] or "" for row in rows] == expected.errors
    anomalous = [None if decided < 0 else decided for decided in expected.anomalous]
    assert [row["anomalous"] for row in rows] == anomalous
    figures = {"score": expected.scores, "p_value": expected.p_values, **expected.components}
    for name, figure in figures.items():
        np.testing.assert_allclose(values(rows, name), figure, **tolerance, err_msg=name)


def test_rows_are_those_of_scoring_in_one_piece(scorer, score, folder, broken):
    rows, summary = score(list_images(str(folder)))
    expected = scorer.assess(str(folder))
    assert_same(rows, expected, rtol=0)
    assert {row["path"] for row in rows if row["error"]} == {*broken, "b/link.png"}
    assert summary.n_unreadable == 4
    assert summary.n_anomalous == int((expected.anomalous == 1).sum())
    best = np.argsort(-np.nan_to_num(expected.scores, nan=-np.inf))[:5]
    assert [image["path"] for image in summary.highest] == [expected.names[i] for i in best]


def test_shards_of_any_size_hold_the_same_rows(scorer, score, folder):
    expected = scorer.assess(str(folder))
    for size in (1, 40):
        rows, summary = score(list_images(str(folder)), size)
        # Batches of other sizes add float32 in another order, and how far that takes them is the
        # processor's: a few units in the last place of every sum.
        assert_same(rows, expected, rtol=1e-5)
        assert summary.n_unreadable == 4


def test_a_store_gives_the_same_rows_as_a_disk(scorer, score, folder):
    here = list_images(str(folder))
    names = here.entries.column("name").cast(pa.large_binary())
    store = fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem())
    entries = here.entries.set_column(1, "path", names)
    rows, _ = score(type(here)(store, entries, "", False, "store"))
    expected = scorer.assess(str(folder))
    expected.errors[expected.names.index("b/link.png")] = "No such file or directory"
    assert_same(rows, expected, rtol=0)


def test_parquet_files_give_a_row_for_each_of_theirs(scorer, score, folder, tmp_path):
    expected = scorer.assess(str(folder))
    files = [folder / name for name in expected.names]
    images = [{"bytes": f.read_bytes() if f.exists() else None, "path": None} for f in files]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    (tmp_path / "in").mkdir()
    for i, part in enumerate((images[:100], images[100:])):
        table = pa.table({"image": pa.array(part, kind), "label": [0] * len(part)})
        parquet.write_table(table, tmp_path / f"in/{i}.parquet", row_group_size=30)
    rows, summary = score(list_images(str(tmp_path / "in")))
    names = [f"0.parquet#{i}" for i in range(100)] + [f"1.parquet#{i}" for i in range(54)]
    assert [row["path"] for row in rows] == names
    np.testing.assert_array_equal(values(rows, "score"), expected.scores)
    assert summary.n_unreadable == 4
    assert rows[names.index("1.parquet#50")]["error"] == "the row holds no image"


def test_a_shard_of_broken_files_alone_is_rows_of_errors(score, broken, tmp_path):
    (tmp_path / "in").mkdir()
    for name, content in broken.items():
        (tmp_path / "in" / name).write_bytes(content)
    rows, summary = score(list_images(str(tmp_path / "in")))
    assert summary == Summary(0, 3, [])
    for row in rows:
        assert row["path"] in broken
        assert row["error"]
        assert all(row[name] is None for name in row if name not in {"path", "error"})


def test_images_become_what_the_model_learned_from(scorer):
    assert scorer.target_ == Target(16, "squash", 1)


def test_a_machine_that_does_not_see_a_disk_is_named(folder, tmp_path):
    manifest = Manifest(1, "", "", 0.0, 1, [])
    output = Output.at(str(tmp_path / "out"))
    output.begin(manifest)
    listing = list_images(str(folder))
    check_visible(Task(listing, output, manifest, Model("", {}, True), "cpu"))
    elsewhere = type(listing)(listing.filesystem, listing.entries, "/not/here", False, "")
    with pytest.raises(InputError, match="DATA '/not/here' is not on the machine"):
        check_visible(Task(elsewhere, output, manifest, Model("", {}, True), "cpu"))
    other = Output.at(str(tmp_path / "other"))
    with pytest.raises(InputError, match=r"--out .* is not on the machine"):
        check_visible(Task(listing, other, manifest, Model("", {}, True), "cpu"))


def test_loading_again_gives_the_same_scorer(scorer, folder, tmp_path):
    scorer.save(tmp_path / "model")
    loaded = Model.at(tmp_path / "model").load("cpu")
    expected = load(tmp_path / "model").decision_function(str(folder / "a"))
    np.testing.assert_array_equal(loaded.decision_function(str(folder / "a")), expected)
