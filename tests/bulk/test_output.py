from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adcgan.errors import InputError, StorageError

pa = pytest.importorskip("pyarrow")

from pyarrow import dataset, fs  # noqa: E402

from adcgan.bulk.manifest import Manifest, Summary  # noqa: E402
from adcgan.bulk.output import MANIFEST, Output, schema, shard_name  # noqa: E402

RUN = Manifest(
    n_images=10, listing="a" * 64, model="b" * 64, threshold=0.1, shard_size=4, components=["part"]
)
NOTHING = Summary(0, 0, [])


def columns(n):
    return {
        "path": [f"{i}.png" for i in range(n)],
        "score": [0.5] * n,
        "p_value": [0.5] * n,
        "anomalous": [1] * n,
        "part": [1.0] * n,
        "error": [None] * n,
    }


@pytest.fixture(params=["disk", "store"])
def output(request, tmp_path):
    if request.param == "disk":
        return Output.at(str(tmp_path / "out"))
    store = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    return Output(store, "out", "store://out")


def test_shards_cut_the_listing_without_gap_or_overlap():
    for n, size in ((10, 4), (8, 4), (1, 4), (7, 1)):
        run = replace(RUN, n_images=n, shard_size=size)
        spans = [run.span(shard) for shard in range(run.n_shards)]
        assert [i for span in spans for i in span] == list(range(n))
        assert all(0 < len(span) <= size for span in spans)


def test_the_name_of_a_shard_is_a_function_of_its_number():
    assert shard_name(12) == "shard-000012.parquet"
    assert len({shard_name(i) for i in (0, 1, 10, 999_999, 1_000_000)}) == 5


def test_finished_shards_are_found_again_with_their_counts(output, tmp_path):
    output.begin(RUN)
    best = [{"path": "0.png", "score": 0.5, "p_value": 0.5, "anomalous": 1}]
    output.write_shard(0, columns(4), RUN.components, Summary(4, 1, best))
    output.write_shard(2, columns(2), RUN.components, NOTHING)
    assert output.finished(RUN) == {0: Summary(4, 1, best), 2: NOTHING}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        MANIFEST,
        "shard-000000.parquet",
        "shard-000002.parquet",
    ]


def test_a_shard_that_is_not_whole_is_not_finished(output, tmp_path):
    output.begin(RUN)
    for shard in range(3):
        output.write_shard(shard, columns(len(RUN.span(shard))), RUN.components, NOTHING)
    path = tmp_path / "out" / shard_name(1)
    path.write_bytes(path.read_bytes()[:-10])
    output.write_shard(2, columns(1), RUN.components, NOTHING)
    (tmp_path / "out" / shard_name(3)).write_bytes(b"of no run")
    assert list(output.finished(RUN)) == [0]


def test_readers_see_the_folder_as_one_table(output, tmp_path):
    output.begin(RUN)
    for shard in range(3):
        output.write_shard(shard, columns(len(RUN.span(shard))), RUN.components, NOTHING)
    table = dataset.dataset(tmp_path / "out", format="parquet").to_table()
    assert table.num_rows == 10
    assert table.column_names == ["path", "score", "p_value", "anomalous", "part", "error"]


def test_the_same_run_goes_on(output):
    output.begin(RUN)
    output.write_shard(1, columns(4), RUN.components, NOTHING)
    output.begin(RUN)
    assert list(output.finished(RUN)) == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_images": 11}, "its n_images is 10, now it would be 11"),
        ({"listing": "c" * 64}, "its listing is aaaaaaaaaaaa, now it would be cccccccccccc"),
        ({"model": "c" * 64}, "its model is bbbbbbbbbbbb"),
        ({"threshold": 0.2}, "its threshold is 0.1, now it would be 0.2"),
        ({"shard_size": 5}, "its shard_size is 4"),
        ({"components": ["part", "other"]}, "its components is part, now it would be part, other"),
    ],
)
def test_another_run_is_refused_in_one_line(output, change, message):
    output.begin(RUN)
    with pytest.raises(InputError, match=message) as caught:
        output.begin(replace(RUN, **change))
    assert "\n" not in str(caught.value)


def test_a_folder_with_other_files_is_refused(output, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(InputError, match="must be a new or empty folder"):
        output.begin(RUN)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_a_file_or_a_damaged_manifest_is_refused(output, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match="--out"):
        output.begin(RUN)
    (tmp_path / "out").unlink()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MANIFEST).write_text("{")
    with pytest.raises(InputError, match=f"{MANIFEST} cannot be read"):
        output.begin(RUN)


def test_a_shard_that_cannot_be_written_says_why(output, tmp_path):
    output.begin(RUN)
    (tmp_path / "out" / shard_name(0)).mkdir()
    (tmp_path / "out" / shard_name(0) / "in the way").touch()
    with pytest.raises(StorageError, match=r"shard-000000.parquet cannot be written"):
        output.write_shard(0, columns(4), RUN.components, NOTHING)


def test_what_killed_workers_left_is_removed(output, tmp_path):
    output.begin(RUN)
    output.write_shard(0, columns(4), RUN.components, NOTHING)
    (tmp_path / "out/.shard-000001.parquet.123.tmp").write_bytes(b"half")
    output.tidy()
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == [MANIFEST, "shard-000000.parquet"]


def test_the_manifest_keeps_every_digit(output, tmp_path):
    run = replace(RUN, threshold=0.1 + 0.2)
    output.begin(run)
    output.begin(run)
    assert json.loads((tmp_path / "out" / MANIFEST).read_text())["threshold"] == 0.1 + 0.2


def test_summaries_add_up_and_keep_the_highest_scores():
    def image(score):
        return {"path": f"{score}", "score": score, "p_value": 0.5, "anomalous": 0}

    parts = [Summary(1, 2, [image(3.0), image(1.0)]), Summary(4, 0, [image(s) for s in range(9)])]
    assert Summary.of(parts) == Summary(5, 2, [image(s) for s in (8, 7, 6, 5, 4)])


def test_the_page_names_every_column_and_every_field_of_the_manifest(output, tmp_path):
    page = (Path(__file__).parents[2] / "docs/bulk.md").read_text()
    output.begin(RUN)
    fields = list(json.loads((tmp_path / "out" / MANIFEST).read_text()))
    for name in [*schema([]).names, *fields]:
        assert f"`{name}`" in page, name


def test_scores_are_read_back_from_shards_that_are_spread_evenly(output):
    output.begin(RUN)
    for shard, count in enumerate((4, 4, 2)):
        rows = {**columns(count), "score": [float(shard)] * (count - 1) + [None]}
        output.write_shard(shard, rows, RUN.components, NOTHING)
    everything = output.some_scores(RUN, 100)
    assert np.isnan(everything).sum() == 3
    assert everything[~np.isnan(everything)].tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert output.some_scores(RUN, 6)[[0, 4]].tolist() == [0, 2]
