"""Texts that the vocabulary does not know are told before training, in every task."""

import json
import logging
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from tests.tasks.small import FILES, small_run, small_task, write_items

TEXT_FIELDS = ("caption", "sentence", "question", "text", "answer")
NAMES = ("pretrain", *FILES)


@pytest.fixture
def run(digits: Path, tiny: list[str]) -> Any:
    def run(name: str) -> list[str]:
        return list(tiny) if name == "pretrain" else small_run(name, digits, tiny)

    return run


def inspect(name: str, overrides: list[str], caplog: pytest.LogCaptureFixture) -> logging.LogRecord:
    task = small_task(name, overrides)
    with caplog.at_level(logging.INFO, logger="elip.task.vision_language"):
        task.inspect_training_data(task.train_dataset())
    (record,) = [one for one in caplog.records if one.name == "elip.task.vision_language"]
    return record


def replaced(value: Any, text: str) -> Any:
    return [text] * len(value) if isinstance(value, list) else text


@pytest.mark.parametrize("name", NAMES)
def test_the_share_of_unknown_tokens_is_logged(name: str, run: Any, caplog: pytest.LogCaptureFixture) -> None:
    record = inspect(name, run(name), caplog)
    assert record.levelname == "INFO"
    assert record.getMessage().startswith("0.0% of the tokens of ")
    assert "are unknown to the vocabulary " in record.getMessage()


@pytest.mark.parametrize("name", NAMES)
def test_texts_of_another_language_are_warned_of_with_an_example(
    name: str, run: Any, digits: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = digits / f"{FILES[name]['train'] if name in FILES else 'pretrain_train'}.json"
    items = json.loads(source.read_text())[:4]
    items = [
        {key: replaced(value, "一只狗") if key in TEXT_FIELDS else value for key, value in item.items()}
        for item in items
    ]
    path = write_items(tmp_path / "chinese.json", items)
    record = inspect(name, [*run(name), f"data.train=[{path}]"], caplog)
    assert record.levelname == "WARNING"
    message = record.getMessage()
    assert message.startswith("100.0% of the tokens of ")
    assert "of the texts hold nothing else" in message
    assert "chinese.json item 0: '一只狗' is read as '[UNK] [UNK] [UNK]'. Set model.text.tokenizer" in message


def test_one_text_that_is_lost_is_warned_of_among_many(
    run: Any, digits: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    items = json.loads((digits / "retrieval_train.json").read_text())[:40]
    items[17]["caption"] = "🎉"
    path = write_items(tmp_path / "one.json", items)
    record = inspect("retrieval", [*run("retrieval"), f"data.train=[{path}]"], caplog)
    assert record.levelname == "WARNING"
    assert ", and 1 of the texts hold nothing else" in record.getMessage()
    assert "one.json item 17" in record.getMessage()


def test_captions_in_shards_are_looked_at_too(run: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for number in range(16):
            for ending, content in (("jpg", b"no picture is opened"), ("txt", "一只狗".encode())):
                member = tarfile.TarInfo(f"{number}.{ending}")
                member.size = len(content)
                tar.addfile(member, BytesIO(content))
    record = inspect("pretrain", [*run("pretrain"), f"data.train=[{tmp_path}/0.tar]"], caplog)
    assert record.levelname == "WARNING"
    assert "0.tar sample '0': '一只狗' is read as" in record.getMessage()
