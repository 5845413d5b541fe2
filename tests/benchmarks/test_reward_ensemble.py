import reward_ensemble


def test_every_arm_is_measured_with_one_head_and_with_many(tmp_path):
    arguments = reward_ensemble.parse_arguments(
        ["--heads", "2", "--hidden-size", "16", "--layers", "1", "--rows", "6", "--words", "4", "--repeats", "1"]
    )
    result = reward_ensemble.measure(arguments, tmp_path)
    assert [arm["what"] for arm in result["arms"]] == ["refresh", "refresh, head only", "scoring"]
    assert all(arm["ratio"] > 0 and arm["processor_ratio"] > 0 for arm in result["arms"])
    assert (result["heads"], result["parameters"] > 0) == (2, True)
