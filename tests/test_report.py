import re
from html.parser import HTMLParser

import numpy as np
import pytest

from ed2rec import charts
from ed2rec.errors import ConfigError
from ed2rec.evaluation.metrics import reported
from ed2rec.report import Example, ReportData, check_report, render, write_report

HOSTILE = "<script>alert('x')</script> & \"quotes\" $title"


def full() -> ReportData:
    steps = range(0, 1000, 5)
    curves = {level: [(step, 0.2 / (1 + step)) for step in range(100, 600, 100)] for level in "abcd"}
    return ReportData(
        title="ed2 on shop", subtitle="9 users",
        rows=[{"model": "ed2", **reported([1, 2, 30])}, {"model": "popularity", **reported([9, 30, 30])}],
        figures=[("3.1×", "popularity")], losses={"loss": [(step, 1 / (1 + step)) for step in steps]},
        validation=[(100, 0.01), (200, 0.02)], churn={"items": curves, "users": curves}, frozen_from=600,
        codes={"items": [np.array([5, 0, 3]), np.array([1, 1, 1])]},
        first_codes=charts.CodeShares("brand", ["x", "y"], ["<a_0>", charts.OTHER], np.array([[3, 1], [0, 2]])),
        examples=[Example("u1", ["a", "b"], ["c", "d"], "d", 2), Example("u2", ["a"], ["b"], "z", 0)],
        settings="seed: 0\n", environment={"ed2rec": "0.1.0"},
    )  # fmt: skip


class Page(HTMLParser):
    """Checks nesting, collects tags, ids and text."""

    VOID = frozenset({"meta", "br", "hr", "img", "link"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.text, self.attributes = [], [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_well_formed_and_complete():
    page = Page(render(full()))
    text = " ".join(page.text)
    for heading in ("Accuracy", "Training", "Codebook use", "Recommendations", "How it was made", "Settings"):
        assert heading in text
    assert page.tags.count("svg") == 4
    assert len(page.ids) == len(set(page.ids)), "two charts share an id"


def test_the_page_needs_nothing_but_itself():
    page = Page(render(full()))
    assert not {"script", "link", "img", "iframe", "object", "image"} & set(page.tags)
    outside = [value for name, value in page.attributes if name in ("src", "href", "xlink:href") and value[:1] != "#"]
    assert not outside
    assert not re.search(r"url\((?!#)|@import", render(full()))


def test_charts_take_every_colour_from_the_page():
    drawing = (
        charts.losses(full().losses)
        + charts.learning([(1, 0.5)], full().churn)
        + charts.codebooks("items", [np.ones(3)])
        + charts.code_shares(full().first_codes)
    )
    assert not re.search(r"#[0-9a-fA-F]{6}\b", drawing)
    used = set(re.findall(r"var\(--(\w+)\)", drawing))
    page = render(full())
    light, dark = page.split("prefers-color-scheme: dark")
    assert used and all(f"--{name}:" in light for name in used)
    assert all(f"--{name}:" in dark for name in used - {"sans"})


def test_text_from_the_data_cannot_become_markup():
    data = ReportData(
        title=HOSTILE, subtitle=HOSTILE, rows=[{"model": HOSTILE, **reported([1])}], figures=[(HOSTILE, HOSTILE)],
        losses={HOSTILE: [(0, 1.0), (1, 2.0)]}, churn={HOSTILE: {"a": [(1, 0.1)]}}, codes={HOSTILE: [np.array([1, 2])]},
        first_codes=charts.CodeShares(HOSTILE, [HOSTILE], [HOSTILE], np.array([[1]])),
        examples=[Example(HOSTILE, [HOSTILE], [HOSTILE], HOSTILE, 1)], settings=HOSTILE, environment={HOSTILE: HOSTILE},
    )  # fmt: skip
    page = Page(render(data))
    assert "script" not in page.tags
    assert sum(HOSTILE in text for text in page.text) >= 8


def test_what_is_empty_is_left_out():
    page = Page(render(ReportData("t", "s", [])))
    assert "svg" not in page.tags and "section" not in page.tags


def test_what_the_user_took_next_is_marked_where_it_is_and_named_where_it_is_not():
    text = " ".join(Page(render(full())).text)
    assert text.count("taken next") == 2 and "not among them" in text
    assert render(full()).count("class=hit") == 1


def test_the_same_data_give_the_same_page():
    assert render(full()) == render(full())


def test_curves_with_gaps_and_single_points_are_drawn():
    charts.losses({"a": [(1, float("nan")), (2, 1.0)], "b": [(1, 1.0)]})
    charts.learning([], {"items": {"a": [(1, 0.0)]}})
    charts.learning([(5, 0.0)], {})
    charts.codebooks("items", [np.zeros(4, int)] * 5)


def test_a_page_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot write .*No such folder"):
        write_report(tmp_path / "absent/report.html", full())
    write_report(tmp_path / "report.html", full())
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_report_takes_the_place_of_a_report_and_of_nothing_else(tmp_path):
    target = tmp_path / "report.html"
    check_report(target)
    write_report(target, full())
    check_report(target)
    target.write_text("<!doctype html><p>mine</p>")
    with pytest.raises(ConfigError, match="is not a report of ours, it is left alone"):
        check_report(target)
    with pytest.raises(ConfigError, match="is a folder, where the report would go"):
        check_report(tmp_path)
