"""aiomqtt (from PyPI) against a broker, given as JSON in the first argument. See paho_client.py."""

import asyncio
import json
import ssl
import sys

import aiomqtt
from aiomqtt import ProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PATIENCE = 15
COUNT = 20
SIZE = 300_000


def connect(target, version, name, clean=True):
    transport = target["transport"]
    arguments = {}
    if version == 5:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 0 if clean else 60
        arguments = {"clean_start": clean, "properties": properties}
    else:
        arguments = {"clean_session": clean}
    if target.get("username"):
        arguments |= {"username": target["username"], "password": target["password"]}
    if transport in ("tls", "wss"):
        arguments["tls_context"] = ssl.create_default_context(cafile=target["cafile"])
    if transport in ("ws", "wss"):
        arguments |= {"transport": "websockets", "websocket_path": "/mqtt"}
    if transport == "unix":
        arguments |= {"transport": "unix", "hostname": target["path"]}
    else:
        arguments |= {"hostname": target["host"], "port": target["port"]}
    return aiomqtt.Client(
        identifier=name,
        protocol=ProtocolVersion.V5 if version == 5 else ProtocolVersion.V311,
        timeout=PATIENCE,
        **arguments,
    )


async def next_of(client):
    return await asyncio.wait_for(anext(client.messages), PATIENCE)


async def check(target, version):
    base = f"aiomqtt/{target['transport']}/{version}"
    name = base.replace("/", "-")
    async with connect(target, version, f"{name}-pub") as publisher, connect(target, version, f"{name}-sub") as subscriber:
        await subscriber.subscribe(f"{base}/+/x", 2)
        for qos in (0, 1, 2):
            for index in range(COUNT):
                await publisher.publish(f"{base}/{qos}/x", f"{qos} {index}", qos)
        by_qos = {0: [], 1: [], 2: []}
        for _ in range(3 * COUNT):
            message = await next_of(subscriber)
            by_qos[message.qos].append(message.payload.decode())
        for qos, payloads in by_qos.items():
            assert payloads == [f"{qos} {index}" for index in range(COUNT)], (qos, payloads)

        large = bytes(index * 7 % 251 for index in range(SIZE))
        await publisher.publish(f"{base}/large/x", large, 1)
        assert (await next_of(subscriber)).payload == large

        await publisher.publish(f"{base}/kept", "kept", 1, retain=True)
        async with connect(target, version, f"{name}-late") as late:
            await late.subscribe(f"{base}/kept", 1)
            message = await next_of(late)
            assert (message.payload, message.retain) == (b"kept", True)
        await publisher.publish(f"{base}/kept", "", 1, retain=True)

        async with connect(target, version, f"{name}-keeper", clean=False) as keeper:
            await keeper.subscribe(f"{base}/missed", 1)
        for index in range(3):
            await publisher.publish(f"{base}/missed", str(index), 1)
        async with connect(target, version, f"{name}-keeper", clean=False) as keeper:
            assert [(await next_of(keeper)).payload for _ in range(3)] == [b"0", b"1", b"2"]
        async with connect(target, version, f"{name}-keeper", clean=True):
            pass


if __name__ == "__main__":
    the_target = json.loads(sys.argv[1])
    for the_version in (4, 5):
        asyncio.run(check(the_target, the_version))
