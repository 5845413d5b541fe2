import random

import numpy as np
import torch
from accelerate import Accelerator
from transformers import set_seed
from transformers.integrations import deepspeed as hf_deepspeed
from trl import RewardConfig

from online_trl.rewards.nesting import nested_trainer, whole_models


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_the_random_streams_go_on_as_if_nothing_had_been():
    set_seed(1)
    draw()
    expected = draw()
    set_seed(1)
    draw()
    with nested_trainer():
        set_seed(2)
        draw()
    assert draw() == expected


def test_the_outer_accelerator_keeps_its_settings(tmp_path):
    outer = Accelerator(cpu=True, gradient_accumulation_steps=4)
    with nested_trainer():
        RewardConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False)  # resets what accelerate shares
        inner = Accelerator(cpu=True, gradient_accumulation_steps=2)
        assert inner.gradient_accumulation_steps == 2
    assert outer.gradient_accumulation_steps == 4
    assert outer.state.distributed_type is outer.distributed_type


def test_models_are_loaded_whole_and_the_deepspeed_config_comes_back():
    class Config:
        def is_zero3(self):
            return True

    config = Config()
    hf_deepspeed.set_hf_deepspeed_config(config)
    try:
        assert hf_deepspeed.is_deepspeed_zero3_enabled()
        with whole_models():
            assert not hf_deepspeed.is_deepspeed_zero3_enabled()
        assert hf_deepspeed.is_deepspeed_zero3_enabled()
    finally:
        hf_deepspeed.unset_hf_deepspeed_config()
