"""Pairs of picture and caption streamed from WebDataset tar shards, exactly resumable.

Written on `tarfile` instead of the webdataset package: that one has no way to continue in the middle of an epoch at
exactly the next sample, and reading tar files in their order is all else that is needed here.
"""

import glob
import io
import logging
import random
import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image
from pydantic import BaseModel
from torch.utils.data import IterableDataset, get_worker_info
from typing_extensions import TypedDict

from elip import distributed
from elip.data.cache import cached_file
from elip.data.datasets import (
    MAX_ATTEMPTS,
    MakeSample,
    PictureLoader,
    Sample,
    TextsOf,
    first_sound,
    no_texts,
    sample_rng,
)
from elip.data.encoding import decode_text
from elip.data.fields import FieldCheck, refuse_repeated_keys
from elip.data.images import ImageFolder, View
from elip.data.opening import file_status, missing_file
from elip.data.tar_samples import IMAGE_EXTENSIONS, TEXT_EXTENSIONS, PassedOver, RawSample, read_shard
from elip.data.tokenizer import PlacedText
from elip.data.transforms import TrainTransform
from elip.errors import ConfigError, DataError, located

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_TEXTS_SAMPLED = 500  # the pictures between them are read along
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")

logger = logging.getLogger(__name__)


class PairItem(TypedDict):
    """A picture with its caption, or several of which each visit takes one."""

    image: str
    caption: str | list[str]


class _CaptionFile(TypedDict):
    caption: str | list[str]


_CAPTION_FILE = FieldCheck(_CaptionFile)


def are_shards(paths: Sequence[str], key: str) -> bool:
    """Return whether what the config lists under `key` are tar files.

    Raises:
        ConfigError: some of them are, and others are not.
    """
    shards = [path for path in paths if path.endswith(SHARD_SUFFIXES)]
    others = [path for path in paths if path not in shards]
    if shards and others:
        raise ConfigError(
            f"{key}: {shards[0]} is a tar shard, {others[0]} an annotation file. Give files of one kind, or run "
            "with one kind after the other."
        )
    return bool(shards)


def refuse_shards(paths: Sequence[str], key: str) -> None:
    """Raise an error if the config lists tar files under `key`, where only annotation files will do.

    Raises:
        ConfigError: it does.
    """
    if are_shards(paths, key):
        raise ConfigError(
            f"{key}: {paths[0]} is a tar shard. Shards hold pairs of picture and caption, which is not what this task "
            "takes here: give annotation files."
        )


def find_shards(patterns: Sequence[str]) -> list[Path]:
    """Return the tar files that paths and patterns name, sorted, each once however often and variously it is named.

    Args:
        patterns: paths, with `{000..127}` for numbers of as many digits as the first one has, and * ? [] as in a shell.

    Raises:
        DataError: a path or pattern names no file.
    """
    named: set[Path] = set()
    for pattern in chain.from_iterable(map(_numbered, patterns)):
        found = glob.glob(pattern)
        if not found:
            raise DataError(f"{pattern}: {missing_file(Path(pattern))}")
        named.update(map(Path, found))
    shards: dict[Path, Path] = {}
    for path in sorted(named):
        shards.setdefault(path.resolve(), path)
    return list(shards.values())


def _numbered(pattern: str) -> list[str]:
    """Return the patterns that one with ranges `{first..last}` stands for."""
    found = _RANGE.search(pattern)
    if found is None:
        return [pattern]
    first, last = found.groups()
    if int(first) > int(last):
        raise DataError(f"{pattern}: the range {found[0]} runs backwards")
    before, after = pattern[: found.start()], _numbered(pattern[found.end() :])
    return [f"{before}{n:0{len(first)}d}{rest}" for n in range(int(first), int(last) + 1) for rest in after]


class ShardContents(BaseModel):
    """What is known of a shard that was read once.

    Args:
        samples: how many there are.
        sha256: of the names and files of all samples, in their order.
        passed_over: members that belong to none, by the reason.
        examples: the first of them.
    """

    samples: int
    sha256: str
    passed_over: dict[str, int]
    examples: dict[str, str]


def count_samples(shards: Sequence[Path]) -> int:
    """Return the number of samples in all shards; each shard is read for it only once (see `elip.data.cache`).

    What was passed over is logged, and shards that hold the same.

    Raises:
        DataError: a shard is missing, or made in a way that loses samples; see `read_shard`.
    """
    contents, passed_over = [contents_of(shard) for shard in shards], PassedOver()
    for one in contents:
        for reason, number in one.passed_over.items():
            passed_over.add(reason, one.examples[reason], number)
    _warn_of_copies(shards, contents)
    if passed_over.counts:
        logger.warning("shards: files that belong to no sample are passed over: %s", passed_over)
    return sum(one.samples for one in contents)


def contents_of(shard: Path) -> ShardContents:
    """Return what is in a shard."""

    def make(file: BinaryIO) -> None:
        passed_over, digest, samples = PassedOver(), sha256(), 0
        for raw in read_shard(shard, passed_over):
            samples += 1
            _add_sample(digest, raw)
        contents = ShardContents(
            samples=samples,
            sha256=digest.hexdigest(),
            passed_over=passed_over.counts,
            examples=passed_over.examples,
        )
        file.write(contents.model_dump_json().encode())

    def read(path: Path) -> ShardContents:
        return ShardContents.model_validate_json(path.read_bytes())

    return read(cached_file(shard, ".contents", make, read))


def _add_sample(digest: Any, raw: RawSample) -> None:
    for extension, content in raw.files.items():
        name = f"{raw.key}.{extension}".encode(errors="surrogateescape")
        digest.update(b"%d %d " % (len(name), len(content)))  # so that nothing can move over from one to the next
        digest.update(name)
        digest.update(content)


def _warn_of_copies(shards: Sequence[Path], contents: Sequence[ShardContents]) -> None:
    first: dict[str, Path] = {}
    for shard, one in zip(shards, contents, strict=True):
        other = first.setdefault(one.sha256, shard)
        if other != shard and one.samples:
            logger.warning("shards: %s holds the same samples as %s, each of which counts twice", shard, other)


class ShardStream(IterableDataset[Sample]):
    """A training set over tar shards, each of whose samples is a pair: a picture and its caption, or several.

    The item that a sample is made of names the picture by shard and key, which no other sample shares. Beside what
    `make_sample` says a sample holds `skipped`.

    For a `DataLoader` with this `batch_size`, any number of workers, and `persistent_workers=False`; call `start`
    before each epoch. The shards, in a new order each epoch, are dealt out to ranks and workers, of which each reads
    its own from start to end through a shuffle buffer. All ranks give the same number of batches: a worker whose
    shards hold fewer samples than the others' starts on a second round. A sample that cannot be used is stood in for by
    one of the buffer.

    Args:
        shards: tar files, at least one for each worker of each rank.
        make_sample: from a pair to its sample.
        images: how the pictures' files are read.
        transform: from a picture to the encoder's input.
        seed: of all random choices.
        batch_size: samples a batch of one rank.
        rank, world_size: which share of the shards is read here; None for this process's.
        texts: from a pair to its texts, for `sample_texts`.
        buffer_size: samples held, undecoded, by each worker to draw the next from.
        samples_per_epoch: of all ranks together; None counts them, which reads every shard once.
        skip_broken: put another sample in the place of a broken one, rather than stop.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        make_sample: MakeSample[PairItem],
        images: ImageFolder,
        transform: TrainTransform,
        seed: int,
        batch_size: int,
        *,
        rank: int | None = None,
        world_size: int | None = None,
        texts: TextsOf[PairItem] = no_texts,
        buffer_size: int = 1000,
        samples_per_epoch: int | None = None,
        skip_broken: bool = False,
    ) -> None:
        self.shards = sorted(shards)
        self.make_sample = make_sample
        self.images = images
        self.transform = transform
        self.seed = seed
        self.batch_size = batch_size
        self.rank = distributed.rank() if rank is None else rank
        self.world_size = distributed.world_size() if world_size is None else world_size
        self.texts = texts
        self.buffer_size = buffer_size
        self.skip_broken = skip_broken
        total = count_samples(self.shards) if samples_per_epoch is None else samples_per_epoch
        self.num_batches = total // (self.world_size * batch_size)
        if self.num_batches == 0:
            raise DataError(
                f"{total} samples in shards do not fill a batch of {batch_size} on each of {self.world_size} ranks"
            )
        self.start(epoch=0)

    def __len__(self) -> int:
        return self.num_batches * self.batch_size

    def fingerprint(self) -> list[dict[str, Any]]:
        """Return what tells the content of the shards, in their order: file, and count of samples.

        With `sha256` of name (which random choices depend on), size and count, and `samples_sha256` of the samples.
        """
        return [_fingerprint(shard) for shard in self.shards]

    def start(self, epoch: int, consumed: int = 0) -> None:
        """Set where the next iteration begins.

        Args:
            epoch: counted from 0.
            consumed: samples of the epoch this rank has taken before, in whole batches. The iteration goes on with
                exactly the next one if the number of workers is the same.
        """
        if consumed % self.batch_size:
            raise ValueError(f"consumed must be whole batches of {self.batch_size} samples, got {consumed}")
        self._epoch = epoch
        self._batches_done = consumed // self.batch_size

    def __iter__(self) -> Iterator[Sample]:
        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        # The loader takes a batch from each worker in turn, from worker 0 on, also when it resumes: turns rotate.
        turn = (worker + self._batches_done) % num_workers
        done = len(range(turn, self._batches_done, num_workers)) * self.batch_size
        due = len(range(turn, self.num_batches, num_workers)) * self.batch_size
        lane = self.rank * num_workers + turn
        shuffle = _ShuffleBuffer(self.buffer_size, sample_rng(self.seed, "shuffle", self._epoch, lane))
        rounds = self._rounds(lane, self.world_size * num_workers)
        draws = chain.from_iterable(map(shuffle.draw, rounds))
        for position, raw in enumerate(islice(draws, done, due), start=done):
            yield self._sound_sample(raw, shuffle, (lane, position))

    def sample_texts(self, items: int) -> Iterator[PlacedText]:
        """Yield the texts of so many samples, the first ones; broken samples are passed over."""
        for raw in islice(chain.from_iterable(map(read_shard, self.shards)), min(items, _TEXTS_SAMPLED)):
            with suppress(DataError):
                yield from (PlacedText(raw.where, text) for text in self.texts(_item(raw)))

    def _rounds(self, lane: int, num_lanes: int) -> Iterator[Iterator[RawSample]]:
        """Yield without end the samples of a lane's shards; each round deals out all shards anew."""
        if len(self.shards) < num_lanes:
            raise DataError(
                f"{len(self.shards)} shards for {self.world_size} ranks with {num_lanes // self.world_size} loader "
                "workers each: give at least one shard per worker, or set data.num_workers lower"
            )
        for number in count():
            order = list(self.shards)
            sample_rng(self.seed, "shards", self._epoch, number).shuffle(order)
            yield _read_shards(order[lane::num_lanes])

    def _sound_sample(self, raw: RawSample, shuffle: "_ShuffleBuffer", visit: tuple[int, int]) -> Sample:
        def attempt(number: int) -> Sample:
            rng = sample_rng(self.seed, "stand-in", self._epoch, *visit, number)
            return self._make_sample(rng.choice(shuffle.stand_ins()) if number else raw)

        return first_sound(attempt, self.skip_broken)

    def _make_sample(self, raw: RawSample) -> Sample:
        # Named by the sample, not by who reads it: its crop and caption do not depend on the number of readers.
        rng = sample_rng(self.seed, self._epoch, raw.shard.name, raw.key)
        with located(raw.where):
            pictures = PictureLoader.augmenting(partial(_open, raw, self.images), self.transform, rng)
            return self.make_sample(_item(raw), pictures, rng)


def _read_shards(shards: Sequence[Path]) -> Iterator[RawSample]:
    raw = None
    for raw in chain.from_iterable(map(read_shard, shards)):
        yield raw
    if raw is None:
        raise DataError(f"no samples in {', '.join(map(str, shards))}")


def _fingerprint(shard: Path) -> dict[str, Any]:
    contents = contents_of(shard)
    told = f"{shard.name} {file_status(shard).st_size} {contents.samples}"  # all that earlier versions kept
    digest = sha256(told.encode(errors="surrogateescape")).hexdigest()
    return {"file": str(shard), "count": contents.samples, "sha256": digest, "samples_sha256": contents.sha256}


class _ShuffleBuffer:
    """Draws samples from a window that moves over a stream.

    Args:
        size: samples in the window.
        rng: decides which is drawn.
    """

    def __init__(self, size: int, rng: random.Random) -> None:
        self.size = size
        self.rng = rng
        self.window: list[RawSample] = []
        self.recent: deque[RawSample] = deque(maxlen=MAX_ATTEMPTS)

    def draw(self, source: Iterator[RawSample]) -> Iterator[RawSample]:
        """Yield each sample of `source` once."""
        self.window = list(islice(source, self.size))
        while self.window:
            place = self.rng.randrange(len(self.window))
            drawn, self.window[place] = self.window[place], self.window[-1]  # taken out without moving the others
            self.window.pop()
            self.window.extend(islice(source, 1))
            yield drawn
            self.recent.append(drawn)

    def stand_ins(self) -> list[RawSample]:
        """Return samples near the one drawn last, which it may be replaced by."""
        return [*self.window, *self.recent]


def _item(raw: RawSample) -> PairItem:
    """Return what a sample says; its picture is named as a file in its shard, which no other sample shares."""
    return {"image": f"{raw.shard}/{raw.key}.{_picture(raw)}", "caption": _caption(raw)}


def _open(raw: RawSample, images: ImageFolder, _name: str, _field: str, view: View | None = None) -> Image.Image:
    extension = _picture(raw)
    with located(f"file .{extension}"):
        return images.decode(io.BytesIO(raw.files[extension]), view)


def _picture(raw: RawSample) -> str:
    """Return the ending of a sample's picture."""
    if raw.damage:
        raise DataError(raw.damage)
    for extension in IMAGE_EXTENSIONS:
        if extension in raw.files:
            return extension
    raise DataError(f"no picture (.{', .'.join(IMAGE_EXTENSIONS)}) beside .{', .'.join(raw.files)}")


def _caption(raw: RawSample) -> str | list[str]:
    if "txt" in raw.files:
        with located("file .txt"):
            return decode_text(raw.files["txt"])
    if "json" in raw.files:
        with located("file .json"):
            text = decode_text(raw.files["json"])
            caption = _CAPTION_FILE.parse(text)["caption"]
            refuse_repeated_keys(text)
            return caption
    raise DataError(f"no caption (.{', .'.join(TEXT_EXTENSIONS)}) beside .{', .'.join(raw.files)}")
