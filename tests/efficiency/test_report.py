"""Costs as records, tables, CSV and markdown."""

import csv
import io
import json
from dataclasses import replace
from typing import Any

import pytest

from elip.config.schema import ReducerConfig
from elip.efficiency.parts import PassCost
from elip.efficiency.report import Record, Row, as_markdown, as_text, tables, to_csv, to_json, to_record
from elip.efficiency.task_cost import TaskCost
from elip.efficiency.vision_cost import BlockTrace, Properties, Spread, VisionCost

DENSE = VisionCost(
    total=4_000_000_000, look_ahead=0, norm=10_000_000, tokens=[BlockTrace(17, 17)] * 2, parameters=2_500_000
)
REDUCED = VisionCost(
    total=3_000_000_000,
    look_ahead=1_000_000_000,
    norm=8_000_000,
    tokens=[BlockTrace(17, 17), BlockTrace(17, 9.5)],
    parameters=2_500_000,
)
STEP = PassCost(vision=2e9, look_ahead=1e9, text=3e8, fusion=6e8, heads=1e8, momentum=4e9)
TASK = TaskCost(
    inference=PassCost(vision=2e9, look_ahead=1e9, text=1e8, fusion=2e8, heads=1e6),
    train_forward=STEP,
    train_step=14e9,
    train_mean=14e9,
    tokens=[BlockTrace(17, 17)],
    parameters=2_000_000,
    momentum_parameters=1_900_000,
    saved_bytes=1_234_567.5,
    peak_cuda_bytes=None,
    batch_size=2,
)


PROPERTIES = Properties(added_parameters=1_500_000, drops_in_training=True, saved_bytes=2_000_000.4, has_source=False)


def record(cost: Any, name: str = "none", properties: Properties | None = None, **options: Any) -> Record:
    return to_record(Row(ReducerConfig(name=name, **options), cost, properties))


VISION = [record(DENSE), record(REDUCED, "elip", full_look_ahead=True)]


def test_the_record_of_an_encoder_is_in_gmacs() -> None:
    assert VISION[1] == {
        "reducer": "elip",
        "options": {"full_look_ahead": True},
        "label": "elip full_look_ahead=true",
        "requires_text": True,
        "requires_teacher": False,
        "unit": "GMACs",
        "vision_gmacs": 3.0,
        "look_ahead_gmacs": 1.0,
        "norm_gmacs": 0.008,
        "forward_backward_gmacs": 7.0,
        "parameters": 2_500_000,
        "vision_spread": None,
        "tokens": [17, 9.5],
        "tokens_in_attention": [17, 17],
    }


def test_the_record_of_a_task_has_the_parts_of_its_training_step_and_all_of_both_passes() -> None:
    made = record(TASK)
    assert made["vision_gmacs"] == 3.0
    assert made["look_ahead_gmacs"] == 1.0
    assert [made[part] for part in ("text", "fusion", "momentum", "heads")] == [0.3, 0.6, 4.0, 0.1]
    assert made["inference_gmacs"] == pytest.approx(3.301)
    assert made["train_step_gmacs"] == 14.0
    assert made["saved_bytes_per_image"] == 1_234_568
    assert made["inference"]["text"] == 0.1
    assert made["train_forward"]["text"] == 0.3


def test_json_is_a_list_of_the_records() -> None:
    assert json.loads(to_json(VISION)) == VISION


def test_csv_has_a_line_for_each_reducer() -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(VISION))))
    assert [line["reducer"] for line in lines] == ["none", "elip"]
    assert float(lines[1]["vision_gmacs"]) == 3.0
    assert lines[1]["tokens"] == "17 9.5"
    assert json.loads(lines[1]["options"]) == {"full_look_ahead": True}


def test_a_label_tells_reducers_of_one_name_apart() -> None:
    (table,) = tables(VISION, VISION[0])
    assert [row[0] for row in table.rows] == ["none", "elip full_look_ahead=true"]


def test_images_that_differ_have_their_spread_in_record_and_table() -> None:
    spread = Spread(images=8, std=250_000_000, least=2_600_000_000, most=3_400_000_000)
    adaptive = record(replace(REDUCED, spread=spread), "random")
    assert adaptive["vision_spread"] == {"images": 8, "std_gmacs": 0.25, "min_gmacs": 2.6, "max_gmacs": 3.4}
    assert tables([adaptive], VISION[0])[0].rows[0][1] == "3.00 ± 0.25"


def test_properties_are_in_the_record_and_have_a_table_of_their_own() -> None:
    reducers = [record(DENSE, properties=replace(PROPERTIES, added_parameters=0)), record(REDUCED, "elip", PROPERTIES)]
    assert reducers[1]["added_parameters"] == 1_500_000
    assert reducers[1]["saved_bytes_per_image"] == 2_000_000
    assert (reducers[1]["drops_in_training"], reducers[1]["source_map"]) == (True, False)
    (table,) = tables(reducers, reducers[0])
    assert table.rows[1] == ["elip", "3.00", "0.75", "9.5", "1.50", "yes", "yes", "2.0", "1.00", "no"]


def test_the_table_of_encoders_has_its_unit_and_ratios_to_the_baseline() -> None:
    (table,) = tables(VISION, VISION[0])
    title, header, dense, reduced = as_text(table).splitlines()
    assert title == "Image encoder, GMACs"
    assert header.split()[:3] == ["reducer", "forward", "ratio"]
    assert dense.split() == ["none", "4.00", "1.00", "4.00", "0.00", "12.00", "1.00", "17", "2.50"]
    assert reduced.split()[2:] == ["3.00", "0.75", "2.00", "1.00", "7.00", "0.58", "9.5", "2.50"]
    assert len({len(line) for line in (header, dense, reduced)}) == 1


def test_tokens_of_each_block_are_shown_when_asked_for() -> None:
    trace = tables(VISION, VISION[0], per_block=True)[-1]
    assert trace.rows == [["0", "17", "17"], ["1", "17", "17/9.5"]]


def test_a_task_has_tables_of_inference_training_step_and_memory() -> None:
    baseline = record(replace(TASK, train_step=28e9, saved_bytes=2_469_135))
    inference, training, memory = tables([record(TASK)], baseline)
    assert inference.header == ["reducer", "vision", "look-ahead", "text", "fusion", "heads", "total", "ratio"]
    assert inference.rows == [["none", "2.00", "1.00", "0.10", "0.20", "0.00", "3.30", "1.00"]]
    assert training.rows == [["none", "2.00", "1.00", "0.30", "0.60", "0.10", "4.00", "14.00", "0.50"]]
    assert memory.rows == [["none", "2.00", "1.90", "1.2", "0.50"]]


def test_the_mean_over_training_has_columns_where_it_is_another_than_a_step() -> None:
    baseline, constant = record(replace(TASK, train_step=28e9, train_mean=28e9)), record(TASK)
    ending = record(replace(TASK, train_mean=21e9), "random", until=0.5)
    assert "mean of training" not in tables([constant], baseline)[1].header
    _, training, _ = tables([constant, ending], baseline)
    assert training.header[-2:] == ["mean of training", "ratio"]
    assert [row[-4:] for row in training.rows] == [
        ["14.00", "0.50", "14.00", "0.50"],
        ["14.00", "0.50", "21.00", "0.75"],
    ]
    assert training.rows[1][0] == "random until=0.5"


def test_a_part_that_a_module_from_elsewhere_names_has_a_figure_and_a_column() -> None:
    adapted = record(replace(TASK, train_forward=replace(STEP, others={"adapter": 5e8})), "random")
    assert adapted["train_forward"]["adapter"] == 0.5
    _, training, _ = tables([record(TASK), adapted], record(TASK))
    assert training.header[-3:] == ["adapter", "forward+backward", "ratio"]
    assert [row[7] for row in training.rows] == ["0.00", "0.50"]


def test_the_cuda_peak_is_shown_where_it_was_taken() -> None:
    on_cuda = record(replace(TASK, peak_cuda_bytes=5_000_000))
    assert tables([on_cuda], on_cuda)[-1].header[-1] == "CUDA peak at batch 2, MB"
    assert tables([on_cuda], on_cuda)[-1].rows[0][-1] == "5.0"


def test_small_models_get_more_digits() -> None:
    small = record(replace(DENSE, total=12_300_000))
    assert tables([small], small)[0].rows[0][1] == "0.0123"


def test_markdown_has_a_header_a_rule_and_a_row_for_each_reducer() -> None:
    lines = as_markdown(tables(VISION, VISION[0])[0]).splitlines()
    assert lines[0] == "**Image encoder, GMACs**"
    assert lines[3].startswith("| --- | ---: |")
    assert lines[4].startswith("| none | 4.00 | 1.00 |")
    assert len(lines) == 6
