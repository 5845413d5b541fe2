import math

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from online_trl.config import ConfigError
from online_trl.registry import ModelRegistry
from online_trl.rewards.functions import DROPPED, RewardFunctionError
from online_trl.rewards.scorer import LiveReward
from online_trl.rewards.sources import RewardSource, RewardSources, check_reward_model

NAN = math.nan


def length(completions, **columns):
    return [float(len(completion)) for completion in completions]


def test_functions_are_guarded_by_their_name_and_models_left_to_trl(tmp_path):
    live, module = LiveReward(ModelRegistry(tmp_path)), torch.nn.Identity()
    sources = RewardSources([live, length, None, RewardSource(reward=length, name="size"), "owner/name", module])
    rewards = sources.for_trl()
    assert [rewards[0], *rewards[3:]] == [live, "owner/name", module]
    assert [reward.__name__ for reward in rewards[1:3]] == ["length", "size"]
    assert rewards[2](prompts=["a"], completions=["bb"]) == [2.0]
    assert sources.live is live
    given = ["live_reward", "length", "size", "name", "identity", "Arena"]
    assert sources.names(given) == given
    assert RewardSources(RewardSource(reward="owner/name", name="quality")).names(["name", "Arena"]) == [
        "quality",
        "Arena",
    ]


def test_one_reward_needs_no_list():
    assert len(RewardSources(length).for_trl()) == 1
    assert RewardSources(None).for_trl() == []
    assert RewardSources(None).live is None


def test_a_source_that_failed_on_one_rank_is_left_out_on_all():
    sources = RewardSources([length, RewardSource(reward=length, on_failure="drop", normalise="running")])
    rewards = torch.tensor([[1.0, DROPPED], [2.0, DROPPED], [3.0, 0.5], [NAN, 0.7]])
    settled, means = sources.settle(rewards, learn=True)
    assert settled[:, 0].tolist() == pytest.approx([1.0, 2.0, 3.0, NAN], nan_ok=True)
    assert settled[:, 1].isnan().all()
    assert means == {}
    assert sources.state_dict()[1]["count"] == 0


def test_an_infinite_reward_of_what_is_never_dropped_is_not_hidden():
    settled, _ = RewardSources("owner/name").settle(torch.tensor([[math.inf], [1.0]]), learn=True)
    assert settled.tolist() == [[math.inf], [1.0]]


def test_each_source_is_normalised_as_configured():
    sources = RewardSources(
        [length, RewardSource(reward=length, normalise="batch"), RewardSource(reward=length, normalise="running")]
    )
    half = 1 / math.sqrt(2)
    first, means = sources.settle(torch.tensor([[1.0], [3.0]]).repeat(1, 3), learn=True)
    assert first.tolist() == [[1.0, pytest.approx(-half), pytest.approx(-half)], [3.0] + [pytest.approx(half)] * 2]
    assert means == {1: 2.0, 2: 2.0}
    # Of 1, 3, 5 and 7, the mean is 4 and the squared distances 9 + 1 + 1 + 9.
    second, _ = sources.settle(torch.tensor([[5.0], [7.0]]).repeat(1, 3), learn=True)
    assert second[:, 1].tolist() == pytest.approx([-half, half])
    assert second[:, 2].tolist() == pytest.approx([1 / math.sqrt(20 / 3), 3 / math.sqrt(20 / 3)])


def test_evaluation_is_normalised_by_what_training_has_seen_and_teaches_nothing():
    sources = RewardSources(RewardSource(reward=length, normalise="running"))
    sources.settle(torch.tensor([[1.0], [3.0]]), learn=True)
    for _ in range(2):
        settled, _ = sources.settle(torch.tensor([[2.0], [100.0]]), learn=False)
        assert settled[:, 0].tolist() == pytest.approx([0.0, 98 / math.sqrt(2)])


def test_columns_of_rewards_that_trl_adds_itself_are_kept():
    sources = RewardSources(RewardSource(reward=length, normalise="batch"))
    settled, _ = sources.settle(torch.tensor([[1.0, 4.0], [3.0, 5.0]]), learn=True)
    assert settled[:, 1].tolist() == [4.0, 5.0]
    assert sources.names(["length", "Arena"]) == ["length", "Arena"]


def test_running_moments_come_back_for_the_source_that_had_them():
    before = RewardSources([RewardSource(reward=length, normalise="running"), RewardSource(reward="owner/name")])
    before.settle(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), learn=True)
    after = RewardSources([RewardSource(reward=length, normalise="running"), RewardSource(reward=length, name="new")])
    after.load_state_dict(before.state_dict())
    assert after.state_dict()[0] == {"source": "length", "count": 2, "mean": 2.0, "squares": 2.0}
    assert after.state_dict()[1]["count"] == 0
    other = RewardSources(RewardSource(reward=length, name="other", normalise="running"))
    other.load_state_dict(before.state_dict())
    assert other.state_dict()[0]["count"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalise": "runing_"}, "unknown normalise `runing_`; did you mean `running`"),
        ({"on_failure": "drip"}, "unknown on_failure `drip`; did you mean `drop`"),
        ({"reward": "owner/name", "on_failure": "drop"}, "a reward model runs on all ranks at once"),
    ],
)
def test_a_wrong_option_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        RewardSource(**{"reward": length, **options})


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory, tiny_policy):
    folder = tmp_path_factory.mktemp("classifiers")
    for labels in (1, 3):
        model = AutoModelForSequenceClassification.from_pretrained(tiny_policy, num_labels=labels)
        model.save_pretrained(folder / str(labels))
    return folder


def test_a_reward_model_is_told_from_other_models(classifiers, tiny_policy):
    check_reward_model(str(classifiers / "1"))
    with pytest.raises(ConfigError, match=r"/3` gives 3 numbers for an answer"):
        check_reward_model(str(classifiers / "3"))
    with pytest.raises(ConfigError, match=r"is not a reward model, .* but \['LlamaForCausalLM'\]"):
        check_reward_model(tiny_policy)
    with pytest.raises(ConfigError, match="cannot read the reward model `/no/such/folder`"):
        check_reward_model("/no/such/folder")
    with pytest.raises(ConfigError, match="`liv` is neither a folder nor the hub id of a reward model"):
        check_reward_model("liv")


def test_a_model_must_give_a_number_for_each_completion():
    sources = RewardSources([length, "owner/name"])
    sources.check(torch.tensor([[NAN, 1.0], [2.0, 0.0]]), step=3)
    with pytest.raises(
        RewardFunctionError, match=r"`owner/name` gave nan for completion 1 of a batch of 3 .* at step 3"
    ):
        sources.check(torch.tensor([[1.0, 1.0], [2.0, NAN], [0.0, -math.inf]]), step=3)


def test_what_trl_adds_itself_is_guarded_under_its_name():
    live, room = length, lambda **columns: [NAN]
    own, other = RewardSources(live).guard_others([live, room], ["length", "Room"])
    assert own is live
    with pytest.raises(RewardFunctionError, match="the reward source `Room` returned nan"):
        other(prompts=["a"], completions=["b"])
