"""What we override and read of TRL, transformers and accelerate. Each failure says which part of ours to look at."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
import trl
from accelerate.state import AcceleratorState, GradientState, PartialState
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer
from transformers.integrations import deepspeed as hf_deepspeed
from trl import GRPOConfig, GRPOTrainer, RewardConfig, RewardTrainer
from trl.data_utils import get_dataset_column_names, is_conversational
from trl.generation.vllm_generation import VLLMGeneration
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.reward_trainer import suppress_seqcls_warning
from trl.trainer.utils import create_model_from_path, disable_dropout_in_model, get_config_model_id, pad

from online_trl.grpo import OnlineGRPOTrainer
from online_trl.ppo import OnlinePPOTrainer
from trainer_runs import LOSS_TYPES, SETTINGS, brevity, ones

ROOT = Path(__file__).parents[2]
VERSIONS = f"TRL {trl.__version__}, transformers {transformers.__version__}"


def changed(what, where):
    return f"{VERSIONS}: {what} is not what it was; look at {where}"


# The parameters of what we override or call, and what of ours relies on them. Those of TRL are the same from 1.12 on.
SIGNATURES = [
    (GRPOTrainer, "get_train_dataloader", "self", "online_trl/trainer.py, `get_train_dataloader`"),
    (GRPOTrainer, "_tokenize_prompts", "self prompts", "online_trl/trainer.py, `_tokenize_prompts`"),
    (
        GRPOTrainer,
        "_calculate_rewards",
        "self inputs prompts completions completion_ids_list",
        "online_trl/trainer.py and online_trl/ppo/trainer.py, `_calculate_rewards`",
    ),
    (GRPOTrainer, "_log_metric", "self name value", "online_trl/trainer.py, `_tokenize_prompts`"),
    (GRPOTrainer, "_get_train_sampler", "self dataset", "online_trl/checkpoint.py, `_get_train_sampler`"),
    (GRPOTrainer, "_load_optimizer_and_scheduler", "self checkpoint", "what loads the online state"),
    (Trainer, "_save_rng_state", "self output_dir", "what saves the online state"),
    (
        GRPOTrainer,
        "_generate_and_score_completions",
        "self inputs",
        "online_trl/ppo/trainer.py, `_generate_and_score_completions`",
    ),
    (GRPOTrainer, "_compute_loss", "self model inputs", "online_trl/ppo/trainer.py, `_compute_loss`"),
    (
        GRPOTrainer,
        "_get_per_token_logps_and_entropies",
        "self model input_ids attention_mask logits_to_keep batch_size …",
        "online_trl/ppo/trainer.py, `_policy_logps`",
    ),
    (VLLMGeneration, "_iter_named_params", "self", "online_trl/ppo/trainer.py, `_send_policy_alone`"),
    (Trainer, "train", "self resume_from_checkpoint …", "online_trl/checkpoint.py, `train`"),
    (Trainer, "log", "self logs start_time", "online_trl/trainer.py"),
    (Trainer, "_save", "self output_dir state_dict", "online_trl/ppo/trainer.py, `_save`"),
    (
        Trainer,
        "_load_from_checkpoint",
        "self resume_from_checkpoint model",
        "online_trl/ppo/trainer.py, `_load_from_checkpoint`",
    ),
    (Trainer, "_load_best_model", "self", "online_trl/ppo/trainer.py, `_load_best_model`"),
    (
        RewardTrainer,
        "_prepare_dataset",
        "self dataset processing_class args dataset_name",
        "online_trl/rewards/reward_trainer.py, `_prepare_dataset`",
    ),
    (
        RewardTrainer,
        "_set_signature_columns_if_needed",
        "self",
        "online_trl/rewards/reward_trainer.py, `_set_signature_columns_if_needed`",
    ),
    (
        RewardTrainer,
        "compute_loss",
        "self model inputs return_outputs num_items_in_batch",
        "online_trl/rewards/reward_trainer.py, `compute_loss`",
    ),
    (None, suppress_seqcls_warning, "", "online_trl/rewards/reward_model.py, `load_reward_model`"),
    (
        None,
        create_model_from_path,
        "model_id architecture kwargs",
        "online_trl/rewards/reward_model.py, `load_reward_model`",
    ),
    (None, get_config_model_id, "config", "online_trl/trainer.py and online_trl/rewards/reward_trainer.py"),
    (
        None,
        pad,
        "tensors padding_value padding_side pad_to_multiple_of",
        "online_trl/rewards/statements.py, `StatementCollator`",
    ),
    (None, disable_dropout_in_model, "model", "online_trl/critic.py"),
    (None, disable_gradient_checkpointing, "model gradient_checkpointing_kwargs", "online_trl/ppo/trainer.py"),
    (None, get_dataset_column_names, "dataset", "online_trl/rewards/statements.py"),
    (None, is_conversational, "example", "online_trl/trainer.py"),
]


@pytest.mark.parametrize(
    ("owner", "function", "parameters", "where"),
    SIGNATURES,
    ids=[function if owner else function.__name__ for owner, function, *_ in SIGNATURES],
)
def test_signatures(owner, function, parameters, where):
    function = getattr(owner, function) if owner else function
    found, expected = list(inspect.signature(function).parameters), parameters.split()
    if expected[-1:] == ["…"]:  # we pass no more than these
        expected.pop()
        found = found[: len(expected)]
    assert found == expected, changed(f"the signature of `{function.__qualname__}`", where)


class Recorded(GRPOTrainer):
    """TRL's own trainer, which keeps what its methods have returned."""

    def __init__(self, *args, **kwargs):
        self.returned = {}
        super().__init__(*args, **kwargs)

    def _keep(self, name, value):
        self.returned.setdefault(name, []).append(value)
        return value

    def _tokenize_prompts(self, *args):
        return self._keep("_tokenize_prompts", super()._tokenize_prompts(*args))

    def _calculate_rewards(self, *args):
        return self._keep("_calculate_rewards", super()._calculate_rewards(*args))

    def _generate_and_score_completions(self, *args):
        output = super()._generate_and_score_completions(*args)
        # As PPO does.
        output["advantages"] = output["advantages"][:, None] * output["completion_mask"]
        return self._keep("_generate_and_score_completions", output)

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        name = "_get_per_token_logps_and_entropies"
        return self._keep(name, super()._get_per_token_logps_and_entropies(*args, **kwargs))

    def _compute_loss(self, *args):
        return self._keep("_compute_loss", super()._compute_loss(*args))


@pytest.fixture(scope="module")
def run(tiny_policy, tmp_path_factory):
    prompts = Dataset.from_list([{"prompt": [{"role": "user", "content": f"seed {index}"}]} for index in range(8)])
    settings = {**SETTINGS, "num_generations": 4, "num_iterations": 2, "beta": 0.1, "save_strategy": "steps"}
    args = GRPOConfig(output_dir=str(tmp_path_factory.mktemp("run")), save_steps=4, **settings)
    trainer = Recorded(tiny_policy, [brevity, ones], args, train_dataset=prompts)
    trainer.train()
    return trainer


def test_prompts_are_lists_of_tokens(run):
    ids, images, fields = run.returned["_tokenize_prompts"][0]
    where = changed("what `_tokenize_prompts` returns", "online_trl/trainer.py, `_tokenize_prompts`")
    assert len(ids) == 8, where
    assert all(isinstance(token, int) for prompt in ids for token in prompt), where
    assert (images, fields) == (None, {}), where


def test_rewards_have_a_column_for_each_function(run):
    where = changed(
        "what `_calculate_rewards` returns",
        "`_calculate_rewards` in trainer.py and ppo/trainer.py",
    )
    assert run.returned["_calculate_rewards"][0].shape == (8, 2), where
    assert run.reward_func_names == ["brevity", "ones"], where
    assert run.reward_weights.tolist() == [1.0, 1.0], where
    assert len(run.reward_funcs) == 2, where


def test_completions_come_with_these_tensors(run):
    output = run.returned["_generate_and_score_completions"][0]
    where = changed("what `_generate_and_score_completions` returns", "online_trl/ppo/trainer.py")
    assert set(output) == {
        "prompt_ids",
        "prompt_mask",
        "completion_ids",
        "completion_mask",
        "advantages",
        "num_items_in_batch",
        "old_per_token_logps",
        "ref_per_token_logps",
    }, where
    shape = output["completion_ids"].shape
    for name in ("completion_mask", "old_per_token_logps", "ref_per_token_logps"):
        assert output[name].shape == shape, where
    assert shape[0] == 8, where


@pytest.mark.parametrize("key", ["num_images", "tool_mask"])
def test_what_a_rollout_has_only_with_images_or_tools_is_called_as_before(key):
    code = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    assert f'output["{key}"] =' in code, changed(f"what a rollout calls `{key}`", "online_trl/ppo/trainer.py")


def test_a_loss_takes_an_advantage_for_each_token(run):
    where = changed("`_compute_loss`", "online_trl/ppo/trainer.py, `_compute_loss`")
    assert len(run.returned["_compute_loss"]) == 4, where
    assert all(loss.ndim == 0 and loss.isfinite() for loss in run.returned["_compute_loss"]), where


def test_log_probabilities_come_first(run):
    logps, *others = run.returned["_get_per_token_logps_and_entropies"][0]
    where = changed("`_get_per_token_logps_and_entropies`", "online_trl/ppo/trainer.py, `_policy_logps`")
    assert logps.shape[0] == 8, where
    assert (logps <= 0).all(), where
    assert len(others) == 2, where


def test_a_generation_serves_its_steps(run):
    where = changed("how `_prepare_inputs` counts steps", "online_trl/data.py, `OnlineDataCollator`")
    assert run._step == 4, where
    assert len(run.returned["_generate_and_score_completions"]) == 2, where
    assert len(run._buffered_inputs) == run.args.steps_per_generation, where
    assert set(run._metrics) == {"train", "eval"}, where
    assert len(run._logs["advantages"]) == 8, changed("`_logs`", "online_trl/ppo/trainer.py, `_show_advantages`")


def test_the_state_of_the_trainer_is_the_last_file_of_a_checkpoint(run):
    files = list(Path(run.args.output_dir, "checkpoint-4").iterdir())
    newest = max(files, key=lambda file: file.stat().st_mtime_ns)
    assert newest.name == "trainer_state.json", changed("`_save_checkpoint`", "online_trl/checkpoint.py")


def test_the_loss_types_are_those_that_are_tested():
    code = inspect.getsource(GRPOTrainer._compute_loss)
    tests = re.findall(r"self\.loss_type (?:==|in) (\[[^]]+\]|\"\w+\")", code)
    found = {name for test in tests for name in re.findall(r"\w+", test)}
    assert found == set(LOSS_TYPES), changed("what `loss_type` may be", "tests/trainer_runs.py, `LOSS_TYPES`")


def test_the_reward_trainer_keeps_its_books(tiny_policy, tmp_path, prompts):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_policy, num_labels=1)
    args = RewardConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    pairs = prompts.map(lambda row: {"chosen": "yes", "rejected": "no"}, remove_columns="prompt")
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    trainer = RewardTrainer(model, args, train_dataset=pairs, processing_class=tokenizer)
    where = changed("what `RewardTrainer` keeps", "online_trl/rewards/reward_trainer.py")
    assert set(trainer._metrics) == {"train", "eval"}, where
    assert trainer._total_train_tokens == 0, where
    assert trainer._signature_columns is None, where
    model.config.num_labels = 2
    with pytest.raises(ValueError, match="num_labels"):  # `passing_for_one_label` is there for this
        RewardTrainer(model, args, train_dataset=pairs, processing_class=tokenizer)


def test_the_process_wide_state_is_where_it_was():
    where = "online_trl/rewards/nesting.py"
    for kind in (PartialState, AcceleratorState, GradientState):
        assert isinstance(kind._shared_state, dict), changed(f"`{kind.__name__}`", where)
    assert hf_deepspeed._hf_deepspeed_config_weak_ref is None, changed("the DeepSpeed config of transformers", where)
    assert inspect.signature(hf_deepspeed.unset_hf_deepspeed_config).parameters == {}, changed(
        "`unset_hf_deepspeed_config`", where
    )


# Private names of others that we use without overriding them. Whoever adds one pins it above.
PRIVATE = {
    "_VALID_DICT_FIELDS",
    "_buffered_inputs",
    "_get_per_token_logps_and_entropies",
    "_hf_deepspeed_config_weak_ref",
    "_log_metric",
    "_logs",
    "_metrics",
    "_name",
    "_name_or_path",
    "_prepare_inputs",
    "_shared_state",
    "_signature_columns",
    "_step",
    "_tag_names",
    "_tokenizer",
    "_total_train_tokens",
}


def test_the_private_names_of_others_that_we_use_are_known():
    sources = [file.read_text(encoding="utf-8") for file in (ROOT / "online_trl").rglob("*.py")]
    theirs = re.compile(r"^ *(from|import) (trl|transformers|accelerate|peft|deepspeed)\b", re.MULTILINE)
    nodes = [node for source in sources if theirs.search(source) for node in ast.walk(ast.parse(source))]
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute) and re.match(r"_[a-zA-Z]", node.attr)}
    ours = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    ours |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    assert used - ours <= PRIVATE, f"pin {sorted(used - ours - PRIVATE)} in tests/trainers/test_contract.py"


# Each method of TRL that is overridden, and a test of this folder that fails without the override.
OVERRIDES = {
    "CheckpointMixin.train": "test_resuming_without_a_checkpoint_is_refused",
    "OnlineTrainerMixin.get_train_dataloader": "test_a_streamed_dataset_takes_fresh_prompts",
    "OnlineTrainerMixin._tokenize_prompts": "test_long_prompts_are_cut_to_their_last_tokens",
    "OnlineTrainerMixin._calculate_rewards": "test_a_reward_model_that_gives_no_number_stops_the_step",
    "OnlineTrainerMixin.log": "test_each_step_logs_the_version_that_paid_it",
    "CheckpointMixin._get_train_sampler": "test_a_killed_and_resumed_run_ends_as_one_that_was_not_killed",
    "CheckpointMixin._save_rng_state": (
        "test_a_reward_model_is_loaded_by_trl_and_its_scale_comes_back_from_a_checkpoint"
    ),
    "CheckpointMixin._load_optimizer_and_scheduler": (
        "test_a_reward_model_is_loaded_by_trl_and_its_scale_comes_back_from_a_checkpoint"
    ),
    "OnlinePPOTrainer._calculate_rewards": "test_scores_add_up_by_their_weights",
    "OnlinePPOTrainer._generate_and_score_completions": "test_whitened_rewards_have_variance_one_over_all_tokens",
    "OnlinePPOTrainer._compute_loss": "test_equal_rewards_teach_the_critic_of_ppo",
    "OnlinePPOTrainer._save": "test_the_policy_is_saved_without_the_critic_and_loads_in_plain_transformers",
    "OnlinePPOTrainer._load_best_model": "test_the_best_model_comes_back_with_its_critic",
    "OnlinePPOTrainer._load_from_checkpoint": "test_each_kind_learns_and_comes_back_from_a_checkpoint",
}


def test_each_override_has_a_test_that_it_is_needed_for():
    bases = {base for kind in (OnlineGRPOTrainer, OnlinePPOTrainer) for base in kind.__mro__}
    found = {
        f"{base.__name__}.{name}"
        for base in bases - set(GRPOTrainer.__mro__)
        for name in vars(base)
        if name != "__init__" and inspect.isroutine(getattr(GRPOTrainer, name, None)) and not name.startswith("__")
    }
    assert found == set(OVERRIDES), "list each override of a method of TRL with a test that fails without it"
    tests = "".join(file.read_text(encoding="utf-8") for file in Path(__file__).parent.glob("test_*.py"))
    assert [test for test in OVERRIDES.values() if f"def {test}(" not in tests] == []


WITHOUT = """
import sys
import pytest
from online_trl import grpo, ppo
name, method = sys.argv[1].split(".")
bases = {*grpo.OnlineGRPOTrainer.__mro__, *ppo.OnlinePPOTrainer.__mro__}
delattr(next(base for base in bases if base.__name__ == name), method)
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "tests/trainers", "-k", sys.argv[2]]))
"""


@pytest.mark.slow  # half a minute each; the quick test above holds the table to the code
@pytest.mark.parametrize("override", OVERRIDES)
def test_without_the_override_its_test_fails(override):
    command = [sys.executable, "-c", WITHOUT, override, OVERRIDES[override]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
