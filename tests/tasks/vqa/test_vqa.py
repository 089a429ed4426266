"""Question answering: what a step and an evaluation do, and what broken data is told. Numbers are in tests/golden."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertForMaskedLM

from elip.errors import ConfigError, DataError, ElipError
from elip.models.albef import Albef
from elip.reduction.guide import Guide
from elip.task import Task
from elip.task.vision_language import PRETRAINING_ONLY
from elip.testing import LocalEvaluator
from tasks.vqa.decoder import QuestionKV
from tasks.vqa.task import Vqa
from tests.tasks.small import PROGRESS, learn, small_run, small_task, state_of, training_batch, write_items


@pytest.fixture
def run(digits: Path, tiny: list[str]) -> list[str]:
    return small_run("vqa", digits, tiny)


def evaluate(task: Task, split: str = "val") -> Any:
    with torch.no_grad():
        return task.eval().evaluate(split, LocalEvaluator())


def test_a_step_gives_a_loss_and_what_tensorboard_shows(run: list[str]) -> None:
    task = small_task("vqa", [*run, "task.distill=true"])
    output = task.training_step(training_batch(task), PROGRESS)
    assert list(output.losses) == ["loss_vqa"]
    assert output.logs["alpha"] == pytest.approx(0.4)
    assert 0 <= output.logs["word_accuracy"].item() <= 100
    assert [output.logs[f"tokens/block{i:02d}"] for i in range(3)] == [17, 1 + 12 + 1, 1 + 8 + 1]


@pytest.mark.parametrize("distill", ["true", "false"])
def test_it_learns_the_answers_of_a_batch(run: list[str], distill: str) -> None:
    task = small_task("vqa", [*run, f"task.distill={distill}", "task.momentum=0.9"])
    outputs = learn(task, training_batch(task), steps=80)
    assert outputs[-1].logs["word_accuracy"].item() > outputs[0].logs["word_accuracy"].item() + 30
    assert outputs[-1].losses["loss_vqa"].item() < 0.4 * outputs[0].losses["loss_vqa"].item()


def test_a_batch_holds_different_answers_once_with_the_share_who_gave_them(run: list[str], digits: Path) -> None:
    task = small_task("vqa", run)
    batch = training_batch(task)
    items = json.loads((digits / "vqa_train.json").read_text())[:8]
    expected = []
    for row, item in enumerate(items):
        said = item["answer"] if item["dataset"] == "vqa" else [item["answer"]] * 5  # half of ten
        expected += [(row, answer, said.count(answer) / 10) for answer in dict.fromkeys(said)]
    assert {item["dataset"] for item in items} == {"vqa", "vg"}
    assert batch["answer_question"].tolist() == [row for row, _, _ in expected]
    assert task.tokenizer.decode(batch["answer_ids"]) == [answer for _, answer, _ in expected]
    assert batch["answer_weight"].tolist() == pytest.approx([weight for _, _, weight in expected])


def test_questions_have_no_end_and_answers_do(run: list[str]) -> None:
    task = small_task("vqa", run)
    batch, sep = training_batch(task), task.tokenizer.sep_id
    assert not (batch["ids"] == sep).any()
    last = batch["answer_mask"].sum(dim=1) - 1
    assert (batch["answer_ids"][torch.arange(len(last)), last] == sep).all()


def test_questions_are_cut_in_training_only(run: list[str]) -> None:
    task = small_task("vqa", [*run, "task.text_length=4"])
    question = {"image": torch.zeros(3, 32, 32), "question": "what is the number of digits"}
    assert training_batch(task)["ids"].shape[1] == 4
    assert task._collate_questions([question])["ids"].shape[1] > 4


def test_the_momentum_copies_follow_at_the_start_of_a_step(run: list[str]) -> None:
    task = small_task("vqa", [*run, "task.momentum=0.5"])
    before = state_of(task)
    with torch.no_grad():
        task.model.decoder.mlm_head.bias.add_(1)
    task.on_step_start()
    moved = task.state_dict()["model.momentum.decoder.mlm_head.bias"]
    torch.testing.assert_close(moved, before["model.momentum.decoder.mlm_head.bias"] + 0.5)


def test_the_question_guides_the_reduction_of_its_image_and_the_copies_see_it_whole(
    run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task, calls = small_task("vqa", [*run, "task.distill=true"]), []
    encode = Albef.encode_image

    def spy(self: Albef, image: torch.Tensor, guide: Guide, *rest: Any, **named: Any) -> Any:
        output = encode(self, image, guide, *rest, **named)
        calls.append((self is task.model.albef, guide.text.cls, output.embeds.shape[1]))
        return output

    monkeypatch.setattr(Albef, "encode_image", spy)
    batch = training_batch(task)
    task.training_step(batch, PROGRESS)
    assert [(online, tokens) for online, _, tokens in calls] == [(False, 17), (True, 10)]
    expected = task.model.albef.text_encoder.encode(batch["ids"], batch["mask"])[:, 0]
    torch.testing.assert_close(calls[1][1], expected)


def some_questions(task: Task, count: int = 3) -> QuestionKV:
    torch.manual_seed(1)
    mask = torch.ones(count, 5, dtype=torch.bool)
    mask[0, 3:] = False
    return task.model.decoder.project(torch.randn(count, 5, 32), mask)


@torch.no_grad()
def test_a_word_depends_on_the_words_before_it_and_on_no_later_one(run: list[str]) -> None:
    task = small_task("vqa", run).eval()
    question = some_questions(task, 1)
    ids = torch.randint(5, 50, (1, 6))
    changed = ids.clone()
    changed[0, 3] = 4
    first, second = (task.model.decoder(one, question) for one in (ids, changed))
    torch.testing.assert_close(first[:, :3], second[:, :3])
    assert (first[:, 3:] - second[:, 3:]).abs().amax(dim=2).min() > 1e-4


@torch.no_grad()
def test_the_likelihood_of_an_answer_does_not_depend_on_its_padding(run: list[str]) -> None:
    task = small_task("vqa", run).eval()
    question = some_questions(task, 2)
    ids = torch.tensor([[2, 20, 30, 3], [2, 40, 3, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    both = task.model.decoder.log_likelihood(ids, mask, question)
    short = task.model.decoder.log_likelihood(ids[1:, :3], mask[1:, :3], question.select(torch.tensor([1])))
    torch.testing.assert_close(both[1:], short)
    step_by_step = [
        task.model.decoder.logits(task.model.decoder(ids[:1, :n], question.select(torch.tensor([0]))))
        for n in (1, 2, 3)
    ]
    by_hand = sum(logits[0, -1].log_softmax(0)[ids[0, n + 1]] for n, logits in enumerate(step_by_step))
    torch.testing.assert_close(both[0], by_hand)


@torch.no_grad()
def test_ranking_all_candidates_orders_them_by_likelihood_with_the_first_word_twice(run: list[str]) -> None:
    task = small_task("vqa", run).eval()
    decoder, question = task.model.decoder, some_questions(task)
    with torch.no_grad():
        decoder.mlm_head.bias.normal_()  # else all words are nearly alike
    ids, mask = task._candidate_texts
    index, score = decoder.rank(ids, mask, len(ids), question)
    for row in range(3):
        own = question.select(torch.tensor([row]).expand(len(ids)))
        first = decoder.log_likelihood(ids[:, :2], mask[:, :2], own)
        total = first + decoder.log_likelihood(ids, mask, own)
        assert index[row].tolist() == total.argsort(descending=True).tolist()
        torch.testing.assert_close(score[row], total.softmax(0).sort(descending=True).values)


@torch.no_grad()
def test_what_is_written_is_the_likeliest_word_each_time_and_its_likelihood_that_of_all_words(run: list[str]) -> None:
    task = small_task("vqa", run).eval()
    decoder, tokenizer = task.model.decoder, task.tokenizer
    decoder.mlm_head.bias.normal_()
    decoder.mlm_head.bias[tokenizer.sep_id] = decoder.mlm_head.bias.max() - 0.1
    question = some_questions(task, 3)
    ids, likelihood = decoder.write(question, tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id, max_length=4)
    assert ids.shape == (3, 5)
    for row in range(3):
        text = ids[row][ids[row] != tokenizer.pad_id]
        own = question.select(torch.tensor([row]))
        logits = decoder.logits(decoder(text[None, :-1], own))[0]
        assert logits.argmax(dim=1).tolist() == text[1:].tolist()
        there = torch.ones(1, len(text), dtype=torch.bool)
        torch.testing.assert_close(likelihood[row].log(), decoder.log_likelihood(text[None], there, own)[0])
        ended = (text == tokenizer.sep_id).nonzero().flatten().tolist()
        assert ended in ([], [len(text) - 1])


def test_evaluation_gives_accuracy_predictions_a_sheet_and_a_file_for_the_server(run: list[str], digits: Path) -> None:
    task = small_task("vqa", run)
    result = evaluate(task)
    candidates = json.loads((digits / "vqa_answer_list.json").read_text())
    assert len(result.predictions) == len(json.loads((digits / "vqa_val.json").read_text()))
    assert result.metrics["accuracy"] == pytest.approx(
        sum(one["accuracy"] for one in result.predictions) / len(result.predictions)
    )
    assert all(len(one["scores"]) == 5 and one["answer"] in candidates for one in result.predictions)
    assert all(one["answer"] == max(one["scores"], key=one["scores"].get) for one in result.predictions)
    assert result.files["vqa_result.json"] == [
        {"question_id": one["question_id"], "answer": one["answer"]} for one in result.predictions
    ]
    assert {*result.sheets} == {"examples"}
    assert list(task.eval_splits()) == ["val", "test"]


def test_answers_can_be_written_instead_of_chosen(run: list[str]) -> None:
    task = small_task("vqa", [*run, "task.inference=generate", "task.answer_list=null", "task.max_answer_length=3"])
    result = evaluate(task)
    assert all(len(one["scores"]) == 1 and 0 <= one["scores"][one["answer"]] <= 1 for one in result.predictions)
    assert 0 <= result.metrics["accuracy"] <= 100


def test_a_model_trained_on_a_batch_gives_its_answers_both_ways(run: list[str], digits: Path, tmp_path: Path) -> None:
    items = [item for item in json.loads((digits / "vqa_train.json").read_text()) if item["dataset"] == "vqa"][:4]
    asked = [{**item, "question_id": number} for number, item in enumerate(items)]
    path = write_items(tmp_path / "asked.json", asked)
    task = small_task("vqa", [*run, f"data.train=[{path}]", f"data.val=[{path}]"])
    learn(task, training_batch(task, size=4), steps=120)
    assert evaluate(task).metrics["accuracy"] > 85
    task.settings = task.settings.model_copy(update={"inference": "generate"})
    assert evaluate(task).metrics["accuracy"] > 85


def test_unknown_answers_leave_the_accuracy_open(run: list[str], tmp_path: Path) -> None:
    path = write_items(tmp_path / "items.json", [{"image": "val/000000.jpg", "question": "what?", "question_id": 1}])
    result = evaluate(small_task("vqa", [*run, f"data.test=[{path}]"]), "test")
    assert result.metrics == {}
    assert result.files["vqa_result.json"][0]["question_id"] == 1


def test_a_decoder_of_pretrained_bert_starts_as_the_fusion_layers(run: list[str], tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    bert = BertForMaskedLM(BertConfig(**sizes, vocab_size=256, max_position_embeddings=64))
    bert.save_pretrained(tmp_path / "bert")
    task = small_task("vqa", [*run, f"model.text.weights={tmp_path}/bert"])
    encoder, decoder = task.model.albef.text_encoder, task.model.decoder
    own, given = decoder.encoder.layer[0].state_dict(), encoder.fusion_layers[0].state_dict()
    assert all(torch.equal(own[name], given[name]) for name in given)
    assert torch.equal(own["output.dense.weight"], bert.bert.encoder.layer[1].output.dense.weight)
    assert torch.equal(decoder.embeddings.word_embeddings.weight, bert.bert.embeddings.word_embeddings.weight)
    assert torch.equal(decoder.mlm_head.dense.weight, bert.cls.predictions.transform.dense.weight)


def test_a_checkpoint_of_pretraining_fills_the_decoder(run: list[str], digits: Path, tiny: list[str]) -> None:
    pretrained = small_task("pretrain", tiny).model.state_dict()
    model = small_task("vqa", run).model
    missing, unexpected = model.load_state_dict(Vqa.adapt_checkpoint(pretrained), strict=False)
    assert missing == []
    assert all(
        name.startswith(PRETRAINING_ONLY) or ".vision_proj" in name or ".text_proj" in name for name in unexpected
    )
    fusion = pretrained["albef.text_encoder.encoder.layer.1.output.dense.weight"]
    assert torch.equal(model.decoder.encoder.layer[0].output.dense.weight, fusion)


def test_ranking_without_candidates_is_refused_and_says_what_to_do(run: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"task\.answer_list: ranking .* set task\.inference=generate"):
        small_task("vqa", [*run, "task.answer_list=null"])


def test_a_decoder_without_layers_is_refused(run: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"model\.text\.fusion_layer: the decoder .* set it below 2"):
        small_task("vqa", [*run, "model.text.fusion_layer=2"])


ANSWER_LISTS = {
    "too few": (["yes", "no"], r"task\.k_test: .*answers\.json holds 2 candidate answers, fewer than the 16"),
    "none": ([], r"answers\.json: holds no answers"),
    "an empty one": (["yes", " "], r"answers\.json item 1: an answer is empty"),
    "one twice": (["yes", "no", "yes"], r"answers\.json item 2: 'yes' is item 0 already"),
    "no text": (["yes", 2], r"answers\.json: item 1 must be text, got 2"),
}


@pytest.mark.parametrize("case", ANSWER_LISTS)
def test_a_broken_list_of_candidates_is_named(run: list[str], tmp_path: Path, case: str) -> None:
    answers, message = ANSWER_LISTS[case]
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(answers))
    with pytest.raises(ElipError, match=message):
        evaluate(small_task("vqa", [*run, f"task.answer_list={path}"]))


def test_a_missing_list_of_candidates_is_named(run: list[str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"answer_lits\.json: no such file"):
        evaluate(small_task("vqa", [*run, f"task.answer_list={tmp_path}/answer_lits.json"]))


GOOD = {"dataset": "vqa", "image": "one.png", "question": "what is it?", "answer": ["a", "a", "b"]}
BROKEN = {
    "unknown dataset": (
        {**GOOD, "dataset": "vqa2"},
        r"item 1: field 'dataset' must be 'vqa' or 'vg', got 'vqa2'\. Did you mean 'vqa'\?",
    ),
    "no dataset": (
        {key: value for key, value in GOOD.items() if key != "dataset"},
        r"item 1: field 'dataset' is missing",
    ),
    "misspelt question": (
        {"dataset": "vqa", "image": "one.png", "qestion": "what?", "answer": ["a"]},
        r"item 1: field 'question' is missing\. Did you mean 'qestion'\?",
    ),
    "question without words": (
        {**GOOD, "question": " ?"},
        r"item 1: field 'question' is empty after cleaning: ' \?'",
    ),
    "no answer": (
        {"dataset": "vqa", "image": "one.png", "question": "what?"},
        r"item 1: field 'answer' is missing",
    ),
    "no answers": ({**GOOD, "answer": []}, r"item 1: field 'answer' holds no answer: \[\]"),
    "empty answers": ({**GOOD, "answer": ["", " "]}, r"item 1: field 'answer' holds no answer: \['', ' '\]"),
    "one text for vqa": (
        {**GOOD, "answer": "a"},
        r"item 1: field 'answer' must be a list of texts where 'dataset' is 'vqa', got 'a'",
    ),
    "a list for vg": (
        {**GOOD, "dataset": "vg"},
        r"item 1: field 'answer' must be text where 'dataset' is 'vg', got \['a', 'a', 'b'\]",
    ),
    "answer a number": ({**GOOD, "answer": 3}, r"item 1: field 'answer' must be text or a list of texts, got 3"),
    "image no text": ({**GOOD, "image": 17}, r"item 1: field 'image' must be text, got 17"),
    "image not there": ({**GOOD, "image": "two.png"}, r"item 1: field 'image': .*two\.png: no such file"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_item_to_train_on_is_named_with_file_item_and_field(tmp_path: Path, run: list[str], case: str) -> None:
    item, message = BROKEN[case]
    Image.new("RGB", (32, 32)).save(tmp_path / "one.png")
    path = write_items(tmp_path / "items.json", [GOOD, item])
    task = small_task("vqa", [*run, f"data.image_root={tmp_path}", f"data.train=[{path}]"])
    with pytest.raises(DataError, match=rf"items\.json {message}"):
        training_batch(task, size=2)


TEST = {"question_id": 5, "image": "one.png", "question": "what is it?", "answer": ["a"] * 10}
BROKEN_TEST = {
    "question id twice": (TEST, r"item 1: field 'question_id': 5 is the id of .*items\.json item 0 already"),
    "question id twice, once as text": (
        {**TEST, "question_id": "5"},
        r"item 1: field 'question_id': '5' is the id of .*items\.json item 0 already",
    ),
    "no question id": (
        {key: value for key, value in TEST.items() if key != "question_id"},
        r"item 1: field 'question_id' is missing",
    ),
    "question id no id": (
        {**TEST, "question_id": 1.5},
        r"item 1: field 'question_id' must be a whole number or text, got 1\.5",
    ),
    "no question": ({"question_id": 6, "image": "one.png"}, r"item 1: field 'question' is missing"),
    "question without words": (
        {**TEST, "question_id": 6, "question": "?!"},
        r"item 1: field 'question' is empty after cleaning: '\?!'",
    ),
    "no answers": (
        {**TEST, "question_id": 6, "answer": []},
        r"item 1: field 'answer' is an empty list; leave it out where the answers are not known",
    ),
    "answers only in some": (
        {"question_id": 6, "image": "one.png", "question": "what?"},
        r"item 1: field 'answer' must be in all items, or in none .*items\.json item 0 has it",
    ),
    "answer no list": ({**TEST, "question_id": 6, "answer": "a"}, r"item 1: field 'answer' must be .*, got 'a'"),
    "image not there": (
        {**TEST, "question_id": 6, "image": "two.png"},
        r"item 1: field 'image': .*two\.png: no such file",
    ),
}


@pytest.mark.parametrize("case", BROKEN_TEST)
def test_a_broken_item_to_evaluate_on_is_named_with_file_item_and_field(
    tmp_path: Path, run: list[str], case: str
) -> None:
    item, message = BROKEN_TEST[case]
    Image.new("RGB", (32, 32)).save(tmp_path / "one.png")
    path = write_items(tmp_path / "items.json", [TEST, item])
    with pytest.raises(DataError, match=rf"items\.json {message}"):
        evaluate(small_task("vqa", [*run, f"data.image_root={tmp_path}", f"data.val=[{path}]"]))
