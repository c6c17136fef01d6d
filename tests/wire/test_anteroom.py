"""Tests of ``mandos_tx.wire.anteroom``, against a model that counts everything anew each time."""

from __future__ import annotations

from collections import Counter

from attrs import define
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from mandos_tx.wire.anteroom import PATIENCE, Anteroom, source_of

LIMIT = 8
PER_SOURCE = 3


@define(eq=False)
class Visitor:
    source: str
    heard: float = 0.0
    greeted: bool = False

    def silent_for(self, now: float) -> float:
        return now - self.heard


class AnteroomMachine(RuleBasedStateMachine):
    """Visitors come, greet, speak, leave and are sent away; ``inside`` is who ought to be there, oldest first."""

    def __init__(self) -> None:
        super().__init__()
        self.room = Anteroom(LIMIT, PER_SOURCE)
        self.inside: list[Visitor] = []
        self.sent_away = 0
        self.now = 0.0

    def expendable(self, source: str) -> list[Visitor]:
        """The visitors from there, in the order in which they have to go."""
        there = [visitor for visitor in self.inside if visitor.source == source]
        return sorted(there, key=lambda visitor: visitor.greeted)

    def dropped(self, visitor: Visitor) -> None:
        self.inside.remove(visitor)
        self.sent_away += 1

    @rule(source=st.sampled_from("abcd"), greeted=st.booleans())
    def enter(self, source: str, greeted: bool) -> None:
        visitor = Visitor(source, self.now, greeted)
        self.inside.append(visitor)
        victim = self.room.enter(visitor, greeted=greeted)
        assert (victim is not None) == (len(self.inside) > LIMIT)
        if victim is not None:
            self.check_victim(victim)

    @rule()
    def make_room(self) -> None:
        victim = self.room.make_room()
        assert (victim is None) == (not self.inside)
        if victim is not None:
            self.check_victim(victim)

    def check_victim(self, victim: object) -> None:
        assert isinstance(victim, Visitor)
        sizes = Counter(visitor.source for visitor in self.inside)
        assert sizes[victim.source] == max(sizes.values())
        assert victim is self.expendable(victim.source)[0]
        self.dropped(victim)

    @precondition(lambda self: any(not visitor.greeted for visitor in self.inside))
    @rule(data=st.data())
    def greet(self, data: st.DataObject) -> None:
        visitor = data.draw(st.sampled_from([visitor for visitor in self.inside if not visitor.greeted]))
        self.room.greeted(visitor)
        visitor.greeted = True
        self.inside.remove(visitor)  # those who greeted are sent away in the order in which they did
        self.inside.append(visitor)

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), again=st.booleans())
    def leave(self, data: st.DataObject, again: bool) -> None:
        visitor = data.draw(st.sampled_from(self.inside))
        self.room.leave(visitor)
        self.inside.remove(visitor)
        if again:
            self.room.leave(visitor)

    @rule()
    def a_stranger_leaves(self) -> None:
        self.room.leave(Visitor("z"))
        self.room.leave(Visitor("a"))

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def speak(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.inside)).heard = self.now

    @rule(seconds=st.sampled_from([0.4, PATIENCE]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def send_the_overdue_away(self) -> None:
        expected = []
        for source in {visitor.source for visitor in self.inside}:
            there = self.expendable(source)
            silent = [visitor for visitor in there if visitor.silent_for(self.now) >= PATIENCE]
            expected += silent[: max(0, len(there) - PER_SOURCE)]
        victims = self.room.overdue(self.now)
        assert len(victims) == len(expected)
        assert set(map(id, victims)) == set(map(id, expected))
        for visitor in expected:
            self.dropped(visitor)

    @invariant()
    def the_books_are_right(self) -> None:
        assert len(self.room) == len(self.inside) <= LIMIT
        assert self.room.given_way == self.sent_away


class AnteroomTests(SynchronousTestCase):
    def test_the_right_ones_give_way_and_the_limits_hold_whatever_happens(self) -> None:
        run_state_machine_as_test(
            AnteroomMachine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
        )

    def test_who_has_not_sent_a_line_goes_before_who_has(self) -> None:
        room = Anteroom(2, 10)
        busy, silent = Visitor("a"), Visitor("a")
        room.enter(busy)
        room.greeted(busy)
        room.enter(silent)
        self.assertIs(silent, room.enter(Visitor("a")))

    def test_a_flood_from_one_source_takes_no_place_of_another(self) -> None:
        room = Anteroom(100, 10)
        good = Visitor("good")
        room.enter(good)
        victims = [room.enter(Visitor("flood")) for _ in range(1000)]
        self.assertEqual(901, sum(victim is not None for victim in victims))
        self.assertNotIn(good, victims)

    def test_a_busy_fleet_behind_one_address_is_let_in(self) -> None:
        room = Anteroom(100, 10)
        fleet = [Visitor("nat", heard=5.0) for _ in range(50)]
        for visitor in fleet:
            room.enter(visitor)
        self.assertEqual([], room.overdue(5.0 + PATIENCE / 2))
        self.assertEqual(fleet[:40], room.overdue(5.0 + PATIENCE))

    def test_an_empty_room_has_nobody_to_send_away(self) -> None:
        self.assertIsNone(Anteroom(1, 1).make_room())


class SourceTests(SynchronousTestCase):
    def test_an_ipv4_address_is_a_source_mapped_or_not(self) -> None:
        self.assertEqual("192.0.2.7", source_of("192.0.2.7"))
        self.assertEqual("192.0.2.7", source_of("::ffff:192.0.2.7"))

    def test_an_ipv6_network_of_64_bits_is_one(self) -> None:
        self.assertEqual(source_of("2001:db8::1"), source_of("2001:db8::ffff:1:2:3"))
        self.assertNotEqual(source_of("2001:db8::1"), source_of("2001:db8:0:1::1"))
        self.assertEqual(source_of("2001:db8::1"), source_of("2001:db8::1%eth0"))

    def test_a_link_local_address_is_one_by_itself(self) -> None:
        self.assertNotEqual(source_of("fe80::1%eth0"), source_of("fe80::2%eth0"))
