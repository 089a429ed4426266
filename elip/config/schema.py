"""What a run is made of: typed sections, checked when they are built.

A YAML file is one way to fill them (`elip.config.load_config`). Sizes are in pixels, tokens or samples, lengths of
training in optimiser steps unless a name says otherwise.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SerializeAsAny, field_validator, model_validator

from elip.config.options import BertOptions, Fits, VitOptions
from elip.execution import Precision, Recompute

Named = Annotated[str, Field(min_length=1)]
"""A name or path, which is not empty."""
Decay = Annotated[float, Field(ge=0, lt=1)]
"""Share of a running mean that one step keeps."""
Weight = Annotated[float, Field(ge=0)]
"""What a term counts in a sum; 0 leaves it out."""


class Section(BaseModel):
    """A part of the config: unknown keys are refused, values cannot change after the check."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
        ser_json_inf_nan="constants",
        use_attribute_docstrings=True,
    )


class VisionConfig(Section):
    """The image encoder: a timm Vision Transformer."""

    name: str = "vit_base_patch16_224"
    """Any name timm knows whose blocks are the standard pre-norm ones."""
    image_size: int = Field(256, gt=0, le=8192)
    """Side of the square input, pixels; position embeddings are resized to it."""
    weights: Named | None = None
    """`timm` for timm's pretrained weights, a checkpoint file, or null for random ones."""
    weights_allow: list[str] = []
    """Names, or beginnings of names, of tensors that may be left over, missing or of another shape."""
    options: Annotated[dict[str, Any], AfterValidator(Fits(VitOptions))] = {}
    """Passed to `timm.create_model`: patch_size, embed_dim, depth, num_heads, drop_path_rate, ..."""


class TextConfig(Section):
    """The text encoder: BERT whose upper layers attend to the image."""

    weights: Named | None = None
    """Name or folder that transformers takes pretrained BERT weights and their config from, or a checkpoint file that
    has a BERT in it; null for random ones."""
    weights_allow: list[str] = []
    """Names, or beginnings of names, of tensors that may be left over, missing or of another shape."""
    tokenizer: Named = "bert-base-uncased"
    """Name, folder or vocab.txt of a BERT WordPiece tokenizer."""
    fusion_layer: int = Field(6, ge=0)
    """Index of the first layer with cross-attention; the ones before it see text only."""
    options: Annotated[dict[str, Any], AfterValidator(Fits(BertOptions))] = {}
    """Fields of the BERT config that differ from bert-base-uncased: hidden_size, num_hidden_layers, ..."""


class ModelConfig(Section):
    """The encoders and what all objectives share."""

    vision: VisionConfig = VisionConfig()
    text: TextConfig = TextConfig()
    embed_dim: int = Field(256, gt=0, le=65536)
    """Width E of the joint image-text embedding."""
    init: Named | None = None
    """Weights to start from, of any task: a checkpoint or the folder of a run of ours, a published ALBEF or ELIP
    checkpoint, or safetensors; the same as `--init`."""
    init_allow: list[str] = []
    """Names, or beginnings of names, of weights there that may go unused though that is not expected, or be missing of
    an encoder."""


class ReducerConfig(BaseModel):
    """A token reducer by name; every other key is a parameter of that reducer."""

    model_config = ConfigDict(
        extra="allow", frozen=True, validate_default=True, ser_json_inf_nan="constants", use_attribute_docstrings=True
    )

    name: str = "none"
    strict: bool = False
    """Fail, instead of keeping all tokens, where the reducer needs a text and there is none."""
    until: float | None = Field(None, gt=0, lt=1)
    """Share of the training from which on all tokens are kept, in evaluations too, which tunes the model on whole
    images ("unmasked tuning", Li et al., CVPR 2023, section 3); null: the reducer acts to the end."""

    @property
    def params(self) -> dict[str, Any]:
        """The reducer's own parameters."""
        return dict(self.__pydantic_extra__ or {})

    @property
    def settings(self) -> dict[str, Any]:
        """All that makes its reduction another one than that of its name: parameters, and `until` if it is set."""
        return {**self.params, **({} if self.until is None else {"until": self.until})}


class TaskConfig(Section):
    """The task by name; its other keys are checked by the task's own `Config`, a subclass of this."""

    name: str
    loss_weights: dict[str, Weight] = {}
    """Weights of losses in what is minimised, by name as in the log without `loss_` (`itm: 0.5`); others weigh 1."""


class DataConfig(Section):
    """Where the pairs are, and how images and captions are prepared."""

    image_root: str = "."
    """Folder that relative image paths in the annotation files start from."""
    background: Literal["white", "albef"] = "white"
    """What shows through transparent images: white, or with `albef` the colours that their files hold underneath."""
    max_image_pixels: int = Field(100_000_000, gt=0)
    """An image that has more, by its header, is refused before it is decoded."""
    exif_orientation: bool | None = None
    """Turn images upright as their EXIF data say; null: yes, but not in grounding, whose boxes fit files as stored."""
    train: list[Named] = []
    """Annotation files, concatenated: JSON lists or JSON-lines; .tar files for shards."""
    val: list[Named] = []
    test: list[Named] = []
    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Area of the random training crop, as a share of the image."""
    flip: bool = True
    """Mirror half of the training images. Switch off where texts name left and right."""
    randaugment: bool = True
    fast_decode: bool = False
    """Decode training JPEGs no finer than their crops need: less time, with levels that differ by 1 to 2 of 255 in the
    mean. Crops are the same with and without; evaluation always decodes exactly."""
    normalization: Literal["clip", "encoder"] = "clip"
    """Mean and deviation that images are normalised by: CLIP's, as ALBEF does, or those that the image encoder's
    published weights were trained with."""
    max_words: int = Field(30, gt=0)
    """Words of a caption kept after cleaning."""
    max_broken_ratio: float = Field(0.0, ge=0, lt=1)
    """Share of unreadable training images to pass over before the run stops; 0 stops at the first."""
    num_workers: int = Field(4, ge=0, le=1024)
    """Loader processes per training process, at most: no more are started than it has CPUs for."""

    @field_validator("crop_scale")
    @classmethod
    def _crop_in_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        low, high = value
        if not 0 < low <= high <= 1:
            raise ValueError(f"expected two numbers with 0 < low <= high <= 1, got {[low, high]}")
        return value


class OptimConfig(Section):
    """AdamW and its learning-rate schedule."""

    lr: float = Field(1e-4, gt=0)
    min_lr: float = Field(1e-5, ge=0)
    warmup_lr: float = Field(1e-5, ge=0)
    weight_decay: float = Field(0.02, ge=0)
    """Not applied to biases and other 1-d parameters."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    schedule: Literal["epoch", "step"] = "epoch"
    """`epoch`: ALBEF's, warm-up in jumps during the first epoch, then a cosine over epochs. `step`: both per step."""
    warmup_steps: int = Field(1000, ge=0)
    warmup_interval: int = Field(100, gt=0)
    """Steps between two jumps of the warm-up, with `schedule: epoch`."""

    @model_validator(mode="after")
    def _falling(self) -> "OptimConfig":
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr ({self.min_lr}) is above lr ({self.lr}), but the learning rate falls to min_lr")
        return self


class TrainConfig(Section):
    """The training loop."""

    batch_size: int = Field(40, gt=0)
    """Samples per process and forward pass."""
    accumulate: int = Field(1, gt=0)
    """Forward passes per optimiser step."""
    epochs: int = Field(20, gt=0)
    max_steps: int | None = Field(None, gt=0)
    """Stop after this many optimiser steps, before `epochs` are over."""
    precision: Precision = "fp32"
    """Arithmetic of the forward pass; fp16 comes with a gradient scaler."""
    momentum_precision: Precision | None = None
    """Arithmetic of the momentum encoders' passes, of which nobody takes a gradient; null: as `precision`."""
    clip_grad_norm: float | None = Field(None, gt=0)
    recompute: Recompute = "none"
    """What the encoders, without VQA's decoder, do not keep for the backward pass: `none`; `light`, results of
    LayerNorm and GELU, a quarter of it at hardly any time; `full`, all but inputs of blocks, for a third more."""
    compile: bool = False
    """Compile the blocks of the encoders (torch.compile), or the whole step of a task that is made of other things."""
    device: str = "auto"
    """`auto`: the CUDA device of this process if there is one, else the CPU."""
    seed: int = Field(42, ge=0, le=2**62)
    log_every: int = Field(50, gt=0)
    """Steps between two log entries."""
    eval_every: int | None = Field(None, gt=0)
    """Steps between two evaluations; null: at the end of each epoch."""
    save_every: int | None = Field(None, gt=0)
    """Steps between two checkpoints; null: at the end of each epoch."""
    keep_last: int = Field(2, gt=0)
    """Checkpoints kept, besides the best one."""


class EvalConfig(Section):
    """The evaluation."""

    batch_size: int = Field(64, gt=0)
    reducer: ReducerConfig | None = None
    """Reducer for evaluation; null: the one of training."""
    sheets: int = Field(8, ge=0)
    """Examples on a sheet, with the patches that were kept; 0 draws none."""

    @field_validator("reducer")
    @classmethod
    def _acts(cls, value: ReducerConfig | None) -> ReducerConfig | None:
        if value is not None and value.until is not None:
            raise ValueError("until is for training, after which all tokens are kept: leave it out, or take name: none")
        return value


class RunConfig(Section):
    """Everything that defines a run."""

    task: SerializeAsAny[TaskConfig]
    model: ModelConfig = ModelConfig()
    reducer: ReducerConfig = ReducerConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    plugins: list[Named] = []
    """Modules or .py files that register reducers or tasks."""
    output_dir: Named = "runs/default"
