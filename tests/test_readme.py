"""Every command and snippet of the README, run in its order: on a tiny model, with a few steps, on CPU."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml
from datasets import Dataset

from feedback import add_comparisons
from online_trl import cli
from online_trl.deployment.settings import read_deployment
from online_trl.evaluation.harness import HarnessOptions
from online_trl.registry import ModelRegistry
from online_trl.store import FeedbackStore
from online_trl.types import ModelRole
from registry.publishing import publish
from scoring_server import says, scoring_server

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```(bash|python|yaml)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
# Settings that make a recipe small enough for a test; everything else stays as shipped.
SMALL = {
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "num_generations": 4,
    "gradient_accumulation_steps": 1,
    "max_completion_length": 8,
    "refresh_min_statements": 4,
    "reward_config": {"per_device_train_batch_size": 4},
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "num_completions_to_print": 0,
}
SMALL_EVALUATION = {"num_prompts": 4, "max_completion_length": 8, "device": "cpu"}
SMALL_REFRESH = {"refresh_rows": 60, "refresh_min_statements": 4, "max_refreshes": 1, "use_cpu": True, "bf16": False}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, tiny_policy):
    """A copy of what the README's reader has, with a tiny model and dataset under the names that it uses."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    shutil.copytree(ROOT / "ds_configs", folder / "ds_configs")
    policy = {"model_name_or_path": tiny_policy}
    for config in (folder / "recipes" / "configs").glob("*.yaml"):
        small = {"evaluate": SMALL_EVALUATION, "loop": {}, "reward_refresh": {**SMALL_REFRESH, **policy}}
        content = yaml.safe_load(config.read_text()) | small.get(config.stem, {**SMALL, **policy})
        config.write_text(yaml.safe_dump(content))
    rows = [{"prompt": f"Is it {number}?", "chosen": f"yes {number}", "rejected": "no"} for number in range(40)]
    Dataset.from_list(rows).to_json(folder / "preferences.jsonl")
    with FeedbackStore(f"sqlite:///{folder / 'feedback.db'}") as store:
        add_comparisons(store, 40)
    return folder


@pytest.fixture(scope="module")
def server(workplace, tiny_policy):
    """The server of the README, on a free port."""
    with _serving(_command(_block("online-trl serve --policy"), tiny_policy), workplace) as address:
        yield address


def test_the_two_commands_are_targets_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", _block("make demo"), re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_the_demo_of_the_readme_is_one_that_exists():
    """It is run for real, for two rounds, in `end_to_end/test_demo.py`."""
    arguments = cli.parser().parse_args(_block("online-trl demo").split()[1:])
    assert (arguments.trainer, arguments.seed, arguments.resume) == ("ppo", 1, False)


def test_the_loop_of_the_readme_is_one_that_exists(monkeypatch):
    """It is run for real in `deployment/test_supervisor.py`."""
    monkeypatch.chdir(ROOT)
    arguments = cli.parser().parse_args(_block("online-trl run").split()[1:])
    assert read_deployment(arguments.config).serve is not None
    assert not arguments.once


def test_serve_and_collect(server, workplace):
    names = {}
    with FeedbackStore(f"sqlite:///{workplace / 'feedback.db'}") as store:
        before = store.latest_seq()
        for marker in ("from openai import OpenAI", "import httpx"):
            snippet = _block(marker).replace("http://127.0.0.1:8000", server)
            exec(compile(snippet, "README.md", "exec"), names)
        rows = store.feedback(after=before)
    assert [(row.kind, row.user_id) for row in rows] == [
        ("binary", "ann"),
        ("comparison", "ann"),
        ("correction", "ann"),
    ]
    assert httpx.get(f"{server}/v1/models").status_code == 200
    assert "<html" in httpx.get(server).text


def test_another_server_can_answer(server, workplace, tiny_policy):
    command = _command(_block("online-trl serve --upstream"), tiny_policy)
    places = {
        "http://127.0.0.1:8001/v1": f"{server}/v1",
        "postgresql://trl@localhost/feedback": "sqlite:///upstream.db",
    }
    with _serving([places.get(word, word) for word in command], workplace) as address:
        body = {"messages": [{"role": "user", "content": "Hello?"}], "max_tokens": 4}
        reply = httpx.post(f"{address}/v1/chat/completions", json=body).raise_for_status()
    with FeedbackStore(f"sqlite:///{workplace / 'upstream.db'}") as store:
        (answer,) = store.interactions()
    assert reply.headers["X-Interaction-Id"] == answer.interaction_id
    assert reply.json()["id"] == answer.upstream_id


def test_the_trainer_in_python(workplace, tiny_policy, monkeypatch):
    monkeypatch.chdir(workplace)
    snippet = _block("OnlineGRPOTrainer(").replace("Qwen/Qwen2.5-0.5B-Instruct", tiny_policy)
    small = "use_cpu=True, bf16=False, report_to='none', max_completion_length=8, "
    snippet = snippet.replace("max_steps=100, refresh_steps=25", f"max_steps=2, refresh_steps=1, {small}")
    names = {}
    exec(compile(snippet, "README.md", "exec"), names)
    assert names["trainer"].state.global_step == 2
    assert names["trainer"].live_reward.version is not None

    snippet = _block("reward_initial_model=").replace("Skywork/Skywork-Reward-V2-Qwen3-0.6B", tiny_policy)
    snippet = snippet.replace('"outputs/policy"', '"outputs/policy", use_cpu=True, bf16=False')
    exec(compile(snippet, "README.md", "exec"), names)
    assert names["args"].reward_initial_model == tiny_policy


@pytest.mark.parametrize("marker", ["--seed_preferences", "accelerate_zero3.yaml"])
@pytest.mark.timeout(300)
def test_the_recipes(marker, workplace, tiny_policy):
    block = _block(marker).replace("accelerate_zero3.yaml", "accelerate_zero3_cpu.yaml")
    block = block.replace("trl-lib/ultrafeedback_binarized", "preferences.jsonl")
    _train(block, workplace, tiny_policy, workplace / f"outputs-{marker.strip('-')}")


@pytest.mark.timeout(300)
def test_a_refresh_in_a_process_of_its_own(workplace, tiny_policy):
    with FeedbackStore(f"sqlite:///{workplace / 'feedback.db'}") as store:
        add_comparisons(store, 40, start=2000)
    refresh, follow = _block("recipes/reward_refresh.py").strip().splitlines()
    finished = subprocess.run(
        _command(refresh, tiny_policy),
        cwd=workplace,
        env=_environment(workplace),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert re.search(r"^reward-\d{4} (accepted|refused): ", finished.stdout, re.MULTILINE)
    _train(follow, workplace, tiny_policy, workplace / "outputs-follow")


def test_plug_in_rewards(workplace, tiny_policy):
    (workplace / "my_rewards.py").write_text(_block("def brevity"))
    config = workplace / "recipes" / "configs" / "online_grpo.yaml"
    with scoring_server() as (url, judge):
        judge.always = lambda body: says("Score: 7")
        config.write_text(config.read_text() + _block("reward_sources").replace("http://127.0.0.1:8001", url))
        output = _train(_block("--reward_funcs"), workplace, tiny_policy, workplace / "outputs-rewards")
    assert judge.bodies[0]["model"] == "Qwen/Qwen2.5-7B-Instruct"
    assert "dropped for this batch" not in output


def _train(block, workplace, tiny_policy, output):
    command = _command(block, tiny_policy)
    finished = subprocess.run(
        [*command, "--output_dir", str(output)],
        cwd=workplace,
        env=_environment(workplace),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert (output / "model.safetensors").is_file()
    return finished.stderr


def test_bring_your_own_dataset(workplace, tiny_policy):
    for line in _block("online-trl import").strip().splitlines():
        subprocess.run(_command(line, tiny_policy), cwd=workplace, check=True, env=_environment(workplace))
    exported = Dataset.from_parquet(str(workplace / "exported.parquet"))
    assert {"prompt", "chosen", "rejected"} <= set(exported.column_names)
    assert len(exported) >= 40


def test_evaluate_a_version(workplace, tiny_policy):
    """After the recipes, so that there are versions to compare."""
    config = workplace / "recipes" / "configs" / "evaluate.yaml"
    tasks = yaml.safe_load(_block("reward_func: my_rewards:exact"))
    (workplace / "my_rewards.py").write_text(
        "def exact(completions, answer, **columns):\n"
        "    return [float(text == right) for text, right in zip(completions, answer)]\n"
    )
    Dataset.from_list([{"prompt": "1 + 1 =", "answer": "2"}]).to_json(workplace / "sums.jsonl")
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "tasks": tasks["tasks"]}))
    command = [*_command(_block("online-trl evaluate"), tiny_policy), "--json"]
    finished = subprocess.run(
        command, cwd=workplace, env=_environment(workplace), capture_output=True, text=True, timeout=200
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    figures = json.loads(finished.stdout)["figures"]
    assert {"win_rate_vs_live", "kl", "task/sums", "reward_accuracy"} <= figures.keys()
    assert HarnessOptions(**tasks["harness"]).limit == 200


def test_look_after_the_log(server, workplace, tiny_policy):
    """After the recipes, so that there are versions to trace."""
    for line in _block("online-trl quarantine").strip().splitlines():
        subprocess.run(_command(line, tiny_policy), cwd=workplace, check=True, env=_environment(workplace))
    with FeedbackStore(f"sqlite:///{workplace / 'feedback.db'}") as store:
        assert all(row.user_id != "ann" for row in [*store.interactions(), *store.feedback()])
        assert len(store.tombstones()) == 1


@pytest.mark.timeout(300)
def test_decide_what_users_get(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    registry = ModelRegistry("registry")
    registry.promote(publish(registry), "the first one")
    publish(registry)
    for line in _block("online-trl canary start").splitlines():
        assert cli.main(shlex.split(line)[1:]) == 0
    assert [row.version for row in registry.history(ModelRole.POLICY)] == ["policy-0001", "policy-0002", "policy-0001"]


def test_a_trainer_reads_the_log_of_another_machine(server, workplace, tiny_policy):
    """The last one to need the server, which asks everybody for a key from here on."""
    keys = [
        subprocess.run(
            _command(line, tiny_policy),
            cwd=workplace,
            env=_environment(workplace),
            capture_output=True,
            text=True,
            check=True,
        )
        for line in _block("online-trl keys create").strip().splitlines()
    ]
    (key,) = re.findall(r"sk-\S+", keys[1].stdout)
    export, block = _block("export ONLINE_TRL_API_KEY").split("\n", 1)
    command = _command(block.replace("http://feedback.internal:8000", server), tiny_policy)
    finished = subprocess.run(
        [*command, "--output_dir", str(workplace / "outputs-remote")],
        cwd=workplace,
        env=_environment(workplace) | {export.removeprefix("export ").partition("=")[0]: key},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert (workplace / "outputs-remote" / "model.safetensors").is_file()
    assert httpx.get(f"{server}/v1/models").status_code == 401


def test_every_block_is_run_by_one_of_these_tests():
    run = ("make demo", "online-trl serve", "OpenAI", "httpx", "OnlineGRPOTrainer(", "def brevity")
    run += ("accelerate launch", "online-trl import", "online-trl demo", "online-trl keys", "online-trl quarantine")
    run += (
        "reward_sources",
        "reward_initial_model=",
        "online-trl canary",
        "online-trl evaluate",
        "online-trl run",
        "reward_func: my_rewards:exact",
    )
    assert all(any(marker in code for marker in run) for _, code in BLOCKS)


def _block(marker):
    (code,) = [code for _, code in BLOCKS if marker in code]
    return code


def _command(block, model):
    """A shell command of the README as a list, run by this interpreter."""
    words = block.replace("\\\n", " ").replace("Qwen/Qwen2.5-0.5B-Instruct", model).split()
    modules = {"accelerate": "accelerate.commands.accelerate_cli", "online-trl": "online_trl.cli"}
    return [sys.executable, "-m", modules[words[0]], *words[1:]]


@contextmanager
def _serving(command, workplace):
    """Runs a server on a free port and gives its address."""
    log = workplace / f"server-{len(list(workplace.glob('server-*.log')))}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--port", "0"], cwd=workplace, stdout=output, stderr=output, env=_environment(workplace)
        )
        try:
            yield _address(process, log)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)


def _environment(workplace):
    paths = [str(workplace), str(ROOT)]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


def _address(process, log):
    deadline = time.monotonic() + 120
    while not (found := re.search(r"at (http://\S+)", log.read_text())):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found[1]
