"""As much of MQTT 3.1.1 and 5.0 as what disturbs a broker needs."""

import socket
import struct


def text(value):
    value = value.encode() if isinstance(value, str) else value
    return struct.pack(">H", len(value)) + value


def packet(first_byte, body):
    size, rest = b"", len(body)
    while True:
        rest, low = divmod(rest, 128)
        size += bytes([low | (0x80 if rest else 0)])
        if not rest:
            return bytes([first_byte]) + size + body


def connect_packet(name, clean=True, user=None, password=None, keep_alive=0, version=4, expiry=None):
    flags = (2 if clean else 0) | (0x80 if user is not None else 0) | (0x40 if password is not None else 0)
    properties = b""
    if version == 5:
        properties = b"\x11" + struct.pack(">I", expiry) if expiry is not None else b""
        properties = bytes([len(properties)]) + properties
    body = text("MQTT") + bytes([version, flags]) + struct.pack(">H", keep_alive) + properties + text(name)
    for field in (user, password):
        body += text(field) if field is not None else b""
    return packet(0x10, body)


def publish_packet(topic, payload, retain=False, qos=0, identifier=1, expiry=None, version=4):
    body = text(topic) + (struct.pack(">H", identifier) if qos else b"")
    if version == 5:
        properties = b"\x02" + struct.pack(">I", expiry) if expiry is not None else b""
        body += bytes([len(properties)]) + properties
    return packet(0x30 | qos << 1 | (1 if retain else 0), body + payload)


def subscribe_packet(filters, qos=0, version=4):
    body = struct.pack(">H", 1) + (b"\0" if version == 5 else b"")
    return packet(0x82, body + b"".join(text(each) + bytes([qos]) for each in filters))


PINGREQ, DISCONNECT = b"\xc0\0", b"\xe0\0"


class Refused(Exception):
    """The broker said no."""


def connect(port, name, **more):
    """A connection whose CONNECT was accepted."""
    client = socket.create_connection(("127.0.0.1", port), 10)
    client.settimeout(30)
    client.sendall(connect_packet(name, **more))
    answer = client.recv(2)
    answer += client.recv(answer[1]) if len(answer) == 2 else b""
    if len(answer) < 4 or answer[0] != 0x20 or answer[3] != 0:
        client.close()
        raise Refused(answer.hex())
    return client


def subscribe(client, filters, qos=0, version=4):
    """Returns when the SUBACK has come; only for filters that nothing is published to meanwhile."""
    client.sendall(subscribe_packet(filters, qos, version))
    answer = client.recv(4096)
    if answer[:1] != b"\x90":
        raise Refused(answer[:8].hex())


def settle(client):
    """Returns when the broker has dealt with all that was sent on `client`, to which nothing else is sent."""
    client.sendall(PINGREQ)
    while client.recv(4096)[-2:] != b"\xd0\0":
        pass
