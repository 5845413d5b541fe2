import pytest
from datasets import Dataset, DatasetDict

from online_trl.config import ConfigError
from online_trl.dataset_import import load_hf_dataset

ROWS = [{"prompt": "Which?", "chosen": "This one.", "rejected": "Hm."}]


@pytest.fixture(params=["jsonl", "parquet", "folder", "folder of splits"])
def saved(request, tmp_path):
    dataset = Dataset.from_list(ROWS)
    path = tmp_path / f"rows.{request.param}" if request.param in ("jsonl", "parquet") else tmp_path / "rows"
    {
        "jsonl": dataset.to_json,
        "parquet": dataset.to_parquet,
        "folder": dataset.save_to_disk,
        "folder of splits": DatasetDict(train=dataset).save_to_disk,
    }[request.param](str(path))
    return str(path)


def test_a_dataset_is_loaded_from_wherever_it_is(saved):
    assert load_hf_dataset(saved).to_list() == ROWS


def test_a_missing_split_is_named(tmp_path):
    DatasetDict(train=Dataset.from_list(ROWS)).save_to_disk(str(tmp_path / "rows"))
    with pytest.raises(ConfigError, match=r"split `validation`"):
        load_hf_dataset(str(tmp_path / "rows"), split="validation")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot load the dataset `.*nowhere.jsonl`"):
        load_hf_dataset(str(tmp_path / "nowhere.jsonl"))
