import math
from datetime import datetime, timedelta, timezone
from itertools import islice

import pytest

from online_trl.preferences import statement_key
from online_trl.rewards.memory import ChangePoint, Quantiles, Recency, Reservoir, Side, StatementMemory, ages
from online_trl.types import FeedbackKind, PreferencePair, Ranking, UnpairedLabel

NOW = datetime(2026, 3, 1, tzinfo=timezone.utc)
ANSWER = [{"role": "assistant", "content": "yes"}]
PROMPT = [{"role": "user", "content": "?"}]


def pair(seq, *, sessions=None, hours=0.0, delay=0.0, versions=("policy-0001",), weight=1.0):
    said_at = NOW - timedelta(hours=hours)
    return PreferencePair(
        prompt=PROMPT,
        chosen=ANSWER,
        rejected=ANSWER,
        kind=FeedbackKind.COMPARISON,
        feedback_ids=(f"feedback-{seq}",),
        interaction_ids=(f"answer-{seq}", f"other-{seq}"),
        seq=seq,
        weight=weight,
        session_ids=(f"session-{seq}",) if sessions is None else sessions,
        policy_versions=versions,
        said_at=said_at,
        answered_at=said_at - timedelta(hours=delay),
    )


def pairs(first, count, **changes):
    return [pair(seq, **changes) for seq in range(first, first + count)]


def seqs(statements):
    return [statement.seq for statement in statements]


def train(memory, fresh, upto=1000):
    return memory.training_set(fresh, upto=upto, now=NOW)


def sessions_on(memory, side, count):
    """So many conversations of one side."""
    names = (f"session-{number}" for number in range(10_000))
    return list(islice((name for name in names if memory.side(pair(0, sessions=(name,))) is side), count))


def test_conversations_decide_whether_a_statement_judges_or_is_trained_on():
    memory = StatementMemory(heldout_fraction=0.3)
    judging, training = (sessions_on(memory, side, 2) for side in (Side.JUDGED_ON, Side.TRAINED_ON))
    assert memory.side(pair(1, sessions=tuple(judging))) is Side.JUDGED_ON
    assert memory.side(pair(2, sessions=tuple(training))) is Side.TRAINED_ON
    assert memory.side(pair(3, sessions=(judging[0], training[0]))) is Side.NEITHER


def test_the_heldout_share_is_that_of_the_conversations_and_no_seed_moves_it():
    first, second = StatementMemory(heldout_fraction=0.2, seed=1), StatementMemory(heldout_fraction=0.2, seed=2)
    sides = [first.side(row) for row in pairs(0, 2000)]
    assert sides == [second.side(row) for row in pairs(0, 2000)]
    assert sides.count(Side.JUDGED_ON) == pytest.approx(400, abs=60)
    assert sides.count(Side.NEITHER) == 0


def test_a_statement_without_a_conversation_stands_for_itself():
    memory = StatementMemory(heldout_fraction=0.5)
    sides = {memory.side(row) for row in pairs(0, 40, sessions=())}
    assert sides == {Side.JUDGED_ON, Side.TRAINED_ON}


def test_what_joins_both_sides_is_neither_trained_nor_judged_on():
    memory = StatementMemory(heldout_fraction=0.5)
    mixed = tuple(sessions_on(memory, side, 1)[0] for side in (Side.JUDGED_ON, Side.TRAINED_ON))
    memory.remember([pair(1, sessions=mixed)])
    assert (train(memory, [pair(1, sessions=mixed)]), memory.judging_slice(), memory.audit_set()) == ([], [], [])


def test_rows_of_every_kind_keep_to_their_side():
    memory = StatementMemory(heldout_fraction=0.5, window=500)
    label = {"prompt": PROMPT, "completion": ANSWER, "label": True, "score": 1.0}
    ranking = {"prompt": PROMPT, "completions": [ANSWER] * 3, "ranks": (1, 2, 3), "kind": FeedbackKind.RANKING}
    rows = [
        statement
        for number in range(50)
        for statement in (
            pair(3 * number, sessions=(f"session-{number}",)),
            UnpairedLabel(**label, feedback_ids=(f"l{number}",), seq=1, session_ids=(f"session-{number}",)),
            Ranking(**ranking, feedback_ids=(f"r{number}",), seq=2, session_ids=(f"session-{number}",)),
        )
    ]
    memory.remember(rows)
    trained, judged = train(memory, rows), memory.judging_slice()
    assert len(trained) + len(judged) == 150
    assert {row.session_ids for row in trained}.isdisjoint(row.session_ids for row in judged)


def test_the_newest_heldout_statements_judge_and_the_audit_set_is_of_all_times():
    memory = StatementMemory(heldout_fraction=1.0, window=3, audit_size=50)
    memory.remember(pairs(0, 500))
    memory.remember(pairs(500, 500))
    assert seqs(memory.judging_slice()) == [997, 998, 999]
    audit = seqs(memory.audit_set())
    assert len(audit) == 50
    assert audit == sorted(audit)
    assert sum(audit) / 50 == pytest.approx(499.5, abs=120)


def test_a_candidate_is_compared_on_the_newest_and_on_those_of_all_times_each_once():
    memory = StatementMemory(heldout_fraction=1.0, window=3, audit_size=5)
    memory.remember(pairs(0, 100))
    heldout = seqs(memory.heldout())
    assert heldout == sorted({*seqs(memory.audit_set()), 97, 98, 99})


def test_the_window_fills_up_from_older_ones_when_some_of_it_is_withdrawn():
    memory = StatementMemory(heldout_fraction=1.0, window=3)
    memory.remember(pairs(0, 10))
    memory.forget({"feedback-9", "other-8"})
    assert seqs(memory.judging_slice()) == [5, 6, 7]
    assert seqs(memory.audit_set()) == list(range(8))


def test_fresh_statements_are_mixed_with_a_share_of_old_ones():
    memory = StatementMemory(heldout_fraction=0.0, replay=0.5)
    memory.remember(pairs(0, 100))
    rows = train(memory, pairs(100, 20))
    assert seqs(rows)[10:] == list(range(100, 120))
    assert len(rows) == 30
    assert len(train(StatementMemory(heldout_fraction=0.0), pairs(0, 5))) == 5


def test_what_is_fresh_is_not_drawn_again_as_old():
    memory = StatementMemory(heldout_fraction=0.0, replay=10.0)
    memory.remember(pairs(0, 30))
    assert seqs(train(memory, pairs(20, 10))) == list(range(30))


def test_the_draw_is_the_same_after_a_resume_and_another_at_the_next_refresh():
    fresh = pairs(200, 10)
    at_once, in_portions = (StatementMemory(heldout_fraction=0.0, capacity=50) for _ in range(2))
    at_once.remember(pairs(0, 200))
    for first in (150, 0, 50, 100, 0):
        in_portions.remember(pairs(first, 50))
    assert train(at_once, fresh) == train(in_portions, fresh)
    assert train(at_once, fresh) != train(at_once, fresh, upto=1001)
    other_seed = StatementMemory(heldout_fraction=0.0, capacity=50, seed=1)
    other_seed.remember(pairs(0, 200))
    assert train(at_once, fresh) != train(other_seed, fresh)


def test_memory_is_bounded():
    memory = StatementMemory(heldout_fraction=0.0, capacity=30, replay=100.0)
    for first in range(0, 1000, 100):
        memory.remember(pairs(first, 100))
    kept = seqs(memory.everything(upto=1000, now=NOW))
    assert len(kept) == 30
    assert sum(kept) / 30 == pytest.approx(499.5, abs=160)
    assert len(train(memory, pairs(2000, 2))) == 32


def test_a_sample_stays_uniform_when_much_of_it_is_forgotten():
    sample = Reservoir(100, "x")
    sample.offer(pairs(0, 1000))
    sample.forget(frozenset(f"feedback-{number}" for number in range(500)))
    sample.offer(pairs(1000, 1000))
    # Two in three of all that is left came after.
    assert len(sample) == 100
    assert sum(row.seq >= 1000 for row in sample) == pytest.approx(67, abs=15)


def test_withdrawn_statements_are_not_trained_on_again():
    memory = StatementMemory(heldout_fraction=0.0, replay=100.0)
    memory.remember(pairs(0, 6))
    memory.forget({"feedback-1", "answer-4"})
    assert seqs(train(memory, pairs(10, 1))) == [0, 2, 3, 5, 10]


def test_old_statements_count_half_after_a_half_life_of_rows():
    memory = StatementMemory(heldout_fraction=0.0, replay=10.0, recency=Recency(half_life=100.0))
    memory.remember([pair(0, weight=0.5), pair(100)])
    rows = memory.training_set([pair(200), pair(150)], upto=200, now=NOW)
    assert [row.weight for row in rows] == [0.125, 0.5, pytest.approx(2**-0.5), 1.0]


def test_age_in_hours_counts_from_when_it_was_said():
    recency = Recency(half_life=24.0, unit="hours")
    assert recency.factor(pair(1, hours=48), upto=9, now=NOW) == 0.25
    assert recency.factor(pair(1, hours=-48), upto=9, now=NOW) == 1.0


def test_what_was_said_before_a_change_counts_less_on_top_of_its_age():
    change = ChangePoint(seq=100, at=NOW - timedelta(hours=10))
    rows = Recency(half_life=800.0, drift_half_life=50.0)
    assert [rows.factor(pair(seq), upto=900, now=NOW, change=change) for seq in (50, 100, 900)] == [
        pytest.approx(0.5 * 2 ** -(850 / 800)),
        0.5,
        1.0,
    ]
    hours = Recency(drift_half_life=5.0, unit="hours")
    assert [hours.factor(pair(1, hours=ago), upto=9, now=NOW, change=change) for ago in (20, 10, 2)] == [0.25, 1, 1]
    assert hours.factor(pair(1, hours=20), upto=9, now=NOW) == 1.0


def test_after_a_change_only_what_was_said_since_judges():
    memory = StatementMemory(heldout_fraction=1.0, window=4)
    memory.remember(pairs(0, 10))
    memory.change = ChangePoint(seq=8, at=NOW)
    assert seqs(memory.judging_slice()) == seqs(memory.audit_set()) == [8, 9]


@pytest.mark.parametrize("setting", [{"half_life": 0.0}, {"drift_half_life": -1.0}])
def test_a_half_life_is_above_0(setting):
    with pytest.raises(ValueError, match=f"`{next(iter(setting))}` is"):
        Recency(**setting)


def test_ages_of_what_a_refresh_used():
    rows = [
        pair(10 * number, hours=number, delay=2 * number, versions=("policy-0002", "policy-0003")[: 1 + (number == 0)])
        for number in range(11)
    ]
    summary = ages(rows, upto=100, now=NOW)
    assert summary.rows == Quantiles(10.0, 50.0, 90.0)
    assert summary.hours == Quantiles(1.0, 5.0, 9.0)
    assert summary.delay_hours == Quantiles(2.0, 10.0, 18.0)
    assert summary.by_policy_version == {"policy-0002": 11, "policy-0003": 1}
    nothing = ages([], upto=100, now=NOW)
    assert math.isnan(nothing.rows.median)
    assert nothing.by_policy_version == {}


def test_statements_are_known_again_by_the_rows_they_rest_on():
    assert statement_key(pair(3)) == "feedback-3/answer-3/other-3"
