"""Weights of one text encoder turned into those of another: for pairs of images, and for a decoder of answers.

Li et al., "Align before Fuse", NeurIPS 2021, section 5: what fine-tuning for NLVR2 and VQA makes of the pre-trained
fusion layers. Names are ours or a task's, with any prefix, so momentum copies are turned as well. Which layers are
fusion layers is seen from the weights: those with cross-attention.
"""

import re
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

State = Mapping[str, Tensor]

_LAYER = re.compile(r"(?P<encoder>(?:.+\.)?text_encoder\.)encoder\.layer\.(?P<number>\d+)\.(?P<rest>.+)")
_ENCODER = re.compile(r"(?P<place>(?:.+\.)?)albef\.text_encoder\.")
_CROSS, _KEY = "crossattention.self.", "crossattention.self.key.weight"


def double_fusion_layers(state: State) -> dict[str, Tensor]:
    """Return the weights with each fusion layer twice, as `elip.models.pair_text.PairTextEncoder` has them.

    Fusion layer l of an encoder whose first one is f becomes layers f + 2 (l - f) and the next. Encoders that are
    doubled already, those whose fusion layers share their keys by pairs, stay as they are.
    """
    first = {
        encoder: start for encoder, start in _first_fusion_layers(state).items() if not _is_doubled(state, encoder)
    }
    doubled = {}
    for name, tensor in state.items():
        found = _LAYER.fullmatch(name)
        if found is None or int(found["number"]) < first.get(found["encoder"], len(state)):
            doubled[name] = tensor
            continue
        start = first[found["encoder"]]
        left = start + 2 * (int(found["number"]) - start)
        for number in (left, left + 1):
            doubled[f"{found['encoder']}encoder.layer.{number}.{found['rest']}"] = tensor
    return doubled


def decoder_from_fusion(state: State) -> dict[str, Tensor]:
    """Return the weights with a decoder of answers, `tasks.vqa.decoder.AnswerDecoder`, made from the text encoder.

    The decoder takes the embeddings, the fusion layers, numbered from 0, and the vocabulary head of pre-training. Keys
    and values of images of another width than the text's are of no use to it. Where there is a decoder already, the
    weights stay as they are.
    """
    made = dict(state)
    for encoder, start in _first_fusion_layers(state).items():
        found = _ENCODER.fullmatch(encoder)
        if found is None or any(name.startswith(f"{found['place']}decoder.") for name in state):
            continue
        decoder, head = f"{found['place']}decoder.", f"{found['place']}mlm_head."
        embeddings = f"{encoder}embeddings."
        for name, tensor in state.items():
            if name.startswith(head):
                made[f"{decoder}mlm_head.{name.removeprefix(head)}"] = made.pop(name)
            elif name.startswith(embeddings):
                made[f"{decoder}embeddings.{name.removeprefix(embeddings)}"] = tensor
        made.update(_fusion_layers(state, encoder, start, decoder))
    return made


def _fusion_layers(state: State, encoder: str, start: int, decoder: str) -> dict[str, Tensor]:
    """Return the layers of a decoder that are the fusion layers of an encoder."""
    width = state[f"{encoder}encoder.layer.{start}.{_CROSS}query.weight"].shape[1]
    of_images = () if state[f"{encoder}encoder.layer.{start}.{_KEY}"].shape[1] == width else ("key.", "value.")
    layers = {}
    for name, tensor in state.items():
        found = _LAYER.fullmatch(name)
        if found is None or found["encoder"] != encoder or int(found["number"]) < start:
            continue
        if not found["rest"].startswith(tuple(_CROSS + part for part in of_images)):
            layers[f"{decoder}encoder.layer.{int(found['number']) - start}.{found['rest']}"] = tensor
    return layers


def _first_fusion_layers(state: State) -> dict[str, int]:
    """Return the first fusion layer of each text encoder, by the prefix of its names."""
    return {encoder: min(layers) for encoder, layers in _keys(state).items()}


def _is_doubled(state: State, encoder: str) -> bool:
    keys = [tensor for _, tensor in sorted(_keys(state)[encoder].items())]
    return len(keys) % 2 == 0 and all(torch.equal(*pair) for pair in zip(keys[::2], keys[1::2], strict=True))


def _keys(state: State) -> dict[str, dict[int, Tensor]]:
    """Return the key projections of each text encoder's fusion layers."""
    keys: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for name, tensor in state.items():
        found = _LAYER.fullmatch(name)
        if found is not None and found["rest"] == _KEY:
            keys[found["encoder"]][int(found["number"])] = tensor
    return keys
