"""Text that is UTF-8 or says what it is, and text that is refused."""

import pytest

from elip.data.encoding import decode_text
from elip.errors import DataError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_says_by_its_mark_what_it_is(encoding: str) -> None:
    assert decode_text("ein süßer Hund 犬".encode(encoding)) == "ein süßer Hund 犬"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("süß".encode("cp1252"), r"no UTF-8 text \(invalid start byte at byte 1\).*iconv"),
        ("süß".encode("utf-16-le"), r"no UTF-8 text"),
        ("dog".encode("utf-16-be"), r"no UTF-8 text \(it holds NUL bytes\); if it is UTF-16, convert it"),
        ("dog".encode("utf-16")[:-1], r"no UTF-16 text"),
    ],
)
def test_text_in_another_encoding_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        decode_text(content)
