"""Guided dropping: what the momentum encoder's attention keeps, fuses and draws; refusals; in a task."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from elip.errors import ConfigError, ElipError
from elip.reduction.encoder import EncoderInfo
from elip.reduction.guide import Guide, Teacher, TeacherNeeds, Text, Watch
from elip.reduction.reducer import ReductionContext
from elip.reduction.tokens import Tokens
from elip.task import Progress
from elip.testing.trial import images, made_up_text, tiny_vit
from reducers.guided import Guided
from tests.tasks.small import FILES, PROGRESS, small_run, small_task, without_reducer

INFO = EncoderInfo(depth=12, width=32, num_heads=2, grid=(2, 3), text_width=32)
ATTENTION = torch.tensor([[0.30, 0.05, 0.20, 0.10, 0.02, 0.03]])
"""Mean of heads, to six patches."""


def reduced(reducer: Guided, x: Tensor, attention: Tensor, *blocks: int, training: bool = False) -> Tokens:
    """Return the patches after these blocks, under a teacher whose two heads have that attention as their mean."""
    heads = torch.stack([0.5 * attention, 1.5 * attention], dim=1)
    teacher = Teacher(mixed_rows={11: heads}, cls_rows={11: heads})
    context = ReductionContext(None, training, Guide(teacher=teacher))
    tokens = Tokens.start(x, (2, 3), track_source=True)
    for block in blocks:
        tokens = reducer.before_block(block, tokens, context)
    return tokens


def test_the_patches_of_most_attention_stay_in_order_and_the_others_become_their_weighted_mean() -> None:
    x = torch.randn(1, 6, 4)
    tokens = reduced(Guided(INFO, keep_ratio=0.5), x, ATTENTION, 0)
    assert tokens.source.tolist() == [[0, 3, 1, 2, 3, 3]]
    assert tokens.sizes.tolist() == [[1, 1, 1, 3]]
    torch.testing.assert_close(tokens.x[:, :3], x[:, [0, 2, 3]])
    weight = ATTENTION[0, [1, 4, 5]]
    torch.testing.assert_close(tokens.x[0, 3], (weight[:, None] * x[0, [1, 4, 5]]).sum(0) / (weight.sum() + 1e-6))


def test_without_fusing_the_others_are_dropped() -> None:
    x = torch.randn(1, 6, 4)
    tokens = reduced(Guided(INFO, keep_ratio=0.5, fuse=False), x, ATTENTION, 0)
    assert tokens.source.tolist() == [[0, -1, 1, 2, -1, -1]]
    assert torch.equal(tokens.x, x[:, [0, 2, 3]])


@pytest.mark.parametrize(("fuse", "source"), [(True, [0, 2, 1, 2, 2, 2]), (False, [0, -1, 1, -1, -1, -1])])
def test_a_later_stage_goes_on_by_the_same_attention(fuse: bool, source: list[int]) -> None:
    reducer = Guided(INFO, begin=[0, 4], keep_ratio=[0.5, 0.34], fuse=fuse)
    assert reduced(reducer, torch.randn(1, 6, 4), ATTENTION, 0, 4).source.tolist() == [source]


def test_lots_follow_the_attention_to_the_power_of_the_inverse_temperature() -> None:
    torch.manual_seed(0)
    images_drawn = 4000
    attention = ATTENTION.expand(images_drawn, -1)
    reducer = Guided(INFO, keep_ratio=0.17, temperature=2.0)
    source = reduced(reducer, torch.zeros(images_drawn, 6, 1), attention, 0, training=True).source
    drawn = (source == 0).float().mean(dim=0)  # the one patch that is kept
    expected = ATTENTION[0].sqrt() / ATTENTION[0].sqrt().sum()
    torch.testing.assert_close(drawn, expected, atol=0.03, rtol=0)
    sure = reduced(reducer, torch.zeros(8, 6, 1), attention[:8], 0, training=False).source
    assert (sure == 0).nonzero()[:, 1].tolist() == [0] * 8  # no lots outside of training


def test_several_draws_are_as_from_an_urn_without_putting_back() -> None:
    torch.manual_seed(0)
    reducer = Guided(INFO, keep_ratio=0.34, temperature=1.0, fuse=False)
    images_drawn = 8000
    attention = ATTENTION.expand(images_drawn, -1)
    source = reduced(reducer, torch.zeros(images_drawn, 6, 1), attention, 0, training=True).source
    first = ATTENTION[0] / ATTENTION.sum()
    second = first[:, None] * first / (1 - first[:, None])  # [first, second]
    expected = first + second.fill_diagonal_(0).sum(dim=0)
    torch.testing.assert_close((source >= 0).float().mean(dim=0), expected, atol=0.02, rtol=0)


def test_no_patch_is_drawn_twice_and_one_without_attention_can_be() -> None:
    attention = torch.zeros(50, 6)
    reducer = Guided(INFO, keep_ratio=0.84, temperature=0.01)
    tokens = reduced(reducer, torch.randn(50, 6, 4), attention, 0, training=True)
    assert tokens.x.isfinite().all()
    assert tokens.sizes.tolist() == [[1] * 6] * 50


@torch.no_grad()
def test_the_mixed_row_is_that_of_the_block_with_the_mixed_token_in_the_place_of_cls() -> None:
    encoder = tiny_vit(reg_tokens=2)
    image, text = images(3, encoder), made_up_text(3, encoder)
    output = encoder(image, guide=Guide(text), watch=Watch(mixed_rows={5: 0.3}, cls_rows=(5,)))
    x = encoder.embed(image)
    for block in encoder.blocks[:5]:
        x = block(x)
    x = torch.cat([0.7 * x[:, :1] + 0.3 * text.states[:, :1], x[:, 1:]], dim=1)
    attn = encoder.blocks[5].attn
    q, k, _ = attn.qkv(encoder.blocks[5].norm1(x)).unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 1, 4)
    expected = (q @ k.mT / 4).softmax(dim=-1)[:, :, 0, 3:]
    torch.testing.assert_close(output.mixed_rows[5], expected, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(output.cls_rows[5], expected, atol=1e-3)
    assert torch.equal(output.embeds, encoder(image).embeds)  # looking changes nothing
    plain = encoder(image, guide=Guide(text), watch=Watch(mixed_rows={5: 0.0}, cls_rows=(5,)))
    torch.testing.assert_close(plain.mixed_rows[5], plain.cls_rows[5], atol=1e-6, rtol=1e-5)
    with pytest.raises(ElipError, match="mixed with a text is asked for, and this pass encodes images alone"):
        encoder(image, watch=Watch(mixed_rows={5: 0.3}))


@pytest.mark.parametrize(
    ("params", "needs"),
    [
        ({}, TeacherNeeds(mixed_rows={11: 0.2})),
        ({"teacher_block": 3, "text_weight": 1.0}, TeacherNeeds(mixed_rows={3: 1.0})),
        ({"text_weight": 0}, TeacherNeeds(cls_rows=(11,))),
    ],
)
def test_it_asks_for_one_row(params: dict[str, Any], needs: TeacherNeeds) -> None:
    assert Guided(INFO, **params).teacher_needs == needs


def test_a_text_of_another_width_is_refused_unless_it_has_no_share() -> None:
    info = EncoderInfo(depth=12, width=32, num_heads=2, grid=(2, 3), text_width=48)
    Guided(info, text_weight=0)
    with pytest.raises(ElipError, match="the ViT's is 32, the text encoder's 48"):
        Guided(info)


@pytest.fixture
def overrides(digits: Path, tiny: list[str]) -> dict[str, list[str]]:
    """Overrides of a small run of each task under `guided`."""
    names = ("pretrain", *FILES)
    return {name: [*without_reducer(small_run(name, digits, tiny)), "reducer=guided"] for name in names}


@pytest.mark.parametrize("name", ["pretrain", *(name for name in FILES if name != "nlvr_pretrain")])
@pytest.mark.parametrize("weight", [0.2, 0.0])
def test_the_momentum_encoder_guides_every_task_that_has_one(
    overrides: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch, name: str, weight: float
) -> None:
    task = small_task(name, [*overrides[name], f"reducer.text_weight={weight}"])
    model: Any = task.model
    with torch.no_grad():  # else the momentum encoder is a copy still, and nobody could tell whose attention it is
        for parameter in model.momentum.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    seen: list[tuple[Guide, Tensor]] = []
    forward = type(model.albef.visual_encoder).forward

    def see(self: Any, image: Tensor, reducer: Any = None, guide: Any = None, watch: Any = None) -> Any:
        if self is model.albef.visual_encoder:
            seen.append((guide, image))
        return forward(self, image, reducer, guide, watch)

    monkeypatch.setattr(type(model.albef.visual_encoder), "forward", see)
    batch = task.eval().example_batch(4)  # without dropout, so that the pass can be repeated
    model.albef.train()
    output = task.training_step(batch, PROGRESS)
    assert float(output.logs["tokens/block00"]) == 1 + 6 + 1  # CLS, 0.4 of 16, the others

    ((guide, image),) = seen
    teacher = model.momentum["albef"]
    with torch.no_grad():
        text = Text(teacher.text_encoder.encode(batch["ids"], batch["mask"]), batch["mask"])
        text = text.repeat(len(image) // len(batch["ids"]))
        watch = Watch(mixed_rows={2: weight}) if weight else Watch(cls_rows=(2,))
        whole = teacher.visual_encoder(image, guide=Guide(text), watch=watch)
    rows, expected = (
        (guide.teacher.mixed_rows, whole.mixed_rows) if weight else (guide.teacher.cls_rows, whole.cls_rows)
    )
    assert rows.keys() == {2}
    torch.testing.assert_close(rows[2], expected[2], atol=1e-6, rtol=1e-5)
    assert not rows[2].requires_grad


@pytest.mark.parametrize("name", ["ve", "nlvr", "vqa"])
def test_the_momentum_encoder_rests_where_only_a_reduction_that_is_over_has_asked_for_it(
    overrides: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    task = small_task(name, [*overrides[name], "reducer.until=0.5", "task.distill=false"])
    model: Any = task.model
    teach, taught = model.teach, []
    monkeypatch.setattr(model, "teach", lambda *inputs: taught.append(1) or teach(*inputs))
    for step, passes, tokens in ((2, 1, 8), (3, 1, 17)):
        output = task.training_step(task.example_batch(4), Progress(step, total_steps=6, steps_per_epoch=3))
        assert len(taught) == passes
        assert float(output.logs["tokens/block00"]) == tokens


def test_without_a_teacher_all_tokens_are_kept_and_that_is_said_once(
    overrides: dict[str, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    task = small_task("nlvr_pretrain", overrides["nlvr_pretrain"])
    for _ in range(2):
        output = task.training_step(task.example_batch(4), PROGRESS)
        assert float(output.logs["tokens/block02"]) == 17
    message = "reducer Guided needs what the momentum encoder saw and this pass has none: all tokens are kept"
    assert caplog.messages.count(message) == 1


def test_a_strict_one_is_refused_where_evaluations_would_stop_the_run(overrides: dict[str, list[str]]) -> None:
    strict = [*overrides["pretrain"], "reducer.strict=true"]
    with pytest.raises(ConfigError, match=r"reducer.strict: guided needs what .* Set eval.reducer=none, or reducer"):
        small_task("pretrain", strict)
    for remedy in ("eval.reducer=none", "reducer.until=0.8"):
        task = small_task("pretrain", [*strict, remedy])
        with torch.no_grad():
            assert task.eval()(task.example_batch(2)).isfinite().all()
    tiny = tiny_vit()
    reducer = Guided(tiny.info(32))
    reducer.strict = True
    with pytest.raises(ElipError, match="reducer Guided needs what the momentum encoder saw, and this pass has none"):
        tiny(images(1, tiny), reducer)
