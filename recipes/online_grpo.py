"""
GRPO on live feedback, for `accelerate launch`:

    accelerate launch recipes/online_grpo.py --config recipes/configs/online_grpo.yaml

Every field of the YAML file can be given as a flag, which then overrides it.
"""

from trl import get_peft_config, get_quantization_config

from online_trl.evaluate_script import add_evaluation, prepare_evaluation
from online_trl.grpo import OnlineGRPOConfig, OnlineGRPOTrainer
from online_trl.script import launch, parse_arguments, prepare, run


def main() -> None:
    script_args, training_args, model_args = parse_arguments(OnlineGRPOConfig)
    job = prepare(script_args, training_args, model_args)
    evaluation = prepare_evaluation(script_args, job)
    trainer = OnlineGRPOTrainer(
        model=model_args.model_name_or_path,
        reward_funcs=job.reward_funcs,
        args=training_args,
        train_dataset=job.prompts,
        eval_dataset=job.eval_prompts,
        store=job.store,
        quantization_config=get_quantization_config(model_args),
        peft_config=get_peft_config(model_args),
    )
    add_evaluation(trainer, script_args, evaluation)
    run(trainer, job)


if __name__ == "__main__":
    launch(main)
