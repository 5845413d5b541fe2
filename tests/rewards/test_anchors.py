from dataclasses import replace

import pytest
import torch

from online_trl.registry import RegistryError
from online_trl.rewards.anchors import Anchor, AnchorSet, Standard, renew_anchors
from rewards.statements import conversation, pairs

SETTINGS = {"size": 8, "max_refreshes": 3, "seed": 0}


def standard(scores, **fields):
    anchors = tuple(Anchor(conversation("why?", str(number))) for number in range(len(scores)))
    return Standard(AnchorSet(anchors, **fields), scores)


def test_each_head_is_standardised_on_its_own():
    scale = standard([[0.0, 10.0], [2.0, 30.0]])
    raw = torch.tensor([[1.0, 20.0], [2.0, 10.0]])
    half = 0.5**0.5
    torch.testing.assert_close(scale.head_scores(raw), torch.tensor([[0.0, 0.0], [half, -half]]))


def test_the_paid_scores_of_the_anchors_have_the_mean_and_spread_of_their_set():
    raw = [[0.3, -1.0], [1.4, 5.0], [-2.0, 0.0], [0.0, 1.0]]
    for pessimism in (0.0, 1.5):
        paid = standard(raw, mean=0.7, std=2.0).paid_scores(torch.tensor(raw), pessimism=pessimism)
        assert paid.mean().item() == pytest.approx(0.7, abs=1e-5)
        assert paid.std().item() == pytest.approx(2.0, abs=1e-5)


def test_pessimism_pays_less_for_what_the_heads_disagree_about():
    scale = standard([[0.0, 0.0], [1.0, 1.0], [-1.0, -1.0]])
    agreed, doubtful = torch.tensor([[0.5, 0.5]]), torch.tensor([[1.5, -0.5]])
    assert scale.paid_scores(agreed, pessimism=1.0) > scale.paid_scores(doubtful, pessimism=1.0)
    torch.testing.assert_close(scale.paid_scores(agreed, pessimism=0.0), scale.paid_scores(doubtful, pessimism=0.0))


def test_a_scale_comes_back_from_its_file(tmp_path):
    scale = standard([[0.0, 10.0], [2.0, 30.0]], version=3, refreshes=2, mean=0.5, std=1.5)
    scale.write(tmp_path)
    assert Standard.read(tmp_path) == scale
    assert Standard.read(tmp_path / "elsewhere") is None


def test_a_damaged_scale_names_its_file(tmp_path):
    (tmp_path / "anchors.json").write_text('{"scores": []}')
    with pytest.raises(RegistryError, match=r"anchors\.json does not hold the anchors"):
        Standard.read(tmp_path)


def test_a_first_set_is_drawn_from_the_answers_that_something_was_said_of():
    first = renew_anchors(None, pairs(1, 20).statements, (), **SETTINGS, score=None)
    assert (len(first.anchors), first.version, first.refreshes, first.mean, first.std) == (8, 1, 1, 0.0, 1.0)
    assert first == renew_anchors(None, pairs(1, 20).statements, (), **SETTINGS, score=None)
    assert len({str(anchor.conversation) for anchor in first.anchors}) == 8


def test_a_set_serves_many_versions_and_is_then_drawn_anew_on_the_same_scale():
    known = renew_anchors(None, pairs(1, 20).statements, (), **SETTINGS, score=None)
    for refreshes in (2, 3):
        known = renew_anchors(known, pairs(21, 20).statements, (), **SETTINGS, score=None)
        assert (known.version, known.refreshes) == (1, refreshes)
    scores = torch.arange(8.0)
    renewed = renew_anchors(known, pairs(41, 20).statements, (), **SETTINGS, score=lambda conversations: scores)
    assert (renewed.version, renewed.refreshes) == (2, 1)
    assert not set(map(str, renewed.conversations)) & set(map(str, known.conversations))
    assert (renewed.mean, renewed.std) == (scores.mean().item(), pytest.approx(scores.std().item()))


def test_what_was_withdrawn_is_replaced_and_the_rest_stays():
    known = renew_anchors(None, pairs(1, 20).statements, (), **SETTINGS, score=None)
    gone = known.anchors[2].feedback_ids[0]
    renewed = renew_anchors(
        known, pairs(41, 20).statements, {gone}, **SETTINGS, score=lambda conversations: torch.zeros(8)
    )
    kept = [anchor for anchor in known.anchors if gone not in anchor.feedback_ids]
    assert list(renewed.anchors[: len(kept)]) == kept
    assert len(renewed.anchors) == 8
    assert gone not in renewed.sources.feedback_ids
    assert renewed.version == 2
    assert renewed == replace(renewed, refreshes=1)


def test_a_single_anchor_gives_scores_that_are_numbers():
    paid = standard([[2.0, 3.0]]).paid_scores(torch.tensor([[1.0, 2.0], [2.0, 3.0]]), pessimism=0.5)
    assert torch.isfinite(paid).all()
