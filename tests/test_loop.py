"""The order of the loop, what it keeps on disk, and what becomes of a step that is interrupted or fails."""

import json
from types import SimpleNamespace

import pytest

from online_trl import loop
from online_trl.config import ConfigError
from online_trl.loop import LoopState, OnlineLoop, Retry, StepFailedError
from online_trl.types import GateCheck, GateDecision, PolicyDecision

ROUND = ("collect", "train", "evaluate", "canary", "promote")


class Diary:
    """Stations that write down each call, and do at a chosen one what they are told."""

    def __init__(self, at=None, do=None):
        self.calls = []
        self.at, self.do = at, do

    def _note(self, *call):
        self.calls.append(call)
        if call[0] == self.at and self.do is not None:
            self.do()

    def begin(self):
        self._note("0/begin")

    def collect(self, number, after):
        self._note(f"{number}/collect", after)
        return 100 * number

    def train(self, number, upto):
        self._note(f"{number}/train", upto)
        return f"policy-{number:04d}"

    def evaluate(self, number, candidate):
        self._note(f"{number}/evaluate", candidate)
        return decision(candidate, accepted=number != 2)

    def canary(self, number, decided):
        self._note(f"{number}/canary", decided)
        return decided

    def promote(self, number, decided):
        self._note(f"{number}/promote", decided)


def up_to(rounds):
    return lambda state: state.round <= rounds


def decision(candidate, *, accepted):
    check = GateCheck("win_rate", 0.6, 0.5, accepted)
    return PolicyDecision(version=candidate, incumbent="policy-0000", decision=GateDecision(accepted, "why", (check,)))


@pytest.fixture
def file(tmp_path):
    return tmp_path / "loop.json"


def test_each_step_gets_what_the_one_before_led_to(file):
    stations = Diary()
    OnlineLoop(stations, LoopState(file), go_on=up_to(2)).run()
    second = decision("policy-0002", accepted=False)
    assert stations.calls[0] == ("0/begin",)
    assert stations.calls[6:] == [
        ("2/collect", 100),
        ("2/train", 200),
        ("2/evaluate", "policy-0002"),
        ("2/canary", second),
        ("2/promote", second),
    ]
    assert LoopState(file).decisions == [decision("policy-0001", accepted=True), second]


@pytest.mark.parametrize("step", ["0/begin", *(f"{number}/{station}" for number in (1, 2) for station in ROUND)])
def test_a_loop_that_is_stopped_at_a_step_goes_on_with_that_step(file, step):
    def stop():
        raise KeyboardInterrupt

    first, second, whole = Diary(step, stop), Diary(), Diary()
    with pytest.raises(KeyboardInterrupt):
        OnlineLoop(first, LoopState(file), go_on=up_to(2)).run()
    assert LoopState(file).content["at"]["step"] == step
    OnlineLoop(second, LoopState(file), go_on=up_to(2)).run()
    OnlineLoop(whole, LoopState(file.with_name("whole.json")), go_on=up_to(2)).run()
    assert first.calls[-1] == second.calls[0]
    assert first.calls[:-1] + second.calls == whole.calls
    assert LoopState(file).decisions == LoopState(file.with_name("whole.json")).decisions


def test_a_step_that_fails_is_tried_again_after_growing_pauses_and_the_state_says_so(file):
    def fail():
        seen.append(json.loads(file.read_text())["at"])
        if len(seen) < 4:
            raise OSError("no space left")

    seen, pauses = [], []
    retry = Retry(attempts=4, seconds=10.0, longest=25.0)
    OnlineLoop(Diary("1/train", fail), LoopState(file), go_on=up_to(1), retry=retry, wait=pauses.append).run()
    assert pauses == [10.0, 20.0, 25.0]
    assert [at.get("failed") for at in seen] == [None, 1, 2, 3]
    assert (seen[-1]["step"], seen[-1]["reason"]) == ("1/train", "OSError: no space left")
    assert LoopState(file).round == 2


def test_a_step_that_fails_too_often_ends_the_loop_and_is_the_first_of_the_next(file):
    def fail():
        raise OSError("no space left")

    retry = Retry(attempts=2)
    with pytest.raises(StepFailedError, match="1/evaluate failed 2 times, the last time with OSError: no space left"):
        OnlineLoop(Diary("1/evaluate", fail), LoopState(file), retry=retry, wait=lambda seconds: None).run()
    again = Diary()
    OnlineLoop(again, LoopState(file), go_on=up_to(1), retry=retry).run()
    assert [call[0] for call in again.calls] == ["1/evaluate", "1/canary", "1/promote"]


def test_without_a_retry_a_failure_is_the_loops_own(file):
    def fail():
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        OnlineLoop(Diary("1/train", fail), LoopState(file)).run()


def test_training_that_is_killed_or_fails_takes_time_and_the_pause_after_it_does_not(file, monkeypatch):
    def work():
        clock.now += 100.0
        state.keep_time()
        clock.now += 1.0
        raise clock.failure

    clock = SimpleNamespace(now=1000.0, failure=KeyboardInterrupt)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=None))
    state = LoopState(file)
    with pytest.raises(KeyboardInterrupt):
        OnlineLoop(Diary("1/train", work), state).run()

    clock.now += 5000.0
    clock.failure = OSError("no space left")
    state = LoopState(file)
    # What a kill loses is what came after the last record of the time.
    assert (state.seconds_of("train"), state.seconds_of("collect")) == (100.0, 0.0)
    retry = Retry(attempts=2, seconds=600.0)

    def wait(seconds):
        clock.now += seconds

    with pytest.raises(StepFailedError):
        OnlineLoop(Diary("1/train", work), state, retry=retry, wait=wait).run()
    state.enter("1/train", paused="it failed")
    clock.now += 700.0
    state.keep_time()
    assert (state.seconds_of("train"), state.seconds) == (302.0, 100.0 + 2 * 101.0 + 600.0 + 700.0)
    assert LoopState(file).seconds_of("train") == 302.0


@pytest.mark.parametrize(
    ("step", "details", "is_written"),
    [
        ("1/train", {}, True),
        ("1/train", {"retry_in_seconds": 600.0}, False),
        ("1/train", {"paused": "the budget is spent"}, False),
        ("1/collect", {}, False),
        ("1/canary", {}, False),
    ],
)
def test_the_time_is_written_only_while_something_is_at_work(file, monkeypatch, step, details, is_written):
    monkeypatch.setattr(loop, "_KEEP_TIME_EVERY", 0.0)
    state = LoopState(file)
    state.enter(step, **details)
    file.unlink()
    state.keep_time()
    assert file.exists() is is_written


def test_the_seconds_of_all_starts_add_up(file):
    OnlineLoop(Diary(), LoopState(file), go_on=up_to(1)).run()
    content = json.loads(file.read_text()) | {"seconds": 100.0}
    file.write_text(json.dumps(content))
    assert 100.0 <= LoopState(file).seconds < 160.0


@pytest.mark.parametrize("text", ["", '{"round": 1', "[]", '{"round": 1}'])
def test_a_damaged_state_is_named(file, text):
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"loop\.json is damaged: .*remove it to begin anew"):
        LoopState(file)
