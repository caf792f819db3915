#!/usr/bin/env bash
# sc-client asks 127.0.0.1:30100 while no configured registry answers, and goes on for up to 25 s after one does.
#
# Library:  github.com/go-chassis/sc-client v0.7.0 (the Go client of Service-Center registries).
# Expected: when no address of Endpoints accepts a connection, requests fail with an error that names one of them, and the
#           first request after the registry is back reaches it.
# Seen:     the client tries its addresses when it is made and every 25 s. If none accepted a connection then, each request
#           goes to the library's own default, 127.0.0.1:30100, whatever is configured, until the next try.
# Output:   registry away at the start: requests go to 127.0.0.1:30100
#           registry back for 2 s: requests go to 127.0.0.1:30100
#           with CHASSIS_SC_HEALTH_CHECK_INTERVAL=1, registry back for 2 s: requests go to the registry
# Matters:  to an operator: on a host that runs a registry of another environment, applications register there while their
#           own is restarted. Errors that name 127.0.0.1:30100 mean "all addresses failed", not a wrong setting. To the
#           author of a registry: answer on the port before anything else is ready, if only with 503.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

cat > go.mod <<'MOD'
module probe

go 1.19

require (
	github.com/go-chassis/foundation v0.3.0
	github.com/go-chassis/sc-client v0.7.0
)
MOD

cat > main.go <<'GO'
package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/go-chassis/foundation/httpclient"
	sc "github.com/go-chassis/sc-client"
)

var asked string

// Where the client sends a request; the request itself is held back, as it might reach a stranger.
func target(client *sc.Client, registry string) string {
	_, err := client.GetMicroServiceID("shop", "orders", "1.0.0", "")
	if err == nil {
		panic("a request was sent")
	}
	if asked == registry {
		return "the registry"
	}
	return asked
}

func listen(address string) net.Listener {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		panic(err)
	}
	return listener
}

// The targets while the registry is away, and after it was back for two seconds.
func run() (string, string) {
	listener := listen("127.0.0.1:0")
	registry := listener.Addr().String()
	listener.Close()
	client, err := sc.NewClient(sc.Options{Endpoints: []string{registry}})
	if err != nil {
		panic(err)
	}
	away := target(client, registry)
	listener = listen(registry)
	defer listener.Close()
	time.Sleep(2 * time.Second)
	return away, target(client, registry)
}

func main() {
	httpclient.SignRequest = func(request *http.Request) error {
		asked = request.URL.Host
		return errors.New("held back")
	}
	away, back := run()
	fmt.Println("registry away at the start: requests go to", away)
	fmt.Println("registry back for 2 s: requests go to", back)
	os.Setenv(sc.EnvCheckSCIInterval, "1")
	_, soon := run()
	fmt.Printf("with %s=1, registry back for 2 s: requests go to %s\n", sc.EnvCheckSCIInterval, soon)
	if away != "127.0.0.1:30100" || back != away || soon != "the registry" {
		fmt.Println("CHANGED: the client asks another address while none of its own answers")
		os.Exit(1)
	}
}
GO
go build -mod=mod -o probe .
timeout 60 ./probe
