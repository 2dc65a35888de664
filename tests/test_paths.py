"""Names of images and files."""
import pytest

from core.errors import UserError
from core.paths import check_id, web_class


@pytest.mark.parametrize("name", ["1_a\nb", "1_a ", "1_\udcff", "1_a\\b", "1_a\u2028b", ""])
def test_names_that_no_list_can_hold_are_named(name):
    with pytest.raises(UserError, match="rename it, as no list can hold such a name"):
        check_id(name, name)


def test_names_too_long_for_a_file_are_named():
    check_id("\u00e4" * 125, "a.jpg")
    with pytest.raises(UserError, match="a.jpg: rename it or its folders: .* at most 255 bytes"):
        check_id("\u00e4" * 125 + "b", "a.jpg")


def test_a_web_image_has_its_class_in_its_name():
    assert web_class("7_000123", 8) == 7
    for name in ("8_000123", "0_1", "cat_1", "7", "0007_1"):
        with pytest.raises(UserError, match="its name must start with a class index 1..7"):
            web_class(name, 8)
