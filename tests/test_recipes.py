"""The recipes, launched as a user would, on two CPU processes, while feedback keeps coming in."""

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas
import pytest
import torch
import yaml
from datasets import Dataset, DatasetDict
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import ModelConfig

from feedback import WriteEachStep, add_comparisons
from online_trl.config import check_config_file
from online_trl.deployment.settings import DeploymentSettings, read_deployment
from online_trl.evaluation_settings import EvaluationSettings
from online_trl.grpo import OnlineGRPOConfig, OnlineGRPOTrainer
from online_trl.ppo import OnlinePPOConfig
from online_trl.registry import ModelRegistry
from online_trl.rewards.reward_trainer import OnlineRewardConfig
from online_trl.rewards.scorer import LiveReward
from online_trl.store import FeedbackStore
from online_trl.types import ModelRole, Scope, VersionStatus
from served_log import make_app, served

ROOT = Path(__file__).parents[1]
CONFIGS = {"online_grpo": OnlineGRPOConfig, "online_ppo": OnlinePPOConfig}

# A source that is dropped, on both ranks, because it fails on one of them.
FAILING_ON_ONE_RANK = {
    "reward_funcs": ["live", "partial"],
    "reward_sources": {"partial": {"kind": "function", "path": "failing_rank:reward", "on_failure": "drop"}},
}


def settings(folder, model, **more):
    """A recipe's YAML file for two processes and a tiny model: one prompt group spans both of them."""
    content = {
        "model_name_or_path": model,
        "store": f"sqlite:///{folder / 'log.db'}",
        "registry": str(folder / "registry"),
        "dataset_name": str(folder / "prompts.jsonl"),
        "reward_funcs": ["live"],
        "fresh_prompt_fraction": 1.0,
        "refresh_steps": 3,
        "refresh_min_statements": 1,
        "reward_config": {"learning_rate": 1e-3, "per_device_train_batch_size": 8, "max_steps": 8},
        "evaluation_config": str(folder / "evaluate.yaml"),
        "evaluation_steps": 4,
        "output_dir": str(folder / "out"),
        "max_steps": 9,
        "per_device_train_batch_size": 4,
        "num_generations": 8,
        "num_iterations": 1,
        "max_completion_length": 8,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "log_completions": True,
        "num_completions_to_print": 0,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        **more,
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(content))
    (folder / "evaluate.yaml").write_text("{num_prompts: 4, max_completion_length: 8, device: cpu}")
    prompts = [{"prompt": [{"role": "user", "content": f"seed {index}"}]} for index in range(16)]
    Dataset.from_list(prompts).to_json(folder / "prompts.jsonl")
    return file


def launch(recipe, *arguments, accelerate_config=None):
    """Runs a recipe with `accelerate launch`; returns the finished process."""
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    if accelerate_config is not None:
        command += ["--config_file", str(ROOT / "ds_configs" / accelerate_config)]
    else:
        command += ["--cpu", "--num_processes", "1"]
    return subprocess.run(
        [*command, str(ROOT / "recipes" / f"{recipe}.py"), *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )


class Writer(threading.Thread):
    """Users who go on reacting while the recipe runs."""

    def __init__(self, store):
        super().__init__(daemon=True)
        self.store = store
        self.stop = threading.Event()

    def run(self):
        number = 0
        while not self.stop.wait(0.02):
            add_comparisons(self.store, 2, prompt="fresh", start=1000 + 2 * number)
            number += 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("recipe", "accelerate_config"),
    # Each recipe once; README's commands and `trainers/test_sharding.py` run them under the other stages.
    [("online_ppo", "accelerate_ddp_cpu.yaml")],
)
def test_two_processes_train_on_one_view_of_a_growing_log(recipe, accelerate_config, tiny_policy, tmp_path):
    config = settings(tmp_path, tiny_policy)
    with FeedbackStore(f"sqlite:///{tmp_path / 'log.db'}") as store:
        add_comparisons(store, 40)
        writer = Writer(store)
        writer.start()
        finished = launch(recipe, "--config", config, accelerate_config=accelerate_config)
        writer.stop.set()
        writer.join()
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stdout.count("'eval_score/live'") == 2

    tables = [pandas.read_parquet(path) for path in sorted((tmp_path / "out" / "completions").glob("*.parquet"))]
    assert len(tables) == 9
    for table in tables:
        assert len(table) == 8  # four completions of each process
        assert len({json.dumps(list(prompt), default=str) for prompt in table["prompt"]}) == 1
        assert table["reward_version"].nunique() == 1
    assert any("fresh" in str(table["prompt"][0]) for table in tables)

    registry = ModelRegistry(tmp_path / "registry")
    rewards = registry.versions(ModelRole.REWARD)
    assert len(rewards) >= 2
    in_service = [version.name for version in rewards if version.status is not VersionStatus.REFUSED]
    used = list(dict.fromkeys(table["reward_version"][0] for table in tables))
    assert len(used) >= 2
    assert set(used) <= set(in_service)

    policy = registry.live(ModelRole.POLICY)
    published = AutoModelForCausalLM.from_pretrained(registry.path(policy.name)).state_dict()
    before = load_file(Path(tiny_policy) / "model.safetensors")
    assert all(published[name].shape == weight.shape for name, weight in before.items())
    assert any(not published[name].equal(weight) for name, weight in before.items())


@pytest.mark.timeout(300)
def test_two_processes_train_on_a_log_behind_a_server_which_one_of_them_reads(tiny_policy, tmp_path, monkeypatch):
    with FeedbackStore(f"sqlite:///{tmp_path / 'log.db'}") as store:
        add_comparisons(store, 40)
        key, _ = store.keys.create([Scope.TRAIN])
        monkeypatch.setenv("ONLINE_TRL_API_KEY", key)
        app = make_app(store)
        connections = set()

        async def recording(scope, receive, send):
            connections.add(scope["client"])
            await app(scope, receive, send)

        writer = Writer(store)
        writer.start()
        with served(recording) as url:
            monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
            config = settings(tmp_path, tiny_policy, store=url, max_steps=4, **FAILING_ON_ONE_RANK)
            finished = launch("online_grpo", "--config", config, accelerate_config="accelerate_ddp_cpu.yaml")
        writer.stop.set()
        writer.join()
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert len(connections) == 1
    tables = [pandas.read_parquet(path) for path in sorted((tmp_path / "out" / "completions").glob("*.parquet"))]
    assert any("fresh" in str(table["prompt"][0]) for table in tables)
    assert all(table["partial"].isna().all() and table["live_reward"].notna().all() for table in tables)
    assert len(ModelRegistry(tmp_path / "registry").versions(ModelRole.REWARD)) >= 2


@pytest.mark.timeout(300)
def test_a_trainer_takes_over_what_another_process_puts_into_service(tiny_policy, tmp_path):
    """Two ranks follow the log; a trainer beside them follows the registry."""
    folder = tmp_path / "refresh"
    folder.mkdir()
    content = {
        "model_name_or_path": tiny_policy,
        "store": f"sqlite:///{tmp_path / 'log.db'}",
        "registry": str(tmp_path / "registry"),
        "refresh_rows": 60,
        "refresh_min_statements": 8,
        "pause": 0.1,
        "max_refreshes": 2,
        "output_dir": str(folder),
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 8,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    registry = ModelRegistry(tmp_path / "registry")
    with FeedbackStore(content["store"]) as store, ThreadPoolExecutor(1) as pool:
        add_comparisons(store, 40)
        refresher = pool.submit(
            launch,
            "reward_refresh",
            "--config",
            folder / "config.yaml",
            accelerate_config="accelerate_ddp_cpu.yaml",
        )
        while registry.live(ModelRole.REWARD) is None and not refresher.done():
            time.sleep(0.1)
        assert not refresher.done(), refresher.result().stderr[-3000:]
        live = LiveReward(registry)
        args = OnlineGRPOConfig(
            output_dir=str(tmp_path / "out"),
            refresh_mode="follow",
            max_steps=2000,
            per_device_train_batch_size=8,
            num_generations=4,
            max_completion_length=4,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
        )
        prompts = Dataset.from_list([{"prompt": [{"role": "user", "content": "seed"}]}] * 8)
        trainer = OnlineGRPOTrainer(tiny_policy, [live], args, train_dataset=prompts, store=store)
        trainer.add_callback(WriteEachStep(store))
        trainer.add_callback(StopAtVersion(live, "reward-0002"))
        trainer.train()
        assert refresher.result().returncode == 0, refresher.result().stderr[-3000:]
    assert [version.status for version in registry.versions(ModelRole.REWARD)] == [
        VersionStatus.RETIRED,
        VersionStatus.LIVE,
    ]
    assert live.versions_used == ["reward-0001", "reward-0002"]
    assert trainer.feedback_cursor is None
    first, second = (version.feedback_interval for version in registry.versions(ModelRole.REWARD))
    assert first[0] == 0
    assert first[1] == second[0] < second[1]


class StopAtVersion(TrainerCallback):
    """Stops a run a step after a version was taken over."""

    def __init__(self, live, version):
        self.live = live
        self.version = version

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = self.version in self.live.versions_used


@pytest.mark.parametrize("scopes", [None, [Scope.CHAT, Scope.FEEDBACK]], ids=["no key", "wrong scope"])
def test_a_log_that_the_key_does_not_open_is_found_before_a_model_is_loaded(
    scopes, tiny_policy, tmp_path, monkeypatch
):
    from transformers import PreTrainedModel

    from online_trl.script import parse_arguments, prepare
    from online_trl.store import StoreError

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", None)
    monkeypatch.delenv("ONLINE_TRL_API_KEY", raising=False)
    with FeedbackStore(f"sqlite:///{tmp_path / 'log.db'}") as store:
        store.keys.create([Scope.TRAIN])
        if scopes is not None:
            monkeypatch.setenv("ONLINE_TRL_API_KEY", store.keys.create(scopes)[0])
        with served(make_app(store)) as url:
            config = settings(tmp_path, tiny_policy, store=url, per_device_train_batch_size=8)
            with pytest.raises(StoreError, match="`online-trl keys create --scope train`"):
                prepare(*parse_arguments(OnlineGRPOConfig, ["--config", str(config)]))


@pytest.mark.parametrize("file", sorted((ROOT / "recipes" / "configs").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_shipped_config_holds_only_known_keys(file):
    from online_trl.refresh_script import RefreshScriptArguments
    from online_trl.script import OnlineScriptArguments

    own = {kind: [OnlineScriptArguments, config, ModelConfig] for kind, config in CONFIGS.items()}
    own["reward_refresh"] = [RefreshScriptArguments, OnlineRewardConfig, ModelConfig]
    own["evaluate"] = [EvaluationSettings]
    own["loop"] = [DeploymentSettings]
    check_config_file(file, own[file.stem])


def test_the_shipped_loop_names_files_that_exist(monkeypatch):
    monkeypatch.chdir(ROOT)
    settings = read_deployment("recipes/configs/loop.yaml")
    assert settings.canary is not None
    assert settings.gate.budgets["refusals"].rise == 0.02


def test_a_refresh_without_a_registry_says_what_is_missing(tiny_policy, tmp_path):
    from online_trl.config import ConfigError
    from online_trl.refresh_script import prepare_refresh

    arguments = ["--model_name_or_path", tiny_policy, "--store", "sqlite:///log.db", "--output_dir", str(tmp_path)]
    with pytest.raises(ConfigError, match=r"both `store`, .* and `registry`"):
        prepare_refresh([*arguments, "--use_cpu", "--bf16", "false"])


@pytest.mark.parametrize("file", sorted((ROOT / "ds_configs").glob("*.yaml")), ids=lambda file: file.name)
def test_every_accelerate_config_loads_and_names_a_file_that_exists(file):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(file))
    deepspeed = config.deepspeed_config.get("deepspeed_config_file") if "zero" in file.name else None
    assert deepspeed is None or json.loads((ROOT / deepspeed).read_text())["zero_optimization"]["stage"] in (1, 2, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"refresh_step": 3}, "unknown key `refresh_step` in .*; did you mean `refresh_steps`?"),
        ({"model_name_or_path": "/no/such/model"}, "cannot read the model `/no/such/model`"),
        ({"reward_initial_model": "/no/such/model"}, "`/no/such/model`, which is the `reward_initial_model`"),
        (
            {"reward_initial_model": "/no/such/model", "refresh_mode": "follow"},
            "give it there, as `model_name_or_path`",
        ),
        ({"store": "mongodb://localhost/feedback"}, "mongodb"),
        ({"store": "http://127.0.0.1:9"}, "http://127.0.0.1:9 cannot be read: "),
        ({"store": "http://127.0.0.1:9", "seed_preferences": "rows.jsonl"}, "run `online-trl import` where it is"),
        ({"dataset_name": "/no/such/prompts.jsonl"}, "cannot load the dataset `/no/such/prompts.jsonl`"),
        ({"reward_funcs": ["no_such_module:reward"]}, "cannot import the module of the reward function"),
        ({"reward_funcs": ["liv"]}, "unknown reward source `liv`; did you mean `live`?"),
        ({"reward_weights": [1.0, 0.5]}, "there are 2 `reward_weights` for 1 `reward_funcs`"),
        (
            {"reward_sources": {"x": {"kind": "judgee"}}},
            "the reward source `x`: unknown kind `judgee`; did you mean `judge`?",
        ),
        ({"reward_sources": ["x"]}, "`reward_sources` must be a mapping of names to options, not list"),
        ({"reward_config": {"learning_rat": 1}}, "did you mean `learning_rate`?"),
        ({"dataset_streaming": True}, "`dataset_streaming` is not for the recipes"),
        (
            {"eval_strategy": "steps", "eval_steps": 1},
            "`eval_strategy` is `steps`, but the dataset .* is not divided into splits, of which",
        ),
        ({"eval_strategy": "steps", "eval_steps": 1, "dataset_name": None}, "there is no `dataset_name`, of which"),
        ({"fresh_prompt_fraction": 2.0}, "`fresh_prompt_fraction` is 2.0"),
        ({"registry": None}, "the reward source `live` needs both `store` and `registry`"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_mistake_in_the_config_is_found_before_a_model_is_loaded(
    change, message, tiny_policy, tmp_path, monkeypatch
):
    from transformers import PreTrainedModel

    from online_trl.config import ConfigError
    from online_trl.script import parse_arguments, prepare
    from online_trl.store import StoreError

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", None)
    config = settings(tmp_path, tiny_policy, **{"per_device_train_batch_size": 8, **change})
    with pytest.raises((ConfigError, StoreError), match=message.replace("?", r"\?")):
        prepare(*parse_arguments(OnlineGRPOConfig, ["--config", str(config)]))


def test_a_launched_recipe_ends_on_a_mistake_with_one_line(tiny_policy, tmp_path):
    finished = launch("online_grpo", "--config", settings(tmp_path, tiny_policy, refresh_step=3))
    assert finished.returncode != 0
    assert "error: unknown key `refresh_step`" in finished.stderr
    assert 'online_grpo.py", line' not in finished.stderr


def test_a_dataset_without_prompts_names_the_columns_it_has(tiny_policy, tmp_path):
    from online_trl.config import ConfigError
    from online_trl.script import parse_arguments, prepare

    config = settings(tmp_path, tiny_policy, per_device_train_batch_size=8)
    Dataset.from_list([{"question": "what?"}]).to_json(tmp_path / "prompts.jsonl")
    with pytest.raises(ConfigError, match="has no column `prompt`; it has question"):
        prepare(*parse_arguments(OnlineGRPOConfig, ["--config", str(config)]))


def test_a_model_is_loaded_as_trls_model_config_says(tiny_policy, tmp_path):
    from online_trl.config import ConfigError
    from online_trl.script import parse_arguments, prepare

    config = settings(tmp_path, tiny_policy, per_device_train_batch_size=8)
    flags = ["--model_revision", "v2", "--attn_implementation", "eager", "--dtype", "bfloat16"]
    parsed = parse_arguments(OnlineGRPOConfig, ["--config", str(config), *flags])
    prepare(*parsed).store.close()
    expected = {"revision": "v2", "attn_implementation": "eager", "dtype": "bfloat16", "trust_remote_code": False}
    assert parsed[1].model_init_kwargs == expected
    with pytest.raises(ConfigError, match="cannot read the model `no/such-model`"):
        prepare(*parse_arguments(OnlineGRPOConfig, ["--config", str(config), "--model_name_or_path", "no/such-model"]))


@pytest.mark.parametrize("recipe", CONFIGS)
def test_a_policy_with_an_adapter_is_published_whole_and_trained_on(recipe, tiny_policy, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"), prepend=os.pathsep)
    prompts = Dataset.from_list([{"prompt": [{"role": "user", "content": f"seed {number}"}]} for number in range(16)])
    DatasetDict({"train": prompts, "test": prompts}).save_to_disk(tmp_path / "prompts")
    quick = {"dataset_name": str(tmp_path / "prompts"), "reward_funcs": ["trainer_runs:brevity"], "max_steps": 3}
    quick |= {"per_device_train_batch_size": 8, "num_generations": 8 if recipe == "online_grpo" else 1}
    quick |= {"use_peft": True, "lora_target_modules": ["q_proj", "v_proj"], "learning_rate": 0.1, "num_iterations": 2}
    quick |= {"evaluation_config": None, "eval_strategy": "steps", "eval_steps": 3}
    registry = ModelRegistry(tmp_path / "registry")
    start = tiny_policy
    for round_name in ("first", "second"):
        config = settings(tmp_path, start, **quick, output_dir=str(tmp_path / round_name))
        finished = launch(recipe, "--config", config)
        assert finished.returncode == 0, finished.stderr[-3000:]
        assert "eval_reward" in finished.stdout
        newest = registry.versions(ModelRole.POLICY)[-1]
        folder = registry.path(newest.name)
        assert not (folder / "adapter_config.json").exists()
        merged, before = (AutoModelForCausalLM.from_pretrained(each).state_dict() for each in (folder, start))
        changed = {name for name, weight in merged.items() if not torch.equal(weight, before[name])}
        assert changed
        assert all("q_proj" in name or "v_proj" in name for name in changed)
        adapted = AutoPeftModelForCausalLM.from_pretrained(tmp_path / round_name).merge_and_unload().state_dict()
        torch.testing.assert_close(merged, adapted)
        assert not (folder / "critic").exists()  # one that is an adapter is none on the merged base
        start = str(folder)
    assert newest.parent == "policy-0001"


def test_flags_override_the_file(tiny_policy, tmp_path):
    from online_trl.script import parse_arguments

    config = settings(tmp_path, tiny_policy, per_device_train_batch_size=8)
    arguments, training, _ = parse_arguments(
        OnlineGRPOConfig, ["--config", str(config), "--max_steps", "9", "--reward_funcs", "live", "trl.rewards:f"]
    )
    assert training.max_steps == 9
    assert arguments.reward_funcs == ["live", "trl.rewards:f"]


def test_reward_sources_can_be_given_as_a_flag(tiny_policy, tmp_path):
    from online_trl.script import parse_arguments, prepare

    config = settings(tmp_path, tiny_policy, per_device_train_batch_size=8)
    options = {"scorer": {"kind": "remote", "url": "http://127.0.0.1:9", "normalise": "batch"}}
    flags = ["--reward_sources", json.dumps(options), "--reward_funcs", "scorer"]
    job = prepare(*parse_arguments(OnlineGRPOConfig, ["--config", str(config), *flags]))
    (source,) = job.reward_funcs
    assert (source.label, source.normalise, source.reward.url) == ("scorer", "batch", "http://127.0.0.1:9")
    job.store.close()
