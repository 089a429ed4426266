"""What would stop a run is told before anything is built."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import BertConfig

from elip.config import RunConfig, load_config
from elip.config.schema import ModelConfig, TextConfig, VisionConfig
from elip.errors import ConfigError, ElipError
from elip.registry import TASKS
from elip.task.preflight import check_run, check_weights, dry_build, without_weights
from elip.weights import hub
from tests.conftest import PROJECT
from tests.tasks.small import FILES, small_run
from tools import train

Check = Callable[..., None]


@pytest.fixture(autouse=True)
def _nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where weights would be made: all is told before."""
    build = TASKS.build

    def build_without_memory(name: str, *args: object, **params: object) -> object:
        assert torch.get_default_device() == torch.device("meta")
        return build(name, *args, **params)

    monkeypatch.setattr(TASKS, "build", build_without_memory)
    monkeypatch.setattr(hub, "unreachable", lambda: pytest.fail("the network is asked"))


def config_of(name: str, digits: Path, tiny: list[str], *overrides: str) -> RunConfig:
    base = tiny if name == "pretrain" else small_run(name, digits, tiny)
    return load_config(PROJECT / f"configs/demo/{name}.yaml", [*base, *overrides])


@pytest.fixture
def refused(digits: Path, tiny: list[str]) -> Callable[..., str]:
    """A function that returns what is said of a task's small run under overrides, in one line."""

    def message(name: str, *overrides: str) -> str:
        with pytest.raises(ElipError) as caught:
            check_run(config_of(name, digits, tiny, *overrides))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return message


@pytest.mark.parametrize("name", ["pretrain", *FILES])
def test_a_run_that_can_start_passes_and_no_weights_are_made(name: str, digits: Path, tiny: list[str]) -> None:
    config = config_of(name, digits, tiny)
    check_run(config)
    task = dry_build(config)
    assert task is not None
    assert {parameter.device.type for parameter in task.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.text.fusion_layer=2",
            "model.text.fusion_layer: all 2 layers see text only, so that none attends to the",
        ),
        ("model.text.fusion_layer=3", "model.text.fusion_layer: BERT here has 2 layers"),
        ("model.text.options.max_position_embeddings=24", "task.text_length: texts of 25 tokens, and BERT here has"),
        (
            "model.text.options.max_position_embeddings=29",
            "task.eval_text_length: texts of 30 tokens, and BERT here has",
        ),
        ("model.text.options.num_attention_heads=3", "model.text.options.num_attention_heads: 3 heads do not share"),
        ("model.text.options.pad_token_id=256", "model.text.options.pad_token_id: 256 is beyond the 256 words"),
        (
            "model.text.options.hidden_act=gelo",
            "model.text.options.hidden_act: transformers has no 'gelo'. Did you mean",
        ),
        ("model.text.options.vocab_size=20", "model.text.tokenizer: "),
        (
            "model.vision.options.num_heads=3",
            "model.vision: timm cannot build 'vit_tiny_patch16_224' with these settings",
        ),
        ("model.vision.image_size=4", "model.vision"),
        ("model.vision.options.embed_dim=48", "the ViT's is 48, the text encoder's 32"),
        ("reducer.begin=[1,7]", "block 7 does not exist"),
        ("task.queue_size=100000000000", "the model's weights and queues take "),
        ("train.batch_size=1", "train.batch_size: pretrain needs at least 2 pairs"),
        ("task.k_test=7", "task.k_test: there are 6 images"),
        ("data.train=[]", "data.train: name at least one file to train on"),
        ("data.train=[a.tar, b.json]", "data.train: a.tar is a tar shard, b.json an annotation file"),
        ("data.train=['a{0..3}.tar']", "data.train: a0.tar: no such file"),
        ("data.train=[nowhere.json]", "data.train[0]: nowhere.json: no such file"),
        ("data.val=[nowhere.json]", "data.val[0]: nowhere.json: no such file"),
        ("data.test=[tests]", "data.test[0]: tests is not a file. Give data.test=FILE, or data.test=[] to do without."),
        (
            "data.image_root=nowhere/pictures",
            "data.image_root: nowhere/pictures: no such file, not even a folder nowhere.",
        ),
        (f"data.image_root={'x' * 300}", f"data.image_root: {'x' * 300}: no such file"),
        ("model.vision.weights=nowhere.pth", "model.vision.weights: nowhere.pth: no such file"),
        ("model.text.weights=./nowhere", "model.text.weights: ./nowhere: no such file"),
        ("model.text.weights=tests", "model.text.weights: tests has no config.json."),
        ("model.text.tokenizer=./nowhere", "model.text.tokenizer: tokenizer ./nowhere: no such file"),
        ("model.text.tokenizer=tests", "model.text.tokenizer: tokenizer tests: the folder holds neither vocab.txt nor"),
    ],
)
def test_what_would_stop_a_run_is_told_by_key(
    override: str, message: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PROJECT)
    assert message in refused("pretrain", override)


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("vqa", "task.answer_list=nowhere.json", "nowhere.json: no such file"),
        ("vqa", "task.k_test=1000", "task.k_test: "),
        ("vqa", "task.max_answer_length=65", "task.max_answer_length: texts of 65 tokens"),
        ("vqa", "model.text.fusion_layer=2", "model.text.fusion_layer: "),
        ("grounding", "task.refs=null", "task.refs: grounding needs this file to evaluate"),
        ("grounding", "task.instances=nowhere.json", "nowhere.json: no such file"),
        ("grounding", "task.cam_layer=9", "task.cam_layer: blocks of the ViT are 0 to 2, got 9."),
        ("retrieval", "task.k_test=100", "task.k_test: there are 6 images"),
        ("nlvr_pretrain", "train.batch_size=2", "train.batch_size: text assignment needs at least 3 pairs"),
        ("ve", "task.text_length=65", "task.text_length: texts of 65 tokens, and BERT here has positions for 64."),
    ],
)
def test_what_a_task_needs_is_told_too(name: str, override: str, message: str, refused: Callable[..., str]) -> None:
    assert message in refused(name, override)


def test_a_vocabulary_without_special_tokens_is_told(tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "vocab.txt").write_text("red\ngreen\n")
    assert "not a BERT vocabulary, it lacks [PAD]" in refused("pretrain", f"model.text.tokenizer={tmp_path}")


def test_an_evaluation_needs_its_own_files_only(digits: Path, tiny: list[str]) -> None:
    config = config_of("pretrain", digits, tiny, "data.train=[nowhere.json]", "data.val=[nowhere.json]")
    check_run(config, ["test"])


def test_shards_need_no_folder_of_images(digits: Path, tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "00.tar").touch()
    without = ["data.val=[]", "data.test=[]", "data.image_root=nowhere"]
    check_run(config_of("pretrain", digits, tiny, f"data.train=['{tmp_path}/*.tar']", *without))


def test_training_stops_before_anything_is_built_or_written(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert train.main([str(PROJECT / "configs/demo/pretrain.yaml"), *tiny, "data.image_root=nowhere"]) == 2
    assert capsys.readouterr().err.startswith("error: data.image_root: nowhere")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resume"], "there is no checkpoint in {}/run to go on from. Start without --resume."),
        (["--resume", "nowhere/best.pt"], "there is no checkpoint nowhere/best.pt."),
        (["--init", "nowhere.pt"], "nowhere.pt"),
    ],
)
def test_where_a_run_would_start_is_settled_before_building(
    words: list[str], message: str, tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert train.main([str(PROJECT / "configs/demo/pretrain.yaml"), *tiny, *words]) == 2
    said = capsys.readouterr().err
    assert message.format(tmp_path) in said
    assert said.startswith("error: ")


def test_a_folder_that_holds_a_run_is_refused_before_building(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint-00000006.pt").touch()
    assert train.main([str(PROJECT / "configs/demo/pretrain.yaml"), *tiny]) == 2
    assert "holds a run already (its last checkpoint is checkpoint-00000006.pt)" in capsys.readouterr().err


FULL = ModelConfig(
    vision=VisionConfig(name="deit_base_patch16_224", weights="timm"), text=TextConfig(weights="bert-base-uncased")
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that puts empty files of a repository into the hub's cache, which is empty before."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("TRANSFORMERS_CACHE", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setattr(hub, "try_to_load_from_cache", with_cache(tmp_path / "hub"))

    def put(repo: str, *names: str) -> None:
        folder = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True, exist_ok=True)
        (folder / "refs" / "main").write_text("abc")
        for name in names:
            (folder / "snapshots" / "abc").mkdir(parents=True, exist_ok=True)
            (folder / "snapshots" / "abc" / name).touch()

    return put


def with_cache(folder: Path) -> Callable[..., object]:
    from huggingface_hub import try_to_load_from_cache

    def look(repo: str, name: str, cache_dir: str | None = None, revision: str | None = None) -> object:
        return try_to_load_from_cache(repo, name, cache_dir=cache_dir or folder, revision=revision)

    return look


def test_out_of_reach_one_message_names_all_that_is_to_be_set(cache: Callable[..., None]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_weights(FULL, lambda: "no route to host")
    message = str(caught.value)
    assert message.startswith(
        "model.vision.weights=timm, model.text.weights=bert-base-uncased and model.text.tokenizer=bert-base-uncased: "
        "not on this machine, and the Hugging Face hub ("
    )
    assert "is out of reach: no route to host. Without a network, set model.vision.weights=FILE" in message
    assert "model.text.weights=FOLDER" in message
    assert "model.text.tokenizer=FOLDER (with a vocab.txt" in message
    assert "\n" not in message


def test_what_is_in_a_cache_is_not_missing_and_then_nobody_asks_the_network(cache: Callable[..., None]) -> None:
    cache("timm/deit_base_patch16_224.fb_in1k", "model.safetensors")
    cache("bert-base-uncased", "config.json", "vocab.txt")
    with pytest.raises(ConfigError, match=r"^model\.text\.weights=bert-base-uncased: not on this machine"):
        check_weights(FULL, lambda: "no route to host")
    cache("bert-base-uncased", "pytorch_model.bin")
    check_weights(FULL, lambda: pytest.fail("the network is asked"))


def test_weights_that_torch_has_downloaded_are_there(cache: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "torch" / "checkpoints").mkdir(parents=True)
    (tmp_path / "torch" / "checkpoints" / "deit_base_patch16_224-b5f2ef4d.pth").touch()
    vision = ModelConfig(vision=FULL.vision, text=TextConfig(tokenizer=str(tmp_path)))
    check_weights(vision, lambda: pytest.fail("the network is asked"))


def test_where_the_hub_answers_it_is_left_to_give_what_is_asked_for(cache: Callable[..., None]) -> None:
    asked = []
    check_weights(FULL, lambda: asked.append(1))
    assert asked == [1]


def test_a_model_without_pretrained_weights_is_told(
    cache: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = SimpleNamespace(has_weights=False, hf_hub_id=None, url=None)
    monkeypatch.setattr("timm.get_pretrained_cfg", lambda name, **options: nothing)
    with pytest.raises(
        ConfigError, match=r"model\.vision\.weights: timm has no pretrained weights for 'deit_base_patch"
    ):
        check_weights(FULL, lambda: None)


class Session:
    """Answers, or raises, in the place of the hub's client."""

    def __init__(self, answer: Exception | None) -> None:
        self.answer = answer

    def head(self, url: str, timeout: float) -> None:
        assert url == "https://mirror.example"
        assert timeout <= 5
        if self.answer is not None:
            raise self.answer


ReadTimeout = type("ReadTimeout", (Exception,), {})
"""Of that name in requests and in httpx."""


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, None),
        (ReadTimeout("slow"), None),
        (ConnectionError("Name or service not known\nat length"), "ConnectionError: Name or service not known"),
    ],
)
def test_the_hub_is_asked_once_at_the_endpoint_in_use(
    answer: Exception | None, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://mirror.example")
    monkeypatch.setattr(hub, "get_session", lambda: Session(answer))
    assert hub.unreachable() == reason


def test_offline_by_setting_needs_no_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "get_session", lambda: pytest.fail("the network is asked"))
    assert hub.unreachable() == "HF_HUB_OFFLINE is set"


def test_without_weights_the_shapes_of_a_pretrained_bert_stay(digits: Path, tiny: list[str], tmp_path: Path) -> None:
    BertConfig(hidden_size=48, num_hidden_layers=3, num_attention_heads=4, vocab_size=99).save_pretrained(tmp_path)
    config = config_of("pretrain", digits, tiny, "model.text.options={num_attention_heads: 2}")
    text = config.model.text.model_copy(update={"weights": str(tmp_path), "options": {"num_attention_heads": 2}})
    config = config.model_copy(update={"model": config.model.model_copy(update={"text": text})})
    plain = without_weights(config).model.text
    assert plain.weights is None
    assert (plain.options["hidden_size"], plain.options["num_hidden_layers"], plain.options["vocab_size"]) == (
        48,
        3,
        99,
    )
    assert plain.options["num_attention_heads"] == 2
