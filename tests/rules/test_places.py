"""Whose turn it is to have a connection to the upstream."""

import pytest

from relay.conversation import Conversation
from relay.places import NoPlace, Places
from tests.rules.offline import Clock


@pytest.fixture
def clock():
    with Clock().running() as clock:
        yield clock


def asking(places, who, order, seconds=45.0):
    async def ask():
        try:
            await places.take(who, seconds)
            order.append(who)
        except NoPlace:
            order.append(("none", who))

    Conversation(ask(), "a test")


class TestPlaces:
    def test_go_round_between_people(self, clock):
        places, order = Places(1), []
        for _ in range(5):
            asking(places, 1, order)
        asking(places, 2, order)
        asking(places, None, order)
        for _ in range(6):
            places.give_back(order[-1])
        assert order == [1, 1, 2, None, 1, 1, 1]
        assert (places.free, places.waiting) == (0, 0)

    def test_nobody_holds_more_than_a_quarter_but_mail_servers(self, clock):
        places, order = Places(8), []
        for _ in range(5):
            asking(places, 1, order)
        for _ in range(5):
            asking(places, None, order)
        assert order == [1, 1, None, None, None, None, None]
        assert (places.free, places.waiting) == (1, 3)
        places.give_back(1)
        assert order[-1] == 1

    def test_where_there_are_few_everybody_has_one(self, clock):
        places, order = Places(3), []
        for who in (1, 1, 2, 3):
            asking(places, who, order)
        assert order == [1, 2, 3]

    def test_that_come_free_too_late_are_nobodys(self, clock):
        places, order = Places(1), []
        asking(places, 1, order)
        asking(places, 2, order, seconds=45)
        clock.pass_until(clock.time() + 46)
        assert order == [1, ("none", 2)]
        places.give_back(1)
        assert (places.free, places.waiting) == (1, 0)
        asking(places, 2, order)
        assert order[-1] == 2

    def test_that_come_free_together_serve_all_who_wait(self, clock):
        places, order = Places(1), []
        for _ in range(6):
            asking(places, None, order)
        places.set_number(5)
        assert order == [None] * 5
        assert (places.free, places.waiting) == (0, 1)

    def test_given_back_in_the_same_breath_disturb_no_turn(self, clock):
        places, done = Places(1), []

        async def take_and_give_back(who):
            await places.take(who, 45)
            done.append(who)
            places.give_back(who)

        async def hold():
            await places.take(None, 45)

        Conversation(hold(), "a test")
        for who in (1, 2, 3):
            Conversation(take_and_give_back(who), "a test")
        places.give_back(None)
        assert done == [1, 2, 3]
        assert (places.free, places.waiting) == (1, 0)

    def test_can_become_fewer_and_more(self, clock):
        places, order = Places(4), []
        for who in (1, 2, 3):
            asking(places, who, order)
        places.set_number(2)
        asking(places, 4, order)
        places.give_back(1)
        assert order == [1, 2, 3], "two are in use still"
        places.give_back(2)
        assert order == [1, 2, 3, 4]
        asking(places, 5, order)
        places.set_number(4)
        assert order == [1, 2, 3, 4, 5]
