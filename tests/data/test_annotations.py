"""Annotation files by index."""

import logging
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import TypedDict

from elip.data.annotations import load_annotations
from elip.errors import DataError
from tests.conftest import WriteJson


class Pair(TypedDict):
    image: str
    caption: str


class Image(TypedDict):
    image: str


def pairs(start: int, stop: int) -> list[Pair]:
    return [{"image": f"{i}.jpg", "caption": f"näme {i}"} for i in range(start, stop)]


@pytest.mark.parametrize("name", ["items.json", "items.jsonl"])
def test_items_come_back_as_they_are_written(write_json: WriteJson, name: str) -> None:
    annotations = load_annotations([write_json(pairs(0, 20), name)], Pair)
    assert len(annotations) == 20
    assert list(annotations) == pairs(0, 20)
    assert annotations[7] == pairs(7, 8)[0]


def test_fields_that_nobody_asked_for_are_kept(write_json: WriteJson) -> None:
    annotations = load_annotations([write_json([{"image": "a.jpg", "dataset": "vg", "n": [1]}])], Image)
    assert annotations[0] == {"image": "a.jpg", "dataset": "vg", "n": [1]}  # type: ignore[comparison-overlap]


def test_files_follow_one_another(write_json: WriteJson) -> None:
    first, second = write_json(pairs(0, 3), "a.json"), write_json(pairs(3, 8), "b.jsonl")
    annotations = load_annotations([first, second], Pair)
    assert list(annotations) == pairs(0, 8)
    assert [annotations.where(i) for i in (0, 2, 3, 7)] == [
        f"{first} item 0",
        f"{first} item 2",
        f"{second} item 0",
        f"{second} item 4",
    ]


def test_more_items_than_fit_one_batch_of_the_table_are_found_by_index(write_json: WriteJson) -> None:
    annotations = load_annotations([write_json(pairs(0, 20_000))], Pair)
    assert [annotations[i] for i in (0, 8191, 8192, 19_999)] == [pairs(i, i + 1)[0] for i in (0, 8191, 8192, 19_999)]


@pytest.mark.parametrize("index", [-1, 3])
def test_an_index_beyond_the_items_is_an_index_error(write_json: WriteJson, index: int) -> None:
    with pytest.raises(IndexError):
        load_annotations([write_json(pairs(0, 3))], Pair)[index]


def test_another_process_is_handed_file_names_only(write_json: WriteJson) -> None:
    annotations = load_annotations([write_json(pairs(0, 20_000))], Pair)
    handed_over = pickle.dumps(annotations)
    assert len(handed_over) < 1000
    copy = pickle.loads(handed_over)
    assert copy[19_999] == annotations[19_999]
    assert copy.where(5) == annotations.where(5)


def test_a_file_is_converted_and_checked_once(
    write_json: WriteJson, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_json(pairs(0, 3))
    with caplog.at_level(logging.INFO, logger="elip.data.annotations"):
        load_annotations([path], Pair)
        monkeypatch.setattr("elip.data.annotations.read_items", None)
        monkeypatch.setattr("elip.data.fields.FieldCheck.parse", None)
        assert list(load_annotations([path], Pair)) == pairs(0, 3)
    assert caplog.messages == [f"indexing {path}"]


def test_a_changed_file_is_read_again(write_json: WriteJson) -> None:
    load_annotations([write_json(pairs(0, 3))], Pair)
    assert list(load_annotations([write_json(pairs(3, 6))], Pair)) == pairs(3, 6)


def test_an_edit_that_keeps_size_and_time_is_seen(write_json: WriteJson) -> None:
    path = write_json(pairs(0, 3))
    load_annotations([path], Pair)
    status = path.stat()
    write_json(pairs(3, 6))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert list(load_annotations([path], Pair)) == pairs(3, 6)


def test_a_file_checked_for_some_fields_is_checked_for_others(write_json: WriteJson) -> None:
    path = write_json([{"image": "a.jpg"}])
    load_annotations([path], Image)
    with pytest.raises(DataError, match="field 'caption' is missing"):
        load_annotations([path], Pair)


def test_processes_that_ask_at_once_share_one_conversion(
    write_json: WriteJson, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_json(pairs(0, 5000))
    with caplog.at_level(logging.INFO, logger="elip.data.annotations"), ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda _: load_annotations([path], Pair), range(6)))
    assert all(result[4999] == pairs(4999, 5000)[0] for result in results)
    assert caplog.messages == [f"indexing {path}"]


def test_a_wrong_item_is_named_by_file_number_and_field(write_json: WriteJson) -> None:
    path = write_json([*pairs(0, 17), {"image": "a.jpg", "captoin": "a cat"}], "train.json")
    with pytest.raises(DataError, match=r"train\.json item 17: field 'caption' is missing\. Did you mean 'captoin'\?"):
        load_annotations([path], Pair)


def test_a_file_found_wrong_is_found_wrong_again_and_leaves_nothing_half_made(
    write_json: WriteJson, cache: Path
) -> None:
    path = write_json('[{"image": "a.jpg", "caption": "a"}, {]')
    for _ in range(2):
        with pytest.raises(DataError, match="malformed JSON"):
            load_annotations([path], Pair)
    assert [file.name for file in cache.iterdir() if file.suffix != ".lock"] == []


def test_a_fingerprint_tells_the_content_of_each_file(write_json: WriteJson) -> None:
    def made(*files: list[Pair]) -> list[dict[str, Any]]:
        paths = [write_json(items, f"{name}.json") for name, items in zip("ab", files, strict=False)]
        return load_annotations(paths, Pair).fingerprint()

    before = made(pairs(0, 9000), pairs(3, 5))
    assert [(Path(one["file"]).name, one["count"]) for one in before] == [("a.json", 9000), ("b.json", 2)]
    assert {len(one["sha256"]) for one in before} == {64}
    assert made(pairs(0, 9000), pairs(3, 5)) == before
    edited = made(pairs(0, 9000), [pairs(3, 4)[0], pairs(5, 6)[0]])
    swapped = made(pairs(0, 9000), pairs(3, 5)[::-1])
    assert edited[0] == swapped[0] == before[0]
    assert len({one[1]["sha256"] for one in (before, edited, swapped)}) == 3


def test_a_missing_file_names_the_nearest_one(write_json: WriteJson) -> None:
    path = write_json(pairs(0, 1), "coco_train.json")
    with pytest.raises(DataError, match=r"no such file in .*Did you mean 'coco_train\.json'"):
        load_annotations([path.with_name("coco_tain.json")], Pair)


def test_no_file_at_all_is_refused() -> None:
    with pytest.raises(DataError, match="no annotation file is given"):
        load_annotations([], Pair)


def test_a_cache_folder_that_cannot_be_written_names_the_way_out(
    write_json: WriteJson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_file").touch()
    monkeypatch.setenv("ELIP_CACHE", str(tmp_path / "a_file" / "folder"))
    with pytest.raises(DataError, match=r"cannot write its index to .*a_file.*Set the environment variable ELIP_CACHE"):
        load_annotations([write_json(pairs(0, 1))], Pair)
