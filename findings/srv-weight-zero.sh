#!/usr/bin/env bash
# Go keeps the order of SRV records whose weights are all 0, so that every client takes the same one first.
#
# Library:  the package net of Go (seen with 1.26) against dnspython 2.7.0, on the same answers.
# Expected: RFC 2782 tells zones that have nothing to prefer to use the weight 0, and leaves the order of such records
#           open. Clients in Go and in Python spread over three of them, as they do over three of any other weight.
# Seen:     net.LookupSRV shuffles by weight, and does nothing when the sum of the weights is 0: the first record of the
#           answer comes first in each look-up. dnspython draws records of weight 0 evenly. With the weight 1 both spread.
# Output:   weight 0: Go puts 1 of 3 targets first in 300 look-ups, dnspython 3
#           weight 1: Go puts 3 of 3 targets first in 300 look-ups, dnspython 3
# Matters:  to the author of a registry that answers DNS: give instances the weight 1, or turn the records around from
#           answer to answer. To an operator: one instance with all the load, and others idle, may be weights of 0.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

python3 -m venv python
python/bin/pip install --quiet --disable-pip-version-check dnspython==2.7.0

cat > go.mod <<'MOD'
module probe

go 1.19
MOD

cat > main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
)

// Prints how many targets came first in look-ups of a name, at a server on a port, a number of times.
func main() {
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", "127.0.0.1:"+os.Args[1])
	}}
	times, _ := strconv.Atoi(os.Args[3])
	first := map[string]bool{}
	for ; times > 0; times-- {
		_, records, err := resolver.LookupSRV(context.Background(), "", "", os.Args[2])
		if err != nil {
			panic(err)
		}
		first[records[0].Target] = true
	}
	fmt.Println(len(first))
}
GO
go build -o probe .

cat > probe.py <<'PY'
import socket, subprocess, sys, threading
import dns.flags, dns.message, dns.resolver, dns.rrset

TIMES = 300
NAMES = {"_orders._tcp.zero.example.": 0, "_orders._tcp.one.example.": 1}
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 0))
port = server.getsockname()[1]


def serve():
    while True:
        packet, peer = server.recvfrom(4096)
        query = dns.message.from_wire(packet)
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA | dns.flags.AA
        name = str(query.question[0].name)
        for host in "abc":  # one set each, as the records of one set would be written in random order
            response.answer.append(dns.rrset.from_text(name, 5, "IN", "SRV", f"10 {NAMES[name]} 8080 {host}.example."))
        server.sendto(response.to_wire(), peer)


threading.Thread(target=serve, daemon=True).start()
resolver = dns.resolver.Resolver(configure=False)
resolver.nameservers, resolver.port = ["127.0.0.1"], port
same = True
for name, weight in NAMES.items():
    run = subprocess.run(["./probe", str(port), name, str(TIMES)], capture_output=True, text=True, check=True, timeout=60)
    go = int(run.stdout)
    python = len({str(resolver.resolve(name, "SRV").rrset.processing_order()[0].target) for _ in range(TIMES)})
    print(f"weight {weight}: Go puts {go} of 3 targets first in {TIMES} look-ups, dnspython {python}")
    same = same and go == (3 if weight else 1) and python == 3
if not same:
    print("CHANGED: records of the weight 0 are put in another order")
sys.exit(0 if same else 1)
PY
timeout 120 python/bin/python probe.py
