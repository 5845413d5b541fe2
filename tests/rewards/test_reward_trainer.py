"""The reward trainer on tiny models: what it learns from each kind of statement, and what it leaves behind."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer

from online_trl.config import ConfigError
from online_trl.rewards.ensemble import disagreement
from online_trl.rewards.reward_trainer import OnlineRewardConfig, OnlineRewardTrainer, save_merged
from reward_models import save_reward_model

sys.path.insert(0, str(Path(__file__).parent))
from reward_runs import SETTINGS, answer, label, mixture, pair, statement, train

ROOT = Path(__file__).parents[2]
HELD_OUT = range(5000, 5040)


def scores(model, tokenizer, texts, numbers=HELD_OUT):
    """Scores of each text as an answer to each held-out question: `(len(numbers), len(texts), K)`."""
    model.eval()
    conversations = [
        [{"role": "user", "content": f"question {number}"}, *answer(f"{text} {number}")]
        for number in numbers
        for text in texts
    ]
    batch = tokenizer.apply_chat_template(
        conversations, padding=True, return_dict=True, return_tensors="pt", tokenizer_kwargs={"padding_side": "right"}
    )
    with torch.no_grad():
        return model(**batch).logits.unflatten(0, (len(numbers), len(texts)))


def order(trainer, *texts):
    """How often each text but the last is held to be better than the next, over held-out questions and heads."""
    means = scores(trainer.model, trainer.processing_class, texts).mean(-1)
    return (means[:, :-1] > means[:, 1:]).float().mean().item()


def test_labels_alone_order_answers_that_nobody_labelled(tiny_policy, tmp_path):
    rows = [label(number, *said) for number in range(60) for said in [("yes", 1.0), ("maybe", 0.5), ("no", 0.0)]]
    trainer = train(tiny_policy, rows, tmp_path)
    assert order(trainer, "yes", "maybe", "no") > 0.95


def test_a_mixture_of_all_kinds_is_learned_in_one_loss(tiny_policy, tmp_path):
    trainer = train(tiny_policy, mixture(300), tmp_path)
    assert order(trainer, "yes", "maybe", "no") > 0.95
    last = trainer.state.log_history[-2]
    assert {f"loss/{kind}" for kind in ("pair", "tie", "ranking", "label")} <= set(last)
    assert {"accuracy", "margin", "min_reward", "mean_reward", "max_reward", "num_tokens", "disagreement"} <= set(last)
    assert last["accuracy"] > 0.9
    assert last["min_reward"] < last["mean_reward"] < last["max_reward"]


def test_rows_of_weight_zero_teach_nothing(tiny_policy, tmp_path):
    liars = [pair(number, "no", "yes", weight=0.0) for number in range(40)]
    liars += [
        statement(number, [f"no {number}", "maybe", f"yes {number}"], (1, 2, 3), weight=0.0) for number in range(40)
    ]
    liars += [label(number, "no", 1.0, weight=0.0) for number in range(40)]
    start = train(tiny_policy, liars, tmp_path, max_steps=1, learning_rate=0.0).model.state_dict()
    end = train(tiny_policy, liars, tmp_path, max_steps=3, center_rewards_coefficient=1.0).model.state_dict()
    assert all(weight.equal(start[name]) for name, weight in end.items())
    among_them = train(tiny_policy, liars + [pair(number) for number in range(40, 80)], tmp_path)
    assert order(among_them, "yes", "no") > 0.95


def test_flipped_rows_of_little_weight_do_not_win(tiny_policy, tmp_path):
    rows = [pair(number) for number in range(60)]
    rows += [pair(number, "no", "yes", weight=0.1) for number in range(60, 240)]
    # Counted alike, the flipped rows would win nearly everywhere.
    assert order(train(tiny_policy, rows, tmp_path), "yes", "no") > 0.75


def test_a_grumpy_user_does_not_teach_that_what_she_saw_is_bad(tiny_policy, tmp_path):
    # She sees good answers alone and likes nothing; somebody else likes all of these, and half of the others.
    rows = [label(number, "yes", 1.0) for number in range(60)]
    rows += [label(number, "no", float(number % 2)) for number in range(60)]
    rows += [label(number, "yes", 0.0, voice="grumpy") for number in range(60, 160)]

    def ahead(leniency_std):
        trainer = train(tiny_policy, rows, tmp_path, leniency_std=leniency_std, learning_rate=1e-2)
        both = scores(trainer.model, trainer.processing_class, ["yes", "no"]).mean(-1)
        return (both[:, 0] - both[:, 1]).mean().item()

    assert ahead(3.0) > 0.5
    assert ahead(0.0) < 0


def test_heads_disagree_more_on_answers_unlike_those_they_learned_from(tiny_policy, tmp_path):
    trainer = train(tiny_policy, [pair(number) for number in range(100)], tmp_path)
    known = scores(trainer.model, trainer.processing_class, ["yes", "no"])
    strange = scores(trainer.model, trainer.processing_class, ["the quick brown fox jumps", "lazy dog seed fresh"])

    def relative(answers):  # differences between two answers, on the scale of each head
        differences = (answers[:, 0] - answers[:, 1]) / known.flatten(0, 1).std(dim=0)
        return disagreement(differences).mean().item()

    assert relative(strange) > 1.5 * relative(known)


def test_one_head_learns_what_trl_learns_from_pairs(tiny_policy, tmp_path):
    rows = Dataset.from_list([pair(number, margin=number / 40) for number in range(40)])
    preferences = rows.map(
        lambda row: {"chosen": row["completions"][0], "rejected": row["completions"][1]},
        remove_columns=[name for name in rows.column_names if name not in ("prompt", "margin")],
    )
    settings = {"max_steps": 4, "center_rewards_coefficient": 0.01}
    args = RewardConfig(output_dir=str(tmp_path), **{**SETTINGS, **settings})
    theirs = RewardTrainer(tiny_policy, args, train_dataset=preferences)
    theirs.train()
    for dataset in (rows, preferences):
        ours = train(tiny_policy, dataset, tmp_path, num_heads=1, tie_strength=0.0, **settings)
        for key in ("loss", "accuracy", "margin", "min_reward", "mean_reward", "max_reward", "num_tokens"):
            logged = [row[key] for row in ours.state.log_history if key in row]
            assert logged == pytest.approx([row[key] for row in theirs.state.log_history if key in row], abs=1e-4)


@pytest.mark.parametrize(
    ("row", "answers"),
    [
        ({"chosen": "a yes", "rejected": "a no"}, 2),
        ({"prompt": "a", "chosen": " yes", "rejected": " no", "margin": 0.5}, 2),
        ({"prompt": "a", "completion": " yes", "label": True}, 1),
        ({"chosen": answer("yes"), "rejected": answer("no")}, 2),
        ({"prompt": answer("a"), "completion": answer("yes"), "label": False}, 1),
        ({"chosen_ids": [4, 5], "rejected_ids": [6]}, 2),
    ],
)
def test_every_format_of_trl_can_be_trained_on(row, answers, tiny_policy, tmp_path):
    trainer = train(tiny_policy, [row] * 8, tmp_path, max_steps=1)
    assert {len(ids) for ids in trainer.train_dataset["answers_ids"]} == {answers}
    assert sum(row.get("label", 0) for row in [row]) == sum(filter(None, trainer.train_dataset["score"])) / 8


def test_evaluation_takes_the_same_formats(tiny_policy, tmp_path):
    args = OnlineRewardConfig(output_dir=str(tmp_path), **SETTINGS)
    rows = Dataset.from_list(mixture(25))
    trainer = OnlineRewardTrainer(tiny_policy, args, train_dataset=rows, eval_dataset=rows)
    metrics = trainer.evaluate(Dataset.from_list(mixture(25, seed=1)))
    assert {"eval_loss", "eval_accuracy", "eval_loss/ranking"} <= set(metrics)


def test_the_saved_folder_is_a_plain_model_that_the_next_refresh_starts_from(tiny_policy, tmp_path):
    trainer = train(tiny_policy, mixture(40), tmp_path, max_steps=2, num_heads=4)
    save_merged(trainer, tmp_path / "saved")
    model, report = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.config.num_labels == 4
    again = train(str(tmp_path / "saved"), mixture(40), tmp_path, num_heads=4, learning_rate=0.0, max_steps=1)
    assert again.model.score.weight.equal(model.score.weight)
    other = train(str(tmp_path / "saved"), mixture(40), tmp_path, num_heads=2, learning_rate=0.0, max_steps=1)
    assert other.model.score.weight.shape == (2, 32)
    assert other.model.model.norm.weight.equal(model.model.norm.weight)
    new = train(
        str(tmp_path / "saved"), mixture(40), tmp_path, num_heads=4, learning_rate=0.0, max_steps=1, reinit_head=True
    )
    assert not torch.isclose(new.model.score.weight, model.score.weight).any(dim=1).all()


def test_the_head_of_an_ordinary_reward_model_becomes_each_of_the_ensemble(tiny_policy, tmp_path):
    one = save_reward_model(tiny_policy, tmp_path / "one")
    settings = {"num_heads": 4, "max_steps": 1}
    trainer = train(str(tmp_path / "one"), mixture(40), tmp_path, learning_rate=0.0, **settings)
    assert trainer.model.score.weight.equal(one.score.weight.expand(4, -1))
    trainer = train(str(tmp_path / "one"), mixture(40), tmp_path, learning_rate=0.01, **settings)
    heads = trainer.model.score.weight
    assert not any(heads[index].equal(heads[index - 1]) for index in range(4))


def test_an_adapter_is_merged_when_it_is_saved_and_scores_the_same(tiny_policy, tmp_path):
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    trainer = train(tiny_policy, mixture(40), tmp_path, peft_config=config, max_steps=2)
    save_merged(trainer, tmp_path / "merged")
    merged, report = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    texts = ["yes", "no", "maybe"]
    torch.testing.assert_close(
        scores(merged, tokenizer, texts), scores(trainer.model, tokenizer, texts), atol=1e-5, rtol=0
    )
    before = load_file(Path(tiny_policy) / "model.safetensors")
    assert not merged.model.layers[0].mlp.up_proj.weight.equal(before["model.layers.0.mlp.up_proj.weight"])


def test_a_frozen_backbone_stays_as_it_was_while_the_head_learns(tiny_policy, tmp_path):
    rows = [pair(number) for number in range(60)]
    trainer = train(tiny_policy, rows, tmp_path, freeze_backbone=True, learning_rate=0.03, num_train_epochs=8)
    before = load_file(Path(tiny_policy) / "model.safetensors")
    weights = trainer.model.state_dict()
    assert all(weights[name].equal(weight) for name, weight in before.items() if name in weights)
    assert order(trainer, "yes", "no") > 0.8


def test_the_pull_holds_differences_to_those_of_the_start(tiny_policy, tmp_path):
    train(tiny_policy, [pair(number) for number in range(60)], tmp_path).save_model(str(tmp_path / "old"))

    def after_a_flip(pull):
        rows = [pair(number, "no", "yes") for number in range(60)]
        trainer = train(str(tmp_path / "old"), rows, tmp_path, pull_coefficient=pull)
        return order(trainer, "yes", "no")

    assert after_a_flip(0.0) < 0.1
    assert after_a_flip(10.0) > 0.9


def test_answers_that_are_too_long_are_left_out(tiny_policy, tmp_path, caplog):
    long = "the quick brown fox " * 20
    rows = [pair(1), pair(2, rejected=long), statement(3, ["yes", long, "no"], (1, 2, 3)), label(4, long, 1.0)]
    trainer = train(tiny_policy, rows, tmp_path, max_steps=1, max_length=40)
    assert trainer.train_dataset["ranks"][:] == [[1, 2], [1, 3]]
    left_out = (
        "2 of the 4 rows of the train dataset are left out: their answers have more than `max_length` = 40 tokens"
    )
    assert left_out in caplog.messages
    with pytest.raises(ValueError, match="no row with answers of at most `max_length` = 3 tokens"):
        train(tiny_policy, rows, tmp_path, max_length=3)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "a"}, "has the columns question; one of these is needed: `completions` and `ranks`"),
        (statement(1, ["yes", "no"], (1,)), "2 answers and the ranks"),
        (statement(1, ["yes"], (1,)), "1 answers and the score None"),
        (statement(1, ["yes", "no"], (1, 2), score=0.5), "2 answers and the score 0.5"),
    ],
)
def test_rows_that_make_no_sense_are_refused(row, message, tiny_policy, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(tiny_policy, [row] * 4, tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_heads": 0}, "`num_heads` is 0"),
        ({"tie_strength": -1.0}, "`tie_strength` is -1.0"),
        ({"leniency_std": -1.0}, "`leniency_std` is -1.0"),
        ({"pull_coefficient": -1.0}, "`pull_coefficient` is -1.0"),
        ({"pull_coefficient": 1.0, "reinit_head": True}, "a new head has no old scores"),
    ],
)
def test_a_wrong_setting_is_named(settings, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        OnlineRewardConfig(output_dir=str(tmp_path), **{**SETTINGS, **settings})


def test_what_does_not_go_together_is_refused(tiny_policy, tmp_path):
    rows = [pair(number) for number in range(8)]
    with pytest.raises(ConfigError, match="`freeze_backbone` is set and there is a `peft_config`"):
        train(tiny_policy, rows, tmp_path, freeze_backbone=True, peft_config=LoraConfig())
    with pytest.raises(ConfigError, match="which an `IterableDataset` cannot give"):
        train(tiny_policy, Dataset.from_list(rows).to_iterable_dataset(), tmp_path, pull_coefficient=1.0)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_policy, num_labels=2)
    with pytest.raises(ConfigError, match="2 labels and `num_heads` is 8"):
        train(model, rows, tmp_path)
    with pytest.raises(TypeError, match="`args` is a `RewardConfig`"):
        OnlineRewardTrainer(tiny_policy, RewardConfig(str(tmp_path), use_cpu=True, bf16=False), train_dataset=rows)


def test_a_stream_and_a_model_in_memory_are_trained_as_well(tiny_policy, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_policy, num_labels=8)
    stream = Dataset.from_list(mixture(64)).to_iterable_dataset()
    trainer = train(model, stream, tmp_path, max_steps=3)
    assert trainer.model is model
    assert trainer.thresholds.abs().max() > 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("accelerate_config", ["accelerate_zero2_cpu.yaml", "accelerate_zero3_cpu.yaml"])
def test_two_processes_train_shards_of_the_model_and_save_it_whole(accelerate_config, tiny_policy, tmp_path):
    script = Path(__file__).parent / "reward_runs.py"
    one = save_reward_model(tiny_policy, tmp_path / "one")
    config = ROOT / "ds_configs" / accelerate_config
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config), str(script)]
    finished = subprocess.run(
        [*command, tiny_policy, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stderr.count("1 of the 41 rows of the train dataset are left out") == 1
    first, second = (
        AutoModelForSequenceClassification.from_pretrained(tmp_path / name, output_loading_info=True)
        for name in ("first", "second")
    )
    for model, report in (first, second):
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        assert model.score.weight.shape == (4, 32)
    moved = first[0].model.layers[0].self_attn.q_proj.weight - second[0].model.layers[0].self_attn.q_proj.weight
    assert moved.abs().max() > 0
    repeated = AutoModelForSequenceClassification.from_pretrained(tmp_path / "repeated")
    assert repeated.score.weight.equal(one.score.weight.expand(4, -1))


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("_prepare_dataset", ["self", "dataset", "processing_class", "args", "dataset_name"]),
        ("_set_signature_columns_if_needed", ["self"]),
        ("compute_loss", ["self", "model", "inputs", "return_outputs", "num_items_in_batch"]),
    ],
)
def test_trl_has_the_methods_that_are_overridden(method, parameters):
    for trainer in (RewardTrainer, OnlineRewardTrainer):
        assert list(inspect.signature(getattr(trainer, method)).parameters) == parameters


def test_trl_takes_the_arguments_that_are_passed_on():
    known = inspect.signature(RewardTrainer.__init__).parameters
    ours = inspect.signature(OnlineRewardTrainer.__init__).parameters
    assert set(ours) - {"adapter", "kwargs"} <= set(known)
    assert list(known)[:7] == list(ours)[:7]
