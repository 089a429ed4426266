"""Ids of pictures: one rule to compare them, and what an id that names two pictures is told."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from elip.data.annotations import Annotations, load_annotations
from elip.data.ids import check_image_ids, id_text, image_number
from elip.errors import DataError
from tasks.retrieval import RetrievalItem
from tests.conftest import WriteJson


def item(image: str, image_id: str | int) -> dict[str, Any]:
    return {"image": image, "caption": f"of {image}", "image_id": image_id}


@pytest.fixture
def load(write_json: WriteJson) -> Any:
    """Returns the items of any number of files: a.json, b.json, ..."""

    def load(*files: list[dict[str, Any]]) -> Annotations[RetrievalItem]:
        paths = [write_json(items, f"{name}.json") for name, items in zip("abc", files, strict=False)]
        return load_annotations(paths, RetrievalItem)

    return load


@given(st.lists(st.one_of(st.integers(), st.text()), max_size=50))
def test_numbers_of_images_are_equal_where_their_ids_are_and_fit_a_tensor(ids: list[int | str]) -> None:
    numbers = [image_number(one) for one in ids]
    assert len(set(numbers)) == len({id_text(one) for one in ids})
    assert all(number >= 0 for number in torch.tensor([0, *numbers]).tolist())


def test_ids_are_compared_as_text_without_white_space_around() -> None:
    assert image_number(17) == image_number("17") == image_number(" 17\n")
    assert len({image_number(one) for one in (17, "017", "17.0", "coco 17", "coco17")}) == 5


def test_an_image_has_the_same_number_in_every_process() -> None:
    script = "from elip.data.ids import image_number; print(image_number('coco_17'))"
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(other.stdout) == image_number("coco_17")


def test_texts_of_one_picture_may_be_anywhere_and_name_it_in_any_spelling(
    load: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = [item("x/1.jpg", 1), item("2.jpg", "2"), item("./x/1.jpg", "1")]
    second = [item(f"{tmp_path}/x/1.jpg", " 1"), item("3.jpg", 3)]
    check_image_ids(load(first, second), tmp_path)
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            [[item("1.jpg", 0), item("2.jpg", 1)], [item("7.jpg", 9), item("8.jpg", 0)]],
            r"b\.json item 1: field 'image_id': 0 names '8\.jpg', but in .*a\.json item 0 it names '1\.jpg'\. .*"
            r"id of its own.* 1 id names more than one picture",
        ),
        (
            [[item("1.jpg", 5), item("1.jpg", 5), item("2.jpg", "5"), item("3.jpg", 6), item("4.jpg", 6)]],
            r"a\.json item 2: field 'image_id': '5' names '2\.jpg', but in .*a\.json item 0 it names '1\.jpg' "
            r"\(as 5: ids are compared as text\)\. .* 2 ids name more than one picture",
        ),
    ],
)
def test_an_id_that_names_two_pictures_is_refused_every_time_naming_both(load: Any, files: Any, message: str) -> None:
    for _ in range(2):
        with pytest.raises(DataError, match=message):
            check_image_ids(load(*files), "")


def test_a_picture_with_two_ids_is_warned_of_at_every_start_though_checked_once(
    load: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [item("1.jpg", 1), item("1.jpg", 2), item("2.jpg", 3), item("2.jpg", "four"), item("2.jpg", 5)]
    annotations = load(items, [item("1.jpg", "6")])
    with caplog.at_level(logging.WARNING):
        check_image_ids(annotations, "")
        monkeypatch.setattr(Annotations, "__iter__", None)
        check_image_ids(annotations, "")
    assert len(caplog.messages) == 2
    assert caplog.messages[0] == caplog.messages[1]
    assert caplog.messages[0].startswith("2 pictures have more than one image_id")
    assert "'1.jpg' is 1 in " in caplog.messages[0]
    assert f"2 in {annotations.sources[0]} item 1" in caplog.messages[0]


def test_a_changed_file_is_checked_again(load: Any) -> None:
    check_image_ids(load([item("1.jpg", 1), item("2.jpg", 2)]), "")
    with pytest.raises(DataError, match="names more than one picture"):
        check_image_ids(load([item("1.jpg", 1), item("2.jpg", 1)]), "")


def test_a_changed_second_file_is_checked_again(load: Any, tmp_path: Path) -> None:
    first = [item("1.jpg", 1)]
    check_image_ids(load(first, [item("2.jpg", 2)]), "")
    stat = (tmp_path / "a.json").stat()
    annotations = load(first, [item("3.jpg", 1)])
    os.utime(tmp_path / "a.json", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(DataError, match=r"b\.json item 0"):
        check_image_ids(annotations, "")
