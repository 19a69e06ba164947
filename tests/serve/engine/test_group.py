"""Whose turn it is: groups share the machine by seconds, and a pause earns a credit, no more."""

from __future__ import annotations

import pytest

from sanakit.pipelines.request import ModelSpec, check_request
from sanakit.serve.engine.group import CREDIT, Group, GroupKey, RequestImage, Turns
from sanakit.serve.engine.ticket import Ticket
from sanakit.weights.settings import ModelSettings

SPEC = ModelSpec(settings=ModelSettings(name="tiny"), latent_channels=4, sample_size=8, compression=32)
SMALL, LARGE, OTHER = (GroupKey("tiny", (4, side, side), True) for side in (2, 16, 8))


def pictures(count: int) -> list[RequestImage]:
    request = check_request(SPEC, "a red apple", width=64, height=64, num_images=count)
    ticket = Ticket(request, lambda: None, None, False, None)
    return [RequestImage(ticket, number) for number in range(count)]


def spend(turns: Turns, seconds: float) -> GroupKey:
    """Advance the group whose turn it is."""
    group = turns.order()[0]
    group.spent += seconds
    return group.key


def finish(group: Group) -> None:
    group.waiting.clear()


def test_no_group_has_more_than_one_turn_more_than_another() -> None:
    turns = Turns()
    cost = {SMALL: 0.01, LARGE: 0.4, OTHER: 0.1}
    for key in cost:
        turns.add(key, 8, pictures(2))
    had = dict.fromkeys(cost, 0.0)
    for _ in range(500):
        key = turns.order()[0].key
        spend(turns, cost[key])
        had[key] += cost[key]
    assert max(had.values()) - min(had.values()) <= max(cost.values()) + 1e-9


def test_who_comes_late_does_not_catch_up_on_what_it_never_asked_for() -> None:
    turns = Turns()
    turns.add(LARGE, 8, pictures(1))
    for _ in range(100):
        spend(turns, 1.0)
    turns.add(SMALL, 8, pictures(1))
    had = sum(0.1 for _ in range(50) if spend(turns, 0.1) == SMALL)
    assert had == pytest.approx(2.5 + CREDIT / 2, abs=0.6)  # half of what there was, and the credit


def test_who_comes_late_goes_first_until_its_credit_is_used_up() -> None:
    turns = Turns()
    turns.add(LARGE, 8, pictures(1))
    for _ in range(100):
        spend(turns, 0.25)
    turns.add(SMALL, 8, pictures(1))
    first = [spend(turns, CREDIT / 10) for _ in range(9)]
    assert first == [SMALL] * 9


def test_pausing_again_and_again_earns_no_more_than_the_credit() -> None:
    turns = Turns()
    turns.add(LARGE, 8, pictures(1))
    had = {SMALL: 0.0, LARGE: 0.0}
    for _ in range(400):
        if SMALL not in turns.groups:
            turns.add(SMALL, 8, pictures(1))
        key = spend(turns, 0.1)
        had[key] += 0.1
        if key == SMALL:
            finish(turns.groups[SMALL])
    assert had[SMALL] <= had[LARGE] + CREDIT + 0.2


def test_groups_without_work_are_forgotten_and_so_is_what_they_had_in_the_end() -> None:
    turns = Turns()
    turns.add(LARGE, 8, pictures(1))
    for side in range(1, 100):
        key = GroupKey("tiny", (4, side, 1), False)
        turns.add(key, 8, pictures(1))
        finish(turns.groups[key])
        turns.order()
    for _ in range(10):
        spend(turns, 1.0)
    turns.order()
    assert list(turns.groups) == [LARGE]
    assert turns._past == {}
