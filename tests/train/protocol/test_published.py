import re

import pytest

from e2e_deploy.train.protocol.published import COLUMNS, ROWS, disagreements, rows_for
from e2e_deploy.train.protocol.published_table import (
    OwnRow,
    published_table,
    shown_pair,
    shown_time,
)


def found(method, source="", runs=None):
    (row,) = [
        row
        for row in ROWS
        if row.method == method and source in row.source and runs in (None, row.runs)
    ]
    return row


def test_rows_are_as_printed_in_the_papers():
    row = found("Marigold + E2E FT", "Table 1")
    assert row.values == {
        "nyuv2": (5.2, 96.6),
        "kitti": (9.6, 91.9),
        "eth3d": (6.2, 95.9),
        "scannet": (5.8, 96.2),
        "diode": (30.2, 77.9),
    }
    assert (row.runs, row.time_s, row.trained_on, row.differs) == ("1x1", 0.121, "74K", "")
    assert "RTX 4090" in row.timed_on
    assert found("Marigold", "Table 1", "50x10").time_s == 24
    assert found("GeoWizard, reproduced", "A-3").values["kitti"] == (14.4, 82.0)
    assert found("DepthFM", "A-4").values == {
        "nyuv2": (6.5, 95.6),
        "kitti": (8.3, 93.4),
        "diode": (22.5, 80.0),
    }
    assert found("DepthFM", "A-4").differs == "aligned in log space"
    assert found("Metric3D v2", "Tables 2").values == {"nyuv2": (13.3, 66.4), "ibims": (19.6, 69.7)}
    assert found("Lotus-D", "Table II").values["sintel"] == (32.3, 22.4)
    assert found("FE2E").values == {"kitti": (6.6, 96.0), "eth3d": (3.8, 98.7)}


def test_every_row_is_plausible_and_has_a_source():
    for row in ROWS:
        assert row.values, row
        assert set(row.values) <= set(COLUMNS[row.measure]), row
        assert row.source, row
        for first, second in row.values.values():
            assert 0 < first < 60, row
            assert second is None or 0 < second < 100, row
        assert (row.steps is None) == (row.ensemble is None), row
        assert row.time_s is None or 0 < row.time_s < 100, row


def test_where_sources_disagree_it_is_said():
    same = disagreements(rows_for("normals", same_protocol=True))
    assert len(same) == 2
    assert same[0].startswith("SD + E2E FT on scannet: 14.7 in E2E-FT")
    assert "15.3 in README" in same[0]
    assert "GeoWizard + E2E FT on scannet: 15.3 in E2E-FT" in same[1]
    assert "14.7 in README" in same[1]
    assert disagreements(rows_for("depth", same_protocol=True)) == []
    everything = disagreements(rows_for("depth"))
    assert any(s.startswith("Depth Anything v2 on diode: 6.5") for s in everything)


def test_rows_of_another_protocol_can_be_left_out():
    assert {row.method for row in rows_for("depth")} > {
        row.method for row in rows_for("depth", same_protocol=True)
    }
    assert all(not row.differs for row in rows_for("depth", same_protocol=True))
    assert any("MoGe's benchmark" in row.source for row in rows_for("depth"))


def test_the_own_row_stands_where_its_first_number_puts_it():
    own = OwnRow(
        method="mine",
        values={"kitti": (9.65, 92.0)},
        missing={"nyuv2": "data not here"},
        runs="1x1",
        time_s=0.5,
    )
    lines = published_table("depth", [own]).splitlines()
    rows = lines[1 : lines.index("")]
    kitti = [float(re.split(r"\s{2,}", line)[4].split("/")[0]) for line in rows]
    assert kitti == sorted(kitti)
    (mine,) = [line for line in rows if line.startswith("> mine")]
    cells = re.split(r"\s{2,}", mine)
    assert cells == [
        "> mine", "1x1", "500 ms", "not measured", "9.65/92.0", *["not measured"] * 3, "here",
    ]  # fmt: skip
    assert "nyuv2: not measured: data not here" in lines
    assert any(line.startswith("[1] E2E-FT") and line.endswith("Table 1") for line in lines)


def test_a_table_without_own_rows_is_the_published_one():
    lines = published_table("normals", []).splitlines()
    assert lines[0].split() == [
        "method", "steps", "time", "nyuv2", "scannet", "ibims", "sintel", "source",
    ]  # fmt: skip
    assert "DSINE" in "\n".join(lines)
    assert "not measured" not in "\n".join(lines)


def test_markdown_names_do_nothing():
    own = OwnRow(method="a|b <script> `x` *y*\n|", values={"nyuv2": (5.0, 97.0)})
    lines = published_table("depth", [own], style="markdown").splitlines()
    assert lines[1].replace(" ", "") == "|" + "---|" * 9
    (mine,) = [line for line in lines if "here" in line and line.startswith("|")]
    assert len(re.findall(r"(?<!\\)\|", mine)) == 10
    assert r"\<script\>" in mine
    assert r"\`x\` \*y\*" in mine


@pytest.mark.parametrize(
    ("pair", "shown"),
    [((6.0, 95.9), "6.0/95.9"), ((4.91, 97.43), "4.91/97.43"), ((16.2, None), "16.2"), (None, "-")],
)
def test_numbers_are_shown_as_printed(pair, shown):
    assert shown_pair(pair) == shown


def test_times_are_in_units_that_people_read():
    assert [shown_time(t) for t in (24.0, 3.1, 0.121, None)] == ["24 s", "3.1 s", "121 ms", "-"]
