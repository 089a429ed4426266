"""Reading JSON lists and JSON-lines item by item."""

import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elip.data.json_files import read_items, read_json
from elip.errors import DataError
from tests.conftest import WriteJson

json_values = st.none() | st.integers() | st.text(max_size=5) | st.lists(st.text(max_size=3), max_size=2)
json_objects = st.lists(st.dictionaries(st.text(max_size=3), json_values, max_size=3), min_size=1, max_size=4)
few_examples = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def parsed(path: Path) -> list[object]:
    return [json.loads(text) for text in read_items(path)]


@given(items=json_objects, indent=st.sampled_from([None, 0, 2]), ascii_only=st.booleans())
@few_examples
def test_a_list_is_read_as_the_json_module_reads_it(
    write_json: WriteJson, items: list[dict[str, object]], indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(items, indent=indent, ensure_ascii=ascii_only).encode(errors="replace").decode()
    assert parsed(write_json(text)) == json.loads(text)


@given(items=json_objects)
@few_examples
def test_lines_are_read_as_the_json_module_reads_them(write_json: WriteJson, items: list[dict[str, object]]) -> None:
    assert parsed(write_json(items, "items.jsonl")) == items


@pytest.mark.parametrize("indent", [None, 1])
def test_items_that_straddle_the_chunks_of_a_large_list_are_whole(write_json: WriteJson, indent: int | None) -> None:
    items = [{"number": i, "text": "é\n" * (i % 4000)} for i in range(1500)]
    assert parsed(write_json(json.dumps(items, indent=indent))) == items


def test_a_large_list_is_never_held_whole(write_json: WriteJson) -> None:
    path = write_json([{"text": "x" * 10_000}] * 2000)
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_items(path)) == 2000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < path.stat().st_size / 2


def test_a_byte_order_mark_is_no_part_of_the_list(write_json: WriteJson) -> None:
    assert parsed(write_json("\ufeff" + '[{"a": 1}]')) == [{"a": 1}]


def test_empty_lines_are_no_items(write_json: WriteJson) -> None:
    assert parsed(write_json('\n{"a": 1}\n\n{"a": 2}\n', "items.jsonl")) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("text", ["", "  \n", "[]", " [ ] "])
def test_a_list_without_items_is_refused(write_json: WriteJson, text: str) -> None:
    with pytest.raises(DataError, match=r"items\.json: holds no items"):
        parsed(write_json(text))


def test_json_that_is_no_list_is_refused_and_json_lines_are_pointed_to(write_json: WriteJson) -> None:
    with pytest.raises(
        DataError, match=r"items\.json: must be a JSON list.*starts with '\{\"a\": 1\}'.*end in \.jsonl"
    ):
        parsed(write_json('{"a": 1}'))


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ('[{"a": 1},\n {"a" 2}]', "line 2, column 7", "Expecting ':' delimiter"),
        ('[{"a": 1},\n {"a": "x}]', "line 2, column 8", "Unterminated string"),
        ('[{"a": 1} {"a": 2}]', "line 1, column 11", "expecting ',' or ']'"),
        ('[{"a": 1},]', "line 1, column 11", "Expecting value"),
        ('[{"a": 1},\n', "line 2, column 1", "Expecting value"),
        ('[{"a": 1}', "line 1, column 10", "expecting ',' or ']'"),
        ('[{"a": 1}] x', "line 1, column 12", "text after the end"),
        ("[" + '{"a": 1}, ' * 120_000 + '{"a" 2}]', "line 1, column 1200007", "Expecting ':' delimiter"),
        ("[\n" + '{"a": 1},\n' * 120_000 + '{"a" 2}]', "line 120002, column 6", "Expecting ':' delimiter"),
    ],
)
def test_malformed_json_is_refused_with_its_line_and_column(
    write_json: WriteJson, text: str, place: str, problem: str
) -> None:
    with pytest.raises(DataError, match=rf"items\.json {place}: malformed JSON: {problem}"):
        parsed(write_json(text))


def test_a_malformed_line_is_refused_with_its_number(write_json: WriteJson) -> None:
    with pytest.raises(DataError, match=r"items\.jsonl line 3, column 6: malformed JSON: Expecting ':'"):
        parsed(write_json('{"a": 1}\n\n{"a" 2}\n', "items.jsonl"))


@pytest.mark.parametrize("name", ["items.json", "items.jsonl"])
def test_a_key_twice_in_an_item_is_an_error(write_json: WriteJson, name: str) -> None:
    text = '{"a": 1, "b": {"c": 1}},\n{"a": "dog", "b": 2, "a": "cat"}'
    with pytest.raises(DataError, match=rf"{name} line 2.*: the key 'a' is there twice in one object"):
        parsed(write_json(text.replace("},\n", "}\n") if name == "items.jsonl" else f"[{text}]", name))


def test_a_key_twice_in_a_small_file_is_an_error(write_json: WriteJson) -> None:
    with pytest.raises(DataError, match=r"items\.json: the key '7' is there twice in one object"):
        read_json(write_json('{"7": [1], "8": [2], "7": [3]}'), dict[str, list[int]])


@pytest.mark.parametrize("name", ["items.json", "items.jsonl"])
def test_an_item_that_is_no_object_is_refused(write_json: WriteJson, name: str) -> None:
    with pytest.raises(DataError, match=rf"{name} item 1: must be an object .*got \[1, 2\]"):
        parsed(write_json([{"a": 1}, [1, 2]], name))


def test_a_missing_file_names_the_nearest_one(write_json: WriteJson) -> None:
    path = write_json([{"a": 1}], "flickr_train.json")
    with pytest.raises(DataError, match=r"no such file in .*Did you mean 'flickr_train\.json'"):
        parsed(path.with_name("flikr_train.json"))


def test_a_file_in_a_missing_folder_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not even a folder .*nowhere"):
        parsed(tmp_path / "nowhere" / "items.json")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: it is a folder, not a file"):
        parsed(tmp_path)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "items.json").write_bytes(b'[{"a": "\xff"}]')
    with pytest.raises(DataError, match=r"items\.json: not UTF-8 text"):
        parsed(tmp_path / "items.json")


@pytest.mark.parametrize("shift", range(3))
@pytest.mark.parametrize("name", ["items.json", "items.jsonl"])
def test_the_place_that_is_not_utf8_is_named_in_a_large_file(tmp_path: Path, shift: int, name: str) -> None:
    start = "".join(f'{{"a": "{"ä" * 300}"}}\n' for _ in range(4000))
    text = (" " * shift + start).encode() + b'{"a": "caf\xe9 au lait"}\n' + start.encode()
    content = text if name == "items.jsonl" else b"[" + text.replace(b"}\n", b"},\n") + b"]"
    (tmp_path / name).write_bytes(content)
    place = content.index(b"\xe9")
    message = rf"{name}: not UTF-8 text: line 4001, byte {place} of the file.*would read '.*café au lait"
    with pytest.raises(DataError, match=message):
        parsed(tmp_path / name)


@pytest.mark.parametrize("name", ["items.json", "items.jsonl"])
def test_a_byte_order_mark_goes_before_either_form(write_json: WriteJson, name: str) -> None:
    assert parsed(write_json("\ufeff" + ('[{"a": 1}]' if name == "items.json" else '{"a": 1}\n'), name)) == [{"a": 1}]


@pytest.mark.parametrize("value", ["[" * 100_000, "9" * 5000])
@pytest.mark.parametrize("name", ["items.json", "items.jsonl"])
def test_what_python_will_not_read_is_named_by_its_line(write_json: WriteJson, name: str, value: str) -> None:
    text = f'{{"a": 1}},\n{{"a": {value}}}'
    with pytest.raises(DataError, match=rf"{name} line 2"):
        parsed(write_json(text.replace("},", "}") if name == "items.jsonl" else f"[{text}]", name))


def test_a_small_file_is_read_whole_and_checked(write_json: WriteJson) -> None:
    assert read_json(write_json(["yes", "no"]), list[str]) == ["yes", "no"]
    with pytest.raises(DataError, match=r"items\.json: item 1 must be text, got 3"):
        read_json(write_json(["yes", 3]), list[str])
    with pytest.raises(DataError, match=r"items\.json: must be a list of texts, got \{'a': 1\}"):
        read_json(write_json('{"a": 1}'), list[str])
    with pytest.raises(DataError, match=r"items\.json: malformed JSON: .*line 1 column"):
        read_json(write_json('["yes",'), list[str])
