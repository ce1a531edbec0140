"""Whom a node takes for its peers, and which of their disks it believes: theory of operation.

The log says who the members are, and where: a node goes by the latest configuration in it, committed or not
(dissertation, 4.1). `Peers` follows it and owns what hangs on it: the membership, a frozen object that is replaced as a
whole when it changes, and one sender for each peer that there was something to send to. It also sees whether a peer
has come back with another disk, without all that it had promised (hazard 46):

* with a founding member, whose disk no entry names, by what is remembered here from the first time that it was met.
  What it says counts for nothing then: `has_kept_disk` keeps it from the algorithm;
* with one that was added later, by the disk that the configuration names. The algorithm does not count it by itself
  (`Raft.step`); here it is only noted, for people.

All of it is done by whoever holds the turn. Other threads read `membership`, and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain
from typing import TypeAlias

from raftkv.log_storage import LogStorage
from raftkv.raft.core import Raft
from raftkv.raft.messages import (
    AppendEntries,
    Message,
    RequestVote,
    SignedReply,
)
from raftkv.raft.types import Configuration
from raftkv.replica import Input
from raftkv.service import members_to_wire
from raftkv.transport import Membership, PeerSender, close_aside
from raftkv.wire import raft_pb2 as wire

log = logging.getLogger("raftkv")

_SignedMessage: TypeAlias = AppendEntries | RequestVote | SignedReply
"""They say from which disk they come."""


class Peers:
    def __init__(
        self,
        storage: LogStorage,
        raft: Raft,
        connect: Callable[[int, Membership], PeerSender],
        announce: Callable[[list[wire.Member]], None],
        is_placed: bool,
    ) -> None:
        """`storage` remembers which cluster this is, where this node is to be reached, and with which disks founding
        members were met. `connect` makes the sender to a peer; `announce` tells clients of members that are new, or
        have moved. `is_placed`: the cluster has just said where this node listens, so what its log says of that may be
        older."""
        identity = storage.identity
        me = identity.member_id
        self._storage = storage
        self._raft = raft
        self._connect = connect
        self._announce = announce
        self._address = identity.address or identity.members[me]
        """That this node listens on."""
        self.membership = Membership(
            me,
            {**identity.members, me: self._address},
            identity.cluster_id,
            identity.incarnation,
            identity.joined,
            peers=identity.peers,
            founders=identity.members,
        )
        self.senders: dict[int, PeerSender] = {}
        """Made when there is something to send."""
        self._former: dict[int, PeerSender] = {}
        """To where a member was that moves, until it has been heard where it is to be."""
        self._configuration: Configuration | None = None
        """What the membership has been made from."""
        self.follow_configuration(is_placed)

    def close(self) -> None:
        """Give up all that is under way. After the last message."""
        for sender in self._all_senders():
            sender.close()

    def _all_senders(self) -> Iterable[PeerSender]:
        return chain(self.senders.values(), self._former.values())

    def learn_cluster(self, cluster_id: bytes) -> None:
        """The log has told which cluster this is: from now on the directory belongs to it, and others are refused."""
        self._storage.remember_cluster(cluster_id)
        self.membership = replace(self.membership, cluster_id=cluster_id)
        for sender in self._all_senders():
            sender.introduce(self.membership)
        log.info("belongs to cluster %s", cluster_id.hex())

    def follow_configuration(self, is_placed: bool = False) -> None:
        """Go by the latest configuration in the log: who the members are, and where; but not for where this one is, if
        the cluster has just told it."""
        configuration = self._raft.configuration
        if configuration is self._configuration:
            return
        is_first = self._configuration is None
        self._configuration = configuration
        former, me = self.membership, self.membership.me
        before = former.addresses
        addresses = dict(configuration.addresses)
        address = addresses.get(me, before[me])
        if not configuration.counts_with(me, self.membership.incarnation):
            log.warning(
                "node %d has its vote with another data directory than this one, which counts for nothing: stop this "
                "node, or remove it and add it again (REMOVE %d, ADD %d=<address>)",
                *(me, me, me),
            )
        if address != before[me] and not is_placed:
            self._storage.remember_address(address)
            if address != self._address:
                log.warning("is to be reached at %s from now on: stop this node, and start it again", address)
        joined = dict(configuration.joined)
        self.membership = replace(
            self.membership,
            addresses={me: before[me], **addresses},
            joined=joined,
            wiped=frozenset(p for p in self.membership.wiped if joined.get(p) == self.membership.joined.get(p)),
        )
        if not is_first:
            self._follow_addresses(former)
        new = [m for m in members_to_wire(self.membership, configuration) if m.address != before.get(m.id)]
        if new:
            self._announce(new)

    def _follow_addresses(self, former: Membership) -> None:
        """See to it that senders send to where members are. Whoever has been removed is still told so, by the one that
        is there."""
        before, now = former.addresses, self.membership.addresses
        for peer in now.keys() - {self.membership.me}:
            if peer not in before or self.membership.joined.get(peer) != former.joined.get(peer):
                self._forget(peer)  # if there is a sender, it is to another one, who had this id
            elif now[peer] != before[peer]:
                self._move(peer, former)
        for sender in self._all_senders():
            sender.introduce(self.membership)

    def _forget(self, peer: int) -> None:
        """Where it was there is another one, which had this id before."""
        for sender in (self.senders.pop(peer, None), self._former.pop(peer, None)):
            if sender is not None:
                close_aside(sender)

    def _move(self, peer: int, former: Membership) -> None:
        """Until a member is where it is to be, it is where it was, and may not know yet that it is to move."""
        sender = self.senders.pop(peer, None) or self._connect(peer, former)
        before_that = self._former.get(peer)
        if before_that is not None and not sender.has_answered:
            close_aside(sender)  # it has not got there before it was to move on
            return
        if before_that is not None:
            close_aside(before_that)
        self._former[peer] = sender

    def has_kept_disk(self, item: Input) -> bool:
        """Whether a message comes from the member that it was, with all that it has promised (hazard 46). A founding
        member that is met for the first time is remembered, before anything that it says counts, and before it is
        answered. Of the others, the algorithm goes by what the configuration says of their disks."""
        if not isinstance(item, _SignedMessage):
            return True
        self.follow_configuration()
        peer, incarnation, membership = item.sender, item.incarnation, self.membership
        if not incarnation or peer not in membership.addresses:
            return True
        if membership.is_founder(peer, item.joined):
            if membership.has_lost_disk(peer, incarnation, item.joined):
                self._note_wiped(peer)
                return False
            if membership.peers.get(peer) != (0, incarnation):
                self._storage.remember_peer(peer, 0, incarnation)
                self.membership = replace(membership, peers=self._storage.identity.peers)
        elif self._has_another_disk(item):
            self._note_wiped(peer)
            return True
        if peer in membership.wiped and not isinstance(item, AppendEntries | RequestVote):
            self.membership = replace(self.membership, wiped=membership.wiped - {peer})
            log.info("node %d has its disk again", peer)
        return True

    def _has_another_disk(self, message: Message) -> bool:
        """Whether a member that was added later answers, where it is to be found, from another disk than the one that
        has its vote; and does not speak of an entry that our log does not tell of yet."""
        if not isinstance(message, SignedReply):
            return False
        is_known = message.joined <= self.membership.joined.get(message.sender, 0)
        return is_known and not self._raft.configuration.counts_with(message.sender, message.incarnation)

    def _note_wiped(self, peer: int) -> None:
        if peer not in self.membership.wiped:
            self.membership = replace(self.membership, wiped=self.membership.wiped | {peer})
            log.warning(
                "node %d has come back without its disk: nothing that it says counts until it is removed and added "
                "again (REMOVE %d, ADD %d=<address>)",
                peer,
                peer,
                peer,
            )

    def sender(self, peer: int) -> PeerSender | None:
        """The sender to a peer; None if nobody knows where that is."""
        sender = self.senders.get(peer)
        if sender is None:
            self.follow_configuration()  # it may have changed in this very turn
            if peer in self.membership.addresses:
                sender = self.senders[peer] = self._connect(peer, self.membership)
        former = self._former.get(peer)
        if former is None or sender is None:
            return sender or former
        if not sender.has_answered:
            return sender if former.is_silent else former
        del self._former[peer]
        close_aside(former)
        return sender
