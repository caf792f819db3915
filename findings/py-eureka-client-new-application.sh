#!/usr/bin/env bash
# py-eureka-client cannot take a new application from a delta, and fetches the whole registry instead.
#
# Library:  py-eureka-client 0.13.3 from PyPI.
# Expected: a delta in which the first instance of an application is ADDED makes the application known. The whole registry
#           is fetched only when the hash of the delta shows that something was missed.
# Seen:     the new instance is added to an object that the client's list does not hold, so the hash never fits, and a
#           fetch of everything follows. An instance that is ADDED to a known application needs no such fetch.
# Output:   ADDED to a known application: 0 fetches of everything, client knows 2 of 2 instances
#           ADDED with a new application: 1 fetches of everything, client knows 3 of 3 instances
# Matters:  to an operator: the first instance of each application, as at every first deployment, costs a fetch of the whole
#           registry by each Python client within the same half minute. To the author of a registry: keep the full answer
#           in a cache, and let the hash be exact, as it is what saves this client.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

python3 -m venv python
python/bin/pip install --quiet --disable-pip-version-check py-eureka-client==0.13.3

cat > probe.py <<'PY'
import asyncio, http.server, os, sys, threading, time
from py_eureka_client import eureka_client


def instance(app, name, action):
    return (f"<instance><instanceId>{name}</instanceId><hostName>{name}</hostName><app>{app}</app>"
            f"<ipAddr>127.0.0.1</ipAddr><status>UP</status><port enabled=\"true\">8080</port>"
            f"<vipAddress>{app.lower()}</vipAddress><actionType>{action}</actionType></instance>")


def applications(version, size, **apps):
    inner = "".join(f"<application><name>{app}</name>{''.join(ones)}</application>" for app, ones in apps.items())
    return (f"<applications><versions__delta>{version}</versions__delta>"
            f"<apps__hashcode>UP_{size}_</apps__hashcode>{inner}</applications>")


orders_1, orders_2 = instance("ORDERS", "o1", "ADDED"), instance("ORDERS", "o2", "ADDED")
billing_1 = instance("BILLING", "b1", "ADDED")
full = applications(1, 1, ORDERS=[orders_1])
delta = applications(1, 1)
fulls = deltas = 0


class Registry(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global fulls, deltas
        if self.path.rstrip("/").endswith("/delta"):
            body = delta
            deltas += 1
        else:
            body = full
            fulls += 1
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = eureka_client.EurekaClient(
    eureka_server=f"http://127.0.0.1:{server.server_port}/eureka/", app_name="probe", instance_host="localhost",
    instance_ip="127.0.0.1", should_register=False, should_discover=True, renewal_interval_in_secs=1)
asyncio.run(client.start())


def after_two_deltas():
    until = deltas + 2
    while deltas < until:
        time.sleep(0.1)
    time.sleep(0.5)
    return sum(len(app.instances) for app in client.applications.applications)


after_two_deltas()
before = fulls
full, delta = applications(2, 2, ORDERS=[orders_1, orders_2]), applications(2, 2, ORDERS=[orders_2])
known = after_two_deltas()
to_known = fulls - before
print(f"ADDED to a known application: {to_known} fetches of everything, client knows {known} of 2 instances")
before = fulls
full = applications(3, 3, ORDERS=[orders_1, orders_2], BILLING=[billing_1])
delta = applications(3, 3, BILLING=[billing_1])
known_3 = after_two_deltas()
to_new = fulls - before
print(f"ADDED with a new application: {to_new} fetches of everything, client knows {known_3} of 3 instances")
same = (to_known, known, to_new, known_3) == (0, 2, 1, 3)
if not same:
    print("CHANGED: deltas are taken otherwise")
sys.stdout.flush()
os._exit(0 if same else 1)  # the client's thread has no end
PY
timeout 90 python/bin/python probe.py
