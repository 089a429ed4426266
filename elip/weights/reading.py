"""Reading a file of tensors: nothing in it is run, and nothing damaged is believed."""

import hashlib
import json
import logging
import os
import re
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from elip.data.first_bytes import kind_by_first_bytes
from elip.errors import CheckpointError, shorten

SAFETENSORS = ".safetensors"
CHECKSUM = "sha256"
"""Entry of the metadata of a safetensors file of ours: the checksum of all else, as `checksum` gives it."""

_ZIP = b"PK\x03\x04"
_FOLDER = 0x10  # mark of a folder, of which torch's reader gives no bytes, whatever its size
_URL = re.compile(r"(https?|s3|gs|hf):/+")  # a path has one slash where the address had two
_PICKLE = b"\x80"
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}
_HEAD_BYTES = 1 << 12
_CHUNK = 1 << 20
_LISTED = 4
_QUANTISED = (torch.int8, *(getattr(torch, name) for name in dir(torch) if name.startswith("float8_")))

logger = logging.getLogger(__name__)


class DamagedError(CheckpointError):
    """A file is not as it was written."""


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what a file of weights holds, on the CPU, and the metadata of a safetensors file.

    Raises:
        CheckpointError: it cannot be read, is damaged, or holds no dict made of tensors and plain values.
    """
    return read_safetensors(path) if path.suffix == SAFETENSORS else (read_pickled(path), {})


def read_pickled(path: Path) -> dict[str, Any]:
    """Return what a file of `torch.save` holds, on the CPU: a dict made of tensors and plain values only.

    The checksums of its archive are compared first, which torch itself does not do. A warning is logged for a file that
    has none, as those from before torch 1.6.

    Raises:
        CheckpointError: as for `read_tensors`.
    """
    require_regular(path)
    try:
        head = _head(path)
        _refuse_foreign(path, head)
        has_checksums = check_archive(path)
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}.") from error
    except CheckpointError:
        raise
    except Exception as error:  # nothing of the file was run: whatever it is, the file cannot be read
        if not head.startswith((_ZIP, _PICKLE)) and head.isascii() and head.strip(b"\0"):
            raise DamagedError(
                f"{path} is cut short or damaged, or no file of weights but text: it begins {shorten(_line(head), 40)}."
            ) from error
        if isinstance(error, UnpicklingError) and "Unsupported" in str(error):
            raise CheckpointError(
                f"{path} holds Python objects beside tensors and plain values, and reading those could run any code. "
                "Where you trust the file, keep its weights only: "
                "torch.save({'model': torch.load(FILE, weights_only=False)['model']}, NEW_FILE)"
            ) from error
        raise DamagedError(f"{path} is cut short or damaged: it cannot be read.") from error
    if not isinstance(contents, dict):
        raise CheckpointError(f"{path} holds no dict of weights, but a {type(contents).__name__}.")
    if not has_checksums:
        logger.warning("%s was saved without checksums: damage to it would not be noticed", path)
    return contents


def read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the tensors in a safetensors file, on the CPU, and its metadata; a checksum there is compared.

    Raises:
        CheckpointError: as for `read_tensors`.
    """
    require_regular(path)
    try:
        _refuse_foreign(path, _head(path), as_safetensors=True)
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error
    told = metadata.pop(CHECKSUM, None)
    if told is not None and told != checksum(tensors, metadata):
        raise DamagedError(f"{path} is damaged: its tensors or metadata are not those of its checksum.")
    return tensors, metadata


def refuse_url(path: Path) -> None:
    """Raise an error for what is an address on the web, and no path of a file.

    Raises:
        CheckpointError: the message says what to do.
    """
    if (address := _URL.match(str(path))) is not None:
        raise CheckpointError(
            f"{address[1]}://{str(path)[address.end() :]} is an address on the web: download it, and name the file."
        )


def require_regular(path: Path) -> None:
    """Raise an error unless a regular file that can be read lies at `path`; opening a pipe would wait for ever.

    Raises:
        CheckpointError: the message says what is there.
    """
    refuse_url(path)
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise CheckpointError(f"there is no file {path}.") from None
    except (OSError, ValueError) as error:  # the latter for a NUL byte
        raise CheckpointError(f"cannot read {str(path)!r}: {getattr(error, 'strerror', None) or error}.") from error
    if stat.S_ISDIR(mode):
        raise CheckpointError(f"{path} is a folder. Name the file of weights in it.")
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{path} is no file of weights, but a {_kind(mode)}.")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)


def _line(head: bytes) -> str:
    return head.strip().split(b"\n")[0].decode(errors="replace").strip()


def _refuse_foreign(path: Path, head: bytes, as_safetensors: bool = False) -> None:
    """Raise an error for a file whose first bytes say that it is something else.

    Raises:
        CheckpointError: the message says what it is.
    """
    kind = _foreign_kind(head, as_safetensors)
    if kind is not None:
        raise CheckpointError(f"{path} is no file of weights: this is {kind}.")


def _foreign_kind(head: bytes, as_safetensors: bool) -> str | None:
    if (kind := kind_by_first_bytes(head)) is not None:
        return kind
    for magic, name in _PACKED.items():
        if head.startswith(magic):
            return f"compressed with {name}; unpack it first"
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it, and name the file of weights in it"
    if head.lstrip()[:1] in (b"{", b"["):
        return f"JSON or other text, which begins {shorten(_line(head), 40)}"
    if as_safetensors and head.startswith((_ZIP, _PICKLE + b"\x02")):
        return f"written by torch.save; let its name end in .pt instead of {SAFETENSORS}"
    if not as_safetensors and head[8:10] == b'{"' and head[4:8] == bytes(4):
        return f"in the form of safetensors; let its name end in {SAFETENSORS}"
    return None


def require_plain(tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise an error if tensors are of a kind that no model here computes with, though their shapes may fit.

    Raises:
        CheckpointError: some are quantised, complex, sparse, or without values; the message names them.
    """
    odd = {name: kind for name, tensor in tensors.items() if (kind := _odd_kind(tensor)) is not None}
    if odd:
        named = ", ".join(f"{name} ({kind})" for name, kind in list(odd.items())[:_LISTED])
        more = f" and {len(odd) - _LISTED} more tensors" if len(odd) > _LISTED else ""
        raise CheckpointError(
            f"{source}: no weights in full precision: {named}{more}. Quantised, complex and sparse tensors, and those "
            "without values, are not taken: give the floating-point weights that they were made from."
        )


def _odd_kind(tensor: Tensor) -> str | None:
    if tensor.is_meta:
        return "without values, on the meta device"
    if tensor.layout != torch.strided:
        return "sparse"
    if tensor.is_complex():
        return "complex"
    if tensor.is_quantized or tensor.dtype in _QUANTISED:
        return f"quantised, {str(tensor.dtype).removeprefix('torch.')}"
    return None


def check_archive(path: Path) -> bool:
    """Compare the content of a zip archive with its checksums, in pieces, and return whether it has any.

    A file that is no archive has none.

    Raises:
        DamagedError: they differ, or the archive is not in one piece.
    """
    with path.open("rb") as file:
        if file.read(len(_ZIP)) != _ZIP and not zipfile.is_zipfile(file):
            return False
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if not any(member.CRC for member in members) and any(member.file_size for member in members):
                return False
            if len({member.filename for member in members}) < len(members):
                raise zipfile.BadZipFile("a member twice")
            for member in members:
                if member.external_attr & _FOLDER:
                    raise zipfile.BadZipFile(f"{member.filename} passes for a folder")
                with archive.open(member) as content:
                    while content.read(_CHUNK):
                        pass
    except Exception as error:  # damaged sizes, places, names and flags make zipfile raise anything
        if isinstance(error, PermissionError):
            raise
        reason = str(error) or type(error).__name__
        raise DamagedError(f"{path} is cut short or damaged: its archive does not hold together ({reason}).") from error
    return True


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of tensors, with their names, types and shapes, and of metadata, in hexadecimal digits."""
    total = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}
    return kinds.get(stat.S_IFMT(mode), "special file")
