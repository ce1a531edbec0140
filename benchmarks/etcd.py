"""etcd: its key-value service as a Python program calls it, the generator in Go, and what a member says of itself.

The calls need five messages of etcd's API. The fields used of them are declared here by hand (after etcd's rpc.proto
and kv.proto), so that nothing has to be generated or installed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

GO_SOURCE: Final = Path(__file__).with_name("etcd_load.go")
GO_PATH: Final = Path("/usr/share/gocode")
"""Where Debian puts the sources of Go libraries."""
_BUILD_S: Final = 300.0
_TIMEOUT_S: Final = 15.0
_PAGE_KEYS: Final = 2000

_BYTES, _INT, _BOOL, _MESSAGE = (
    descriptor_pb2.FieldDescriptorProto.Type.Value(f"TYPE_{t}") for t in ("BYTES", "INT64", "BOOL", "MESSAGE")
)
_MESSAGES: Final = {
    "PutRequest": (("key", 1, _BYTES), ("value", 2, _BYTES)),
    "PutResponse": (),
    "KeyValue": (("key", 1, _BYTES), ("value", 5, _BYTES)),
    "RangeRequest": (("key", 1, _BYTES), ("range_end", 2, _BYTES), ("limit", 3, _INT)),
    "RangeResponse": (("kvs", 2, _MESSAGE), ("more", 3, _BOOL)),
}


@cache
def _messages() -> dict[str, Any]:
    """The classes of the messages, by name."""
    file = descriptor_pb2.FileDescriptorProto(name="benchmarks/etcd.proto", package="benchmarks.etcd", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind in fields:
            field = message.field.add(name=field_name, number=number, type=kind)
            is_list = kind == _MESSAGE
            field.label = field.LABEL_REPEATED if is_list else field.LABEL_OPTIONAL
            if is_list:
                field.type_name = ".benchmarks.etcd.KeyValue"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    full_names = {name: pool.FindMessageTypeByName(f"benchmarks.etcd.{name}") for name in _MESSAGES}
    return {name: message_factory.GetMessageClass(descriptor) for name, descriptor in full_names.items()}


class PythonCaller:
    """A blocking client of one member, the leader: what a Python program has of etcd."""

    def __init__(self, address: str) -> None:
        messages = _messages()
        self._channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)])
        self._put_request, self._range_request = messages["PutRequest"], messages["RangeRequest"]
        self._put = self._method("Put", messages["PutRequest"], messages["PutResponse"])
        self._range = self._method("Range", messages["RangeRequest"], messages["RangeResponse"])

    def _method(self, name: str, request: Any, response: Any) -> Any:
        return self._channel.unary_unary(
            f"/etcdserverpb.KV/{name}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )

    def __enter__(self) -> PythonCaller:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def set(self, key: bytes, value: bytes) -> None:
        self._put(self._put_request(key=key, value=value), timeout=_TIMEOUT_S)

    def get(self, key: bytes) -> bytes | None:
        reply = self._range(self._range_request(key=key), timeout=_TIMEOUT_S)
        value: bytes | None = reply.kvs[0].value if reply.kvs else None
        return value

    def all_with_prefix(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values, in order."""
        start, end = prefix, prefix[:-1] + bytes([prefix[-1] + 1])
        more = True
        while more:
            reply = self._range(self._range_request(key=start, range_end=end, limit=_PAGE_KEYS), timeout=_TIMEOUT_S)
            for pair in reply.kvs:
                yield pair.key, pair.value
            more = reply.more
            start = reply.kvs[-1].key + b"\0" if reply.kvs else end


# ---- what is installed -----------------------------------------------------------------------------------------------


def version() -> str:
    """Of the etcd that is installed; "" if none is."""
    if shutil.which("etcd") is None:
        return ""
    said = subprocess.run(["etcd", "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"etcd Version: (\S+)", said)
    return found[1] if found else "of unknown version"


def build_generator(directory: Path) -> tuple[list[str], str]:
    """The command of the generator in Go, made in `directory`; or no command, and why there is none."""
    if shutil.which("go") is None:
        return [], "Go is not installed (apt-get install golang-go golang-etcd-server-dev)"
    if not (GO_PATH / "src/go.etcd.io/etcd/clientv3").is_dir():
        return [], "etcd's client library for Go is not installed (apt-get install golang-etcd-server-dev)"
    program = directory / "etcd_load"
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": str(GO_PATH), "GOCACHE": str(directory / "cache")}
    environment.pop("GOFLAGS", None)
    command = ["go", "build", "-o", str(program), str(GO_SOURCE)]
    built = subprocess.run(
        command, env=environment, cwd=directory, capture_output=True, text=True, timeout=_BUILD_S, check=False
    )
    if built.returncode:
        lines = built.stderr.strip().splitlines() or ["it says nothing"]
        return [], f"the load generator in Go could not be built: {lines[-1]}"
    return [str(program)], ""


# ---- one member ------------------------------------------------------------------------------------------------------


def syncs_of(address: str) -> int | None:
    """How often the member has made its log durable, by its own count."""
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=5.0) as answer:
            text = answer.read().decode()
    except OSError:
        return None
    found = re.search(r"^etcd_disk_wal_fsync_duration_seconds_count (\S+)", text, re.MULTILINE)
    return int(float(found[1])) if found else None


def status_of(address: str) -> dict[str, int] | None:
    """Of a member: its own id, the leader's (0: none) and the index of the log; None if it does not answer."""
    request = urllib.request.Request(f"http://{address}/v3/maintenance/status", b"{}", method="POST")
    try:
        with urllib.request.urlopen(request, timeout=2.0) as answer:
            said = json.load(answer)
    except OSError:
        return None
    return {
        "member": int(said["header"]["member_id"]),
        "leader": int(said.get("leader", 0)),
        "index": int(said.get("raftIndex", 0)),
    }
