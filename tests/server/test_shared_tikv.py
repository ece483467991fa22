"""``ctx.shared`` in TiKV when TiKV misbehaves, what it leaves behind, how much fits, and the settings of the client."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from msgspec import Raw

from kontract.core import limits
from kontract.core.errors import UnavailableError
from kontract.core.shared.state import SharedDelete, SharedGet, SharedIncr, SharedRefused, SharedSet, SharedValue
from kontract.gateway.shared_storage import SharedStorage
from kontract.ports import CoordinatorUnavailableError
from kontract.server import shared_tikv as module
from kontract.server.database import AsyncpgDatabase
from kontract.server.shared_postgres import PostgresShared
from kontract.server.shared_tikv import GRACE_SECONDS, create_tikv_adapter
from kontract.server.tikv import KeyValue, TiKVUnavailableError, connect_tikv
from support.tikv import FakeCluster, Kind


class HandClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.ms = 1_800_000_000_000

    def now(self) -> int:
        return self.ms

    def elapsed(self) -> float:
        return float(self.ms)

    async def sleep(self, milliseconds: float) -> None:
        raise NotImplementedError


class Plain:
    """A client with the document's four methods that lets others run in between, as a network would."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    async def get(self, key: str) -> str | None:
        await asyncio.sleep(0)
        return self.values.get(key)

    async def put(self, key: str, value: str) -> None:
        await asyncio.sleep(0)
        self.values[key] = value

    async def delete(self, key: str) -> None:
        await asyncio.sleep(0)
        self.values.pop(key, None)

    async def scan(self, prefix: str, limit: int) -> list[KeyValue]:
        await asyncio.sleep(0)
        return [KeyValue(key, self.values[key]) for key in sorted(self.values) if key.startswith(prefix)][:limit]


@pytest.fixture
async def cluster():
    async with FakeCluster.started() as one:
        yield one


@pytest.fixture
async def connect(cluster):
    """Connects as another node does."""
    clients = []

    def connect(timeout: float = 10):
        clients.append(connect_tikv(cluster.endpoints, timeout=timeout))
        return clients[-1]

    yield connect
    for client in clients:
        await client.aclose()
    assert cluster.data.mixed == set()


@pytest.mark.parametrize("seed", range(6))
async def test_counting_in_a_storm(cluster, connect, seed):
    """Each count that was answered was made once; each of unknown outcome once at most; nobody got another's number."""
    nodes = [create_tikv_adapter(connect())[0] for _ in range(3)]
    cluster.faults.storm(seed, 0.2, Kind.LOST, Kind.STALE, Kind.STALE_DONE, Kind.UNDETERMINED, Kind.NO_LEADER)
    answers: list[int] = []
    unknown = 0

    async def count(number: int) -> None:
        nonlocal unknown
        for _ in range(5):
            try:
                answer = await nodes[number % 3].shared(SharedIncr("n"))
            except CoordinatorUnavailableError:
                unknown += 1
                continue
            answers.append(int(bytes(answer.value)))

    await asyncio.gather(*[count(number) for number in range(6)])
    cluster.faults.calm()
    total = int(bytes((await nodes[0].shared(SharedGet("n"))).value))
    assert len(set(answers)) == len(answers)
    assert len(answers) <= total <= len(answers) + unknown
    assert total == 30 or unknown


@pytest.mark.parametrize("kind", [Kind.LOST, Kind.REFUSED, Kind.STALE, Kind.STALE_DONE, Kind.UNDETERMINED, Kind.LATE])
async def test_an_answer_that_is_lost(cluster, connect, kind):
    """What became of it is looked up; the count is made once."""
    shared = create_tikv_adapter(connect())[0]
    for before in range(2):
        fault = cluster.faults.add(kind, "RawCompareAndSwap")
        assert (await shared.shared(SharedIncr("n"))).value == Raw(b"%d" % (before + 1))
        fault.released.set()
        await asyncio.gather(*cluster.faults.late)
        assert (await shared.shared(SharedGet("n"))).value == Raw(b"%d" % (before + 1))


async def test_an_outcome_that_nobody_can_tell(cluster, connect):
    """The answer is lost, and another node has counted since: neither success nor failure would be true."""
    mine, other = create_tikv_adapter(connect())[0], create_tikv_adapter(connect())[0]
    await mine.shared(SharedIncr("n"))
    cluster.faults.add(Kind.LOST, "RawCompareAndSwap")
    pause = cluster.faults.add(Kind.PAUSED, "RawGet", skip=1)
    counting = asyncio.create_task(mine.shared(SharedIncr("n")))
    await pause.reached.wait()
    await other.shared(SharedIncr("n"))
    pause.released.set()
    with pytest.raises(CoordinatorUnavailableError, match="it is unknown"):
        await counting
    assert (await other.shared(SharedGet("n"))).value == Raw(b"3")


async def test_two_nodes_that_meet(cluster, connect):
    """One swaps between the other's read and swap: the second counts on."""
    mine, other = create_tikv_adapter(connect())[0], create_tikv_adapter(connect())[0]
    pause = cluster.faults.add(Kind.PAUSED, "RawCompareAndSwap")
    counting = asyncio.create_task(mine.shared(SharedIncr("n")))
    await pause.reached.wait()
    assert (await other.shared(SharedIncr("n"))).value == Raw(b"1")
    pause.released.set()
    assert (await counting).value == Raw(b"2")


async def test_tikv_that_does_not_answer(cluster, connect):
    """UnavailableError for callers, the copy for readers; stores of copies never raise."""
    do_stub, kv = create_tikv_adapter(connect(0.3))
    shared = SharedStorage(do_stub.for_owner("t1"), kv, owner="t1")
    await shared.set("k", {"n": 1}, ttl=1000)
    cluster.faults.storm(1, 1.0, Kind.REFUSED)
    with pytest.raises(UnavailableError):
        await shared.incr("n")
    assert await kv.get("shared/t1/app/k") is None
    await kv.put("k", "v")
    await kv.delete("k")
    cluster.faults.calm()
    values = cluster.faults.add(Kind.REFUSED, "RawGet", times=1000, matches=lambda key: b"/shared/" in key[:16])
    assert await shared.get("k") == {"n": 1}
    assert values.met
    client = connect(0.3)
    await client.aclose()
    with pytest.raises(TiKVUnavailableError):
        await client.get("k")


async def test_nobody_waits_for_ever(cluster, connect, monkeypatch):
    """Swaps that hang, with reads that work."""
    shared = create_tikv_adapter(connect())[0]
    hanging = cluster.faults.add(Kind.PAUSED, "RawCompareAndSwap", times=1000)
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.2)
    async with asyncio.timeout(35):
        with pytest.raises(CoordinatorUnavailableError, match="it is unknown"):
            await shared.shared(SharedIncr("n"))
    hanging.released.set()


async def test_nothing_is_left_of_what_has_ended(cluster, connect):
    """TiKV forgets it, a while after its end or its deletion; until then it is not seen."""
    clock = HandClock()
    do_stub, kv = create_tikv_adapter(connect(), clock=clock)
    await do_stub.shared(SharedSet("short", Raw(b"1"), 5_000))
    await do_stub.shared(SharedSet("deleted", Raw(b"1")))
    await do_stub.shared(SharedSet("for ever", Raw(b"1")))
    await do_stub.shared(SharedDelete("deleted"))
    await kv.put("copy", "text", 5)
    clock.ms += 5_000
    cluster.advance(5)
    for key in ("short", "deleted"):
        assert await do_stub.shared(SharedGet(key)) == SharedValue()
    assert await kv.get("copy") is None
    assert len(cluster.data.scan(b"", b"", 10)) == 4
    cluster.advance(GRACE_SECONDS)
    assert [key for key, _ in cluster.data.scan(b"", b"", 10)] == [b"kontract/shared/0:/for ever"]
    assert await do_stub.shared(SharedIncr("short", 1, 1_000)) == SharedValue(Raw(b"1"), 1_000)


async def test_a_cluster_that_does_not_forget(caplog):
    """Without enable-ttl everything works, and the log says once what to do."""
    async with FakeCluster.started(ttl=False) as cluster:
        client = connect_tikv(cluster.endpoints)
        do_stub, kv = create_tikv_adapter(client)
        with caplog.at_level(logging.WARNING, "kontract.tikv"):
            assert (await do_stub.shared(SharedIncr("n", 1, 60_000))).value == Raw(b"1")
            assert (await do_stub.shared(SharedIncr("n", 1, 60_000))).value == Raw(b"2")
            await kv.put("k", "v", 60)
            assert await kv.get("k") == "v"
            await do_stub.shared(SharedDelete("n"))
            assert await do_stub.shared(SharedGet("n")) == SharedValue()
        assert [record.message for record in caplog.records if "enable-ttl" in record.message] == [
            record.message for record in caplog.records
        ]
        assert len(caplog.records) == 1
        await client.aclose()


@pytest.mark.parametrize("where", ["tikv", "plain", "postgres"])
async def test_there_is_room_for_so_many(request, connect, postgres, checkout, monkeypatch, where):
    """At the limit what is there can be changed; one more is refused, until something goes or ends; owners apart."""
    monkeypatch.setattr(limits, "SHARED_KEYS", 3)
    clock = HandClock()
    database = None
    if where == "postgres":
        url = postgres.create_database()
        postgres.run(url, (checkout.root / "sql" / "coordination.sql").read_text(encoding="utf-8"))
        database = AsyncpgDatabase(url)
        shared = PostgresShared(database, time=clock)
    else:
        shared = create_tikv_adapter(connect() if where == "tikv" else Plain(), clock=clock)[0]
    one, two = shared.for_owner("one"), shared.for_owner("two")
    for key in ("a", "b"):
        await one.shared(SharedSet(key, Raw(b"1")))
        await two.shared(SharedSet(key, Raw(b"1")))
    await one.shared(SharedIncr("c", 1, 1_000))
    for request_ in (SharedSet("d", Raw(b"1")), SharedIncr("d")):
        refused = await one.shared(request_)
        assert isinstance(refused, SharedRefused)
        assert "there are already 3 shared values" in refused.reason
    assert (await one.shared(SharedIncr("c"))).value == Raw(b"2")
    assert (await one.shared(SharedSet("a", Raw(b"5")))).value == Raw(b"5")
    assert (await two.shared(SharedSet("d", Raw(b"1")))).value == Raw(b"1")
    await one.shared(SharedDelete("a"))
    assert (await one.shared(SharedSet("d", Raw(b"1")))).value == Raw(b"1")
    assert isinstance(await one.shared(SharedIncr("e")), SharedRefused)
    clock.ms += 1_000
    assert (await one.shared(SharedIncr("e"))).value == Raw(b"1"), "what has ended makes room at once"
    assert isinstance(await one.shared(SharedIncr("f")), SharedRefused)
    if database is not None:
        await database.aclose()


async def test_a_hundred_at_once_are_not_more_than_fit(connect, monkeypatch):
    """Those of one node are counted before they are written."""
    monkeypatch.setattr(limits, "SHARED_KEYS", 10)
    shared = create_tikv_adapter(connect())[0]
    await shared.shared(SharedSet("first", Raw(b"1")))
    answers = await asyncio.gather(*[shared.shared(SharedSet(f"k{n}", Raw(b"1"))) for n in range(100)])
    assert sum(isinstance(answer, SharedValue) for answer in answers) == 9


async def test_a_client_without_swaps_counts_right_in_one_process():
    """Its changes take turns; what has ended is removed when values are counted again."""
    client, clock = Plain(), HandClock()
    shared = create_tikv_adapter(client, clock=clock)[0]
    answers = await asyncio.gather(*[shared.shared(SharedIncr("n")) for _ in range(50)])
    assert sorted(int(bytes(answer.value)) for answer in answers) == list(range(1, 51))
    for n in range(5):
        await shared.shared(SharedSet(f"short {n}", Raw(b"1"), 10))
    clock.ms += limits.SHARED_EXPIRY_MS
    await shared.shared(SharedSet("new", Raw(b"1")))
    assert sorted(client.values) == ["shared/0:/n", "shared/0:/new"]


async def test_values_that_have_ended_are_collected_in_postgresql(postgres, checkout):
    """With the requests of any owner, once a minute, a batch at a time."""
    url = postgres.create_database()
    postgres.run(url, (checkout.root / "sql" / "coordination.sql").read_text(encoding="utf-8"))
    clock, database = HandClock(), AsyncpgDatabase(url)
    shared = PostgresShared(database, "one", time=clock)
    for n in range(5):
        await shared.shared(SharedSet(f"k{n}", Raw(b"1"), 1_000 if n < 3 else None))
    clock.ms += 999
    assert await shared.collect() == 0
    clock.ms += 1
    assert [await shared.collect(2), await shared.collect(2), await shared.collect(2)] == [2, 1, 0]
    await shared.shared(SharedSet("last", Raw(b"1"), 1_000))
    clock.ms += 1_000
    assert await PostgresShared(database, "two", time=clock).shared(SharedGet("x")) == SharedValue()
    assert await shared.collect() == 0, "a new process collects at its first request"
    await database.aclose()


async def test_postgresql_that_does_not_answer(postgres):
    """Or has no table for it: one error, which says what is missing."""
    database = AsyncpgDatabase(postgres.create_database())
    with pytest.raises(CoordinatorUnavailableError, match=r"coordination\.sql"):
        await PostgresShared(database).shared(SharedGet("k"))
    await database.aclose()
    nobody = AsyncpgDatabase("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(CoordinatorUnavailableError):
        await PostgresShared(nobody).shared(SharedIncr("k"))


@pytest.mark.parametrize(
    ("endpoints", "environment", "message"),
    [
        ("", {}, "names no PD server"),
        (" , ", {}, "names no PD server"),
        ("pd:1", {"TIKV_CERT": "c"}, "need TIKV_CA"),
        ("pd:1", {"TIKV_CA": "c", "TIKV_KEY": "k"}, "go together"),
    ],
)
def test_settings_that_cannot_work(endpoints, environment, message):
    """They are refused at the start, with a sentence about what to do."""
    with pytest.raises(ValueError, match=message):
        connect_tikv(endpoints, environment=environment)


async def test_tls(tmp_path: Path):
    """Both sides show who they are. Without, or with another's certificate, nothing is answered."""
    ours, others = authority(tmp_path / "ours"), authority(tmp_path / "others")
    key, cert, ca = (ours[name].read_bytes() for name in ("TIKV_KEY", "TIKV_CERT", "TIKV_CA"))
    credentials = grpc.ssl_server_credentials([(key, cert)], root_certificates=ca, require_client_auth=True)
    async with FakeCluster.started(credentials=credentials) as cluster:
        client = connect_tikv(cluster.endpoints, environment={name: str(path) for name, path in ours.items()})
        await client.put("k", "v")
        assert await client.get("k") == "v"
        await client.aclose()
        for environment in ({}, {"TIKV_CA": str(ours["TIKV_CA"])}, {name: str(path) for name, path in others.items()}):
            stranger = connect_tikv(cluster.endpoints, timeout=0.5, environment=environment)
            with pytest.raises(TiKVUnavailableError):
                await stranger.get("k")
            await stranger.aclose()
    with pytest.raises(ValueError, match=r"cannot be read.*none\.pem"):
        connect_tikv("pd:1", environment={"TIKV_CA": str(tmp_path / "none.pem")})


def authority(folder: Path) -> dict[str, Path]:
    """Make a CA and a certificate for 127.0.0.1 from it, by the names of the settings."""
    folder.mkdir()
    now = datetime.now(UTC)
    files: dict[str, Path] = {}
    issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None = None
    for name, file in (("ca", "TIKV_CA"), ("node", "TIKV_CERT")):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{folder.name} {name}")])
        signer, signing = issuer or (subject, key)
        builder = (
            x509.CertificateBuilder(signer, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
        )
        files[file] = folder / f"{name}.pem"
        files[file].write_bytes(builder.sign(signing, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        issuer = (subject, key)
    files["TIKV_KEY"] = folder / "key.pem"
    files["TIKV_KEY"].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


async def test_installations_share_a_cluster(cluster):
    """Each has a keyspace of its own, and sees nothing of the other's."""
    one, two = (connect_tikv(cluster.endpoints, keyspace=f"{name}/") for name in ("one", "two"))
    await one.put("k", "v")
    assert await two.get("k") is None
    assert await two.scan("", 10) == []
    assert await one.scan("", 10) == [KeyValue("k", "v")]
    await one.aclose()
    await two.aclose()
