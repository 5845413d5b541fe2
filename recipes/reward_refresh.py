"""
Follows the feedback log and refreshes the reward model in a process of its own, for `accelerate launch`:

    accelerate launch recipes/reward_refresh.py --config recipes/configs/reward_refresh.yaml

A trainer with `refresh_mode: follow` takes over what it puts into service. Every field of the YAML file can be given
as a flag, which then overrides it. Ctrl-C ends it after the refresh under way.
"""

from online_trl.refresh_script import prepare_refresh
from online_trl.rewards.following import follow_log
from online_trl.script import launch
from online_trl.stopping import StopSignal


def main() -> None:
    script_args, schedule = prepare_refresh()
    stop = StopSignal()
    stop.listen()
    follow_log(schedule, stopped=lambda: stop.asked, pause=script_args.pause, max_refreshes=script_args.max_refreshes)


if __name__ == "__main__":
    launch(main)
