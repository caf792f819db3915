"""py-eureka-client registers, finds the registry's own instances by deltas, and leaves.

usage: client.py URL, the address of Eureka's REST interface
"""

import asyncio
import os
import sys
import time
import urllib.error
import urllib.request

import py_eureka_client.eureka_client as eureka_client
from py_eureka_client import eureka_basic

URL = sys.argv[1]
DEADLINE = 60


def until(what, condition):
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        value = condition()
        if value:
            print("ok", what, flush=True)
            return value
        time.sleep(0.05)
    raise SystemExit(f"in vain: {what}")


def want(wish):
    print("want", wish, flush=True)


def status(path):
    try:
        with urllib.request.urlopen(URL + path) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


async def start():
    return await eureka_client.init_async(
        eureka_server=URL, app_name="probe", instance_host="localhost", instance_ip="127.0.0.1", instance_port=9090,
        instance_id="localhost:probe:9090", metadata={"color": "blue"}, renewal_interval_in_secs=1, duration_in_secs=9,
        should_register=True, should_discover=True)


client = asyncio.run(start())


def instances(name):
    application = client.applications.get_application(name)
    return [] if application is None else [one.instanceId for one in application.instances]


until("it is registered", lambda: status("apps/PROBE/localhost:probe:9090") == 200)
until("it finds itself", lambda: "localhost:probe:9090" in instances("PROBE"))
own = asyncio.run(eureka_basic.get_app_instance(URL, "probe", "localhost:probe:9090"))
assert own.metadata["color"] == "blue", own.metadata
assert (own.port.port, own.port.enabled, own.leaseInfo.durationInSecs) == (9090, True, 9), vars(own)
want("add order one")
until("an instance of the registry comes", lambda: instances("ORDER") == ["one"])
want("add order two")
until("a second one comes", lambda: sorted(instances("ORDER")) == ["one", "two"])
want("remove order one")
until("the first one goes", lambda: instances("ORDER") == ["two"])
found = asyncio.run(eureka_basic.get_vip(URL, "order"))
assert [one.instanceId for app in found.applications for one in app.instances] == ["two"]
asyncio.run(client.status_update("OUT_OF_SERVICE"))
until("it is out of service", lambda: asyncio.run(
    eureka_basic.get_app_instance(URL, "probe", "localhost:probe:9090")).status == "OUT_OF_SERVICE")
asyncio.run(client.delete_status_override())
until("it is back", lambda: asyncio.run(
    eureka_basic.get_app_instance(URL, "probe", "localhost:probe:9090")).status == "UP")
# Renewals have kept it for longer than its lease.
registered = time.monotonic()
until("it lives by its renewals", lambda: time.monotonic() > registered + 12 and status(
    "apps/PROBE/localhost:probe:9090") == 200)
asyncio.run(client.stop())
until("it has left", lambda: status("apps/PROBE/localhost:probe:9090") == 404)
print("done", flush=True)
sys.stdout.flush()
os._exit(0)
