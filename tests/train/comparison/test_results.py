"""The page and the Markdown: parsed, with the numbers in it, whatever names hold."""

from html.parser import HTMLParser

import pytest

from e2e_deploy.errors import DataError, UsageError
from e2e_deploy.train.comparison.results import compare_results
from e2e_deploy.train.protocol.result import write_result
from tests.train.comparison.made_results import contender, result

HOSTILE = '"><script src="https://evil.example/x.js"></script><img onerror=alert(1) src=x>|`**'
VOID = {"meta", "circle", "line", "br"}


class Page(HTMLParser):
    """Elements, attributes and texts, and whether every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)


@pytest.fixture
def folder(tmp_path):
    """Depth in two precisions, and normals of a model with a hostile name and a problem."""
    where = tmp_path / "results"
    write_result(where, result(contender("runs/single"), pair=(5.23, 96.61), ms=310))
    half = contender("runs/half", "tensorrt", "fp16")
    write_result(where, result(half, pair=(5.28, 96.5), ms=31, num_images=100))
    evil = contender(HOSTILE, kind="normals", family="<b>", settings={"domain": "<i>"})
    write_result(
        where,
        result(evil, "ibims", (15.87, 69.3), problem="<u>x</u>", differences=["<script>y"]),
    )
    return where


def test_the_page_holds_the_numbers_the_changes_and_the_published_rows(folder, tmp_path):
    compare_results(folder, html=tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    texts = [text.strip() for text in page.texts]
    for expected in ("5.23", "/ 96.61", "reference", "+0.050/-0.110", "31 ms, 10.00x as fast"):
        assert expected in texts
    assert "100 of 654 images" in texts
    assert "runs/half" in texts
    assert "A CPU" in texts
    assert "5.28/96.5" in texts  # its row among the published ones
    assert "Marigold + E2E FT" in texts
    assert "5.2/96.6" in texts
    assert "not measured" in texts
    assert {"html", "section", "svg", "details"} <= set(page.tags)


def test_the_page_loads_and_runs_nothing(folder, tmp_path):
    compare_results(folder, html=tmp_path / "page.html")
    source = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(source)
    assert not {"script", "img", "link", "iframe", "b", "u", "i2"} & set(page.tags)
    names = {name for name, _ in page.attributes}
    assert not {name for name in names if name.startswith("on")} | (names & {"src", "href"})
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
    assert "url(" not in source
    assert "@import" not in source
    shown = "".join(page.texts)
    assert HOSTILE[:40] in shown
    assert "<script>y" in shown
    assert "these numbers are worthless: <u>x</u>" in shown


def test_markdown_is_a_table_whatever_a_name_holds(folder, tmp_path):
    compare_results(folder, markdown=tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "## Depth" in text
    assert "5.28/96.5" in text
    assert "+0.050/-0.110, 10.00x as fast" in text
    assert "<script" not in text.replace("\\<script", "")
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 4
    for lines in tables:
        rows = [line for line in lines if line.startswith("|")]
        bars = {line.replace("\\|", "").count("|") for line in rows}
        assert len(bars) == 1


def test_folders_of_several_machines_stand_side_by_side(folder, tmp_path):
    other = tmp_path / "other"
    write_result(other, result(contender("runs/int8", "openvino", "int8"), pair=(6.0, 96.0)))
    comparison = compare_results(folder, other)
    cell = comparison.sections[0].lines[-1].cells["nyuv2"]
    assert cell.delta == pytest.approx((0.77, -0.61))


def test_what_cannot_be_read_or_written_is_a_sentence(folder, tmp_path):
    with pytest.raises(DataError, match="holds no results"):
        compare_results(tmp_path)
    with pytest.raises(UsageError, match="at least one folder"):
        compare_results()
    with pytest.raises(UsageError, match=r"must end in \.html"):
        compare_results(folder, html=tmp_path / "page.txt")
    file = next(folder.glob("*/*.json"))
    file.write_text(file.read_text().replace('"measure"', '"measured"'))
    with pytest.raises(DataError, match="unknown key measured"):
        compare_results(folder)
