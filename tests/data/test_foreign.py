"""Files of other forms: each is told by its content, and the lines that are shown convert it."""

import bz2
import csv
import gzip
import io
import json
import lzma
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from elip.data.annotations import load_annotations
from elip.data.json_files import read_json
from elip.data.shards import PairItem
from elip.errors import DataError
from elip.task.pairs import CaptionedItem
from tasks.grounding.data import Reference
from tasks.retrieval import RetrievalItem
from tasks.vqa.data import VqaTestItem

A, B, C = ("a.jpg", "A dog, asleep."), ("b.jpg", "Zwei Küsten"), ("a.jpg", 'It says "no"')
PAIRS = [A, B, C]
GROUPED = [{"image": "a.jpg", "caption": [A[1], C[1]]}, {"image": "b.jpg", "caption": [B[1]]}]
WITH_IDS = [{"image": image, "caption": text, "image_id": image} for image, text in PAIRS]

COCO = {
    "info": {},
    "images": [{"id": 7, "file_name": "a.jpg", "height": 5}, {"id": 9, "file_name": "b.jpg"}],
    "annotations": [
        {"image_id": 7, "id": 1, "caption": A[1]},
        {"image_id": 9, "id": 2, "caption": B[1]},
        {"image_id": 7, "id": 3, "caption": C[1]},
    ],
}
KARPATHY = {
    "images": [
        {"filename": "a.jpg", "split": "train", "sentences": [{"raw": A[1], "tokens": []}, {"raw": C[1]}]},
        {"filename": "b.jpg", "split": "restval", "sentences": [{"raw": B[1]}]},
        {"filename": "c.jpg", "split": "test", "sentences": [{"raw": "other"}]},
    ],
    "dataset": "coco",
}
ROWS = [{"image": image, "caption": text} for image, text in PAIRS]


def as_csv(pairs: list[tuple[str, str]], header: tuple[str, ...] = (), delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows([header, *pairs] if header else pairs)
    return text.getvalue().encode()


def as_tsv(pairs: list[tuple[str, str]]) -> bytes:
    return "".join(f"{text}\t{image}\n" for image, text in pairs).encode()


def as_parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def as_arrow(table: pa.Table, new: Callable[..., Any]) -> bytes:
    sink = pa.BufferOutputStream()
    with new(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def as_zip(**files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def as_tar() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a.txt"))
    return content.getvalue()


def conversations() -> list[dict[str, Any]]:
    """Return the pairs as answers to requests, and a conversation without picture."""
    turns = [
        (image, [{"from": "human", "value": "<image>\nWhat is seen?"}, {"from": "gpt", "value": text}])
        for image, text in PAIRS
    ]
    return [*({"id": image, "image": image, "conversations": said} for image, said in turns),
            {"id": "x", "conversations": turns[0][1]}]  # fmt: skip


TABLE = pa.table({"filepath": [one[0] for one in PAIRS], "TEXT": [one[1] for one in PAIRS], "n": [1, 2, 3]})
LISTS = pa.table({"image": ["a.jpg", "b.jpg"], "captions": [[A[1], C[1]], [B[1]]]})
JSON_LIST = json.dumps(ROWS).encode()

CONVERTIBLE = {
    "coco": (json.dumps(COCO).encode(), "COCO captions"),
    "coco with a mark": (b"\xef\xbb\xbf" + json.dumps(COCO, indent=1).encode(), "COCO captions"),
    "karpathy": (json.dumps(KARPATHY).encode(), "Karpathy's splits (restval, test, train)"),
    "csv": (as_csv(PAIRS, ("image", "caption")), "comma-separated text (CSV) with the columns image, caption"),
    "csv with other names": (as_csv(PAIRS, ("File Name", "Title")), "(CSV) with the columns File Name, Title"),
    "csv of the south": (as_csv(PAIRS, ("image", "caption"), ";"), "semicolon-separated text (CSV)"),
    "csv without names": (as_csv(PAIRS), "(CSV) without names of columns, such as ['a.jpg', 'It says \"no\"']"),
    "tsv": (as_tsv(PAIRS), "tab-separated text (TSV) without names"),
    "flickr tokens": (
        "".join(f"{image}#{n}\t{text}\n" for n, (image, text) in enumerate(PAIRS)).encode(),
        "tab-separated text (TSV)",
    ),
    "flickr csv": (
        "".join(f"{a}| {b}| {c}\n" for a, b, c in [("image_name", "comment_number", "comment"), *[
            (image, n, text) for n, (image, text) in enumerate(PAIRS)]]).encode(),
        "text with columns parted by | with the columns image_name",
    ),
    "text": ("".join(f"{image} {text}\n" for image, text in PAIRS).encode(), "a picture and its caption a line"),
    "parquet": (as_parquet(TABLE), "Parquet with the columns filepath, TEXT, n"),
    "parquet of lists": (as_parquet(LISTS), "Parquet with the columns image, captions"),
    "arrow": (as_arrow(TABLE, pa.ipc.new_file), "Arrow with the columns filepath, TEXT, n"),
    "arrow stream": (as_arrow(TABLE, pa.ipc.new_stream), "Arrow with the columns filepath, TEXT, n"),
    "pickle": (pickle.dumps(WITH_IDS), "a Python pickle"),
    "old pickle": (pickle.dumps(WITH_IDS, protocol=0), "a Python pickle"),
    "wrapped": (json.dumps({"version": 1, "data": ROWS}).encode(), "its entry 'data' the list"),
    "by key": (json.dumps({str(n): row for n, row in enumerate(ROWS)}).encode(), "a JSON object of objects with image"),
    "by picture": (json.dumps({"a.jpg": [A[1], C[1]], "b.jpg": [B[1]]}).encode(), "captions by picture"),
    "file names": (
        json.dumps([{"file_name": row["image"], "captions": row["caption"]} for row in GROUPED]).encode(),
        "a JSON list of objects with file_name, captions",
    ),
    "one text each": (
        json.dumps([{"filepath": image, "TEXT": text, "n": 1} for image, text in PAIRS]).encode(),
        "a JSON list of objects with filepath, TEXT, n",
    ),
    "llava": (json.dumps(conversations()).encode(), "a JSON list of LLaVA's conversations"),
    "yaml": (
        "".join(f"- image: {image}\n  caption: {json.dumps(text)}\n" for image, text in PAIRS).encode(),
        "this is YAML",
    ),
    "columns": (
        json.dumps({"image": [one[0] for one in PAIRS], "caption": [one[1] for one in PAIRS]}).encode(),
        "a JSON object of columns: image, caption",
    ),
}  # fmt: skip


def told(path: Path, shape: Any = PairItem) -> str:
    with pytest.raises(DataError) as caught:
        load_annotations([path], shape)
    return str(caught.value)


def run_shown(message: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Run the lines that a message shows, in a folder, and return the file it says to give instead."""
    monkeypatch.chdir(folder)
    lines = re.findall(r"^    (.*)$", message, re.MULTILINE)
    exec("\n".join(lines), {})
    return Path(re.search(r"and give (.*) instead\.$", message)[1])  # type: ignore[index]


@pytest.mark.parametrize("case", CONVERTIBLE)
def test_a_file_is_told_by_its_content_and_the_lines_shown_convert_it(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, kind = CONVERTIBLE[case]
    path = tmp_path / "items.json"
    path.write_bytes(content)
    for shape, expected in ((PairItem, GROUPED), (CaptionedItem, GROUPED), (RetrievalItem, WITH_IDS)):
        message = told(path, shape)
        assert message.startswith(f"{path}: this is ")
        assert kind in message
        assert f"Needed is a JSON list of objects {{{', '.join(expected[0])}}}" in message
        made = load_annotations([run_shown(message, monkeypatch, tmp_path)], shape)
        assert sorted(made, key=str) == sorted(expected, key=str)


@pytest.mark.parametrize("case", ["csv", "tsv", "text", "parquet", "pickle"])
def test_lines_go_to_another_file_whatever_the_name(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "it's.jsonl"
    path.write_bytes(CONVERTIBLE[case][0])
    made = run_shown(told(path), monkeypatch, tmp_path)
    assert path.read_bytes() == CONVERTIBLE[case][0]
    assert list(load_annotations([made], PairItem)) == GROUPED


def test_pictures_inside_a_table_are_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    Image.new("RGB", (3, 2)).save(content, "JPEG")
    table = pa.table({"image": [{"bytes": content.getvalue(), "path": "x"}], "text": ["a dog"]})
    path = tmp_path / "train.parquet"
    path.write_bytes(as_parquet(table))
    (item,) = load_annotations([run_shown(told(path), monkeypatch, tmp_path)], PairItem)
    assert item["caption"] == ["a dog"]
    assert Image.open(item["image"]).size == (3, 2)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("items.json.gz", gzip.compress(JSON_LIST), "compressed with gzip"),
        ("items.json", gzip.compress(JSON_LIST), "compressed with gzip"),
        ("items.json.bz2", bz2.compress(JSON_LIST), "compressed with bz2"),
        ("items.json.xz", lzma.compress(JSON_LIST), "compressed with lzma"),
        ("items.json", json.dumps(ROWS).encode("utf-16"), "is text in UTF-16, not in UTF-8"),
        ("items.json", json.dumps(ROWS).encode("utf-16-le"), "is text in UTF-16-LE, not in UTF-8"),
        ("items.json", json.dumps(ROWS).encode("utf-32"), "is text in UTF-32, not in UTF-8"),
        (
            "items.json",
            json.dumps(ROWS, ensure_ascii=False).encode("cp1252"),
            f"not UTF-8 text: line 1, byte {json.dumps(ROWS, ensure_ascii=False).index('ü')} of",
        ),
        ("items.csv", as_csv(PAIRS, ("image", "caption")).decode().encode("cp1252"), "not UTF-8 text: line 3, byte"),
    ],
)
def test_what_is_packed_or_encoded_otherwise_is_json_once_the_lines_have_run(
    name: str, content: bytes, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    message = told(path)
    assert kind in message
    made = run_shown(message, monkeypatch, tmp_path)
    if name == "items.csv":
        made = run_shown(told(made), monkeypatch, tmp_path)
        assert list(load_annotations([made], PairItem)) == GROUPED
    else:
        made.rename(tmp_path / "made.json")
        assert list(load_annotations([tmp_path / "made.json"], PairItem)) == ROWS


def test_an_archive_names_what_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "items.zip").write_bytes(as_zip(**{"train.json": JSON_LIST, "val.json": b"[]"}))
    message = told(tmp_path / "items.zip")
    assert "a ZIP archive of train.json, val.json" in message
    run_shown(message, monkeypatch, tmp_path)
    assert list(load_annotations([tmp_path / "items" / "train.json"], PairItem)) == ROWS


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (as_zip(**{"xl/workbook.xml": b""}), "an Excel workbook. .* Save it as CSV in UTF-8"),
        (as_zip(**{"model/data.pkl": b""}), "a file of PyTorch's"),
        (as_zip(a=b"x" * 99)[:80], "a ZIP archive and damaged"),
        (gzip.compress(JSON_LIST)[:30], "compressed with gzip and damaged"),
        (as_parquet(TABLE)[:200], "a damaged Parquet file"),
        (as_tar(), r"a tar archive.* must be named \*\.tar"),
        (gzip.compress(as_tar()), r"a tar archive compressed with gzip.* \*\.tar\.gz"),
        (b"\x28\xb5\x2f\xfd....", "compressed with zstd; unpack it first"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", r"a picture \(JPEG\)"),
        (b"  <!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", r"a Git LFS pointer.*\(git lfs pull\)"),
        (bytes(range(7)) * 9, "a binary file of an unknown kind"),
        (b"5", "a single value of JSON, '5'"),
        (b"null\n", "a single value of JSON, 'null'"),
        (b'"a dog"', "a single value of JSON"),
        (b"# pairs\nimage: a.jpg\ncaption: a dog\n", "YAML, and no list"),
    ],
)
def test_what_no_few_lines_convert_is_named_at_least(content: bytes, kind: str, tmp_path: Path) -> None:
    (tmp_path / "items.json").write_bytes(content)
    assert re.search(rf"items\.json: this is {kind}", told(tmp_path / "items.json"))


def test_pictures_on_the_web_must_be_downloaded_first(tmp_path: Path) -> None:
    (tmp_path / "cc3m.tsv").write_text("a dog\thttp://x.org/1\na cat\thttp://x.org/2\n")
    assert "Its pictures are on the web: download them first" in told(tmp_path / "cc3m.tsv")


@pytest.mark.parametrize("case", ["file names", "one text each", "llava"])
def test_items_of_others_are_told_by_line_too(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in json.loads(CONVERTIBLE[case][0])))
    message = told(path)
    assert "this is JSON-lines of " in message
    assert list(load_annotations([run_shown(message, monkeypatch, tmp_path)], PairItem)) == GROUPED


def test_requests_and_replies_become_questions_and_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llava.json").write_text(json.dumps(conversations()))
    message = told(tmp_path / "llava.json", VqaTestItem)
    monkeypatch.chdir(tmp_path)
    assert "\"question\": row['question']" in message
    assert "For COLUMN put what fills the field" in message


@pytest.mark.parametrize("item", [{"image": "a.jpg"}, {"image": "a.jpg", "caption_of_mine": "a dog"}])
def test_items_whose_fields_nothing_fills_are_told_by_the_field(item: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "items.json").write_text(json.dumps([item]))
    assert re.search(r"items\.json item 0: field 'caption' is missing", told(tmp_path / "items.json"))


def test_a_column_that_cannot_be_guessed_is_left_to_the_reader(tmp_path: Path) -> None:
    questions = [{"image_id": 9, "question": "what?", "question_id": 90}]
    (tmp_path / "q.json").write_text(json.dumps({"info": {}, "questions": questions, "license": {}}))
    message = told(tmp_path / "q.json", VqaTestItem)
    assert "its entry 'questions' the list, of objects with image_id, question, question_id" in message
    assert "For COLUMN put what fills the field; the columns are: image_id, question, question_id." in message
    code = '{"question_id": row[\'question_id\'], "image": row["COLUMN"], "question": row[\'question\']}'
    assert code in message


def test_references_are_converted_from_the_pickle_that_they_come_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refs = [{"ref_id": 1, "ann_id": 2, "image_id": 3, "split": "val", "sentences": []}]
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=0))
    message = told(tmp_path / "refs(unc).p", Reference)
    assert "only if you trust where it comes from" in message
    made = load_annotations([run_shown(message, monkeypatch, tmp_path)], Reference)
    assert list(made) == [{"ref_id": 1, "ann_id": 2, "image_id": 3, "split": "val"}]


def test_a_list_of_answers_is_converted_from_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "answers.txt").write_text("yes\nno\nred and green\n")
    with pytest.raises(DataError, match=r"plain text, which begins 'yes'\. Needed is JSON, a list of texts") as caught:
        read_json(tmp_path / "answers.txt", list[str])
    made = run_shown(str(caught.value), monkeypatch, tmp_path)
    assert read_json(made, list[str]) == ["yes", "no", "red and green"]


@pytest.mark.parametrize(
    "text", ['{"image": "a.jpg", "caption": "a"}\n{"image": "b.jpg", "caption": "b"}\n', '{"a": 1}']
)
def test_objects_by_line_are_pointed_to_the_name_they_need(text: str, tmp_path: Path) -> None:
    (tmp_path / "items.json").write_text(text)
    assert re.search(
        r"items\.json: must be a JSON list.*one object a line must end in \.jsonl$", told(tmp_path / "items.json")
    )


def test_a_list_named_as_lines_is_pointed_to_the_name_it_needs(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text(json.dumps(ROWS, indent=1))
    assert "a JSON list, though its name says" in told(tmp_path / "items.jsonl")


@pytest.mark.parametrize("text", ['{"images": [', '{"a": }', "{'a': 1}"])
def test_a_malformed_object_is_named_by_line_and_column(text: str, tmp_path: Path) -> None:
    (tmp_path / "items.json").write_text(text)
    assert re.search(r"items\.json line 1, column \d+: malformed JSON: ", told(tmp_path / "items.json"))
