#!/usr/bin/env python3
"""A client that watches a registry and misses nothing, over breaks of its connection and restarts of the registry.

`resumable_client.py ws://127.0.0.1:30100/v4/default/registry/watcher?all` keeps a map of all instances and prints each
change once. It follows docs/wire-protocol.md, and resumable_client.rs beside it does the same line by line.

It needs nothing but Python 3.8, so WebSocket is written out at the end: some 40 lines. With a library of yours,
replace `texts`.
"""

import base64
import json
import os
import socket
import ssl
import struct
import sys
import time
from urllib.parse import urlsplit

FIRST_WAIT, MAX_WAIT = 0.1, 10
# The server pings every 30 seconds, so a longer silence means that the connection is dead.
MAX_SILENCE = 95


def main(address):
    joint = "&" if "?" in address else "?"
    mirror = Mirror()
    wait = FIRST_WAIT
    while True:
        try:
            for text in texts(f"{address}{joint}rev={mirror.since}"):
                wait = FIRST_WAIT
                try:
                    frame = json.loads(text)
                except ValueError:
                    # By contract such a text is the reason for which the server ends the watch.
                    note(f"the server says: {text}")
                    continue
                mirror.apply(frame)
        except OSError as error:
            note(f"no connection: {error}; resuming after {mirror.since}")
        time.sleep(wait)
        wait = min(wait * 2, MAX_WAIT)


class Mirror:
    def __init__(self):
        # Nothing is missing up to this revision. The next connection resumes after it.
        self.since = 0
        # Instance and revision of the changes applied after `since`: the server may send them once more.
        self.applied = set()
        # Instances by id, of each provider.
        self.providers = {}
        # The revision of each provider's last RESET, which contains every change up to there.
        self.resets = {}

    def apply(self, frame):
        rev, key, action = frame["rev"], frame.get("key"), frame["action"]
        name = "{appId}/{serviceName} {version}".format(**key) if key else ""
        if action == "BOOKMARK":
            self.since = max(self.since, rev)
        elif action == "RESET":
            if rev < self.since:
                # The registry was restored from a backup: nothing of the history before is valid.
                self.__init__()
            if key is None:
                # The states of all providers follow, each in a RESET of its own.
                self.providers.clear()
                self.resets.clear()
                print(rev, "RESET everything", flush=True)
                return
            print(rev, "RESET", name, flush=True)
            instances = frame.get("instances", [])
            self.providers[name] = {instance["instanceId"]: instance for instance in instances}
            self.resets[name] = rev
            for instance in instances:
                show(rev, "PRESENT", name, instance)
        else:
            instance = frame["instance"]
            change = (instance["instanceId"], rev)
            # Both kinds of repetition are possible only after a break.
            if rev > self.resets.get(name, 0) and change not in self.applied:
                self.applied.add(change)
                show(rev, action, name, instance)
                if action == "DELETE":
                    self.providers.get(name, {}).pop(instance["instanceId"], None)
                else:
                    self.providers.setdefault(name, {})[instance["instanceId"]] = instance
        self.since = max(self.since, frame.get("since", 0))
        self.applied = {change for change in self.applied if change[1] > self.since}


def show(rev, action, provider, instance):
    properties = json.dumps(instance.get("properties"), separators=(",", ":"))
    print(rev, action, provider, instance["instanceId"], instance.get("status", ""), properties, flush=True)


def note(line):
    print(line, file=sys.stderr, flush=True)


def texts(address):
    """Opens a WebSocket and yields the texts that come. Raises OSError when it cannot be opened or breaks."""
    url = urlsplit(address)
    secure = url.scheme == "wss"
    connection = socket.create_connection((url.hostname, url.port or (443 if secure else 80)), MAX_SILENCE)
    with connection:
        if secure:
            connection = ssl.create_default_context().wrap_socket(connection, server_hostname=url.hostname)
        nonce = base64.b64encode(os.urandom(16)).decode()
        request = (
            f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: Upgrade\r\n"
            f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {nonce}\r\n\r\n"
        )
        connection.sendall(request.encode())
        stream = connection.makefile("rb")
        status = stream.readline().decode().strip()
        while stream.readline() not in (b"\r\n", b""):
            pass
        if " 101 " not in status:
            raise OSError(status or "the server closed the connection")
        text = b""
        while True:
            is_last, opcode, payload = read_frame(stream)
            if opcode in (0, 1):
                # A text of more than some 60 KiB comes in several frames; all but the first have the opcode 0.
                text += payload
                if is_last:
                    yield text.decode()
                    text = b""
            elif opcode == 8:
                raise OSError("the server closed the watch")
            elif opcode == 9:
                # A pong with the ping's payload. Clients mask their frames; the mask 0 leaves the bytes as they are.
                connection.sendall(struct.pack("!BBI", 0x8A, 0x80 | len(payload), 0) + payload)


def read_frame(stream):
    """Reads one frame: whether its message ends with it, its opcode, and its payload."""
    first, length = read(stream, 2)
    if length >= 126:
        length = int.from_bytes(read(stream, 2 if length == 126 else 8), "big")
    return bool(first & 0x80), first & 0x0F, read(stream, length)


def read(stream, length):
    data = stream.read(length)
    if len(data) < length:
        raise OSError("the connection ended")
    return data


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:30100/v4/default/registry/watcher?all")
