import html
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from rich.console import Console

from online_trl.report import RunReport, charts, console_table, write_html, write_json
from online_trl.types import (
    Estimate,
    GateDecision,
    PolicyDecision,
    PolicyEvaluation,
    RewardRefresh,
    Sample,
    VersionEvaluation,
)

HOSTILE = "<script>alert(1)</script>\"'><img src=https://example.com/x.png onerror=alert(2)> {{ 7 * 7 }} </title>"


def evaluation(number, mean, n=100, **fields):
    return VersionEvaluation(
        policy_version=f"policy-{number:04d}",
        satisfaction=Estimate(mean, mean - 0.05, mean + 0.05, n),
        **({"kl": 1.5 * (number - 1), "length": 30.0 - number} | fields),
    )


def decision(number, accepted, reason="because of the numbers"):
    return PolicyDecision(version=f"policy-{number:04d}", decision=GateDecision(accepted, reason))


def refresh(number, accepted=True, reason="because of the numbers", **fields):
    return RewardRefresh(
        version=f"reward-{number:04d}",
        decision=GateDecision(accepted, reason),
        accuracy=Estimate(0.7, 0.6, 0.8, 64),
        statements=210,
        **fields,
    )


def messages(text, role="assistant"):
    return [{"role": role, "content": text}]


def report(**changes):
    fields = {
        "trainer": "grpo",
        "seed": 3,
        "seconds": 272.4,
        "versions": (
            evaluation(1, 0.34),
            evaluation(
                2,
                0.52,
                win_rate_vs_base=Estimate(0.66, 0.58, 0.74, 120),
                win_rate_vs_live=Estimate(0.66, 0.58, 0.74, 120),
                reward_accuracy=Estimate(0.71, 0.6, 0.8, 64),
                reward_versions=("reward-0001", "reward-0002"),
            ),
            evaluation(3, 0.4, win_rate_vs_base=Estimate(0.55, 0.46, 0.64, 118)),
        ),
        "decisions": (decision(2, True, "accepted: win rate 0.66"), decision(3, False, "refused: KL too high")),
        "reward_history": (refresh(1), refresh(2, False)),
        "feedback_by_kind": {"rating": 30, "binary": 60},
        "samples": (
            Sample(
                prompt=messages("Where is my lamp?", "user"),
                before=messages("Perhaps."),
                after=messages("It arrives on Tuesday."),
                before_version="policy-0001",
                after_version="policy-0002",
                before_score=0.2,
                after_score=0.9,
            ),
        ),
    }
    fields |= changes
    verdicts = {row.version: row.decision.accepted for row in fields["decisions"]}
    statuses = {name: "promoted" if accepted else "refused" for name, accepted in verdicts.items()}
    accepted = [name for name, is_accepted in verdicts.items() if is_accepted]
    fields.setdefault("statuses", {row.policy_version: "base" for row in fields["versions"][:1]} | statuses)
    fields.setdefault("in_service", accepted[-1] if accepted else None)
    return RunReport(**fields)


class Page(HTMLParser):
    """Every tag with its attributes, and the visible text."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def page(run, tmp_path):
    write_html(run, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def result(run, tmp_path):
    write_json(run, tmp_path / "result.json")
    return json.loads((tmp_path / "result.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)


def test_result_json_has_the_promised_shape(tmp_path):
    content = result(report(), tmp_path)
    assert (content["trainer"], content["seed"], content["seconds"]) == ("grpo", 3, 272.4)
    base, second, third = content["versions"]
    assert base["policy_version"] == "policy-0001"
    assert base["satisfaction"] == {"mean": 0.34, "low": pytest.approx(0.29), "high": pytest.approx(0.39), "n": 100}
    assert (base["win_rate_vs_base"], base["kl"], base["reward_accuracy"], base["reward_versions"]) == (
        0.5,
        0,
        None,
        [],
    )
    assert (second["win_rate_vs_base"], second["kl"], second["reward_accuracy"]) == (0.66, 1.5, 0.71)
    assert second["reward_versions"] == ["reward-0001", "reward-0002"]
    assert [row["status"] for row in content["versions"]] == ["base", "promoted", "refused"]
    assert third["reward_accuracy"] is None


def test_result_json_says_null_for_what_was_not_measured(tmp_path):
    unmeasured = VersionEvaluation(
        policy_version="policy-0001", satisfaction=Estimate(math.nan, 0.0, 1.0, 0), kl=math.nan, length=math.inf
    )
    content = result(report(versions=(unmeasured,), decisions=(), samples=()), tmp_path)
    assert content["versions"][0]["satisfaction"] == {"mean": None, "low": 0.0, "high": 1.0, "n": 0}
    assert (content["versions"][0]["kl"], content["versions"][0]["length"]) == (None, None)


@pytest.mark.parametrize(
    ("means", "verdicts", "headline"),
    [
        ((0.34, 0.52), (True,), "Satisfaction rose from 0.34 to 0.52, and the 95 % intervals do not overlap."),
        ((0.34, 0.4), (True,), "Satisfaction rose from 0.34 to 0.40, but the 95 % intervals overlap."),
        ((0.5, 0.2), (True,), "Satisfaction went from 0.50 to 0.20, and the 95 % intervals do not overlap."),
        ((0.34, 0.9), (False,), "policy-0001 stays in service, satisfaction 0.34; no other was promoted."),
        (
            (0.34, 0.5, 0.9),
            (True, False),
            "Satisfaction rose from 0.34 to 0.50, and the 95 % intervals do not overlap.",
        ),
    ],
)
def test_the_headline_tells_what_happened_to_the_version_in_service(means, verdicts, headline):
    run = report(
        versions=tuple(evaluation(index, mean) for index, mean in enumerate(means, start=1)),
        decisions=tuple(decision(index, accepted) for index, accepted in enumerate(verdicts, start=2)),
    )
    assert run.headline == headline


def test_the_headline_claims_nothing_without_judgements():
    run = report(versions=(evaluation(1, math.nan, n=0), evaluation(2, 0.9)), decisions=(decision(2, True),))
    assert run.headline == "policy-0002 is in service; too little was judged to say more."


def test_a_report_needs_a_measured_version():
    with pytest.raises(ValueError, match="at least one version"):
        report(versions=())


def test_the_page_shows_every_station(tmp_path):
    text = " ".join(Page(page(report(), tmp_path)).text.split())
    for expected in [
        "trainer grpo, seed 3, 4 min 32 s",
        "Satisfaction rose from 0.34 to 0.52",
        "policy-0003 refused",
        "0.66 0.58 to 0.74",
        "before: policy-0001 satisfaction 0.20",
        "It arrives on Tuesday.",
        "Accepted: win rate 0.66.",
        "Refused: KL too high.",
        "reward-0002",
        "Trained on 210 statements.",
        "thumbs 60 ratings 30",
    ]:
        assert expected in text


def test_the_page_shows_whether_the_newest_reward_in_service_is_as_sure_as_it_is_right(tmp_path):
    bins = ((0.3, 0.25, 4.0), (0.7, 0.75, 12.0))
    history = (refresh(1, reliability=((0.5, 0.5, 1.0),), ece=0.2), refresh(2, reliability=bins, ece=0.05))
    refused = refresh(3, False, reliability=((0.1, 0.9, 1.0),), ece=0.8)
    text = " ".join(Page(page(report(reward_history=(*history, refused)), tmp_path)).text.split())
    assert "Is reward-0002 as sure as it is right?" in text
    assert "Expected calibration error 0.05." in text
    assert "predicted 0.70, came true 0.75, 75% of the weight" in text
    assert "as sure as" not in Page(page(report(), tmp_path)).text


def test_a_reliability_plot_has_the_same_scale_both_ways():
    plot = charts.reliability_chart([(0.0, 0.0, 1.0), (0.5, 0.75, 1.0), (1.0, 1.0, 1.0)])
    assert [(point.x, point.y) for point in plot.points[:3]] == [
        (charts.LEFT, charts.BOTTOM),
        ((charts.LEFT + charts.RIGHT) / 2, charts.BOTTOM - 0.75 * (charts.BOTTOM - charts.TOP)),
        (charts.RIGHT, charts.TOP),
    ]
    assert plot.line == f"{charts.LEFT},{charts.BOTTOM} {charts.RIGHT},{charts.TOP}"
    assert [point.label for point in plot.points[3:]] == ["0", "0.25", "0.5", "0.75", "1"]


def test_the_page_says_when_people_changed_and_when_a_reward_was_made_anew(tmp_path):
    history = (refresh(1), refresh(2, drift="right about 0.40 since row 90", restarted="its scores spread by 0.1"))
    text = " ".join(Page(page(report(reward_history=history), tmp_path)).text.split())
    assert "People changed: Right about 0.40 since row 90." in text
    assert "Made anew from the initial model: Its scores spread by 0.1." in text


def test_the_page_loads_nothing_and_runs_nothing(tmp_path):
    source = page(report(), tmp_path)
    tags = Page(source).tags
    assert {tag for tag, _ in tags}.isdisjoint({"script", "img", "iframe", "object", "embed", "base", "form"})
    links = [
        value for _, attributes in tags for name, value in attributes.items() if name in ("href", "src", "action")
    ]
    assert links == ["data:,"]
    assert not re.search(r"url\(|@import|https?://", source)


def test_what_users_wrote_is_text(tmp_path):
    run = report(
        trainer=HOSTILE,
        feedback_by_kind={HOSTILE: 3},
        decisions=(decision(2, True, HOSTILE),),
        reward_history=(refresh(1, True, HOSTILE),),
        samples=(
            Sample(
                prompt=messages(HOSTILE, HOSTILE),
                before=messages(HOSTILE),
                after=messages(HOSTILE),
                before_version=HOSTILE,
                after_version=HOSTILE,
            ),
        ),
    )
    source = page(run, tmp_path)
    parsed = Page(source)
    assert {tag for tag, _ in parsed.tags}.isdisjoint({"script", "img"})
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    assert parsed.text.count(HOSTILE) == 10
    assert html.escape("<script>alert(1)</script>") in source


def test_a_hostile_version_name_stays_text_in_drawings_and_tables(tmp_path):
    named = VersionEvaluation(policy_version=HOSTILE, satisfaction=Estimate(0.4, 0.3, 0.5, 9), kl=1.0, length=9.0)
    parsed = Page(page(report(versions=(named, named), reward_history=()), tmp_path))
    assert {tag for tag, _ in parsed.tags}.isdisjoint({"script", "img"})


def test_drawings_are_well_formed(tmp_path):
    drawings = re.findall(r"<svg.*?</svg>", page(report(), tmp_path), flags=re.DOTALL)
    assert len(drawings) == 5
    for drawing in drawings:
        ElementTree.fromstring(drawing)


def test_the_page_of_a_run_that_was_never_judged(tmp_path):
    unmeasured = evaluation(1, math.nan, n=0, length=math.nan)
    run = report(versions=(unmeasured,), decisions=(), reward_history=(), samples=(), feedback_by_kind={})
    source = page(run, tmp_path)
    assert "nan" not in Page(source).text
    assert "nan" not in "".join(re.findall(r"<svg.*?</svg>", source, flags=re.DOTALL))
    assert "There is none yet." in source


def test_a_chart_places_marks_by_value():
    drawn = charts.chart(
        [
            charts.Mark(label="a", title="", value=0.0),
            charts.Mark(label="b", title="", value=0.25, interval=(0.0, 0.5), accepted=False),
            charts.Mark(label="c", title="", value=1.0),
        ],
        domain=(0.0, 1.0),
        reference=0.5,
        band=(0.0, 1.0),
    )
    top, bottom = charts.TOP, charts.BOTTOM
    middle = (top + bottom) / 2
    assert [point.y for point in drawn.points] == [bottom, bottom - (bottom - top) / 4, top]
    assert drawn.points[1].whisker == (middle, bottom)
    assert (drawn.reference, drawn.band) == (middle, (top, bottom))
    assert [text for _, text in drawn.ticks] == ["0", "0.25", "0.5", "0.75", "1"]
    assert drawn.line == f"{drawn.points[0].x},{bottom:.1f} {drawn.points[2].x},{top:.1f}"


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.0, 14.3], ["0", "5", "10", "15"]),
        ([0.0], ["0", "0.25", "0.5", "0.75", "1"]),
        ([-0.4, 18.0], ["−5", "0", "5", "10", "15", "20"]),
        ([31.2, 17.5], ["0", "10", "20", "30", "40"]),
        ([math.nan, 0.03], ["0", "0.01", "0.02", "0.03"]),
    ],
)
def test_ticks_are_round_numbers_that_hold_the_values(values, ticks):
    drawn = charts.chart([charts.Mark(label="", title="", value=value) for value in values])
    assert [text for _, text in drawn.ticks] == ticks


def test_labels_do_not_crowd():
    drawn = charts.chart([charts.Mark(label=str(index), title="", value=1.0, note="n") for index in range(20)])
    assert [point.label for point in drawn.points if point.label] == ["0", "3", "6", "9", "12", "15", "18"]
    assert {point.note for point in drawn.points} == {point.text for point in drawn.points} == {""}


def test_the_table_has_a_row_per_version():
    console = Console(width=80)
    with console.capture() as capture:
        console.print(console_table(report()))
    lines = [line.replace("│", " ").split() for line in capture.get().splitlines() if "policy-0" in line]
    assert lines[1] == ["policy-0002", "promoted", "0.52", "(0.47–0.57)", "100", "0.66", "1.5", "0.71"]
    assert [line[1] for line in lines] == ["base", "promoted", "refused"]


def test_the_table_does_not_read_names_as_markup():
    named = VersionEvaluation(
        policy_version="[red]policy[/red]", satisfaction=Estimate(0.4, 0.3, 0.5, 9), kl=0.0, length=9.0
    )
    console = Console(width=140)
    with console.capture() as capture:
        console.print(console_table(report(versions=(named,))))
    assert "[red]policy[/red]" in capture.get()


def test_what_an_evaluator_measured_is_on_the_page_and_in_the_json(tmp_path):
    measured = [
        PolicyEvaluation(
            policy_version=f"policy-{number:04d}",
            figures={
                "win_rate_vs_live": Estimate(0.61, 0.52, 0.7, 80),
                f"only/{number}": Estimate(0.25, math.nan, math.nan, 80),
            },
            prompts=80,
            main_judge="held-out",
        )
        for number in (2, 3)
    ]
    write_html(report(evaluations=tuple(measured)), tmp_path / "report.html")
    write_json(report(evaluations=tuple(measured)), tmp_path / "result.json")
    text = " ".join(Page((tmp_path / "report.html").read_text()).text.split())
    assert text.count("0.61 0.52 to 0.70") == 2
    assert "only/2" in text
    assert "– to –" not in text, "what has no interval shows none"
    assert "win rates by held-out" in text
    evaluations = json.loads((tmp_path / "result.json").read_text())["evaluations"]
    assert evaluations[1]["figures"]["only/3"] == {"mean": 0.25, "low": None, "high": None, "n": 80}


def test_marks_along_the_log_stand_at_their_rows_and_beside_each_other():
    def mark(label, value):
        return charts.Mark(label=label, title="", value=value, interval=(0.0, 1.0))

    drawn = charts.log_chart(
        [[(50, mark("one", 0.5)), (100, mark("one", 0.25))], [(50, mark("two", math.nan))]],
        end=100,
        flags=[charts.Flag(50, "↑2", "a"), charts.Flag(52, "↑3", "b")],
    )
    middle = (charts.LEFT + charts.RIGHT) / 2
    assert [(point.x, point.text) for point in drawn.points] == [(middle - 3.0, ""), (charts.RIGHT, "one")]
    assert drawn.points[1].y == charts.BOTTOM - 0.25 * (charts.BOTTOM - charts.TOP)
    assert drawn.lines == (" ".join(f"{point.x},{point.y}" for point in drawn.points),)
    assert [text for _, text in drawn.rows] == ["0", "25", "50", "75", "100"]
    assert [label for _, label, _ in drawn.flags] == ["↑3"], "the newer of two that would lie over each other"
