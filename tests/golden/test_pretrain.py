"""One ELIP pre-training step, and one without reduction, against the published code's numbers."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from elip.reduction.guide import Guide, Text
from elip.reduction.reducer import ReductionContext
from elip.reduction.tokens import Tokens
from elip.task import Progress, StepOutput, Task
from elip.weights.names import from_albef

from .model import golden_elip, golden_task

OUTPUT = {"atol": 1e-5, "rtol": 1e-5}
GRADIENT = 1e-4
END_OF_FIRST_EPOCH = Progress(step=10, total_steps=20, steps_per_epoch=10)


@pytest.fixture(scope="module")
def sizes(golden_albef: Path) -> dict:
    return json.loads((golden_albef / "meta.json").read_text())["config"]


@pytest.fixture(scope="module")
def golden(golden_albef: Path) -> dict[str, Tensor]:
    return load_file(golden_albef / "pretrain.safetensors")


def make_task(folder: Path, sizes: dict, reducer: dict) -> Task:
    settings = {"name": "pretrain", "alpha": sizes["alpha"], "queue_size": sizes["Q"]}
    return golden_task(folder, settings, reducer, "pretrain_weights.safetensors")


def make_batch(golden: dict[str, Tensor], negatives: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "image": golden["image"],
        "ids": golden["input_ids"],
        "mask": golden["attention_mask"],
        "masked_ids": golden["masked_input_ids"],
        "mlm_labels": golden["mlm_labels"],
        "negative_image": negatives["negative_image_for_text"],
        "negative_text": negatives["negative_text_for_image"],
    }


def run_step(task: Task, batch: dict[str, Tensor]) -> StepOutput:
    task.on_step_start()
    output = task.training_step(batch, END_OF_FIRST_EPOCH)
    sum(output.losses.values()).backward()
    output.after_backward()
    return output


@pytest.fixture(scope="module")
def stepped(golden_albef: Path, sizes: dict, golden: dict[str, Tensor]) -> tuple[Task, StepOutput]:
    task = make_task(golden_albef, sizes, golden_elip(golden_albef))
    return task, run_step(task, make_batch(golden, golden))


@pytest.fixture(scope="module")
def fresh(golden_albef: Path, sizes: dict) -> Task:
    return make_task(golden_albef, sizes, golden_elip(golden_albef))


@pytest.mark.parametrize("name", ["loss_itc", "loss_itm", "loss_mlm"])
def test_losses_under_elip(stepped: tuple[Task, StepOutput], golden: dict[str, Tensor], name: str) -> None:
    torch.testing.assert_close(stepped[1].losses[name], golden[name], **OUTPUT)


def test_alpha_is_full_after_the_first_epoch(stepped: tuple[Task, StepOutput], golden: dict[str, Tensor]) -> None:
    assert stepped[1].logs["alpha"] == pytest.approx(golden["alpha"].item())


def test_gradients_of_the_summed_losses(stepped: tuple[Task, StepOutput], golden: dict[str, Tensor]) -> None:
    expected = {key.removeprefix("grad."): value for key, value in golden.items() if key.startswith("grad.")}
    assert expected
    gradients = {name: p.grad for name, p in stepped[0].named_parameters()}
    for name, want in from_albef(expected).items():
        got = gradients[f"model.{name}"]
        assert (got - want).norm() <= GRADIENT * want.norm(), name


def test_queues_pointer_and_momentum_after_the_step(
    stepped: tuple[Task, StepOutput], golden: dict[str, Tensor]
) -> None:
    expected = {key.removeprefix("after."): value for key, value in golden.items() if key.startswith("after.")}
    assert expected
    state = stepped[0].state_dict()
    for name, want in from_albef(expected).items():
        torch.testing.assert_close(state[f"model.{name}"], want, **OUTPUT)


@pytest.mark.parametrize("name", ["loss_itc", "loss_itm", "loss_mlm"])
def test_losses_without_reduction(golden_albef: Path, sizes: dict, golden: dict[str, Tensor], name: str) -> None:
    baseline = load_file(golden_albef / "pretrain_baseline.safetensors")
    task = make_task(golden_albef, sizes, {"name": "none"})
    output = run_step(task, make_batch(golden, baseline))
    torch.testing.assert_close(output.losses[name], baseline[name], **OUTPUT)


@torch.no_grad()
def test_text_and_dense_image_embeddings(fresh: Task, golden: dict[str, Tensor]) -> None:
    albef = fresh.model.albef
    text = albef.text_encoder.encode(golden["input_ids"], golden["attention_mask"])
    torch.testing.assert_close(text, golden["text_embeds"], **OUTPUT)
    torch.testing.assert_close(albef.text_feat(text), golden["text_feat"], **OUTPUT)
    image = albef.encode_image(golden["image"], reduce=False).embeds
    torch.testing.assert_close(image, golden["image_embeds_full"], **OUTPUT)


@torch.no_grad()
def test_elip_keeps_the_published_patches_and_tokens(
    fresh: Task, golden: dict[str, Tensor], sizes: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    albef, seen = fresh.model.albef, []
    reducer = albef.reducer
    scores, before = reducer.scores, reducer.before_block

    def spy_scores(*args: object) -> Tensor:
        seen.append(scores(*args))
        return seen[-1]

    stages = {}

    def spy_before(block: int, tokens: Tokens, context: ReductionContext) -> Tokens:
        fresh_source = Tokens.start(tokens.x, (1, tokens.num_tokens), track_source=True)
        after = before(block, fresh_source, context)
        stages[block] = after
        return after

    monkeypatch.setattr(reducer, "scores", spy_scores)
    monkeypatch.setattr(reducer, "before_block", spy_before)
    output = albef.encode_image(golden["image"], Guide(Text(golden["text_embeds"], golden["attention_mask"])))
    torch.testing.assert_close(output.embeds, golden["image_embeds_elip"], **OUTPUT)
    torch.testing.assert_close(albef.image_feat(output.embeds), golden["image_feat"], **OUTPUT)
    for stage, block in enumerate(sizes["begin"]):
        torch.testing.assert_close(seen[stage], golden[f"stage{stage}.cls_attention"], **OUTPUT)
        kept = golden[f"stage{stage}.kept"] - 1  # there CLS is 0, here the first patch
        source = stages[block].source
        fused = stages[block].num_tokens - 1
        for image in range(len(source)):
            alive = (source[image] != fused).nonzero().flatten()
            assert alive.tolist() == kept[image].tolist()


@torch.no_grad()
def test_fusion_layers_and_matching_logits(fresh: Task, golden: dict[str, Tensor]) -> None:
    encoder = fresh.model.albef.text_encoder
    kv = encoder.project(golden["image_embeds_elip"])
    fused = encoder.fuse(golden["text_embeds"], golden["attention_mask"], kv)
    torch.testing.assert_close(fused, golden["fusion_aligned"], **OUTPUT)
    cls = encoder.fuse_cls(golden["text_embeds"], golden["attention_mask"], kv)
    torch.testing.assert_close(cls, golden["fusion_aligned"][:, 0], **OUTPUT)
    torch.testing.assert_close(fresh.model.matching_logits(cls), golden["itm_logits_aligned"], **OUTPUT)
