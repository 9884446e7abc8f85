"""The Redis Cluster store: slots that move, nodes that go, and never a row that is called absent for it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.features.store import Row, StoreTimeout, StoreUnavailable, WriteResult, row_key
from engine.features.stores.redis import RedisStore
from engine.features.stores.redis_cluster import RedisClusterStore
from engine.features.stores.redis_slots import slot_of
from tests.support.plain_rows import closed_down_to, row, sockets, value
from tests.support.redis_cluster import SLOTS, RedisCluster
from tests.support.redis_places import certificates, patient
from tests.support.redis_servers import RedisServer

VIEWS = ("one", "two", "three")


@pytest.fixture(scope="module")
def _running() -> Iterator[RedisCluster]:
    with RedisCluster(full_coverage=False, persistent=True) as cluster:
        yield cluster


@pytest.fixture
def cluster(_running: RedisCluster) -> RedisCluster:
    """A cluster whose nodes serve what they have, whoever else is down; empty, and whole."""
    for node in _running.nodes:
        node.start()
        node.resume()
    _running.wait_ok()
    _running.flush()
    return _running


@pytest.fixture
def store(cluster: RedisCluster) -> Iterator[RedisClusterStore]:
    opened = RedisClusterStore(patient(cluster.addresses[:1], cluster=True))
    yield opened
    opened.close()


def entity(entity_id: str, views: tuple[str, ...] = VIEWS) -> list[Row]:
    return [row(entity_id, 1, entity_id.encode() * 20, view=view) for view in views]


def ids_on(cluster: RedisCluster, node: int, count: int = 5) -> list[str]:
    """Ids of entities whose rows are on a node."""
    found = (str(i) for i in range(10_000) if cluster.owner(slot_of(row(str(i), 1).key)) == node)
    return [entity_id for _, entity_id in zip(range(count), found, strict=False)]


def test_slots_are_those_of_the_server(cluster: RedisCluster) -> None:
    choice = random.Random(5)
    keys = [
        row_key("subject", entity_id, "v") for entity_id in ("1", "}", "}{", "a}x", "{", "{}", "日本", "x" * 256, "/")
    ]
    keys += [b"", b"{}", b"{}a", b"a{}b", b"a{b}c", b"a{b", b"}{", b"{{a}}", b"{a}{b}", b"assay:views"]
    keys += [choice.randbytes(choice.randint(1, 40)).replace(b"\0", b"{").replace(b"\1", b"}") for _ in range(300)]
    assert [slot_of(key) for key in keys] == [cluster.nodes[0].command("CLUSTER", "KEYSLOT", key) for key in keys]


def test_one_read_reaches_every_node(cluster: RedisCluster, store: RedisClusterStore) -> None:
    rows = [r for i in range(200) for r in entity(str(i))]
    assert store.write(rows) == WriteResult(600)
    shuffled = random.Random(1).sample(rows, 600)
    assert store.read([r.key for r in shuffled]) == [r.value for r in shuffled]
    for node in cluster.nodes:
        assert node.command("DBSIZE") > 100


def test_a_node_of_a_cluster_is_no_single_server(cluster: RedisCluster) -> None:
    single = RedisStore(patient(cluster.addresses[:1]))
    with pytest.raises(StoreUnavailable, match="node of a Redis Cluster"):
        for i in range(20):
            single.read([row(str(i), 1).key])
    single.close()
    with RedisServer() as server:
        store = RedisClusterStore(patient((server.address,), cluster=True))
        with pytest.raises(StoreUnavailable, match="cluster support disabled"):
            store.read([row("1", 1).key])
        store.close()


def test_slots_move_while_rows_are_read_and_changed(cluster: RedisCluster, store: RedisClusterStore) -> None:
    people = [entity(str(i)) for i in range(40)]
    store.write([r for rows in people for r in rows])
    counter = row("counter", 1).key
    absent = row_key("subject", "0", "never")
    stop = threading.Event()
    wrong: list[object] = []
    counts: list[int] = []

    def read(seed: int) -> None:
        choice = random.Random(seed)
        count = 0
        while not stop.is_set():
            some = [r for rows in choice.sample(people, choice.randint(1, 6)) for r in rows]
            try:
                found = store.read([absent, *(r.key for r in some)], time.monotonic() + 60)
            except BaseException as e:
                wrong.append(e)
                return
            if found != [None, *(r.value for r in some)]:
                wrong.append(found)
            count += 1
        counts.append(count)

    def change() -> int:
        done = 0
        while not stop.is_set():
            store.update([(counter, lambda held: value(1 + (0 if held is None else held[16] + 256 * held[17])))])
            done += 1
        return done

    slots = [slot_of(rows[0].key) for rows in people[:15]] + [slot_of(counter)]
    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read, seed) for seed in range(3)]
        changer = pool.submit(change)
        try:
            for turn in range(6):
                for slot in slots:
                    to = (cluster.owner(slot) + 1) % 3
                    cluster.begin_move(slot, to)
                    while cluster.move_keys(slot, to, count=1):
                        time.sleep(0.001 * (turn % 2))
                    cluster.end_move(slot, to)
        finally:
            stop.set()
        for reader in readers:
            reader.result()
        changes = changer.result()
    assert not wrong
    assert min(counts) > 0
    assert store.read([counter]) == [value(changes)]


def test_every_call_works_on_a_slot_that_is_half_moved(cluster: RedisCluster, store: RedisClusterStore) -> None:
    rows = entity("1", tuple(f"v{i}" for i in range(8)))
    store.write(rows)
    slot = slot_of(rows[0].key)
    to = (cluster.owner(slot) + 1) % 3
    cluster.begin_move(slot, to)
    try:
        assert cluster.move_keys(slot, to, count=4) == 4
        absent = row_key("subject", "1", "never")
        keys = [r.key for r in rows]
        assert store.read([*keys, absent]) == [*(r.value for r in rows), None]
        assert [store.read([key]) for key in keys] == [[r.value] for r in rows]
        newer = [Row(r.key, value(2, b"newer"), 2) for r in rows]
        fresh = row("1", 1, view="fresh")
        assert store.write([*newer, fresh, *rows]) == WriteResult(9, 8)
        changed = value(3)
        assert store.update([(key, lambda held: changed) for key in keys]) == [changed] * 8
        assert store.read([*keys, fresh.key]) == [*[changed] * 8, fresh.value]
        assert dict(store.scan(b"{subject/1}")) == {**dict.fromkeys(keys, changed), fresh.key: fresh.value}
        assert store.delete(keys[:3]) == 3
        assert store.delete_entity("subject", "1") == 6
    finally:
        while cluster.move_keys(slot, to):
            pass
        cluster.end_move(slot, to)
    assert store.read(keys) == [None] * 8


def test_a_dead_node_fails_the_reads_that_need_it_and_no_others(
    cluster: RedisCluster, store: RedisClusterStore
) -> None:
    here, there = (entity(ids_on(cluster, node, 1)[0]) for node in (0, 1))
    store.write(here + there)
    cluster.nodes[1].kill()
    for _ in range(3):
        assert store.read([r.key for r in here], time.monotonic() + 30) == [r.value for r in here]
        for keys in ([there[0].key], [here[0].key, there[0].key]):
            with pytest.raises(StoreUnavailable):
                store.read(keys, time.monotonic() + 30)
        with pytest.raises(StoreUnavailable):
            store.write(there)
    with pytest.raises(StoreUnavailable):
        store.ping()
    cluster.nodes[1].start()
    cluster.wait_ok()
    assert store.read([r.key for r in here + there]) == [r.value for r in here + there]
    store.ping()


def test_a_halted_node_costs_the_deadline_and_its_late_answers_are_nobodys(
    cluster: RedisCluster, store: RedisClusterStore
) -> None:
    here, there = ([r for i in ids_on(cluster, node) for r in entity(i)] for node in (0, 1))
    store.write(here + there)
    cluster.nodes[1].pause()
    for _ in range(5):
        assert store.read([r.key for r in here], time.monotonic() + 30) == [r.value for r in here]
        for keys in ([there[0].key], [here[0].key, there[0].key]):
            deadline_s = time.monotonic() + 0.03
            with pytest.raises(StoreTimeout):
                store.read(keys, deadline_s)
            assert time.monotonic() - deadline_s < 5
    cluster.nodes[1].resume()
    for _ in range(50):
        some = random.sample(here + there, 9)
        assert store.read([r.key for r in some], time.monotonic() + 30) == [r.value for r in some]


def test_a_slot_that_left_a_node_before_it_died_is_found(cluster: RedisCluster, store: RedisClusterStore) -> None:
    """As after a failover: the node that the store asks is not there to say who has the slot."""
    [entity_id] = ids_on(cluster, 2, 1)
    rows = entity(entity_id)
    slot = slot_of(rows[0].key)
    store.write(rows)
    cluster.move_slot(slot, 1)
    assert store.read([r.key for r in rows]) == [r.value for r in rows]
    cluster.move_slot(slot, 0)
    cluster.nodes[1].kill()
    assert store.read([r.key for r in rows], time.monotonic() + 30) == [r.value for r in rows]
    cluster.nodes[1].start()
    cluster.wait_ok()
    cluster.move_slot(slot, 2)


def test_nodes_that_restart_are_found_again_and_scripts_that_they_forgot_are_sent(
    cluster: RedisCluster, store: RedisClusterStore
) -> None:
    rows = [r for i in range(60) for r in entity(str(i))]
    store.write(rows)
    for node in cluster.nodes:
        node.restart()
    cluster.wait_ok()
    assert store.write(rows) == WriteResult(0, len(rows))
    assert store.read([r.key for r in rows]) == [r.value for r in rows]


def test_hedged_reads_are_right(cluster: RedisCluster) -> None:
    store = RedisClusterStore(patient(cluster.addresses, cluster=True, hedge_after_ms=0.05))
    rows = [r for i in range(60) for r in entity(str(i))]
    store.write(rows)
    choice = random.Random(2)
    for _ in range(300):
        some = choice.sample(rows, choice.randint(1, 9))
        assert store.read([r.key for r in some]) == [r.value for r in some]
    assert store.hedges_sent > 0
    store.close()


def test_nothing_stays_open(cluster: RedisCluster) -> None:
    before = sockets()
    store = RedisClusterStore(patient(cluster.addresses, cluster=True))
    rows = [r for i in range(60) for r in entity(str(i))]
    store.write(rows)
    cluster.nodes[1].kill()
    for _ in range(300):
        with pytest.raises(StoreUnavailable):
            store.read([r.key for r in rows], time.monotonic() + 30)
    assert sockets() - before <= 3 * 5
    store.close()
    store.close()
    assert closed_down_to(before)
    assert not [thread for thread in threading.enumerate() if thread.name == "redis-opener"]


def test_a_cluster_with_tls_and_a_password() -> None:
    with RedisCluster(user="assay", password="wren-9-lamp", tls=certificates()) as cluster:
        settings = patient(
            cluster.addresses[:1],
            cluster=True,
            user="assay",
            password="wren-9-lamp",
            tls=True,
            ca=certificates().ca,
        )
        store = RedisClusterStore(settings)
        rows = [r for i in range(60) for r in entity(str(i))]
        assert store.write(rows) == WriteResult(len(rows))
        cluster.move_slot(slot_of(rows[0].key), (cluster.owner(slot_of(rows[0].key)) + 1) % 3)
        assert store.read([r.key for r in rows]) == [r.value for r in rows]
        store.close()


@pytest.mark.slow
def test_a_cluster_that_serves_nothing_while_a_node_is_down_says_so() -> None:
    with RedisCluster(full_coverage=True) as cluster:
        store = RedisClusterStore(patient(cluster.addresses, cluster=True))
        there = entity(ids_on(cluster, 0, 1)[0])
        store.write(there)
        cluster.nodes[1].kill()
        deadline_s = time.monotonic() + 60
        while "cluster_state:ok" in cluster.nodes[0].command("CLUSTER", "INFO").decode():
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        with pytest.raises(StoreUnavailable, match="CLUSTERDOWN"):
            store.read([r.key for r in there], time.monotonic() + 30)
        cluster.nodes[1].start()
        cluster.wait_ok()
        assert store.read([r.key for r in there]) == [r.value for r in there]
        store.close()


def test_slots_count() -> None:
    assert len({slot_of(b"%d" % i) for i in range(200_000)}) == SLOTS
