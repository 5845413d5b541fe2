from online_trl.canary import assign

USERS = [f"user-{number}" for number in range(20_000)]


def test_users_are_assigned_by_share_and_growing_it_moves_nobody_back():
    tenth = {user for user in USERS if assign(user, "first", 0.1)}
    half = {user for user in USERS if assign(user, "first", 0.5)}
    assert abs(len(tenth) / len(USERS) - 0.1) < 0.01
    assert abs(len(half) / len(USERS) - 0.5) < 0.015
    assert tenth < half


def test_another_canary_draws_anew():
    first, second = ({user for user in USERS if assign(user, name, 0.5)} for name in ("first", "second"))
    assert abs(len(first & second) / len(USERS) - 0.25) < 0.015


def test_the_assignment_is_the_same_in_every_process():
    assert [assign(user, "first", 0.5) for user in USERS[:8]] == [True, False, False, True, True, True, True, False]


def test_a_share_of_nobody_and_of_everybody():
    assert not any(assign(user, "first", 0.0) for user in USERS[:1000])
    assert all(assign(user, "first", 1.0) for user in USERS[:1000])
