"""Pruning and clustering reducers beside the public implementations: tokens after each block, choices, logits."""

from pathlib import Path
from typing import Any

import pytest
import torch

from elip.reduction.reducer import TokenReducer
from elip.registry import REDUCERS
from reducers.dpcknn import DpcKnn, density_peaks
from tests.golden.vit import LOGITS, TOKENS, Reference, assert_same_pass, load_reference, places_kept, small_vit, stream

PRUNING = {"topk": "topk", "evit_fuse": "evit", "evit_nofuse": "evit", "dynamicvit_eval": "dynamicvit"}
"""Files and their reducers."""
SOFT = ("sinkhorn", "sit", "patchmerger")


def build(folder: Path, name: str, reference: Reference, **params: Any) -> TokenReducer:
    """Return a reducer at the file's places, with the file's weights, in evaluation mode."""
    info = small_vit(folder).info()
    settings = reference.settings
    if "keep_rate" in settings:
        rate, stages = settings["keep_rate"], len(settings["locations"])
        of_initial = [rate ** (stage + 1) for stage in range(stages)]
        params["keep_ratio"] = rate if name == "evit" else of_initial
    elif "clusters" in settings:
        params["keep_ratio"] = [count / info.num_patches for count in settings["clusters"]]
    else:
        params["keep_ratio"] = settings["ratios"]
    if "fuse_token" in settings:
        params["fuse"] = settings["fuse_token"]
    reducer = REDUCERS.build(name, info, begin=settings["locations"], **params)
    reducer.load_state_dict(reference.run("weights.").tensors)
    return reducer.eval()


@pytest.mark.parametrize("file", PRUNING)
def test_a_pruned_pass_agrees_and_keeps_the_same_places_in_the_same_order(golden_reducers: Path, file: str) -> None:
    reference, encoder = load_reference(golden_reducers / f"{file}.safetensors"), small_vit(golden_reducers)
    reducer = build(golden_reducers, PRUNING[file], reference)
    assert_same_pass(encoder, reducer, reference.tensors)
    kept = places_kept(encoder, reducer, reference.tensors["image"])
    expected = reference.run("kept.block").tensors
    assert kept == {int(block): places.tolist() for block, places in expected.items()}


@pytest.mark.parametrize("file", SOFT)
def test_soft_clusters_agree_stage_by_stage_and_in_the_whole_pass(golden_reducers: Path, file: str) -> None:
    reference, encoder = load_reference(golden_reducers / f"{file}.safetensors"), small_vit(golden_reducers)
    for run, options in reference.settings.get("runs", {"": []}).items():
        reducer = build(golden_reducers, file, reference, **dict(zip(["eps", "iterations"], options, strict=False)))
        expected = reference.run(f"{run}." if run else "")
        assert_same_pass(encoder, reducer, {**expected.tensors, "image": reference.tensors["image"]})
        stages = expected.run("module.block").tensors
        for layer, block in zip(reducer.cluster_layers, reference.settings["locations"], strict=True):
            torch.testing.assert_close(layer(stages[f"{block}.in"]), stages[f"{block}.out"], **TOKENS)


@pytest.mark.parametrize("run", ["scored.", "equal."])
def test_dpcknn_agrees(golden_reducers: Path, run: str) -> None:
    whole, encoder = load_reference(golden_reducers / "dpcknn.safetensors"), small_vit(golden_reducers)
    scored, neighbors = run == "scored.", whole.settings["k_neighbors"]
    weights = {name: tensor for name, tensor in whole.tensors.items() if scored and name.startswith("weights.")}
    reducer = build(golden_reducers, "dpcknn", Reference(weights, whole.settings), neighbors=neighbors, scored=scored)
    assert isinstance(reducer, DpcKnn)
    expected = whole.run(run)
    assert_same_pass(encoder, reducer, expected.tensors)
    stages = expected.run("module.block").tensors
    for stage, block in enumerate(whole.settings["locations"]):
        x, centres = stages[f"{block}.in"], stages[f"{block}.centers"]
        found, assignment = density_peaks(x, centres.shape[1], neighbors)
        assert torch.equal(found, centres)
        assert torch.equal(assignment, stages[f"{block}.assignment"])
        if scored:
            torch.testing.assert_close(reducer.weight(stage, x), stages[f"{block}.token_weight"].squeeze(-1))


@pytest.mark.parametrize(("run", "weights"), [("attn.", "attention"), ("equal.", "equal")])
def test_kmedoids_agrees(golden_reducers: Path, run: str, weights: str) -> None:
    reference, encoder = load_reference(golden_reducers / "kmedoids.safetensors"), small_vit(golden_reducers)
    settings = reference.settings
    reducer = build(
        golden_reducers,
        "kmedoids",
        reference,
        iterations=settings["iterations"],
        weights=weights,
        first_medoid=settings["first_medoid_per_stage"],
    )
    expected = reference.run(run)
    assert_same_pass(encoder, reducer, expected.tensors)
    medoids = {block: expected.tensors[f"module.block{block}.medoids"].tolist() for block in settings["locations"]}
    assert places_kept(encoder, reducer, expected.tensors["image"]) == medoids


def test_ats_agrees_wherever_there_are_tokens(golden_reducers: Path) -> None:
    reference, encoder = load_reference(golden_reducers / "ats.safetensors"), small_vit(golden_reducers)
    expected = reference.tensors
    reducer = build(golden_reducers, "ats", reference)
    output, left = stream(encoder, expected["image"], reducer)
    real = torch.ones(left[0].shape[:2], dtype=torch.bool)
    for block, x in enumerate(left):
        real = expected.get(f"mask.block{block}", real)
        torch.testing.assert_close(x[real], expected[f"tokens.block{block}"][real], **TOKENS)
    assert torch.equal(output.mask, real)
    torch.testing.assert_close(output.embeds[real], expected["norm"][real], **TOKENS)
    torch.testing.assert_close(encoder.classify(output.embeds), expected["logits"], **LOGITS)
    for block, images in places_kept(encoder, reducer, expected["image"]).items():
        ids, mask = expected[f"sampled_ids.block{block}"], expected[f"mask.block{block}"]
        assert images == [(row[there][1:] - 1).tolist() for row, there in zip(ids, mask, strict=True)]
