"""Any mix of crashes, cuts, pauses, wiped disks, clocks and stores that fail: views stay right.

Checked by the model at every step: a term has one view, which somebody intended; its end covers
everything published; every majority of disks with a vote holds everything published. Once faults
stop, the cluster settles and orders again.
"""

from __future__ import annotations

import random

from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bokilog.effects import LeaseHeld
from bokilog.ids import NodeId
from bokilog.sequencer.next_view import has_vote
from tests.unit.sequencer.controllers import MESSAGE_S, NODES, Cluster

nodes = st.sampled_from(NODES)
seeds = st.integers(0, 1 << 16)


class Controllers(RuleBasedStateMachine):
    """Three controllers, three modelled sequencers, one view store."""

    cluster: Cluster

    @initialize(seed=seeds)
    def begin(self, seed: int) -> None:
        rng = random.Random(seed)
        self.cluster = Cluster(latency=lambda: rng.expovariate(1 / MESSAGE_S) + 1e-4)
        self.cluster.start()
        self.cluster.run(rng.uniform(0, 2))

    @rule(tenths=st.integers(1, 40))
    def time_passes(self, tenths: int) -> None:
        self.cluster.run(tenths / 10)

    @rule(thousandths=st.integers(1, 25))
    def a_little_time_passes(self, thousandths: int) -> None:
        """About as long as one step of a change."""
        self.cluster.run(thousandths / 1000)

    @rule(by=nodes, reached=st.sets(nodes))
    def somebody_orders(self, by: NodeId, reached: set[NodeId]) -> None:
        """Also who only believes to be primary still."""
        self.cluster.publish(by=by, reached=tuple(reached))

    @rule(reached=st.sets(nodes), count=st.integers(1, 3))
    def the_primary_orders(self, reached: set[NodeId], count: int) -> None:
        for _ in range(count):
            self.cluster.publish(reached=tuple(reached))

    @rule(backup=nodes, wiped=st.booleans())
    def the_primary_orders_with_one_backup_and_dies(self, backup: NodeId, wiped: bool) -> None:
        cluster, primary = self.cluster, self.cluster.primary
        if cluster.nodes[primary].core is None:
            return
        cluster.publish(reached=(backup,))
        cluster.kill(primary)
        if wiped and self._may_lose_a_disk():
            cluster.wipe(primary)
            cluster.start(primary)

    @rule()
    def the_dead_come_back(self) -> None:
        for node, state in self.cluster.nodes.items():
            if state.core is None:
                self.cluster.start(node)

    @rule(node=nodes)
    def a_process_dies(self, node: NodeId) -> None:
        if self.cluster.nodes[node].core is not None:
            self.cluster.kill(node)

    @rule(node=nodes)
    def a_process_starts(self, node: NodeId) -> None:
        if self.cluster.nodes[node].core is None:
            self.cluster.start(node)

    @precondition(lambda self: self._may_lose_a_disk())
    @rule(node=nodes)
    def a_disk_is_lost(self, node: NodeId) -> None:
        if self.cluster.nodes[node].core is not None:
            self.cluster.kill(node)
        self.cluster.wipe(node)

    def _may_lose_a_disk(self) -> bool:
        """One at a time until its successor has a vote: more than that nothing survives (P15)."""
        cluster = self.cluster
        return cluster.term > 0 and all(
            has_vote(cluster.view, node, state.disk) for node, state in cluster.nodes.items()
        )

    @rule(one=nodes, other=nodes)
    def a_link_is_cut(self, one: NodeId, other: NodeId) -> None:
        if one != other:
            self.cluster.cut(one, other)

    @rule()
    def links_are_whole_again(self) -> None:
        self.cluster.heal()

    @rule(node=nodes)
    def a_process_stands_still_or_goes_on(self, node: NodeId) -> None:
        state = self.cluster.nodes[node]
        if state.paused is not None:
            self.cluster.resume(node)
        elif state.core is not None:
            self.cluster.pause(node)

    @rule(node=nodes)
    def two_hold_the_lease(self, node: NodeId) -> None:
        """A lease that ran out unnoticed."""
        if self.cluster.nodes[node].core is not None:
            self.cluster._deliver(node, LeaseHeld(self.cluster._stored_intent()))

    @rule()
    def the_view_store_fails_or_comes_back(self) -> None:
        self.cluster.store_is_up = not self.cluster.store_is_up

    @rule(node=nodes, seconds=st.sampled_from([-600, -1, 0, 1, 600]))
    def a_clock_jumps(self, node: NodeId, seconds: int) -> None:
        self.cluster.nodes[node].clock_ms = seconds * 1000

    @rule(node=nodes)
    def somebody_wants_to_leave(self, node: NodeId) -> None:
        core = self.cluster.nodes[node].core
        if core is not None:
            core.leave()

    @invariant()
    def nothing_is_lost(self) -> None:
        if hasattr(self, "cluster"):
            self.cluster.check()

    def teardown(self) -> None:
        """Faults stop: it goes on by itself."""
        if not hasattr(self, "cluster"):
            return
        cluster = self.cluster
        cluster.store_is_up = True
        for node, state in cluster.nodes.items():
            state.clock_ms = 0
            if state.paused is not None:
                cluster.resume(node)
            if state.core is not None and state.core.judgement.leaving:
                cluster.kill(node)
            if state.core is None:
                cluster.start(node)
        cluster.heal()
        assert cluster.run(30, until=cluster.is_settled), "\n".join(cluster.story)
        assert cluster.publish(), "\n".join(cluster.story)
        cluster.run(3)
        cluster.check()


TestControllers = Controllers.TestCase
TestControllers.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
