import json
import subprocess
import sys

import pytest
from datasets import Dataset, load_from_disk

from feedback import add_comparisons
from online_trl.cli import main
from online_trl.registry import ModelRegistry
from online_trl.store import FeedbackStore, Screening, key_digest
from online_trl.types import Feedback, FeedbackKind, ModelRole, Scope

ROWS = [
    {"prompt": "Which?", "chosen": "This one.", "rejected": "Hm."},
    {"prompt": "Where?", "chosen": "a", "rejected": "b"},
]


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'log.db'}"


def test_a_dataset_goes_into_the_log_once_and_comes_out_again(url, tmp_path, capsys):
    Dataset.from_list(ROWS).to_json(tmp_path / "pairs.jsonl")
    assert main(["import", str(tmp_path / "pairs.jsonl"), "--store", url]) == 0
    assert main(["import", str(tmp_path / "pairs.jsonl"), "--store", url]) == 0
    said = capsys.readouterr().out
    assert f"2 rows of feedback added to {url}" in said
    assert f"0 rows of feedback added to {url}" in said

    assert main(["export", "--store", url, "--output", str(tmp_path / "out.jsonl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["chosen"][0]["content"] for row in rows] == ["This one.", "a"]
    assert set(rows[0]) == {"prompt", "chosen", "rejected"}


@pytest.mark.parametrize(
    ("format", "columns"), [("unpaired", {"prompt", "completion", "label"}), ("prompt", {"prompt"})]
)
def test_the_log_is_written_in_trls_other_formats(format, columns, url, tmp_path):
    Dataset.from_list([{"prompt": "Which?", "completion": "This one.", "label": True}]).to_parquet(
        tmp_path / "in.parquet"
    )
    main(["import", str(tmp_path / "in.parquet"), "--store", url])
    assert main(["export", "--store", url, "--format", format, "--output", str(tmp_path / "folder")]) == 0
    assert set(load_from_disk(tmp_path / "folder").column_names) == columns


@pytest.mark.parametrize("format", ["preference", "unpaired"])
def test_an_export_with_provenance_says_where_each_row_comes_from(format, url, tmp_path):
    with FeedbackStore(url) as store:
        add_comparisons(store, 1)
        pair, other = store.interactions()
        up = Feedback(
            kind=FeedbackKind.BINARY, interaction_ids=[pair.interaction_id], value=True, user_id="bob", seq=4
        )
        store.add_feedback(up)
        compared = store.feedback()[0]
    output = tmp_path / "out.jsonl"
    assert main(["export", "--store", url, "--format", format, "--provenance", "--output", str(output)]) == 0
    (row,) = [json.loads(line) for line in output.read_text().splitlines()]
    expected = {
        "preference": (3, [compared.feedback_id], [pair.interaction_id, other.interaction_id], ["user-0"]),
        "unpaired": (4, [up.feedback_id], [pair.interaction_id], ["bob", "user-0"]),
    }[format]
    assert (row["seq"], row["feedback_ids"], row["interaction_ids"], row["user_ids"]) == expected
    assert (row["weight"], row["session_ids"], row["policy_versions"]) == (1.0, ["session-0"], ["policy-0001"])


def test_exported_prompts_say_who_asked_and_who_answered(url, tmp_path):
    with FeedbackStore(url) as store:
        add_comparisons(store, 1)
        asked = store.interactions()[0]
    output = tmp_path / "out.jsonl"
    assert main(["export", "--store", url, "--format", "prompt", "--provenance", "--output", str(output)]) == 0
    row = json.loads(output.read_text().splitlines()[0])
    assert (row["interaction_id"], row["seq"], row["user_id"]) == (asked.interaction_id, 1, "user-0")
    assert (row["session_id"], row["policy_version"]) == ("session-0", "policy-0001")


def test_quarantined_feedback_is_listed_and_released(url, capsys):
    with FeedbackStore(url) as store:
        add_comparisons(store, 1)
        ids = store.feedback()[0].interaction_ids
        rows = [Feedback(kind=FeedbackKind.BINARY, interaction_ids=ids[:1], value=True, user_id="bob") for _ in "ab"]
        screening = Screening(burst_rows=1, burst_seconds=60, near_duplicates=0, near_duplicate_seconds=60)
        store.submit_feedback(rows, screening=screening).result()
    assert main(["quarantine", "list", "--store", url]) == 0
    said = capsys.readouterr().out
    assert rows[1].feedback_id in said
    assert rows[0].feedback_id not in said
    assert main(["quarantine", "release", rows[1].feedback_id, "--store", url]) == 0
    assert capsys.readouterr().out == "1 rows of feedback count from now on\n"
    assert main(["quarantine", "list", "--store", url]) == 0
    assert rows[1].feedback_id not in capsys.readouterr().out
    assert main(["quarantine", "release", rows[0].feedback_id, "--store", url]) == 2
    assert "not in quarantine" in capsys.readouterr().err


def test_status_tells_what_is_in_the_log_and_which_version_is_live(url, tmp_path, capsys):
    with FeedbackStore(url) as store:
        add_comparisons(store, 3)
    registry = ModelRegistry(tmp_path / "registry")
    version = registry.publish(ModelRole.POLICY, lambda folder: (folder / "weights").write_text("w") and None)
    registry.promote(version.name, "the first one")
    assert main(["status", "--store", url, "--registry", str(tmp_path / "registry")]) == 0
    said = capsys.readouterr().out
    assert "comparison" in said
    assert "policy-0001" in said
    assert "live" in said
    assert "policy-0001 is in service; too little was judged to say more." in said
    assert main(["status", "--store", url, "--loop", str(tmp_path)]) == 2
    assert "where no loop has begun" in capsys.readouterr().err


def test_an_export_of_nothing_is_refused(url, tmp_path, capsys):
    assert main(["export", "--store", url, "--output", str(tmp_path / "out.jsonl")]) == 2
    assert "gives no rows of the format `preference`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--trainer", "grop"], "unknown trainer `grop`; did you mean `grpo`?; known: grpo, ppo"),
        (["export", "--format", "pairs", "--output", "x"], "unknown format `pairs`"),
        (["import", "/no/such/file.jsonl"], "cannot load the dataset `/no/such/file.jsonl`"),
        (["serve", "--policy", "/no/such/model"], "/no/such/model"),
        (["serve", "--upstream", "localhost:1"], "the upstream localhost:1 is not the URL of a server"),
        (["serve", "--policy", ".", "--upstream-model", "m"], "are for an upstream server"),
        (["keys", "create", "--scope", "chatt"], "unknown scope `chatt`; did you mean `chat`?"),
        (["keys", "revoke", "key-1"], "no key has the id 'key-1'"),
    ],
)
def test_a_mistake_is_answered_with_one_line_and_status_2(arguments, message, url, capsys):
    store = [] if arguments[0] == "demo" else ["--store", url]
    assert main([*arguments, *store]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_a_store_of_an_unknown_kind_is_refused(capsys):
    assert main(["status", "--store", "mongodb://localhost/feedback"]) == 2
    assert "mongodb" in capsys.readouterr().err


def test_a_dataset_without_the_columns_is_refused_and_nothing_is_stored(url, tmp_path, capsys):
    Dataset.from_list([{"question": "what?"}]).to_json(tmp_path / "rows.jsonl")
    assert main(["import", str(tmp_path / "rows.jsonl"), "--store", url]) == 2
    assert "question" in capsys.readouterr().err
    with FeedbackStore(url) as store:
        assert store.latest_seq() == 0


def test_the_command_starts_without_the_training_stack():
    code = (
        "import sys, online_trl.cli; print([name for name in ('torch', 'transformers', 'trl') if name in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"


def test_a_key_is_shown_once_listed_and_revoked(url, capsys):
    assert main(["keys", "create", "--scope", "chat", "--scope", "train", "--name", "trainer", "--store", url]) == 0
    key = capsys.readouterr().out.strip()
    with FeedbackStore(url) as store:
        (row,) = store.keys.list()
    assert row.digest == key_digest(key)
    assert (row.name, row.scopes) == ("trainer", {Scope.CHAT, Scope.TRAIN})

    assert main(["keys", "list", "--store", url]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in (row.key_id, "trainer", "chat", "train"))
    assert key not in said

    assert main(["keys", "revoke", row.key_id, "--store", url]) == 0
    assert f"{row.key_id} is revoked" in capsys.readouterr().out
    with FeedbackStore(url) as store:
        assert store.keys.in_force() == {}
