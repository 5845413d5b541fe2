"""lm-evaluation-harness itself, on a task of one's own over local data."""

import json

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from online_trl.config import ConfigError
from online_trl.evaluation.harness import HarnessOptions, check_harness, run_harness

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install online-trl[lm-eval]")

TASK = """
task: yes_or_no
dataset_path: json
dataset_kwargs:
  data_files: {{test: {rows}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


def test_a_task_of_ones_own_is_run_on_a_loaded_model(tiny_policy, tmp_path):
    rows = [{"question": f"seed {number}", "choices": ["yes", "no"], "answer": number % 2} for number in range(12)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "yes_or_no.yaml").write_text(TASK.format(rows=tmp_path / "rows.jsonl"))
    options = HarnessOptions(tasks=["yes_or_no"], include_path=str(tmp_path), include_defaults=False, limit=10)
    check_harness(options)
    model, tokenizer = (kind.from_pretrained(tiny_policy) for kind in (AutoModelForCausalLM, AutoTokenizer))
    figures = run_harness(model, tokenizer, options)
    accuracy = figures["yes_or_no/acc"]
    assert accuracy.n == 10
    assert 0 <= accuracy.mean <= 1
    assert accuracy.low < accuracy.mean < accuracy.high or accuracy.mean in (0, 1)
    with pytest.raises(ConfigError, match="has no task `yes_or_now`; did you mean `yes_or_no`"):
        check_harness(HarnessOptions(tasks=["yes_or_now"], include_path=str(tmp_path), include_defaults=False))
