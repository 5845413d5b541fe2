"""Every kind of critic, in real runs: where its values come from, what is trained, saved, resumed and exported."""

import contextlib
import shutil
from types import SimpleNamespace

import pytest
import torch
from peft import AutoPeftModelForCausalLM, IA3Config, LoraConfig
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BloomConfig,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    OPTConfig,
)
from trl.generation.vllm_generation import VLLMGeneration

from online_trl.checkpoint import last_complete_checkpoint
from online_trl.config import ConfigError
from online_trl.critic import AdapterCritic, HeadCritic, ModelCritic, is_critic_name
from online_trl.ppo import OnlinePPOConfig, OnlinePPOTrainer
from online_trl.ppo.trainer import _send_policy_alone
from online_trl.rewards.scorer import LiveReward
from online_trl.types import ModelRole
from trainer_runs import SETTINGS, brevity, logged, make

# Which critic goes with which policy: `True` stands for a policy with an adapter.
KINDS = {("model", False): ModelCritic, ("head", False): HeadCritic, ("head", True): HeadCritic}
KINDS |= {("model", True): ModelCritic, ("adapter", True): AdapterCritic}
SAVING = {"save_strategy": "steps", "save_steps": 8}
# A critic that is free to move shows what it learns within a few steps.
FREE = {"cliprange_value": 5.0, "learning_rate": 1e-2, "num_iterations": 2}


def lora(lora_policy=True):
    return LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.1) if lora_policy else None


def state(critic):
    return {name: parameter.detach().clone() for name, parameter in critic.named_parameters()}


@pytest.mark.parametrize(("kind", "has_adapter"), KINDS)
def test_each_kind_learns_and_comes_back_from_a_checkpoint(
    kind, has_adapter, tiny_policy, tmp_path, prompts, monkeypatch
):
    settings = {"critic": kind, **SAVING, **FREE}
    trainer = make(
        "ppo", tiny_policy, tmp_path, brevity, prompts, max_steps=8, peft_config=lora(has_adapter), **settings
    )
    critic = trainer.model.critic
    assert type(critic) is KINDS[kind, has_adapter]
    before = state(critic)
    trainer.train()
    losses = logged(trainer, "value_loss")
    assert losses[-1] < 0.7 * losses[0]
    after = state(critic)
    trained = {name for name, parameter in critic.named_parameters() if parameter.requires_grad}
    assert {name for name in after if not after[name].equal(before[name])} == trained

    checkpoint = last_complete_checkpoint(tmp_path)
    again = make("ppo", tiny_policy, tmp_path / "again", brevity, prompts, peft_config=lora(has_adapter), **settings)
    assert not state(again.model.critic)[min(trained)].equal(after[min(trained)])
    told = []
    monkeypatch.setattr(again, "_issue_warnings_after_load", lambda result: told.extend(result.missing_keys))
    again._load_from_checkpoint(checkpoint)
    assert not any(is_critic_name(name) for name in told)
    assert all(torch.equal(weight, after[name]) for name, weight in state(again.model.critic).items())
    policies = [dict(each.model.named_parameters()) for each in (trainer, again)]
    assert all(torch.equal(weight, policies[1][name]) for name, weight in policies[0].items())


def test_the_best_model_comes_back_with_its_critic(tiny_policy, tmp_path, prompts):
    def waning(completions, trainer_state, **columns):
        return [3.0 - trainer_state.global_step] * len(completions)

    best = {"load_best_model_at_end": True, "metric_for_best_model": "reward", "greater_is_better": True}
    settings = {**best, **FREE, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    settings |= {"critic": "head", "max_steps": 2}
    trainer = make("ppo", tiny_policy, tmp_path, waning, prompts, eval_dataset=prompts.select(range(8)), **settings)
    trainer.train()
    assert trainer.state.best_global_step == 1
    saved = load_file(tmp_path / "checkpoint-1" / "critic" / "critic.safetensors")
    assert all(weight.equal(saved[name]) for name, weight in state(trainer.model.critic).items())
    later = load_file(tmp_path / "checkpoint-2" / "critic" / "critic.safetensors")
    assert not any(weight.equal(later[name]) for name, weight in saved.items())

    shutil.rmtree(tmp_path / "checkpoint-1" / "critic")
    with pytest.raises(ConfigError, match=r"there is no critic in .*checkpoint-1/critic"):
        trainer._load_best_model()
    # transformers itself only warns where it finds no best model: on another node than the one that saved it.
    shutil.rmtree(tmp_path / "checkpoint-1")
    trainer._load_best_model()
    assert all(weight.equal(saved[name]) for name, weight in state(trainer.model.critic).items())


def test_the_adapter_critic_shares_every_frozen_parameter_of_the_policy(tiny_policy, tmp_path, prompts):
    trainer = make("ppo", tiny_policy, tmp_path, brevity, prompts, peft_config=lora())
    policy, critic = trainer.model, trainer.model.critic
    assert isinstance(critic, AdapterCritic)  # what a policy with an adapter gets by default
    frozen = {id(parameter) for parameter in policy.get_base_model().parameters() if not parameter.requires_grad}
    assert {id(parameter) for parameter in critic.parameters() if not parameter.requires_grad} == frozen
    trainer.create_optimizer()
    optimised = [id(each) for group in trainer.optimizer.param_groups for each in group["params"]]
    trained = {id(parameter) for parameter in policy.parameters() if parameter.requires_grad}
    assert len(optimised) == len(set(optimised))
    assert set(optimised) == trained
    assert not any(module.p for module in critic.modules() if isinstance(module, torch.nn.Dropout))
    assert any(module.p for module in policy.get_base_model().modules() if isinstance(module, torch.nn.Dropout))


def test_the_adapter_of_the_policy_does_not_move_the_values(tiny_policy, tmp_path, prompts):
    trainer = make("ppo", tiny_policy, tmp_path, brevity, prompts, peft_config=lora())
    critic = trainer.model.critic
    torch.nn.init.ones_(critic.head.weight)
    ids = torch.arange(6)[None]
    before = critic(ids, torch.ones_like(ids))
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name and not is_critic_name(name):
            torch.nn.init.ones_(parameter)
    torch.testing.assert_close(critic(ids, torch.ones_like(ids)), before)


def test_the_value_head_reads_the_hidden_states_of_the_pass_that_gave_the_log_probabilities(
    tiny_policy, tmp_path, prompts, monkeypatch
):
    trainer = make("ppo", tiny_policy, tmp_path, brevity, prompts, critic="head", max_steps=2, num_iterations=2)
    torch.nn.init.ones_(trainer.model.critic.head.weight)
    passes = []
    trainer.model.base_model.register_forward_hook(
        lambda module, args, output: passes.append(output.last_hidden_state.shape[1]) if module.training else None
    )
    batches = []
    compute_loss = trainer._compute_loss

    def recording(model, inputs):
        passes.clear()
        loss = compute_loss(model, inputs)
        batches.append((len(passes), passes[0] - inputs["prompt_ids"].shape[1] - inputs["completion_ids"].shape[1]))
        if len(batches) == 1:  # the policy has not moved since the rollout, whose values came from a pass of their own
            with trainer.model.critic.beside_policy():
                values = trainer._values(inputs) * inputs["value_mask"]
            torch.testing.assert_close(values, inputs["old_values"])
        return loss

    monkeypatch.setattr(trainer, "_compute_loss", recording)
    trainer.train()
    assert batches == [(1, 0)] * 2


@pytest.mark.parametrize("kind", ["head", "adapter"])
def test_recomputed_activations_give_the_same_gradients(kind, tiny_policy, tmp_path, prompts):
    def gradients(folder, **settings):
        torch.manual_seed(0)  # TRL draws an adapter before it sets its seed
        trainer = make(
            "ppo", tiny_policy, tmp_path / folder, brevity, prompts, max_steps=1, peft_config=lora(), critic=kind,
            **settings,
        )  # fmt: skip
        torch.nn.init.ones_(trainer.model.critic.head.weight)
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        found = {}
        trainer.accelerator.clip_grad_norm_ = lambda parameters, *args, **kwargs: found.update(
            {name: each.grad.clone() for name, each in trainer.model.named_parameters() if each.grad is not None}
        )
        trainer.train()
        return found

    plain = gradients("plain")
    recomputed = gradients("recomputed", gradient_checkpointing=True)
    assert any(is_critic_name(name) for name in plain)
    assert plain.keys() == recomputed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient)


@pytest.mark.parametrize("kind", ["model", "head"])
def test_the_policy_saves_itself_without_its_critic(kind, tiny_policy, tmp_path, prompts):
    trainer = make("ppo", tiny_policy, tmp_path, brevity, prompts, critic=kind)
    trainer.save_model(str(tmp_path / "trainer"))
    trainer.model.save_pretrained(tmp_path / "model")
    for folder in ("trainer", "model"):
        _, report = AutoModelForCausalLM.from_pretrained(tmp_path / folder, output_loading_info=True)
        assert not report["unexpected_keys"]
        assert not report["missing_keys"]
        assert not any(
            "critic" in name or "score" in name for name in load_file(tmp_path / folder / "model.safetensors")
        )
    assert not (tmp_path / "model" / "critic").exists()
    if kind == "model":
        folder = tmp_path / "trainer" / "critic"
        _, report = AutoModel.from_pretrained(folder, output_loading_info=True)
        assert not report["unexpected_keys"]
        assert not report["missing_keys"]
        assert load_file(folder / "value_head.safetensors").keys() == {"weight", "bias"}
    else:
        assert load_file(tmp_path / "trainer" / "critic" / "critic.safetensors").keys() == {"head.weight", "head.bias"}


@pytest.mark.parametrize("kind", ["model", "head", "adapter"])
def test_the_adapter_of_a_policy_saves_itself_without_the_critic(kind, tiny_policy, tmp_path, prompts):
    trainer = make("ppo", tiny_policy, tmp_path, brevity, prompts, critic=kind, peft_config=lora())
    trainer.save_model(str(tmp_path / "trainer"))
    trainer.model.save_pretrained(tmp_path / "model")
    expected = {
        name for name, each in trainer.model.named_parameters() if each.requires_grad and not is_critic_name(name)
    }
    for folder in ("trainer", "model"):
        saved = load_file(tmp_path / folder / "adapter_model.safetensors")
        assert saved.keys() == {name.replace(".default", "") for name in expected}
        loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / folder)
        ids = torch.arange(6)[None]
        torch.testing.assert_close(loaded(ids).logits, trainer.model.eval()(ids).logits)
    if kind == "adapter":
        critic = trainer.model.critic
        saved = load_file(tmp_path / "trainer" / "critic" / "critic.safetensors")
        assert saved.keys() == {name for name, each in critic.named_parameters() if each.requires_grad}
        assert not any("base_layer" in name or "embed_tokens" in name for name in saved)


@pytest.mark.parametrize(("kind", "has_adapter"), [("model", False), ("head", False), ("adapter", True)])
def test_a_saved_critic_is_what_the_next_run_starts_from(kind, has_adapter, tiny_policy, tmp_path, prompts):
    first = make("ppo", tiny_policy, tmp_path, brevity, prompts, critic=kind, peft_config=lora(has_adapter))
    for parameter in first.model.critic.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    first.save_model(str(tmp_path / "saved"))
    folder = str(tmp_path / "saved" / "critic")
    second = make(
        "ppo", tiny_policy, tmp_path, brevity, prompts, critic=kind, critic_model=folder, peft_config=lora(has_adapter)
    )
    weights = state(second.model.critic)
    assert all(weight.equal(weights[name]) for name, weight in state(first.model.critic).items())


@pytest.mark.parametrize("kind", ["model", "head"])
def test_a_policy_is_trained_on_with_the_critic_that_was_saved_beside_it(kind, tiny_policy, tmp_path, prompts):
    first = make("ppo", tiny_policy, tmp_path, brevity, prompts, critic=kind)
    for parameter in first.model.critic.parameters():
        torch.nn.init.normal_(parameter)
    first.save_model(str(tmp_path / "saved"))
    first.processing_class.save_pretrained(tmp_path / "saved")
    own = state(first.model.critic)
    for next_kind in ("model", "head"):
        weights = state(
            make("ppo", str(tmp_path / "saved"), tmp_path, brevity, prompts, critic=next_kind).model.critic
        )
        # One of another kind begins anew, at values of 0.
        head = next(name for name in weights if name.endswith(("head.weight", "score.weight")))
        assert torch.equal(weights[head], own[head]) if next_kind == kind else weights[head].eq(0).all()


def test_a_critic_starts_from_the_live_reward_model_with_one_value_for_all_its_heads(
    tiny_policy, tmp_path, prompts, registry
):
    def publish(folder):
        model = AutoModelForSequenceClassification.from_pretrained(tiny_policy, num_labels=3)
        torch.nn.init.constant_(model.model.norm.weight, 7.0)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(tiny_policy).save_pretrained(folder)

    version = registry.publish(ModelRole.REWARD, publish)
    registry.promote(version.name, "a test")
    trainer = make("ppo", tiny_policy, tmp_path, [LiveReward(registry)], prompts, critic_model="live")
    critic = trainer.model.critic
    assert (critic.model.norm.weight == 7).all()
    assert critic.head.weight.shape == (1, 32)
    assert not critic.head.weight.any()
    trainer.save_model(str(tmp_path / "saved"))
    assert load_file(tmp_path / "saved" / "critic" / "value_head.safetensors")["weight"].shape == (1, 32)


def test_a_critic_that_cannot_be_is_refused_before_a_model_is_loaded(tmp_path, prompts, store, registry):
    def refused(match, reward_funcs=brevity, **settings):
        with pytest.raises(ConfigError, match=match):
            make("ppo", "no/such-model", tmp_path, reward_funcs, prompts, **settings)

    refused("unknown critic `heads`; did you mean `head`", critic="heads")
    refused("the policy is not trained by a LoRA adapter", critic="adapter")
    refused("the policy is not trained by a LoRA adapter", critic="adapter", peft_config=IA3Config())
    refused("`critic_model` is some/model, but a critic of the kind `head`", critic="head", critic_model="some/model")
    refused(
        "`critic_model` is live, but a critic of the kind", critic="adapter", critic_model="live", peft_config=lora()
    )
    refused("no live reward among `reward_funcs`", critic_model="live")
    refused("has no version in its registry yet", [LiveReward(registry)], critic_model="live", store=store)


def test_a_critic_of_another_kind_is_not_taken_for_the_saved_one(tiny_policy, tmp_path, prompts):
    first = make("ppo", tiny_policy, tmp_path, brevity, prompts, critic="head")
    first.save_model(str(tmp_path / "saved"))
    with pytest.raises(ConfigError, match="was on its policy's model, and is no model by itself"):
        make("ppo", "no/such-model", tmp_path, brevity, prompts, critic_model=str(tmp_path / "saved" / "critic"))
    with pytest.raises(ConfigError, match="holds a critic of another kind or shape"):
        make(
            "ppo", tiny_policy, tmp_path, brevity, prompts, critic="adapter", peft_config=lora(),
            critic_model=str(tmp_path / "saved" / "critic"),
        )  # fmt: skip
    other = make("ppo", tiny_policy, tmp_path, brevity, prompts, critic="model")
    other.save_model(str(tmp_path / "other"))
    for trainer, folder in ((other, "saved"), (first, "other")):
        with pytest.raises(ConfigError, match="holds a critic of another kind or shape"):
            trainer._load_from_checkpoint(str(tmp_path / folder))


@pytest.mark.parametrize("kind", ["head", "adapter"])
def test_vllm_is_sent_the_policy_alone(kind, tiny_policy, tmp_path, prompts):
    trainer = make("ppo", tiny_policy, tmp_path, brevity, prompts, critic=kind, peft_config=lora(kind == "adapter"))
    # vLLM itself needs a GPU; what is sent to it is decided before.
    generation = VLLMGeneration.__new__(VLLMGeneration)
    generation.model, generation._dist = (
        trainer.model,
        SimpleNamespace(is_fsdp=False, gather_params=contextlib.nullcontext),
    )
    _send_policy_alone(generation)
    sent = [name for name, _ in generation._iter_named_params()]
    assert sorted(sent) == sorted(
        name for name, _ in AutoModelForCausalLM.from_pretrained(tiny_policy).named_parameters()
    )


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
FAMILIES = {
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=2),
    "gpt_neox": GPTNeoXConfig(intermediate_size=64, **SIZES),
    "opt": OPTConfig(ffn_dim=64, word_embed_proj_dim=32, **SIZES),
    "bloom": BloomConfig(n_layer=2, n_head=2, hidden_size=32),
    "gemma3": Gemma3TextConfig(intermediate_size=64, num_key_value_heads=2, head_dim=16, **SIZES),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_critic_of_its_own_is_made_of_any_family_of_models(family, tiny_policy, tmp_path, prompts):
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    config = FAMILIES[family]
    config.vocab_size, config.eos_token_id = len(tokenizer), tokenizer.eos_token_id
    config.pad_token_id, config.bos_token_id = tokenizer.pad_token_id, None
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / family)
    tokenizer.save_pretrained(tmp_path / family)
    trainer = make("ppo", str(tmp_path / family), tmp_path, brevity, prompts, max_steps=2, **FREE)
    before = state(trainer.model.critic)
    trainer.train()
    assert not torch.equal(trainer.model.critic.head.weight, before["head.weight"])
    trainer.save_model(str(tmp_path / "saved"))
    again = ModelCritic(str(tmp_path / "saved" / "critic"), dtype=torch.float32)
    for name, weight in state(trainer.model.critic).items():
        assert torch.equal(weight, again.state_dict()[name])


def test_a_policy_that_was_given_more_tokens_gets_a_critic_that_knows_them(tiny_policy, tmp_path, prompts):
    policy = AutoModelForCausalLM.from_pretrained(tiny_policy)
    policy.resize_token_embeddings(policy.config.vocab_size + 3)
    first = make("ppo", tiny_policy, tmp_path, brevity, prompts)
    first.save_model(str(tmp_path / "saved"))
    for critic_model in (None, str(tmp_path / "saved" / "critic")):
        trainer = make("ppo", policy, tmp_path, brevity, prompts, critic_model=critic_model)
        assert trainer.model.critic.model.get_input_embeddings().num_embeddings == policy.config.vocab_size


def test_a_policy_from_nowhere_needs_to_be_told_where_its_critic_is_from(tiny_policy, tmp_path, prompts):
    policy = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny_policy))
    policy.config._name_or_path = ""
    tokenizer = AutoTokenizer.from_pretrained(tiny_policy)
    args = OnlinePPOConfig(output_dir=str(tmp_path), beta=0.0, **SETTINGS)
    with pytest.raises(ConfigError, match="name a `critic_model`, or set `critic` to `head`"):
        OnlinePPOTrainer(policy, brevity, args, prompts, processing_class=tokenizer)
