"""The ViT encoder: timm's numbers without reduction, and what reducers may do inside it."""

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from elip.config.schema import VisionConfig
from elip.errors import ConfigError, ElipError
from elip.execution import Execution
from elip.models.vision import VisionEncoder, create_vit
from elip.reduction.encoder import EncoderInfo
from elip.reduction.guide import Guide, Watch, text_of_cls
from elip.reduction.reducer import AttentionFacts, Blocks, Needs, ReductionContext, TokenReducer
from elip.reduction.tokens import Tokens
from elip.registry import REDUCERS

VITS = {
    "class token": "deit_tiny_patch16_224",
    "mean of patches": "vit_medium_patch16_gap_256",
    "registers, mean of patches": "vit_little_patch16_reg4_gap_256",
    "layer scale, no position for the class token": "deit3_small_patch16_224",
    "norm before the blocks": "vit_base_patch16_clip_224",
    "class token and registers": "vit_small_patch14_reg4_dinov2",
    "attention pooling": "vit_base_patch16_siglip_224",
}


def small_timm(name: str, **options: object) -> torch.nn.Module:
    """A timm ViT made shallow, small-sided, and random in every parameter."""
    patch = 14 if "patch14" in name else 16
    vit = timm.create_model(name, depth=2, img_size=4 * patch, num_classes=7, **options)
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return vit.eval()


@pytest.mark.parametrize("name", VITS.values(), ids=VITS.keys())
@torch.no_grad()
def test_without_reduction_the_encoder_is_timms_model(name: str) -> None:
    vit = small_timm(name)
    encoder = VisionEncoder(vit).eval()
    image = torch.randn(2, 3, *vit.patch_embed.img_size)
    reducer = REDUCERS.build("none", encoder.info())
    embeds = encoder(image, reducer).embeds
    torch.testing.assert_close(embeds, vit.forward_features(image), atol=1e-6, rtol=0)
    torch.testing.assert_close(encoder.classify(embeds), vit(image), atol=1e-6, rtol=0)


@torch.no_grad()
def test_query_and_key_norms_are_applied() -> None:
    vit = small_timm("vit_tiny_patch16_224", qk_norm=True)
    image = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(VisionEncoder(vit).eval()(image).embeds, vit.forward_features(image), atol=1e-6, rtol=0)


def test_parameters_keep_timms_names() -> None:
    vit = small_timm("vit_little_patch16_reg4_gap_256")
    assert set(VisionEncoder(vit).state_dict()) == set(vit.state_dict())


def test_images_are_normalised_as_the_models_own_config_says() -> None:
    assert VisionEncoder(small_timm("vit_tiny_patch16_224")).normalization == ((0.5,) * 3, (0.5,) * 3)
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert VisionEncoder(small_timm("deit_tiny_patch16_224")).normalization == imagenet
    assert VisionEncoder(VisionTransformer(embed_dim=32, depth=1, num_heads=1)).normalization is None


@pytest.mark.parametrize(
    ("name", "part"), [("vit_pwee_patch16_reg1_gap_256", "ParallelScalingBlock"), ("resnet18", "ResNet")]
)
def test_a_model_of_another_kind_is_refused_by_name(name: str, part: str) -> None:
    with pytest.raises(ElipError, match=rf"{part}.*Known: timm\.models\.vision_transformer\.Block"):
        VisionEncoder(timm.create_model(name))


def test_a_vit_that_drops_patches_itself_is_refused() -> None:
    with pytest.raises(ElipError, match="use the reducer 'random'"):
        VisionEncoder(small_timm("vit_tiny_patch16_224", patch_drop_rate=0.5))


def test_an_unknown_timm_name_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"model\.vision\.name.*Did you mean 'deit_tiny_patch16_224'"):
        create_vit(VisionConfig(name="deit_tiny_patch16_24"))


def test_settings_that_timm_cannot_use_name_the_section() -> None:
    with pytest.raises(ConfigError, match=r"model\.vision: timm cannot build"):
        create_vit(VisionConfig(name="deit_tiny_patch16_224", options={"depht": 3}))


class Recorder(TokenReducer):
    """Asks for everything, keeps what it gets, and changes nothing."""

    def __init__(self, encoder: EncoderInfo, wants: Needs) -> None:
        super().__init__()
        self.wants = wants

    def needs(self, block: int) -> Needs:
        return self.wants

    def after_attention(
        self, block: int, tokens: Tokens, attention: AttentionFacts, context: ReductionContext
    ) -> Tokens:
        context.state.setdefault("facts", []).append(attention)
        self.last = context
        return tokens


@pytest.fixture
def encoder() -> VisionEncoder:
    torch.manual_seed(0)
    return VisionEncoder(small_timm("vit_little_patch16_reg4_gap_256", class_token=True, global_pool="token")).eval()


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_attention_facts_agree_with_the_full_matrix(encoder: VisionEncoder, image: Tensor) -> None:
    everything = Recorder(encoder.info(), Needs.CLS_ROW | Needs.KEYS | Needs.VALUE_NORMS | Needs.MATRIX)
    fused = encoder(image).embeds
    torch.testing.assert_close(encoder(image, everything).embeds, fused, atol=1e-5, rtol=1e-5)
    for facts in everything.last.state["facts"]:
        torch.testing.assert_close(facts.matrix.sum(-1), torch.ones_like(facts.matrix[..., 0]))
        torch.testing.assert_close(facts.cls_row, facts.matrix[:, :, 0, encoder.num_prefix_tokens :])
        assert facts.keys.shape == (2, 16, encoder.width // encoder.info().num_heads)
        assert facts.value_norms.shape == facts.cls_row.shape


@torch.no_grad()
def test_what_is_not_asked_for_is_not_computed(encoder: VisionEncoder, image: Tensor) -> None:
    row_only = Recorder(encoder.info(), Needs.CLS_ROW)
    encoder(image, row_only)
    facts = row_only.last.state["facts"][0]
    assert facts.cls_row is not None
    assert facts.keys is facts.value_norms is facts.matrix is None


class LookAhead(TokenReducer):
    """Runs the first block ahead by itself, and reads its CLS row, before the encoder does."""

    def __init__(self, blocks_seen: list) -> None:
        super().__init__()
        self.seen = blocks_seen

    def before_block(self, block: int, tokens: Tokens, context: ReductionContext) -> Tokens:
        if block == 0:
            x = torch.cat([context.prefix, tokens.x], dim=1)
            self.seen += [context.blocks.cls_row(0, x), context.blocks.run(0, x)]
        return tokens


@torch.no_grad()
def test_looking_ahead_runs_the_encoders_own_blocks(encoder: VisionEncoder, image: Tensor) -> None:
    seen: list = []
    output = encoder(image, LookAhead(seen), watch=Watch(cls_rows=(0,)))
    torch.testing.assert_close(seen[0], output.cls_rows[0])
    torch.testing.assert_close(seen[1], encoder.blocks[0](encoder.embed(image)))


class Adaptive(TokenReducer):
    """Masks half of the second image's patches from block 1 on."""

    def before_block(self, block: int, tokens: Tokens, context: ReductionContext) -> Tokens:
        if block != 1:
            return tokens
        mask = torch.ones(tokens.x.shape[:2], dtype=torch.bool)
        mask[1, ::2] = False
        return Tokens(tokens.x, tokens.grid, mask=mask, source=tokens.source)


class Dropping(TokenReducer):
    """Drops the same patches in truth."""

    def before_block(self, block: int, tokens: Tokens, context: ReductionContext) -> Tokens:
        return tokens.keep(torch.arange(1, 16, 2).expand(len(tokens.x), -1)) if block == 1 else tokens


@torch.no_grad()
def test_masked_places_are_as_if_they_were_not_there(encoder: VisionEncoder, image: Tensor) -> None:
    masked, dropped = encoder(image, Adaptive()), encoder(image, Dropping())
    assert masked.mask is not None
    torch.testing.assert_close(masked.embeds[1][masked.mask[1]], dropped.embeds[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(masked.embeds[0], encoder(image).embeds[0], atol=1e-5, rtol=1e-4)
    assert masked.blocks[-1].per_image.tolist() == [16 + 5, 8 + 5]


@torch.no_grad()
def test_prefix_tokens_are_not_handed_to_reducers(encoder: VisionEncoder, image: Tensor) -> None:
    output = encoder(image, Dropping())
    assert [(block.attention, block.mlp) for block in output.blocks] == [(21, 21), (13, 13)]
    assert output.embeds.shape[1] == encoder.num_prefix_tokens + 8


class Biased(TokenReducer):
    """Hides all patches from all queries."""

    def key_bias(self, block: int, tokens: Tokens, context: ReductionContext) -> Tensor:
        return tokens.x.new_full(tokens.x.shape[:2], float("-inf"))


@torch.no_grad()
def test_a_key_bias_reaches_the_softmax_and_spares_the_prefix(encoder: VisionEncoder, image: Tensor) -> None:
    row = encoder(image, Biased(), watch=Watch(cls_rows=(0,))).cls_rows[0]
    assert (row == 0).all()


class OwnAttention(TokenReducer):
    """Lets every token attend to itself only."""

    def attention(self, block: int, tokens: Tokens, context: ReductionContext):
        return lambda query, key, value: value


@torch.no_grad()
def test_a_reducer_may_replace_the_attention(encoder: VisionEncoder, image: Tensor) -> None:
    x = encoder.embed(image)
    for block in encoder.blocks:
        value = block.attn.qkv(block.norm1(x)).chunk(3, dim=-1)[2]
        x = x + block.ls1(block.attn.proj(value))
        x = x + block.ls2(block.mlp(block.norm2(x)))
    torch.testing.assert_close(encoder(image, OwnAttention()).embeds, encoder.norm(x), atol=1e-5, rtol=1e-5)


class NeedsText(TokenReducer):
    requires_text = True

    def before_block(self, block: int, tokens: Tokens, context: ReductionContext) -> Tokens:
        return tokens.keep(torch.zeros(len(tokens.x), 1, dtype=torch.long))


@torch.no_grad()
def test_without_a_text_a_text_guided_reducer_keeps_all_and_says_so_once(
    encoder: VisionEncoder, image: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    reducer = NeedsText()
    for _ in range(2):
        torch.testing.assert_close(encoder(image, reducer).embeds, encoder(image).embeds)
    assert caplog.text.count("all tokens are kept") == 1
    assert encoder(image, reducer, guide=Guide(text_of_cls(torch.zeros(2, encoder.width)))).tokens.num_tokens == 1


def test_without_a_text_a_strict_reducer_fails(encoder: VisionEncoder, image: Tensor) -> None:
    reducer = NeedsText()
    reducer.strict = True
    with pytest.raises(ElipError, match=r"NeedsText needs a text.*reducer\.strict=false"):
        encoder(image, reducer)


@pytest.mark.parametrize("progress", [0.0, 0.7999, 0.8, 1.0])
def test_from_the_end_of_its_reduction_on_all_tokens_are_kept(
    encoder: VisionEncoder, image: Tensor, progress: float, caplog: pytest.LogCaptureFixture
) -> None:
    reducer = NeedsText()
    reducer.until = 0.8
    over = progress >= 0.8
    guide = Guide(text_of_cls(torch.zeros(2, encoder.width)), progress)
    assert (encoder(image, reducer, guide).tokens.num_tokens == 1) != over
    reducer.strict = True
    if over:  # no text is needed any more, and that is nothing to tell
        torch.testing.assert_close(encoder(image, reducer, Guide(progress=progress)).embeds, encoder(image).embeds)
        assert not caplog.text
    else:
        with pytest.raises(ElipError, match="NeedsText needs a text"):
            encoder(image, reducer, Guide(progress=progress))


@pytest.mark.parametrize("other", [Execution("light"), Execution("full"), Execution("light", compiled=True)], ids=str)
def test_what_is_recomputed_or_compiled_gives_the_same_gradients(
    encoder: VisionEncoder, image: Tensor, other: Execution, counting_compiler: list[int]
) -> None:
    encoder.train()
    gradients = []
    for execution in (Execution(), other):
        encoder.execution = execution
        encoder.zero_grad()
        encoder(image, Dropping()).embeds.square().mean().backward()
        gradients.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
    assert len(gradients[0]) > 10
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed, atol=0, rtol=0)


def test_blocks_protocol_is_what_the_context_offers(encoder: VisionEncoder, image: Tensor) -> None:
    reducer = Recorder(encoder.info(), Needs.NOTHING)
    encoder(image, reducer)
    blocks: Blocks = reducer.last.blocks
    assert blocks.run(1, encoder.embed(image)).shape == (2, 21, encoder.width)
