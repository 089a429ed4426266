"""What a file is that is neither of the kinds asked for nor text, as its first bytes tell."""

_KINDS = {
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it first (zstd -d FILE)",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it first",
    b"Rar!": "a RAR archive; unpack it first",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word file; save it as CSV in UTF-8 and give that, and the way on is shown",
    b"\x89HDF\r\n": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"SQLite format 3\0": "an SQLite data base",
    b"MATLAB ": "a MATLAB file",
    b"%PDF": "a PDF",
    b"\xff\xd8\xff": "a picture (JPEG)",
    b"\x89PNG": "a picture (PNG)",
    b"GIF8": "a picture (GIF)",
    b"version https://git-lfs": "a Git LFS pointer, not the file that it stands for; fetch that (git lfs pull)",
    b"<!doctype": "a web page, as a failed download leaves behind",
    b"<html": "a web page, as a failed download leaves behind",
    b"<?xml": "XML, as a failed download leaves behind",
}
"""By first bytes, in whatever case."""
_SEEN = 1 << 10


def kind_by_first_bytes(head: bytes) -> str | None:
    """Return in words which kind of file begins so, with the way out if there is one; None for those not known."""
    start = head[:_SEEN].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((kind for magic, kind in _KINDS.items() if start.startswith(magic.lower())), None)
