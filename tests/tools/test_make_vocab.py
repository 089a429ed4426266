"""tools/make_vocab.py: a tokenizer from a user's own texts."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from elip.data.tokenizer import Tokenizer
from elip.data.vocabulary import SPECIAL_TOKENS, basic_pieces, count_words, learn_vocabulary, unknown_words
from tests.conftest import PROJECT
from tools.make_vocab import main

CAPTIONS = ["A red-brown dog!", "a dog on a beach", "The DOG barks at a café", "dogs barking; a beach"]


def jsonl(path: Path, *items: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def vocabulary_of(folder: Path) -> list[str]:
    return (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()


def test_the_tokenizer_reads_the_captions_it_was_made_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = jsonl(tmp_path / "pairs.jsonl", *({"image": "1.png", "caption": text} for text in CAPTIONS))
    assert main([str(file), "--out", str(tmp_path / "vocab")]) == 0
    tokens, tokenizer = vocabulary_of(tmp_path / "vocab"), Tokenizer.load(tmp_path / "vocab")
    assert tuple(tokens[:5]) == SPECIAL_TOKENS
    assert (tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id) == (0, 2, 3, 4)
    assert tokenizer.vocab_size == len(tokens) == len({*tokens})
    ids = tokenizer.encode(["red brown dog beach zebra7"]).ids[0].tolist()
    pieces = [tokens[index] for index in ids]
    assert {"dog", "beach"} <= {*pieces}  # words of their own
    assert "[UNK]" not in pieces  # what nobody foresaw is spelt
    said = capsys.readouterr().out
    assert f"{len(tokens)} tokens from 19 words, 12 of them different." in said
    assert "0.00% are unknown." in said


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("list.json", json.dumps([{"caption": ["ein Hund", "ein Hund"]}]), "hund"),
        ("ve.jsonl", '{"sentence": "ein Hund"}\n{"sentence": "kein Hund"}\n', "hund"),
        ("refs.jsonl", '{"text": "ein Hund"}\n{"text": "kein Hund"}\n', "hund"),
        ("vqa.jsonl", '{"question": "wo?", "answer": ["Hund", "Hund"]}\n', "hund"),
        ("plain.txt", "ein Hund\n\nkein Hund\n", "hund"),
        ("chinese.txt", "狗狗\n狗\n", "狗"),
        ("emoji.txt", "\N{DOG FACE} \N{DOG FACE}\n", "\N{DOG FACE}"),
    ],
)
def test_texts_of_all_tasks_and_plain_ones_are_read(name: str, content: str, word: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert main([str(tmp_path / name), "--out", str(tmp_path / "vocab")]) == 0
    assert word in vocabulary_of(tmp_path / "vocab")


def test_captions_are_cleaned_as_training_cleans_them(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "pairs.jsonl", {"caption": ["black-white (cat)", "black-white <person>"]})
    assert main([str(file), "--out", str(tmp_path / "vocab"), "--min-frequency", "1"]) == 0
    assert {"black", "white", "cat", "person"} <= {*vocabulary_of(tmp_path / "vocab")}


def test_every_process_makes_the_same_vocabulary(tmp_path: Path) -> None:
    """The trainer numbers pieces by the order of a hash table, which starts from another state in each process."""
    texts = " ".join(f"{first}{middle}{last}" for first in "bdfgt" for middle in ("a", "oo", "ee") for last in "lnrst")
    (tmp_path / "texts.txt").write_text(f"{texts}\n{texts}\n")
    made = []
    for number in range(3):
        command = [sys.executable, "-m", "tools.make_vocab", str(tmp_path / "texts.txt"), "--size", "150"]
        subprocess.run([*command, "--out", str(tmp_path / f"{number}")], cwd=PROJECT, check=True, capture_output=True)
        made.append(vocabulary_of(tmp_path / f"{number}"))
    assert made[0] == made[1] == made[2]
    assert len(made[0]) == 150


def test_the_share_of_unknown_words_is_told_with_the_commonest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("dog dog dog dog dog dog dog dog dog žöß\n", encoding="utf-8")
    assert main([str(tmp_path / "a.txt"), "--out", str(tmp_path / "vocab")]) == 0
    assert "10.00% are unknown, most often 'zoß'." in capsys.readouterr().out
    assert "zoß" not in vocabulary_of(tmp_path / "vocab")


def test_size_bounds_the_vocabulary_and_rare_characters_get_no_token() -> None:
    words = count_words(["über über über 狗 ab abc abcd abcde"])
    tokens = learn_vocabulary(words, size=120, min_frequency=2)
    assert len(tokens) <= 120
    assert tokens[: 5 + len(basic_pieces())] == [*SPECIAL_TOKENS, *basic_pieces()]
    assert "uber" in tokens  # accents go, as in BERT
    assert unknown_words(words, tokens) == ["狗"]


def test_an_existing_tokenizer_is_replaced_only_by_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("dog dog\n")
    out = tmp_path / "vocab"
    out.mkdir()
    (out / "tokenizer.json").write_text("{}")  # which would be read before vocab.txt
    assert main([str(tmp_path / "a.txt"), "--out", str(out)]) == 2
    assert f"--out: {out} holds tokenizer.json already." in capsys.readouterr().err
    assert main([str(tmp_path / "a.txt"), "--out", str(out), "--force"]) == 0
    assert {path.name for path in out.iterdir()} == {"vocab.txt", "tokenizer_config.json"}


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.jsonl", '{"captions": "x"}\n', [], "a.jsonl item 0: it has none of the fields caption"),
        ("a.jsonl", '{"caption": "x"}\n{"caption": 3}\n', [], "a.jsonl item 1: field 'caption' must be text or a list"),
        ("a.jsonl", '{"caption": "\\ud83d"}\n', [], "a.jsonl item 0: field 'caption' holds half of a character"),
        ("a.jsonl", '{"caption": "..."}\n', [], "no word is left of the texts"),
        ("a.json", '{"caption": "x"}', [], "a.json"),
        ("a.txt", b"caf\xe9\n", [], "a.txt: not UTF-8 text"),
        ("a.txt", "x\n", ["--size", "50"], "a vocabulary of 50 has no room"),
        ("a.txt", "x\n", ["--size", "0"], "--size: expected a number above 0"),
        ("a.txt", "x\n", ["--min-frequency", "-1"], "--min-frequency: expected a number above 0"),
        ("a.txt", "x\n", ["--out", "/dev/null/x"], "--out: cannot write /dev/null/x"),
    ],
)
def test_mistakes_are_told_in_one_line(
    name: str,
    content: str | bytes,
    options: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main([str(tmp_path / name), "--out", str(tmp_path / "vocab"), *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "vocab").exists()


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("none.txt", "none.jsonl"):
        assert main([str(tmp_path / name), "--out", str(tmp_path / "vocab")]) == 2
        assert name in capsys.readouterr().err
