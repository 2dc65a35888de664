"""Decisions on web images: stored whole, carried out whole, and never passed from one image to another."""
import os
import threading

import numpy as np
import pytest
from conftest import largest_file

from core.config import Config
from core.errors import UserError
from core.io.files import read_lines, write_lines
from core.io.images import read_image, read_mask, write_image, write_mask
from core.paths import image_path, mask_path
from core.web.corrections import (
    Decision,
    add_decision,
    apply_moves,
    corrected_names,
    naming,
    read_decisions,
    reviewed_list,
)

HEADER = "name,decision,new_name"


@pytest.fixture
def layout(tmp_path, monkeypatch):
    """Three images of class 1 and two of class 2 with their masks, below the root "." that users have."""
    monkeypatch.chdir(tmp_path)
    layout = Config().layout
    for number, name in enumerate(("1_000001", "1_000002", "1_000003", "2_000001", "2_000002")):
        write_image(image_path(layout.web_images, name), np.full((24, 32, 3), 40 * number, np.uint8))
        write_mask(mask_path(layout.web_masks, name), np.full((24, 32), int(name[0]), np.uint8))
    return layout


def move(layout, name, class_index):
    """Decide on a move and carry it out, as create_web_masks.py does; returns the new name."""
    new_name = add_decision(layout, name, "move", class_index).new_name
    assert [made.new_name for made in apply_moves(layout, read_decisions(layout, 3))] == [new_name]
    write_mask(mask_path(layout.web_masks, new_name), np.full((24, 32), class_index, np.uint8))
    return new_name


def test_the_last_decision_counts_and_automatic_takes_it_back(layout):
    for name, decision in (("1_000001", "reject"), ("2_000001", "keep"), ("1_000001", "keep"),
                           ("2_000001", "automatic")):
        add_decision(layout, name, decision)
    assert read_decisions(layout, 3) == {"1_000001": Decision("1_000001", "keep", "")}


def test_an_image_moved_to_a_class_whose_last_image_left_it_stays_there(layout):
    assert [move(layout, "1_000003", 2), move(layout, "2_000001", 1)] == ["2_000003", "1_000004"]
    assert apply_moves(layout, read_decisions(layout, 3)) == [], "the earlier decision on 1_000003 applies to it"
    names = sorted(name[:-4] for name in os.listdir(layout.web_images))
    assert names == ["1_000001", "1_000002", "1_000004", "2_000002", "2_000003"]
    assert reviewed_list(layout, names, read_decisions(layout, 3)) == names


@pytest.mark.parametrize("record", [
    lambda layout: add_decision(layout, "2_000009", "reject"),
    lambda layout: [add_decision(layout, "2_000009", decision) for decision in ("reject", "automatic")],
    lambda layout: write_mask(mask_path(layout.web_corrected, "2_000009"), np.full((24, 32), 2, np.uint8)),
    lambda layout: write_mask(mask_path(layout.web_masks, "2_000009"), np.full((24, 32), 2, np.uint8)),
    lambda layout: write_mask(mask_path(layout.web_estimated, "2_000009"), np.full((24, 32), 2, np.uint8)),
    lambda layout: write_lines(layout.web_list, ["1_000001", "2_000009", "2_000001"]),
    lambda layout: write_lines(layout.web_report, ["name,class,kept", "2_000009,spoon,1"]),
    lambda layout: write_lines(layout.web_report, ["name;class;kept\r2_000009;spoon;1\r"]),  # of a spreadsheet
    lambda layout: write_lines(layout.web_record, ['{"items": {"2_000009": "5e"}}', '["2_000001", 1]']),
    lambda layout: write_lines(layout.web_estimated + ".json", ['{"items": {"2_000009": {"labels": [2]}}}']),
    lambda layout: write_lines(layout.web_manifest, ['{"url": "http://a/2_000099", "name": "2_000009"}'])])
def test_a_name_that_any_record_holds_is_given_to_no_other_image(layout, record):
    record(layout)
    assert move(layout, "1_000001", 2) == "2_000010"


def test_no_image_moves_while_others_are_fetched(layout):
    with naming(layout):
        with pytest.raises(UserError, match="fetching or moving images of .*web_images is under way"):
            add_decision(layout, "1_000001", "move", 2)
        add_decision(layout, "1_000002", "reject")
    assert read_lines(layout.web_decisions) == [HEADER, "1_000002,reject,"]


@pytest.mark.parametrize("step", range(5))
def test_a_move_that_was_killed_is_finished_by_the_next_run(layout, monkeypatch, step):
    write_mask(mask_path(layout.web_corrected, "1_000002"), np.eye(24, 32, dtype=np.uint8))
    add_decision(layout, "1_000002", "move", 2)
    image = read_image(image_path(layout.web_images, "1_000002"))
    steps = []

    def killed(function):
        def called(*args):
            steps.append(function)
            if len(steps) == step + 1:
                raise KeyboardInterrupt
            function(*args)
        return called
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        for name in ("replace", "rename", "remove"):
            patch.setattr(os, name, killed(getattr(os, name)))
        apply_moves(layout, read_decisions(layout, 3))
        raise AssertionError("the move has fewer steps")
    apply_moves(layout, read_decisions(layout, 3))
    np.testing.assert_array_equal(read_image(image_path(layout.web_images, "2_000003")), image)
    assert not os.path.exists(image_path(layout.web_images, "1_000002"))
    assert not os.path.exists(mask_path(layout.web_masks, "1_000002")) and corrected_names(layout) == ["2_000003"]
    np.testing.assert_array_equal(read_mask(layout.web_mask("2_000003"), 3), 2 * np.eye(24, 32, dtype=np.uint8))


def test_a_move_to_a_name_that_another_image_has_since_is_reported(layout, caplog):
    add_decision(layout, "1_000001", "move", 2)
    write_image(image_path(layout.web_images, "2_000003"), np.zeros((24, 32, 3), np.uint8))
    assert apply_moves(layout, read_decisions(layout, 3)) == []
    assert "1_000001.jpg can't be moved to" in caplog.text and "decide on it again" in caplog.text
    assert move(layout, "1_000001", 2) == "2_000004"


@pytest.mark.parametrize("text", ["", HEADER, HEADER + "\r1_000001,reject,\r",
                                  "\ufeffname;decision;new_name\r\n1_000001;reject;\r\n1_000003;move;2_000004"])
def test_a_file_of_an_editor_or_a_spreadsheet_is_read_and_added_to(layout, text):
    with open(layout.web_decisions, "w", newline="", encoding="utf-8") as file:
        file.write(text)
    earlier = read_decisions(layout, 3)
    assert set(earlier) == {name for name in ("1_000001", "1_000003") if name in text}
    added = add_decision(layout, "2_000001", "keep")
    assert read_decisions(layout, 3) == {**earlier, "2_000001": added}


@pytest.mark.parametrize("line", ["1_000001,perhaps,", "1_000001,keep", "1_000001,move,", "1_000001,move,2_7",
                                  "1_000002,move,2_00000", "9_000001,keep,", '"1_000001,keep,'])
def test_a_line_that_is_no_whole_decision_is_named_and_the_file_is_left_alone(layout, line):
    write_lines(layout.web_decisions, [HEADER, line])
    with pytest.raises(UserError, match="line [23]|class index 1..2"):
        read_decisions(layout, 3)
    if not line.startswith("9"):
        with pytest.raises(UserError, match="line [23]"):
            add_decision(layout, "1_000001", "keep")
        assert read_lines(layout.web_decisions) == [HEADER, line]


def test_a_full_disk_is_reported_and_nothing_is_lost(layout):
    add_decision(layout, "1_000001", "reject")
    with largest_file(os.path.getsize(layout.web_decisions) + 5):
        with pytest.raises(UserError, match="web_decisions.csv can't be written"):
            add_decision(layout, "1_000002", "reject")
    assert read_lines(layout.web_decisions) == [HEADER, "1_000001,reject,"]


def test_decisions_of_several_windows_are_all_stored(layout):
    names = [f"1_{number:06d}" for number in range(100, 140)]
    threads = [threading.Thread(target=add_decision, args=(layout, name, "keep")) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(read_decisions(layout, 3)) == set(names)
