"""Streaming pairs from tar shards."""

import io
import json
import logging
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from elip.data.datasets import Sample, collate_samples
from elip.data.images import ImageFolder
from elip.data.shards import ShardStream, are_shards, count_samples, find_shards, read_shard
from elip.data.transforms import EvalTransform, TrainTransform
from elip.errors import ConfigError, DataError
from elip.task.pairs import pair_sample, read_pair
from tests.data.conftest import WholePicture

Files = dict[str, bytes]
BATCH = 2
PAIRS = partial(pair_sample, read=read_pair, max_words=30)


def picture(number: int, file_format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(file, file_format)
    return file.getvalue()


def pair(number: int) -> Files:
    return {f"{number:04d}.png": picture(number), f"{number:04d}.txt": f"Caption {number}!".encode()}


@pytest.fixture
def write_shard(tmp_path: Path) -> Callable[..., Path]:
    def write(files: Files, name: str = "shard.tar") -> Path:
        path = tmp_path / name
        with tarfile.open(path, "w") as tar:
            for member, content in files.items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return path

    return write


@pytest.fixture
def shards(write_shard: Callable[..., Path]) -> list[Path]:
    """Eight shards of four pairs, captioned "caption 0" to "caption 31"."""
    return [
        write_shard({k: v for i in range(4) for k, v in pair(4 * shard + i).items()}, f"shard-{shard}.tar")
        for shard in range(8)
    ]


def stream_of(shards: Sequence[Path], **options: Any) -> ShardStream:
    defaults: dict[str, Any] = {"seed": 0, "batch_size": BATCH, "buffer_size": 3}
    return ShardStream(shards, PAIRS, ImageFolder(), TrainTransform(8), **{**defaults, **options})


def loader(stream: ShardStream, num_workers: int) -> DataLoader:
    return DataLoader(stream, batch_size=BATCH, num_workers=num_workers, collate_fn=collate_samples)


def captions(samples: Sequence[Sample]) -> list[str]:
    return [sample["caption"] for sample in samples]


def test_a_sample_holds_image_and_clean_caption(shards: list[Path]) -> None:
    samples = list(stream_of(shards))
    assert samples[0]["image"].shape == (3, 8, 8)
    assert sorted(captions(samples)) == sorted(f"caption {i}" for i in range(32))
    assert all(sample["skipped"] == [] for sample in samples)


def test_picture_and_caption_of_a_sample_belong_together(shards: list[Path]) -> None:
    for sample in ShardStream(shards, PAIRS, ImageFolder(), WholePicture(9), seed=0, batch_size=1):
        number = int(sample["caption"].split()[1])
        assert torch.equal(sample["image"], EvalTransform(9)(Image.open(io.BytesIO(picture(number)))))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranks_and_workers_share_all_samples_without_overlap(shards: list[Path], num_workers: int) -> None:
    seen: list[str] = []
    for rank in range(2):
        for batch in loader(stream_of(shards, rank=rank, world_size=2), num_workers):
            seen += batch["caption"]
    assert Counter(seen) == Counter(f"caption {i}" for i in range(32))


def test_ranks_give_equally_many_batches_even_if_shards_differ(
    shards: list[Path], write_shard: Callable[..., Path]
) -> None:
    small = write_shard(pair(99), "small.tar")
    streams = [stream_of([shards[0], small], rank=rank, world_size=2, samples_per_epoch=8) for rank in range(2)]
    assert [len(list(stream)) for stream in streams] == [4, 4] == [len(stream) for stream in streams]


def test_the_order_changes_with_epoch_and_seed_only(shards: list[Path]) -> None:
    stream, again, reseeded = stream_of(shards), stream_of(shards[::-1]), stream_of(shards, seed=1)
    first = captions(list(stream))
    assert captions(list(stream)) == captions(list(again)) == first
    stream.start(epoch=1)
    assert captions(list(stream)) != first
    assert captions(list(reseeded)) != first


def test_each_epoch_deals_the_shards_out_anew(shards: list[Path]) -> None:
    stream = stream_of(shards, world_size=2)
    shares = []
    for epoch in range(4):
        stream.start(epoch)
        shares.append(frozenset(captions(list(stream))))
    assert len(set(shares)) > 1


def test_the_buffer_mixes_samples_of_different_shards(shards: list[Path]) -> None:
    def shard_changes(buffer_size: int) -> int:
        numbers = [int(text.split()[1]) // 4 for text in captions(list(stream_of(shards, buffer_size=buffer_size)))]
        return sum(one != other for one, other in pairwise(numbers))

    assert shard_changes(1) == 7
    assert shard_changes(16) > 14


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("num_workers", [0, 2, 3])
@pytest.mark.parametrize("batches_done", [1, 4, 7])
def test_a_resumed_epoch_goes_on_with_exactly_the_next_batch(
    shards: list[Path], num_workers: int, batches_done: int
) -> None:
    whole, rest = stream_of(shards), stream_of(shards)
    whole.start(epoch=3)
    rest.start(epoch=3, consumed=batches_done * BATCH)
    expected, resumed = list(loader(whole, num_workers)), list(loader(rest, num_workers))
    assert len(resumed) == 16 - batches_done
    for one, other in zip(expected[batches_done:], resumed, strict=True):
        assert one["caption"] == other["caption"]
        assert torch.equal(one["image"], other["image"])


def test_each_sample_names_its_picture_by_shard_and_key(shards: list[Path]) -> None:
    stream = stream_of(shards)
    stream.make_sample = lambda item, _pictures, _rng: {"caption": item["image"]}
    assert {f"{shards[0]}/0000.png", f"{shards[7]}/0031.png"} < set(captions(list(stream)))
    assert len(set(captions(list(stream)))) == 32


def test_resuming_within_a_batch_is_refused(shards: list[Path]) -> None:
    with pytest.raises(ValueError, match="whole batches of 2 samples, got 3"):
        stream_of(shards).start(epoch=0, consumed=3)


@pytest.mark.parametrize(
    ("files", "caption"),
    [
        ({"a.jpg": picture(0, "JPEG"), "a.json": b'{"caption": "From JSON", "width": 9}'}, "from json"),
        ({"a.webp": picture(0, "WEBP"), "a.json": b'{"caption": ["From a list"]}'}, "from a list"),
        ({"a.JPEG": picture(0, "JPEG"), "a.txt": b"Text wins", "a.json": b'{"caption": "x"}'}, "text wins"),
        ({"d/a.seg.npy": b"?", "d/a.png": picture(0), "d/a.txt": b"In a folder"}, "in a folder"),
    ],
)
def test_captions_and_pictures_come_in_several_formats(
    write_shard: Callable[..., Path], files: Files, caption: str
) -> None:
    assert captions(list(stream_of([write_shard(files)], batch_size=1))) == [caption]


BROKEN = [
    ({"x.png": picture(0)[:150], "x.txt": b"a"}, r"shard\.tar sample 'x': file \.png: the image is cut short"),
    ({"x.png": b"<html>", "x.txt": b"a"}, r"shard\.tar sample 'x': file \.png: not an image"),
    ({"x.txt": b"a"}, r"shard\.tar sample 'x': no picture \(\.jpg, .*\) beside \.txt"),
    ({"x.png": picture(0)}, r"shard\.tar sample 'x': no caption \(\.txt, \.json\) beside \.png"),
    ({"x.png": picture(0), "x.txt": b"?!"}, r"shard\.tar sample 'x': field 'caption' is empty after cleaning"),
    ({"x.png": picture(0), "x.json": b'{"text": "a"}'}, r"sample 'x': file \.json: field 'caption' is missing"),
    ({"x.png": picture(0), "x.json": b'{"caption"'}, r"sample 'x': file \.json: malformed JSON"),
]


@pytest.mark.parametrize(("files", "message"), BROKEN)
def test_a_broken_sample_stops_training_naming_shard_and_sample(
    write_shard: Callable[..., Path], files: Files, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        list(stream_of([write_shard({**pair(0), **files, **pair(1)})], batch_size=1))


@pytest.mark.parametrize(("files", "message"), BROKEN)
def test_a_broken_sample_is_stood_in_for_and_reported_where_that_is_allowed(
    write_shard: Callable[..., Path], files: Files, message: str
) -> None:
    stream = stream_of([write_shard({**pair(0), **files, **pair(1)})], batch_size=1, skip_broken=True)
    samples = list(stream)
    assert len(samples) == 3
    skipped = [text for sample in samples for text in sample["skipped"]]
    with pytest.raises(DataError, match=message):
        raise DataError(skipped[0])
    assert set(captions(samples)) <= {"caption 0", "caption 1"}
    assert captions(list(stream)) == captions(samples)


def test_broken_samples_do_not_shift_a_resumed_epoch(shards: list[Path], write_shard: Callable[..., Path]) -> None:
    write_shard({**pair(0), "x.txt": b"a", **pair(1), "y.png": b"", **pair(2), **pair(3)}, shards[0].name)
    whole, rest = stream_of(shards, skip_broken=True), stream_of(shards, skip_broken=True)
    rest.start(epoch=0, consumed=8)
    assert captions(list(whole))[8:] == captions(list(rest))


@pytest.mark.parametrize("damage", ["content", "header", "garbage"])
def test_a_damaged_archive_gives_what_it_can_and_says_so(write_shard: Callable[..., Path], damage: str) -> None:
    path = write_shard({k: v for i in range(5) for k, v in pair(i).items()})
    with tarfile.open(path) as tar:
        third = tar.getmembers()[4]
    content = path.read_bytes()
    cut = {
        "content": content[: third.offset_data + 50],
        "header": content[: third.offset + 50],
        "garbage": content[: third.offset] + b"?" * 5000,
    }
    path.write_bytes(cut[damage])
    samples = list(read_shard(path))
    assert [sample.key for sample in samples if sample.damage is None] in (["0000"], ["0000", "0001"])
    assert samples[-1].damage is not None
    with pytest.raises(DataError, match=r"shard\.tar sample '000[12]': the archive is cut short or damaged here"):
        list(stream_of([path], batch_size=1))


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_text("<html>404</html>" * 100)
    with pytest.raises(DataError, match=r"x\.tar.*the archive is cut short or damaged here"):
        list(stream_of([tmp_path / "x.tar"], batch_size=1))


def test_fewer_shards_than_workers_are_refused(shards: list[Path]) -> None:
    with pytest.raises(DataError, match=r"3 shards for 4 ranks with 1 loader workers each: give at least one shard"):
        list(stream_of(shards[:3], rank=1, world_size=4))


def test_shards_without_samples_are_refused(write_shard: Callable[..., Path]) -> None:
    empty = write_shard({"readme.md": b"nothing"})
    with pytest.raises(DataError, match="0 samples in shards do not fill a batch of 2"):
        stream_of([empty])
    with pytest.raises(DataError, match=r"no samples in .*shard\.tar"):
        list(stream_of([empty], samples_per_epoch=10))


def test_an_epoch_can_be_shorter_or_longer_than_the_shards(shards: list[Path]) -> None:
    assert len(list(stream_of(shards, samples_per_epoch=11))) == 10
    longer = Counter(captions(list(stream_of(shards, samples_per_epoch=64))))
    assert len(longer) == 32
    assert sum(longer.values()) == 64


def test_counting_reads_a_shard_once(shards: list[Path]) -> None:
    assert count_samples(shards) == 32
    shards[0].unlink()
    with pytest.raises(DataError, match=r"shard-0\.tar: no such file"):
        count_samples(shards)
    assert count_samples(shards[1:]) == 28


def test_patterns_name_shards_in_order_and_once(shards: list[Path], tmp_path: Path) -> None:
    assert find_shards([f"{tmp_path}/shard-[0-3].tar", f"{tmp_path}/shard-*.tar"]) == shards
    assert find_shards([str(shards[2])]) == [shards[2]]
    assert find_shards([f"{tmp_path}/shard-{{2..5}}.tar"]) == shards[2:6]


def test_a_range_has_as_many_digits_as_its_first_number(tmp_path: Path) -> None:
    names = [f"{part}-{number:03d}.tar" for part in (8, 9, 10) for number in (9, 10)]
    for name in (*names, "8-9.tar"):
        (tmp_path / name).touch()
    assert {path.name for path in find_shards([f"{tmp_path}/{{8..10}}-{{009..010}}.tar"])} == set(names)


def test_every_shard_of_a_range_must_be_there(shards: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"shard-8\.tar: no such file"):
        find_shards([f"{tmp_path}/shard-{{0..8}}.tar"])
    with pytest.raises(DataError, match=r"the range \{3\.\.0\} runs backwards"):
        find_shards([f"{tmp_path}/shard-{{3..0}}.tar"])


def test_annotation_files_and_shards_do_not_mix() -> None:
    assert are_shards(["a.tar", "b-{0..9}.tar.gz"], "data.train")
    assert not are_shards(["a.json", "a.tar.jsonl"], "data.train")
    assert not are_shards([], "data.train")
    with pytest.raises(ConfigError, match=r"^data\.train: a\.tar is a tar shard, b\.json an annotation file"):
        are_shards(["b.json", "a.tar"], "data.train")


def test_a_pattern_that_names_nothing_is_refused(shards: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"shards-0\.tar: no such file in .*Did you mean 'shard-\d\.tar'"):
        find_shards([f"{tmp_path}/shards-0.tar"])
    with pytest.raises(DataError, match=r"none-\*\.tar: no such file"):
        find_shards([f"{tmp_path}/none-*.tar"])


def test_global_random_states_are_left_alone(shards: list[Path], random_states: Callable[[], bytes]) -> None:
    before = random_states()
    list(stream_of(shards))
    assert random_states() == before


def test_an_unrelated_json_field_may_be_anything(write_shard: Callable[..., Path]) -> None:
    files = {"a.png": picture(0), "a.json": json.dumps({"caption": "a", "exif": None}).encode()}
    assert captions(list(stream_of([write_shard(files)], batch_size=1))) == ["a"]


def test_what_is_passed_over_is_told_at_every_start_with_an_example(
    write_shard: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    shards = [write_shard({**pair(n), f"._{n}.png": b"?", f"{n}.npy": b"?"}, f"{n}.tar") for n in range(3)]
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="elip.data.shards"):
            assert count_samples(shards) == 3
        (message,) = caplog.messages
        first = shards[0]
        assert message == (
            f"shards: files that belong to no sample are passed over: 3 of macOS ({first}: ._0.png), 3 ending in .npy "
            f"({first}: 0.npy)"
        )


def test_a_shard_that_would_lose_samples_is_refused_before_training(write_shard: Callable[..., Path]) -> None:
    files = {**pair(0), **pair(1)}
    apart = write_shard(dict(sorted(files.items(), key=lambda file: file[0][-3:])))
    with pytest.raises(DataError, match=r"member '0000\.txt': other files of sample '0000' lie further ahead"):
        stream_of([apart], batch_size=1, skip_broken=True)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_captions_say_by_their_mark_how_they_are_written(write_shard: Callable[..., Path], encoding: str) -> None:
    files = {"a.png": picture(0), "a.txt": "Süß".encode(encoding)}
    files |= {"b.png": picture(1), "b.json": '{"caption": "Süß"}'.encode(encoding)}
    assert captions(list(stream_of([write_shard(files)], batch_size=1))) == ["süß", "süß"]


@pytest.mark.parametrize(("ending", "content"), [("txt", "Süß"), ("json", '{"caption": "Süß"}')])
def test_a_caption_that_is_no_text_is_refused_by_name(
    write_shard: Callable[..., Path], ending: str, content: str
) -> None:
    shard = write_shard({"a.png": picture(0), f"a.{ending}": content.encode("cp1252")})
    with pytest.raises(DataError, match=rf"shard\.tar sample 'a': file \.{ending}: no UTF-8 text .*iconv"):
        list(stream_of([shard], batch_size=1))


@pytest.mark.parametrize("damage", [b"", b"7", b'{"samples": '])
def test_a_damaged_count_is_made_once_more(shards: list[Path], cache: Path, damage: bytes) -> None:
    assert count_samples(shards) == 32
    for path in cache.iterdir():
        path.write_bytes(damage)
    assert count_samples(shards) == 32


def test_the_fingerprint_tells_shards_by_their_content(shards: list[Path], write_shard: Callable[..., Path]) -> None:
    before = stream_of(shards).fingerprint()
    assert [one["file"] for one in before] == [str(shard) for shard in shards]
    assert [one["count"] for one in before] == [4] * 8
    assert len({one["samples_sha256"] for one in before}) == 8
    assert stream_of(shards).fingerprint() == before
    write_shard({k: v for i in range(5) for k, v in pair(i).items()}, shards[3].name)
    after = stream_of(shards).fingerprint()
    assert [one == other for one, other in zip(before, after, strict=True)] == [True] * 3 + [False] + [True] * 4
    assert after[3]["count"] == 5


@pytest.mark.parametrize("changed", ["0004.png", "0004.txt"])
def test_an_edit_that_keeps_size_and_time_changes_the_fingerprint(
    shards: list[Path], write_shard: Callable[..., Path], changed: str
) -> None:
    before, status = stream_of(shards).fingerprint(), shards[1].stat()
    files = {k: v for i in range(4, 8) for k, v in pair(i).items()}
    files[changed] = bytes(reversed(files[changed])) if changed.endswith("txt") else picture(99)
    write_shard(files, shards[1].name)
    os.utime(shards[1], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert shards[1].stat().st_size == status.st_size
    after = stream_of(shards).fingerprint()
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False] + [True] * 6
    assert [one["count"] for one in after] == [4] * 8


def test_exchanged_shards_change_the_fingerprint(shards: list[Path], tmp_path: Path) -> None:
    before = stream_of(shards).fingerprint()
    for shard in shards:
        os.utime(shard, ns=(0, 0))
    swapped = stream_of(shards).fingerprint()
    assert swapped == before
    shards[0].rename(tmp_path / "other")
    shards[1].rename(shards[0])
    (tmp_path / "other").rename(shards[1])
    after = stream_of(shards).fingerprint()
    assert [one["samples_sha256"] for one in after[:2]] == [one["samples_sha256"] for one in (before[1], before[0])]


def test_a_shard_under_several_spellings_counts_once(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "linked.tar").symlink_to(shards[0])
    (tmp_path / "folder").symlink_to(tmp_path)
    spellings = ["shard-0.tar", "./shard-0.tar", str(shards[0]), "linked.tar", "folder/shard-0.tar", "*.tar"]
    found = find_shards(spellings)
    assert sorted(path.resolve() for path in found) == shards
    assert find_shards(spellings[::-1]) == found


def test_copies_of_a_shard_are_warned_of(shards: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert count_samples(shards) == 32
    assert not caplog.records
    (tmp_path / "z.tar").write_bytes(shards[2].read_bytes())
    assert count_samples([*shards, tmp_path / "z.tar"]) == 36
    assert f"{tmp_path / 'z.tar'} holds the same samples as {shards[2]}" in caplog.text


@pytest.mark.parametrize("allowed", [False, True])
def test_a_key_twice_in_a_caption_file_is_an_error(write_shard: Callable[..., Path], allowed: bool) -> None:
    files = {**pair(0), "a.png": picture(1), "a.json": b'{"caption": "a dog", "caption": "a cat"}'}
    stream = stream_of([write_shard(files)], skip_broken=allowed, batch_size=1)
    message = r"sample 'a': file \.json: the key 'caption' is there twice in one object"
    if allowed:
        samples = list(stream)
        assert {sample["caption"] for sample in samples} == {"caption 0"}
        assert any(re.search(message, text) for sample in samples for text in sample["skipped"])
        return
    with pytest.raises(DataError, match=message):
        list(stream)
