"""The contract with programs that know nothing of this package: the first fields on the wire, the client program."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tests.support.processes import ROOT, Cluster, Finished, run, wait_until

# ---- a client that has never seen raft.proto -------------------------------------------------------------------------


def first_fields() -> tuple[Any, Any]:
    """ServeClientRequest and ServeClientReply as somebody would write them down who has only read the contract."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="somebody_elses.proto", syntax="proto3")
    fields = {
        "ServeClientRequest": [("request", 1, field.TYPE_STRING)],
        "ServeClientReply": [
            ("data", 1, field.TYPE_STRING),
            ("leader_id", 2, field.TYPE_INT32),
            ("success", 3, field.TYPE_BOOL),
        ],
    }
    for name, known in fields.items():
        message = file.message_type.add(name=name)
        for called, number, kind in known:
            message.field.add(name=called, number=number, type=kind, label=field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    request, reply = (message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in fields)
    return request, reply


Request, Reply = first_fields()


class SimpleClient:
    """Calls one node."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self._serve: Any = self.channel.unary_unary(
            "/RaftNode/ServeClient",
            request_serializer=Request.SerializeToString,
            response_deserializer=Reply.FromString,
        )

    def ask(self, request: str) -> tuple[str, int, bool]:
        reply = self._serve(Request(request=request), timeout=5)
        return reply.data, reply.leader_id, reply.success

    def refused(self, request: str) -> grpc.StatusCode:
        """The status of a request that must fail."""
        with pytest.raises(grpc.RpcError) as error:
            self._serve(Request(request=request), timeout=5)
        code = error.value.code()
        assert isinstance(code, grpc.StatusCode)
        return code


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("contract"), size=3) as cluster:
        cluster.start()
        leader = cluster.leader()
        for node in cluster.nodes:
            wait_until(lambda node=node: (s := node.status()) and s.leader_id == leader.id, "all know the leader")  # type: ignore[misc]
        yield cluster


@pytest.fixture
def simple(cluster: Cluster) -> Iterator[SimpleClient]:
    """Bound to the leader."""
    client = SimpleClient(cluster.leader().address)
    yield client
    client.channel.close()


def test_a_client_that_knows_only_the_first_fields_can_do_everything(cluster: Cluster, simple: SimpleClient) -> None:
    me = cluster.leader().id
    for request, data in {
        "SET simple:a it's   fine ": "",
        "GET simple:a": "it's   fine ",
        "SET simple:a ünï ☃": "",
        "get simple:a": "ünï ☃",
        "SET simple:empty ": "",
        "GET simple:empty": "",
        "SETNX simple:b 1": "1",
        "SETNX simple:b 2": "0",
        "CAS simple:b 1 3": "1",
        "CAS simple:b 1 4": "0",
        "GET simple:b": "3",
        "KEYS simple:": "simple:a\nsimple:b\nsimple:empty",
        "DEL simple:b": "1",
        "DEL  simple:b": None,
        "KEYS simple:b": "",
    }.items():
        if data is None:
            assert simple.refused(request) is grpc.StatusCode.INVALID_ARGUMENT, request
        else:
            answer, leader_id, success = simple.ask(request)
            assert (answer, success) == (data, True), request
            assert leader_id in (0, me)
    assert simple.refused("GET simple:b") is grpc.StatusCode.NOT_FOUND


def test_requests_that_mean_nothing_are_refused_and_do_nothing(cluster: Cluster, simple: SimpleClient) -> None:
    before = cluster.leader().status()
    for request in (
        "",
        " ",
        "FLY away",
        "SET",
        "SET k",
        "SET  v",
        "GET",
        "GET a b",
        "DEL",
        "SETNX k",
        "CAS k v",
        "SET\tk v",
    ):
        assert simple.refused(request) is grpc.StatusCode.INVALID_ARGUMENT, request
    assert simple.refused(f"SET {1025 * 'k'} v") is grpc.StatusCode.INVALID_ARGUMENT
    assert simple.refused(f"SET k {(1 << 20) * 'v'}v") is grpc.StatusCode.INVALID_ARGUMENT
    assert simple.ask(f"SET {1024 * 'k'} v")[2], "the longest key"
    after = cluster.leader().status()
    assert before is not None
    assert after is not None
    assert after.revision == before.revision + 1


def test_get_leader_names_the_leader_on_every_member_and_reads_no_key(cluster: Cluster, simple: SimpleClient) -> None:
    leader = cluster.leader()
    assert simple.ask("SET LEADER somebody")[2], "a key like any other to a writer"
    for node in cluster.nodes:
        client = SimpleClient(node.address)
        _, leader_id, _ = client.ask("GET LEADER")
        client.channel.close()
        assert leader_id == leader.id


def test_a_member_that_does_not_lead_does_nothing_and_names_the_leader(cluster: Cluster) -> None:
    leader = cluster.leader()
    client = SimpleClient(cluster.followers()[0].address)
    for request in ("SET other:k v", "GET other:k", "DEL other:k", "KEYS other:"):
        _, leader_id, success = client.ask(request)
        assert (leader_id, success) == (leader.id, False), request
    client.channel.close()
    with cluster.client() as library:
        assert library.get("other:k") is None


# ---- the client program ----------------------------------------------------------------------------------------------

SESSION = [
    ("SET prog:k it's fine", "OK"),
    ("GET prog:k", "it's fine"),
    ("get prog:nothing", "(nil)"),
    ("""SET "prog:with a space" 'quoted "value"'""", "OK"),
    ("""GET "prog:with a space\"""", 'quoted "value"'),
    ("SETNX prog:n 1", "1"),
    ("SETNX prog:n 2", "0"),
    ("CAS prog:n 1 5", "1"),
    ("CAS prog:n 1 6", "0"),
    ("KEYS prog:n", "prog:n"),
    ("DEL prog:n", "1"),
    ("DEL prog:n", "0"),
    ("SET prog:ü ☃", "OK"),
    ("GET prog:ü", "☃"),
]


def client_program(cluster: Cluster, *words: str, stdin: str | None = None) -> Finished:
    """Run client.py; it is given a member that does not lead, and only that one."""
    command = [sys.executable, str(ROOT / "client.py"), cluster.followers()[0].address, *words]
    return run(command, cluster.directory, stdin=stdin)


def test_the_program_answers_the_lines_of_its_stdin_in_order(cluster: Cluster) -> None:
    done = client_program(cluster, stdin="".join(f"{command}\n" for command, _ in SESSION))
    assert done.status == 0, done.stderr
    assert done.stdout.splitlines() == [reply for _, reply in SESSION]


def test_the_program_answers_in_json_for_programs(cluster: Cluster) -> None:
    commands = ["SET json:k v", "GET json:k", "GET json:none", "DEL json:k", "KEYS json:", "FLY", "STATUS"]
    done = client_program(cluster, "--json", *(word for command in commands for word in ("-c", command)))
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.status == 1, "one of them could not be parsed"
    assert [reply.get("value") for reply in replies[:5]] == ["OK", "v", None, 1, []]
    assert all(reply["ok"] for reply in replies[:5])
    assert (replies[5]["ok"], replies[5]["outcome"]) == (False, "not_applied")
    assert [row["id"] for row in replies[6]["value"]] == [1, 2, 3]
    assert sorted(row["role"] for row in replies[6]["value"]) == ["follower", "follower", "leader"]


def test_the_program_shows_a_member_that_is_down_as_unreachable(cluster: Cluster) -> None:
    down = cluster.followers()[1]
    down.kill()
    done = client_program(cluster, "--json", "-c", "STATUS")
    rows = json.loads(done.stdout)["value"]
    assert done.status == 0
    assert {row["id"]: row["role"] for row in rows}[down.id] == "unreachable"
    down.start()
