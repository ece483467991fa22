"""A fake TiKV cluster: PD and several stores as real gRPC servers on loopback, over one dictionary.

What it models, because the client has to cope with it:

- the wire: the real services `pdpb.PD` and `tikvpb.Tikv` with the messages that tikv-python ships, over TCP;
- routing: regions with split points, epochs, peers on several stores, one leader each, and the errors by which TiKV
  corrects a client (NotLeader with and without a hint, EpochNotMatch, RegionNotFound, KeyNotInRegion, StoreNotMatch);
- the raw API: get, batch get, put, batch put, delete, batch delete, scan, delete range, compare-and-swap, TTL (or a
  server that has it turned off, and says so in TiKV's words), and TiKV's default limits of key, entry and message;
- misfortune, by :mod:`support.tikv.faults`: answers lost after the operation took effect, operations that take effect
  long after the client gave up, delays, busy servers, stores that are down, connections that are cut.

What it does not model: Raft (there is no replication, so nothing can be lost), MVCC and the transactional API, regions
that split by themselves, PD's scheduling, and time: nothing is slow unless a test says so, and values with a TTL end
when the test moves the clock. A batch or a range is applied region by region, in no particular order between them.

It is no substitute for a real cluster: `KONTRACT_TEST_TIKV=host:2379` makes the tests that can use one do so.
"""

from __future__ import annotations

from support.tikv.cluster import FakeCluster
from support.tikv.faults import Fault, Kind

__all__ = ["FakeCluster", "Fault", "Kind"]
