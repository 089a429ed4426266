"""Files for tests of a task's own data, as those of `elip.data` have them."""

from tests.data.conftest import image_root, write_json

__all__ = ["image_root", "write_json"]
