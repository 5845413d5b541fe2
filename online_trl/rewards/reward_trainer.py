"""
TRL's `RewardTrainer` on all that people say: pairs, rankings, ties and verdicts in one loss, an ensemble of heads.

The ensemble is the rows of the one linear head of a sequence classification model, so that what is saved is a plain
checkpoint of transformers with as many labels as there are heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object, is_peft_model
from datasets import Dataset, IterableDataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import RewardConfig, RewardTrainer
from trl.trainer.utils import get_config_model_id

from ..config import ConfigError, check_range
from . import losses
from .ensemble import MAX_HEADS, disagreement
from .leniency import VerdictTable
from .reward_model import (
    ADAPTER_FOLDER,
    check_heads,
    continue_adapter,
    freeze_backbone,
    gathered,
    load_reward_model,
    load_tokenizer,
    merged_weights,
    passing_for_one_label,
    replace_head,
    with_head,
)
from .statements import STATEMENT_COLUMNS, StatementCollator, tokenize_statements

KINDS = ("pair", "tie", "ranking", "label")
# What a batch is summed up by, and the metrics that are ratios of two of these sums over all ranks.
_SUMS = (
    *(f"{kind} losses" for kind in KINDS),
    *(f"{kind} rows" for kind in KINDS),
    *("in order", "margins", "comparisons", "scores", "spreads", "answers", "tokens"),
)
_MEANS = (
    ("accuracy", "in order", "comparisons"),
    ("margin", "margins", "comparisons"),
    ("mean_reward", "scores", "answers"),
    ("disagreement", "spreads", "answers"),
    *((f"loss/{kind}", f"{kind} losses", f"{kind} rows") for kind in KINDS),
)


@dataclass
class OnlineRewardConfig(RewardConfig):
    """
    Configuration of [`OnlineRewardTrainer`]: every field of TRL's `RewardConfig`, and these.

    Args:
        num_heads (`int`, *optional*, defaults to `8`):
            Heads of the ensemble; 1 is a plain reward model.
        tie_strength (`float`, *optional*, defaults to `0.5`):
            Davidson's ν: two equally good answers end in a tie with probability `ν / (2 + ν)`. 0 is Bradley–Terry.
        leniency_std (`float`, *optional*, defaults to `1.5`):
            How much users differ in how readily they give a thumb up, as a standard deviation in logits. 0 makes them
            all alike.
        freeze_backbone (`bool`, *optional*, defaults to `False`):
            Whether to train the head alone: the cheapest refresh.
        reinit_head (`bool`, *optional*, defaults to `False`):
            Whether to start from a new random head, as after a shift of what people like.
        pull_coefficient (`float`, *optional*, defaults to `0.0`):
            How strongly the differences between the answers' scores are held to those of the model that training
            starts from. A new head has nothing to be held to. 0 turns it off; try 0.1 to 1.
    """

    num_heads: int = field(default=8, metadata={"help": "Heads of the ensemble; 1 is a plain reward model."})
    tie_strength: float = field(
        default=0.5, metadata={"help": "Two equally good answers tie with probability v / (2 + v); 0: no ties."}
    )
    leniency_std: float = field(
        default=1.5, metadata={"help": "Spread of how readily users give a thumb up, in logits; 0: all users alike."}
    )
    freeze_backbone: bool = field(default=False, metadata={"help": "Train the head alone."})
    reinit_head: bool = field(default=False, metadata={"help": "Start from a new random head."})
    pull_coefficient: float = field(
        default=0.0, metadata={"help": "Holds score differences to those of the model that training starts from."}
    )

    def __post_init__(self) -> None:
        check_range("num_heads", self.num_heads, 1, MAX_HEADS)
        for name in ("tie_strength", "leniency_std", "pull_coefficient"):
            check_range(name, getattr(self, name), 0, None)
        if self.reinit_head and self.pull_coefficient:
            raise ConfigError(
                f"`pull_coefficient` is {self.pull_coefficient} and `reinit_head` is set, but a new head has no old "
                "scores to be held to; set one of them"
            )
        if self.freeze_backbone:
            # No gradient passes through the backbone, so there is nothing to recompute.
            self.gradient_checkpointing = False
        super().__post_init__()


class OnlineRewardTrainer(RewardTrainer):
    """
    TRL's `RewardTrainer` on everything that people say, with an ensemble of heads.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`]):
            As in `RewardTrainer`. A folder or hub id of a causal language model, or of a model with another number of
            labels than `args.num_heads`, gets a new head; a model has to have as many labels as there are heads.
        args ([`OnlineRewardConfig`], *optional*):
            Configuration for this trainer.
        train_dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Statements, in the format of [`~online_trl.preferences.statement_dataset`], or one of TRL's formats:
            preference (`chosen`, `rejected` and optionally `prompt` and `margin`) or unpaired (`prompt`, `completion`,
            `label`). Conversational or plain. The columns `weight`, `voice` and `key` are honoured in all of them.
        peft_config ([`~peft.PeftConfig`], *optional*):
            PEFT configuration. The head is always trained whole beside it; see [`save_merged`].
        adapter (`str` or `Path`, *optional*):
            Folder of an adapter with these settings, and of its heads, that training goes on from.
        **kwargs:
            As in `RewardTrainer`.

    Example:

    ```python
    from online_trl.preferences import read_preferences, statement_dataset
    from online_trl.rewards.reward_trainer import OnlineRewardConfig, OnlineRewardTrainer
    from online_trl.store import FeedbackStore

    batch = read_preferences(FeedbackStore("sqlite:///feedback.db"))
    trainer = OnlineRewardTrainer(
        model="Qwen/Qwen2.5-0.5B-Instruct",
        args=OnlineRewardConfig(output_dir="reward", num_heads=8),
        train_dataset=statement_dataset(batch.statements),
    )
    trainer.train()
    ```
    """

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: OnlineRewardConfig | None = None,
        data_collator: Callable[..., Any] | None = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        quantization_config: Any = None,
        peft_config: Any = None,
        adapter: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        if args is None:
            name = model if isinstance(model, str) else get_config_model_id(model.config)
            args = OnlineRewardConfig(f"{name.split('/')[-1]}-Reward")
        _check_arguments(args, train_dataset, peft_config)
        new_head, init_kwargs = False, args.model_init_kwargs
        if isinstance(model, str):
            processing_class = processing_class or load_tokenizer(model, args)
            model, new_head = load_reward_model(model, args.num_heads, args, quantization_config)
            # TRL warns of these when it is given a model; this one was loaded with them.
            args.model_init_kwargs = None
        check_heads(model, args.num_heads)
        if args.reinit_head:
            replace_head(model, args.num_heads, seed=args.seed)
        if args.freeze_backbone:
            freeze_backbone(model)
        self._verdicts = VerdictTable(args.num_heads, args.leniency_std)
        self._old_scores: dict[int, torch.Tensor] = {}
        with passing_for_one_label(model.config):
            super().__init__(
                model=model,
                args=args,
                data_collator=data_collator,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                processing_class=processing_class,
                peft_config=with_head(peft_config),
                **kwargs,
            )
        args.model_init_kwargs = init_kwargs
        if adapter is not None:
            continue_adapter(self.model, adapter, with_heads=not args.reinit_head)
            new_head = False
        if data_collator is None:
            self.data_collator = StatementCollator(
                self.processing_class.pad_token_id, args.num_heads, args.pad_to_multiple_of
            )
        self._holds_verdicts = _may_hold_verdicts(self.train_dataset)
        self._pulls = args.pull_coefficient > 0 and not new_head
        if self._pulls:
            self.add_callback(_OnTrainBegin(self._remember_old_scores))

    @property
    def thresholds(self) -> torch.Tensor:
        """The score that a thumb up needs under each head, shape `(K,)`."""
        return self._verdicts.thresholds

    def _prepare_dataset(
        self,
        dataset: Dataset | IterableDataset,
        processing_class: PreTrainedTokenizerBase,
        args: OnlineRewardConfig,
        dataset_name: str,
    ) -> Dataset | IterableDataset:
        return tokenize_statements(
            dataset,
            processing_class,
            max_length=args.max_length,
            num_proc=args.dataset_num_proc,
            name=dataset_name,
        )

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            self._signature_columns = list(STATEMENT_COLUMNS)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        outputs = self._forward(model, inputs)
        answers = outputs.logits.float()
        scores = answers[inputs["places"]]
        weights = inputs["weights"][:, None].expand(-1, self.args.num_heads)
        if self.model.training:
            weights = weights * inputs["bootstrap"]
            self._learn_leniency(scores.detach()[:, 0], weights, inputs)
        rows = self._row_losses(scores, inputs)
        total = rows
        if self.args.center_rewards_coefficient is not None:
            total = total + self.args.center_rewards_coefficient * losses.centring_loss(scores, inputs["mask"])
        loss = losses.weigh(total, weights)
        if self._pulls and self.model.training:
            old = torch.cat([self._old_scores[number] for number in inputs["numbers"].tolist()]).to(answers.device)
            loss = loss + self.args.pull_coefficient * losses.pull_loss(answers, old).mean()
        with torch.no_grad():
            self._record(answers, scores, rows, inputs)
        return (loss, outputs) if return_outputs else loss

    def _forward(self, model: nn.Module, inputs: dict[str, Any]) -> Any:
        # If not set, it defaults from the model's config, and a cache does not go with gradient checkpointing.
        return model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)

    def _row_losses(self, scores: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
        """The loss of each statement under each head, `(N, K)`, by what kind of statement it is."""
        kinds = _kinds(inputs)
        first, second = scores[:, 0], scores[:, min(1, scores.shape[1] - 1)]
        pair, tie, ranking, label = (kinds == number for number in range(len(KINDS)))
        nu = self.args.tie_strength
        rows = torch.zeros_like(first)
        rows[pair] = losses.pair_loss(
            first[pair], second[pair], margin=inputs["margins"][pair][:, None], tie_strength=nu
        )
        rows[tie] = losses.tie_loss(first[tie], second[tie], tie_strength=nu)
        rows[ranking] = losses.ranking_loss(scores[ranking], inputs["ranks"][ranking], inputs["mask"][ranking])
        offsets = self._verdicts.offsets(inputs["voices"][label].tolist()).to(scores.device)
        rows[label] = losses.label_loss(first[label], inputs["verdicts"][label], offsets)
        return rows

    def _learn_leniency(self, scores: torch.Tensor, weights: torch.Tensor, inputs: dict[str, Any]) -> None:
        """Fits thresholds and leniency to the verdicts of all ranks, which send as many rows each, given or not."""
        if not self._holds_verdicts:
            return
        told = torch.cat([scores, weights, inputs["verdicts"][:, None]], dim=1)
        names = torch.stack([inputs["numbers"], inputs["voices"]], dim=1)
        missing = self.args.per_device_train_batch_size - len(told)
        told = self.accelerator.gather(nn.functional.pad(told, (0, 0, 0, missing), value=torch.nan)).cpu()
        names = self.accelerator.gather(nn.functional.pad(names, (0, 0, 0, missing))).cpu()
        given = ~told[:, -1].isnan()
        if given.any():
            scores, weights, labels = told[given].split([self.args.num_heads, self.args.num_heads, 1], dim=1)
            numbers, voices = names[given].T.tolist()
            self._verdicts.update(numbers, voices, labels[:, 0], weights, scores)

    def _remember_old_scores(self) -> None:
        """Scores the training data with the model as it is; a collective call."""
        mine: dict[int, torch.Tensor] = {}
        self.model_wrapped.eval()
        for batch in self.get_eval_dataloader(self.train_dataset):
            inputs = self._prepare_inputs(batch)
            with torch.no_grad(), self.compute_loss_context_manager():
                answers = self._forward(self.model_wrapped, inputs).logits.float().cpu()
            rows = answers.split(inputs["mask"].sum(dim=1).tolist())
            mine.update(zip(inputs["numbers"].tolist(), rows, strict=True))
        self.model_wrapped.train()
        for theirs in gather_object([mine]):
            self._old_scores.update(theirs)

    def _record(self, answers: torch.Tensor, scores: torch.Tensor, rows: torch.Tensor, inputs: dict[str, Any]) -> None:
        """Adds the batch of all ranks to the metrics that TRL logs, and the loss of each kind of statement."""
        mode = "train" if self.model.training else "eval"
        means = answers.mean(dim=1)
        extremes = torch.stack([means.min(), means.max()])
        measured = torch.cat([_sums(answers, scores, rows, inputs), extremes])
        everywhere = self.accelerator.gather(measured[None]).cpu()
        totals = dict(zip(_SUMS, everywhere.sum(dim=0).tolist(), strict=False))
        if mode == "train":
            self._total_train_tokens += int(totals["tokens"])
        metrics = self._metrics[mode]
        metrics["num_tokens"] = [self._total_train_tokens]
        metrics["min_reward"].append(everywhere[:, -2].min().item())
        metrics["max_reward"].append(everywhere[:, -1].max().item())
        for name, amount, count in _MEANS:
            if totals[count]:
                metrics[name].append(totals[amount] / totals[count])


def save_merged(trainer: Any, folder: str | Path, *, keep_adapter: bool = False) -> None:
    """
    Saves a trainer's whole model and its tokenizer: an adapter is merged into what it was trained on. A collective
    call.

    Args:
        trainer (`Trainer`):
            Whose model to save.
        folder (`str` or `Path`):
            Where to.
        keep_adapter (`bool`, *optional*, defaults to `False`):
            Whether to save the adapter by itself too, in a folder within.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if is_peft_model(model):
        with gathered(list(model.parameters())):
            if trainer.args.should_save:
                model.get_base_model().save_pretrained(folder, state_dict=merged_weights(model))
                trainer.processing_class.save_pretrained(folder)
                if keep_adapter:
                    model.save_pretrained(Path(folder) / ADAPTER_FOLDER)
    else:
        trainer.save_model(str(folder))
    # The others may load it next.
    trainer.accelerator.wait_for_everyone()


class _OnTrainBegin(TrainerCallback):
    """Calls something when the model is wrapped and has not learned yet."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.call()


def _check_arguments(args: RewardConfig, train_dataset: Any, peft_config: Any) -> None:
    if not isinstance(args, OnlineRewardConfig):
        raise TypeError(f"`args` is a `{type(args).__name__}`; `OnlineRewardTrainer` needs an `OnlineRewardConfig`")
    if args.freeze_backbone and peft_config is not None:
        raise ConfigError("`freeze_backbone` is set and there is a `peft_config`, whose adapters are in the backbone")
    if args.pull_coefficient and isinstance(train_dataset, IterableDataset):
        raise ConfigError(
            "`pull_coefficient` needs the old scores of all rows before training, which an `IterableDataset` cannot "
            "give; pass a `Dataset`, or set `pull_coefficient` to 0"
        )


def _may_hold_verdicts(dataset: Dataset | IterableDataset) -> bool:
    if isinstance(dataset, IterableDataset):
        return True
    return any(score is not None for score in dataset["score"])


def _kinds(inputs: dict[str, Any]) -> torch.Tensor:
    """The number in `KINDS` of each statement, `(N,)`."""
    ranks = inputs["ranks"]
    counts = inputs["mask"].sum(dim=1)
    tied = ranks[:, 0] == ranks[:, min(1, ranks.shape[1] - 1)]
    kinds = torch.where(counts == 2, tied.long(), KINDS.index("ranking"))
    return torch.where(counts == 1, KINDS.index("label"), kinds)


def _sums(answers: torch.Tensor, scores: torch.Tensor, rows: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
    """What `_SUMS` names, of the batch of one rank."""
    kinds = nn.functional.one_hot(_kinds(inputs), len(KINDS))
    mask, ranks, means = inputs["mask"], inputs["ranks"], scores.mean(dim=2)
    ahead = means[:, :, None] - means[:, None, :]
    compared = mask[:, :, None] & mask[:, None, :] & (ranks[:, :, None] < ranks[:, None, :])
    return torch.cat(
        [
            (kinds * rows.mean(dim=1, keepdim=True)).sum(dim=0),
            kinds.sum(dim=0),
            ((ahead > 0) & compared).sum()[None],
            (ahead * compared).sum()[None],
            compared.sum()[None],
            answers.mean(dim=1).sum()[None],
            disagreement(answers).sum()[None],
            mask.sum()[None],
            inputs["attention_mask"].sum()[None],
        ]
    )
