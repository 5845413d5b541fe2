import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

from first_log import write_first_log
from online_trl.cli import main
from online_trl.store import FeedbackStore
from online_trl.types import Feedback, FeedbackKind

ROOT = Path(__file__).parents[1]


def test_a_log_of_the_first_release_keeps_every_row_and_takes_new_ones(store_url):
    interactions, feedback = write_first_log(store_url)
    with FeedbackStore(store_url) as store:
        assert store.interactions() == interactions
        assert store.feedback() == feedback
        assert store.latest_seq() == 10
        assert store.related_feedback(after=0, upto=10) == feedback
        # The keys of old rows still count: a retry is the old row, and old rows can be superseded.
        assert store.add_feedback_batch(feedback) == feedback
        assert store.add_interactions(interactions) == interactions
        amended = Feedback(
            kind=FeedbackKind.RATING,
            interaction_ids=[interactions[0].interaction_id],
            value={"score": 2, "low": 1, "high": 5},
            user_id="bob",
            session_id="session",
            supersedes=feedback[1].feedback_id,
        )
        assert store.add_feedback(amended) == replace(amended, seq=11)
        assert store.feedback(after=10) == [replace(amended, seq=11)]


def test_the_command_says_what_it_did(store_url, capsys):
    write_first_log(store_url)
    assert main(["db", "upgrade", "--store", store_url]) == 0
    assert capsys.readouterr().out.endswith(" upgraded from revision 0001 to 0002\n")
    assert main(["db", "upgrade", "--store", store_url]) == 0
    assert capsys.readouterr().out.endswith(" is up to date: revision 0002\n")


def test_the_command_makes_a_new_log(store_url, capsys):
    assert main(["db", "upgrade", "--store", store_url]) == 0
    assert capsys.readouterr().out.endswith(" is new: revision 0002\n")


def test_the_wheel_makes_and_upgrades_a_log(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    write_first_log(f"sqlite:///{old}")
    code = f"""
import online_trl
from online_trl.store import FeedbackStore

assert online_trl.__file__.startswith({str(tmp_path)!r})
for path, rows in (({str(old)!r}, 10), ({str(new)!r}, 0)):
    assert FeedbackStore("sqlite:///" + path).latest_seq() == rows
"""
    environment = {"PYTHONPATH": str(tmp_path / "installed")}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment)
