"""The servers of the fake cluster: PD and stores, each a gRPC server on a port of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message
from tikv._proto import errorpb_pb2, metapb_pb2, pdpb_pb2
from tikv._proto import kvrpcpb_pb2 as kv

from support.tikv.data import Data
from support.tikv.faults import DONE_KINDS, Fault, Faults, Kind, region_error
from support.tikv.topology import Region, Topology

CLUSTER_ID = 7_000_000_000_000_000_001
MAX_KEY_BYTES = 8 * 1024
MAX_ENTRY_BYTES = 8 * 1024 * 1024
MAX_MESSAGE_BYTES = 10 * 1024 * 1024
"""TiKV's defaults: storage.max-key-size, raftstore.raft-entry-max-size, server.max-grpc-send-msg-len."""

NO_TTL = "ttl is not enabled, but get put request with ttl"

OPTIONS = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", -1),
    ("grpc.so_reuseport", 0),  # a port that is taken has to be an error
]


@dataclass
class Operation:
    """One method of the raw API: what it touches, and what it does."""

    request: type[Message]
    response: type[Message]
    run: Callable[[Any], Message]
    keys: Callable[[Any], list[bytes]] = lambda request: [request.key]
    spans: Callable[[Any], list[tuple[bytes, bytes]]] = lambda _request: []
    writes: bool = False


class FakeCluster:
    """A cluster of some stores and PD members. Start it with :meth:`started`, and connect to ``endpoints``."""

    def __init__(
        self, stores: int = 3, pds: int = 1, *, ttl: bool = True, credentials: grpc.ServerCredentials | None = None
    ) -> None:
        self.data = Data()
        self.topology = Topology(range(1, stores + 1))
        self.faults = Faults()
        self.ttl = ttl
        self._credentials = credentials
        self.calls: dict[str, int] = {}
        self._ports: dict[int, int] = {}
        self._stores: dict[int, grpc.aio.Server] = {}
        self._pds: list[tuple[grpc.aio.Server, int]] = []
        self._pd_count = pds
        self._pd_leader = 0
        self._operations = self._raw_api()

    @classmethod
    @asynccontextmanager
    async def started(
        cls, stores: int = 3, pds: int = 1, *, ttl: bool = True, credentials: grpc.ServerCredentials | None = None
    ) -> AsyncIterator[FakeCluster]:
        cluster = cls(stores, pds, ttl=ttl, credentials=credentials)
        await cluster.start()
        try:
            yield cluster
        finally:
            await cluster.stop()

    @property
    def endpoints(self) -> list[str]:
        """The addresses of PD."""
        return [f"127.0.0.1:{port}" for _, port in self._pds]

    @property
    def up(self) -> set[int]:
        """The stores that run."""
        return set(self._stores)

    async def start(self, pd_port: int = 0) -> None:
        for member in range(self._pd_count):
            server = grpc.aio.server(options=OPTIONS)
            server.add_generic_rpc_handlers((self._pd_service(member),))
            port = self._listen(server, pd_port if member == 0 else 0)
            await server.start()
            self._pds.append((server, port))
        for store in self.topology.stores:
            await self.start_store(store)

    def _listen(self, server: grpc.aio.Server, port: int) -> int:
        address = f"127.0.0.1:{port}"
        if self._credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, self._credentials)

    async def stop(self) -> None:
        self.faults.calm()
        for task in list(self.faults.late):
            task.cancel()
        await asyncio.gather(*self.faults.late, return_exceptions=True)
        for server in [*self._stores.values(), *(server for server, _ in self._pds)]:
            await server.stop(None)

    async def start_store(self, store: int) -> None:
        """Start a store on its port."""
        server = grpc.aio.server(options=OPTIONS)
        server.add_generic_rpc_handlers((self._store_service(store),))
        self._ports[store] = self._listen(server, self._ports.get(store, 0))
        await server.start()
        self._stores[store] = server

    async def stop_store(self, store: int, *, elect: bool = True) -> None:
        """Take a store down, cutting its connections. ``elect``: others lead its regions from now on."""
        await self._stores.pop(store).stop(None)
        if elect:
            self.topology.abandon(store)

    async def cut(self, store: int) -> None:
        """Cut all connections to a store, and what is under way on them."""
        await self._stores.pop(store).stop(None)
        await self.start_store(store)

    def move_pd_leader(self) -> None:
        """Let the next member of PD lead."""
        self._pd_leader = (self._pd_leader + 1) % len(self._pds)

    def advance(self, seconds: float) -> None:
        """Move the cluster's clock."""
        self.data.now += seconds

    # --- PD --------------------------------------------------------------------------------------------------------

    def _pd_service(self, member: int) -> grpc.GenericRpcHandler:
        def method(
            request: type[Message], answer: Callable[[Any], Message], *, anyone: bool = False
        ) -> grpc.RpcMethodHandler:
            async def handle(message: Any, context: grpc.aio.ServicerContext) -> Message:
                if not anyone and member != self._pd_leader:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "not leader")
                return answer(message)

            return grpc.unary_unary_rpc_method_handler(
                handle, request_deserializer=request.FromString, response_serializer=_serialize
            )

        return grpc.method_handlers_generic_handler(
            "pdpb.PD",
            {
                "GetMembers": method(pdpb_pb2.GetMembersRequest, lambda _: self._members(), anyone=True),
                "GetStore": method(pdpb_pb2.GetStoreRequest, self._store),
                "GetRegion": method(
                    pdpb_pb2.GetRegionRequest, lambda message: _located(self.topology.find(message.region_key))
                ),
                "GetPrevRegion": method(
                    pdpb_pb2.GetRegionRequest, lambda message: _located(self.topology.before(message.region_key))
                ),
                "ScanRegions": method(pdpb_pb2.ScanRegionsRequest, self._scan_regions),
            },
        )

    def _members(self) -> pdpb_pb2.GetMembersResponse:
        members = [
            pdpb_pb2.Member(name=f"pd-{number}", member_id=number + 1, client_urls=[f"http://127.0.0.1:{port}"])
            for number, (_, port) in enumerate(self._pds)
        ]
        return pdpb_pb2.GetMembersResponse(header=_header(), members=members, leader=members[self._pd_leader])

    def _store(self, message: pdpb_pb2.GetStoreRequest) -> pdpb_pb2.GetStoreResponse:
        port = self._ports.get(message.store_id)
        if port is None:
            header = _header(pdpb_pb2.Error(type=pdpb_pb2.UNKNOWN, message="invalid store ID, not found"))
            return pdpb_pb2.GetStoreResponse(header=header)
        store = metapb_pb2.Store(id=message.store_id, address=f"127.0.0.1:{port}")
        return pdpb_pb2.GetStoreResponse(header=_header(), store=store)

    def _scan_regions(self, message: pdpb_pb2.ScanRegionsRequest) -> pdpb_pb2.ScanRegionsResponse:
        found = self.topology.overlapping(message.start_key, message.end_key, message.limit)
        regions = [pdpb_pb2.Region(region=region.meta(), leader=region.leader_peer()) for region in found]
        return pdpb_pb2.ScanRegionsResponse(header=_header(), regions=regions)

    # --- stores ----------------------------------------------------------------------------------------------------

    def _store_service(self, store: int) -> grpc.GenericRpcHandler:
        def method(name: str, operation: Operation) -> grpc.RpcMethodHandler:
            async def handle(message: Any, context: grpc.aio.ServicerContext) -> Message:
                self.calls[name] = self.calls.get(name, 0) + 1
                return await self._serve(store, name, operation, message, context)

            return grpc.unary_unary_rpc_method_handler(
                handle, request_deserializer=operation.request.FromString, response_serializer=_serialize
            )

        return grpc.method_handlers_generic_handler(
            "tikvpb.Tikv", {name: method(name, operation) for name, operation in self._operations.items()}
        )

    async def _serve(
        self, store: int, name: str, operation: Operation, message: Any, context: grpc.aio.ServicerContext
    ) -> Message:
        keys, spans = operation.keys(message), operation.spans(message)
        region = message.context.region_id

        def perform() -> Message:
            """What the store does, unless the request is not for it any more by then."""
            error = self.topology.check(store, message.context, keys, spans)
            if error is None and operation.writes and message.ByteSize() > MAX_ENTRY_BYTES:
                large = errorpb_pb2.RaftEntryTooLarge(region_id=region, entry_size=message.ByteSize())
                error = errorpb_pb2.Error(message="raft entry is too large", raft_entry_too_large=large)
            return operation.run(message) if error is None else operation.response(region_error=error)

        drawn = self.faults.draw(name, keys[0] if keys else spans[0][0])
        if drawn is None:
            return perform()
        kind, rule = drawn
        match kind:
            case Kind.REFUSED | Kind.LOST:
                if kind is Kind.LOST:
                    perform()
                await context.abort(grpc.StatusCode.UNAVAILABLE, "connection reset by peer")
            case Kind.LATE:
                assert rule is not None
                task = asyncio.create_task(self._later(rule, perform))
                self.faults.late.add(task)
                task.add_done_callback(self.faults.late.discard)
                await context.abort(grpc.StatusCode.UNAVAILABLE, "connection reset by peer")
            case Kind.PAUSED:
                assert rule is not None
                await rule.released.wait()
                return perform()
            case Kind.EPOCH:
                located = self.topology.by_number(region)
                if located is None:
                    return perform()
                return operation.response(region_error=self.topology.epoch_not_match(located))
            case _:
                if kind in DONE_KINDS:
                    perform()
                return operation.response(region_error=region_error(kind, region))
        raise AssertionError(kind)  # abort raises

    @staticmethod
    async def _later(rule: Fault, perform: Callable[[], Message]) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await rule.released.wait()
            perform()

    # --- the raw API -----------------------------------------------------------------------------------------------

    def _raw_api(self) -> dict[str, Operation]:
        data = self.data

        def get(request: kv.RawGetRequest) -> Message:
            value = data.get(request.key)
            return kv.RawGetResponse(not_found=True) if value is None else kv.RawGetResponse(value=value)

        def batch_get(request: kv.RawBatchGetRequest) -> Message:
            found = [(key, data.get(key)) for key in request.keys]
            return kv.RawBatchGetResponse(pairs=[kv.KvPair(key=k, value=v) for k, v in found if v is not None])

        def put(request: kv.RawPutRequest) -> Message:
            error = self._refused([request.key], request.ttl)
            if not error:
                data.put(request.key, request.value, request.ttl, atomic=request.for_cas)
            return kv.RawPutResponse(error=error)

        def batch_put(request: kv.RawBatchPutRequest) -> Message:
            ttls = list(request.ttls) or [0]
            ttls = ttls * len(request.pairs) if len(ttls) == 1 else ttls
            error = self._refused([pair.key for pair in request.pairs], max(ttls, default=0))
            if not error:
                for pair, ttl in zip(request.pairs, ttls, strict=True):
                    data.put(pair.key, pair.value, ttl, atomic=request.for_cas)
            return kv.RawBatchPutResponse(error=error)

        def delete(request: kv.RawDeleteRequest) -> Message:
            data.delete(request.key, atomic=request.for_cas)
            return kv.RawDeleteResponse()

        def batch_delete(request: kv.RawBatchDeleteRequest) -> Message:
            for key in request.keys:
                data.delete(key, atomic=request.for_cas)
            return kv.RawBatchDeleteResponse()

        def delete_range(request: kv.RawDeleteRangeRequest) -> Message:
            data.delete_range(request.start_key, request.end_key)
            return kv.RawDeleteRangeResponse()

        def scan(request: kv.RawScanRequest) -> Message:
            low, high = _span(request)
            pairs = data.scan(low, high, request.limit, reverse=request.reverse)
            return kv.RawScanResponse(
                kvs=[kv.KvPair(key=key, value=b"" if request.key_only else value) for key, value in pairs]
            )

        def ttl(request: kv.RawGetKeyTTLRequest) -> Message:
            left = data.ttl(request.key)
            return kv.RawGetKeyTTLResponse(not_found=True) if left is None else kv.RawGetKeyTTLResponse(ttl=left)

        def swap(request: kv.RawCASRequest) -> Message:
            error = self._refused([request.key], request.ttl)
            if error:
                return kv.RawCASResponse(error=error)
            expected = None if request.previous_not_exist else request.previous_value
            succeed, previous = data.compare_and_swap(request.key, expected, request.value, request.ttl)
            return kv.RawCASResponse(
                succeed=succeed, previous_not_exist=previous is None, previous_value=previous or b""
            )

        def many(request: Any) -> list[bytes]:
            return list(request.keys)

        def none(_request: Any) -> list[bytes]:
            return []

        return {
            "RawGet": Operation(kv.RawGetRequest, kv.RawGetResponse, get),
            "RawBatchGet": Operation(kv.RawBatchGetRequest, kv.RawBatchGetResponse, batch_get, many),
            "RawPut": Operation(kv.RawPutRequest, kv.RawPutResponse, put, writes=True),
            "RawBatchPut": Operation(
                kv.RawBatchPutRequest,
                kv.RawBatchPutResponse,
                batch_put,
                lambda request: [pair.key for pair in request.pairs],
                writes=True,
            ),
            "RawDelete": Operation(kv.RawDeleteRequest, kv.RawDeleteResponse, delete, writes=True),
            "RawBatchDelete": Operation(
                kv.RawBatchDeleteRequest, kv.RawBatchDeleteResponse, batch_delete, many, writes=True
            ),
            "RawDeleteRange": Operation(
                kv.RawDeleteRangeRequest,
                kv.RawDeleteRangeResponse,
                delete_range,
                none,
                lambda request: [(request.start_key, request.end_key)],
                writes=True,
            ),
            "RawScan": Operation(kv.RawScanRequest, kv.RawScanResponse, scan, none, lambda request: [_span(request)]),
            "RawGetKeyTTL": Operation(kv.RawGetKeyTTLRequest, kv.RawGetKeyTTLResponse, ttl),
            "RawCompareAndSwap": Operation(kv.RawCASRequest, kv.RawCASResponse, swap, writes=True),
        }

    def _refused(self, keys: list[bytes], ttl: int) -> str:
        """Why a write cannot be done, in TiKV's words; empty when it can."""
        longest = max(keys, key=len, default=b"")
        if len(longest) > MAX_KEY_BYTES:
            return f"The key is too large, size: {len(longest)}, limit: {MAX_KEY_BYTES}"
        return NO_TTL if ttl and not self.ttl else ""


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _header(error: pdpb_pb2.Error | None = None) -> pdpb_pb2.ResponseHeader:
    return pdpb_pb2.ResponseHeader(cluster_id=CLUSTER_ID, error=error)


def _located(region: Region | None) -> pdpb_pb2.GetRegionResponse:
    if region is None:
        return pdpb_pb2.GetRegionResponse(header=_header())
    return pdpb_pb2.GetRegionResponse(header=_header(), region=region.meta(), leader=region.leader_peer())


def _span(request: kv.RawScanRequest) -> tuple[bytes, bytes]:
    """The range of a scan, lowest key first: a reverse one begins at its end."""
    if request.reverse:
        return request.end_key, request.start_key
    return request.start_key, request.end_key
