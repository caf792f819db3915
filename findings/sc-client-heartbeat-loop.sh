#!/usr/bin/env bash
# The heartbeat socket of sc-client keeps asking for the instance that the registry said does not exist.
#
# Library:  github.com/go-chassis/sc-client v0.7.0 (the Go client of Service-Center registries).
# Expected: the close code 4001 ("the instance does not exist") makes WSHeartbeat call the application back once, which
#           registers a new instance and starts its heartbeats. The old id is asked for no more.
# Seen:     after the call back WSHeartbeat opens the socket of the old id again, at once. A registry that gives new ids
#           closes it with 4001 again, so the application registers another instance, and so on, without a pause. The
#           callback cannot say the new id, and nothing ends the loop.
# Output:   five closes with 4001: 5 callbacks, 6 sockets, all for the old id: true, within a second: true
# Matters:  to the author of a registry: accept an id that a client chooses when it registers (then the loop ends, as the
#           old id exists again), or bound how often an instance's socket is opened. To an operator: a growing number of
#           instances of one process after a lease expired points here.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

cat > go.mod <<'MOD'
module probe

go 1.19

require (
	github.com/go-chassis/sc-client v0.7.0
	github.com/gorilla/websocket v1.4.2
)
MOD

cat > main.go <<'GO'
package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"time"

	sc "github.com/go-chassis/sc-client"
	"github.com/gorilla/websocket"
)

const closes = 5 // the fake registry then leaves the socket open, so that this program ends

func main() {
	var opened, others, callbacks atomic.Int32
	settled := make(chan time.Time, 1)
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		upgrader := websocket.Upgrader{}
		socket, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer socket.Close()
		if !strings.HasSuffix(r.URL.Path, "/microservices/s1/instances/old/heartbeat") {
			others.Add(1)
		}
		if opened.Add(1) <= closes {
			_ = socket.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(4001, "instance does not exist"))
		} else {
			settled <- time.Now()
		}
		_, _, _ = socket.ReadMessage()
	}))
	client, err := sc.NewClient(sc.Options{Endpoints: []string{strings.TrimPrefix(registry.URL, "http://")}})
	if err != nil {
		panic(err)
	}
	begin := time.Now()
	if err := client.WSHeartbeat("s1", "old", func() { callbacks.Add(1) }); err != nil {
		panic(err)
	}
	quick := false
	select {
	case at := <-settled:
		quick = at.Sub(begin) < time.Second
	case <-time.After(20 * time.Second):
	}
	fmt.Printf("five closes with 4001: %d callbacks, %d sockets, all for the old id: %t, within a second: %t\n",
		callbacks.Load(), opened.Load(), others.Load() == 0, quick)
	if callbacks.Load() != closes || opened.Load() != closes+1 || others.Load() != 0 || !quick {
		fmt.Println("CHANGED: a heartbeat socket of an instance that does not exist is given up or slowed down")
		os.Exit(1)
	}
}
GO
go build -mod=mod -o probe .
timeout 60 ./probe
