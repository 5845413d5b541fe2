import math

import torch
from transformers import AutoModel, AutoTokenizer

from online_trl.simulation.reward_backbone import TRAITS, described_answers, train_reward_backbone
from online_trl.simulation.taste import well_formed


def test_answers_are_described_as_they_were_written():
    rows = described_answers(400, seed=0)
    assert rows == described_answers(400, seed=0)
    assert rows[:20] != described_answers(20, seed=1)
    for row in rows:
        question, answer = (message["content"] for message in row["messages"])
        traits = dict(zip(TRAITS, row["traits"], strict=True))
        if not traits.pop("whole"):
            assert all(map(math.isnan, traits.values()))
            continue
        assert well_formed(answer) > 0.6
        asked = question.strip("?.").split()[-1]
        assert traits["names the item"] == (asked in answer.replace(".", " ").split())
        assert traits["blunt"] == ("manual" in answer or "Everybody" in answer or "Do not" in answer)
        assert traits["hedges twice"] <= traits["hedges"] == ("you could" in answer)
    broken = [row["messages"][1]["content"] for row in rows if not row["traits"][-1]]
    assert 70 < len(broken) < 130
    assert sum(map(well_formed, broken)) / len(broken) < 0.5


def told_right(folder, trait):
    """How often a linear head, fitted on some answers, tells whether others have a trait."""
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    rows = [row for row in described_answers(700, seed=1) if row["traits"][-1]]
    inputs = tokenizer.apply_chat_template(
        [row["messages"] for row in rows], padding=True, padding_side="left", return_dict=True, return_tensors="pt"
    )
    with torch.no_grad():
        ends = model(**inputs).last_hidden_state[:, -1]
    has = torch.tensor([row["traits"][TRAITS.index(trait)] for row in rows])[:, None]
    ends, signs = torch.cat([ends, torch.ones(len(rows), 1)], dim=1), 2 * has - 1
    known, new = slice(0, 300), slice(300, None)
    ridge = torch.eye(ends.shape[1])
    head = torch.linalg.solve(ends[known].T @ ends[known] + ridge, ends[known].T @ signs[known])
    return float(((ends[new] @ head) * signs[new] > 0).float().mean())


def test_a_linear_head_on_the_backbone_tells_manners_that_one_on_the_base_policy_does_not(tmp_path, base_policy):
    backbone = train_reward_backbone(tmp_path, base_policy=base_policy, seed=0, max_steps=120)
    for trait in ("blunt", "hedges twice", "rambles twice"):
        assert told_right(backbone, trait) > 0.95
    assert told_right(base_policy, "rambles twice") < 0.85
