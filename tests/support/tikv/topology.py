"""Where keys are: regions, their epochs, peers and leaders. PD tells clients about it, stores insist on it."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable

from tikv._proto import errorpb_pb2, kvrpcpb_pb2, metapb_pb2


class Region:
    """A range of keys, [start, end), an empty end being none, with one peer on each store."""

    def __init__(self, number: int, start: bytes, end: bytes, peers: dict[int, int], leader: int) -> None:
        self.number = number
        self.start = start
        self.end = end
        self.peers = peers  # store -> peer
        self.leader: int | None = leader  # store; None while there is an election
        self.version = 1
        self.conf_ver = 1

    def contains(self, key: bytes) -> bool:
        return self.start <= key and (not self.end or key < self.end)

    def contains_range(self, start: bytes, end: bytes) -> bool:
        """Whether [start, end) lies inside; an empty end reaches as far as the region."""
        return self.contains(start) and (not self.end or end <= self.end)

    def peer(self, store: int) -> metapb_pb2.Peer:
        return metapb_pb2.Peer(id=self.peers[store], store_id=store)

    def leader_peer(self) -> metapb_pb2.Peer | None:
        return None if self.leader is None else self.peer(self.leader)

    def meta(self) -> metapb_pb2.Region:
        return metapb_pb2.Region(
            id=self.number,
            start_key=self.start,
            end_key=self.end,
            region_epoch=metapb_pb2.RegionEpoch(conf_ver=self.conf_ver, version=self.version),
            peers=[self.peer(store) for store in self.peers],
        )


class Topology:
    """All regions, in order. Every change raises the epochs that it has to raise."""

    def __init__(self, stores: Iterable[int]) -> None:
        self._numbers = itertools.count(100)
        self.stores = list(stores)
        self.regions = [self._region(b"", b"", self.stores[0])]

    def _region(self, start: bytes, end: bytes, leader: int) -> Region:
        return Region(next(self._numbers), start, end, {store: next(self._numbers) for store in self.stores}, leader)

    def find(self, key: bytes) -> Region:
        return self.regions[bisect.bisect_right([region.start for region in self.regions], key) - 1]

    def before(self, key: bytes) -> Region | None:
        """The region before the one that has ``key``."""
        place = self.regions.index(self.find(key))
        return self.regions[place - 1] if place else None

    def overlapping(self, start: bytes, end: bytes, limit: int) -> list[Region]:
        found = [
            region
            for region in self.regions
            if (not region.end or start < region.end) and (not end or region.start < end)
        ]
        return found[:limit] if limit > 0 else found

    def by_number(self, number: int) -> Region | None:
        return next((region for region in self.regions if region.number == number), None)

    def split(self, *keys: bytes, spread: bool = True) -> None:
        """Let regions begin at ``keys``. ``spread``: the new ones are led by the next store each."""
        for key in keys:
            old = self.find(key)
            if old.start == key:
                continue
            leader = old.leader if old.leader is not None else self.stores[0]
            if spread:
                leader = self.stores[(self.stores.index(leader) + 1) % len(self.stores)]
            new = self._region(key, old.end, leader)
            old.end = key
            old.version += 1
            new.version = old.version
            self.regions.insert(self.regions.index(old) + 1, new)

    def merge(self, key: bytes) -> None:
        """Let the region of ``key`` swallow the next one."""
        left = self.find(key)
        right = self.regions.pop(self.regions.index(left) + 1)
        left.end = right.end
        left.version = max(left.version, right.version) + 1

    def lead(self, key: bytes, store: int | None) -> None:
        """Let ``store`` lead the region of ``key``; None is an election that has not ended."""
        self.find(key).leader = store

    def abandon(self, store: int) -> None:
        """Elect others where ``store`` leads."""
        others = [one for one in self.stores if one != store]
        for place, region in enumerate(self.regions):
            if region.leader == store:
                region.leader = others[place % len(others)]

    def check(
        self, store: int, context: kvrpcpb_pb2.Context, keys: Iterable[bytes], spans: Iterable[tuple[bytes, bytes]]
    ) -> errorpb_pb2.Error | None:
        """What a store says to a request that is not for it, in the order in which TiKV asks; None: it is."""
        if context.peer.store_id != store:
            wrong = errorpb_pb2.StoreNotMatch(request_store_id=context.peer.store_id, actual_store_id=store)
            return errorpb_pb2.Error(message="store not match", store_not_match=wrong)
        region = self.by_number(context.region_id)
        if region is None:
            gone = errorpb_pb2.RegionNotFound(region_id=context.region_id)
            return errorpb_pb2.Error(message="region is not found", region_not_found=gone)
        if region.leader != store:
            hint = errorpb_pb2.NotLeader(region_id=region.number, leader=region.leader_peer())
            return errorpb_pb2.Error(message="peer is not leader", not_leader=hint)
        epoch = context.region_epoch
        if (epoch.conf_ver, epoch.version) != (region.conf_ver, region.version):
            return self.epoch_not_match(region)
        outside = [key for key in keys if not region.contains(key)]
        outside += [start for start, end in spans if not region.contains_range(start, end)]
        if outside:
            return errorpb_pb2.Error(
                message="key not in region",
                key_not_in_region=errorpb_pb2.KeyNotInRegion(
                    key=outside[0], region_id=region.number, start_key=region.start, end_key=region.end
                ),
            )
        return None

    def epoch_not_match(self, region: Region) -> errorpb_pb2.Error:
        """The error with the regions that are there now."""
        place = self.regions.index(region)
        current = [one.meta() for one in self.regions[place : place + 2]]
        return errorpb_pb2.Error(
            message="epoch not match", epoch_not_match=errorpb_pb2.EpochNotMatch(current_regions=current)
        )
