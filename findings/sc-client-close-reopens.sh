#!/usr/bin/env bash
# Close() of sc-client does not end a watch: the client opens it again at once, until the process ends.
#
# Library:  github.com/go-chassis/sc-client v0.7.0 (the Go client of Service-Center registries).
# Expected: after Close() the client has no connection, and makes none.
# Seen:     Close() closes the socket. The goroutine that reads it takes this for a lost connection, and opens the watch
#           again. A second Close() has the same effect. The callback goes on being called.
# Output:   watches opened: 1; after Close(): 2, after a second Close(): 3; events after Close(): 2
# Matters:  to an operator: the watchers that a registry counts include those of clients which the application gave up
#           (a test, a plug-in, a client that was replaced), and only the end of the process removes them. To an author:
#           do not count on clients to say goodbye.
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

const event = `{"action":"UPDATE","key":{"serviceName":"orders"},"instance":{"instanceId":"i1","status":"UP"}}`

func main() {
	var opened, events atomic.Int32
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		upgrader := websocket.Upgrader{}
		socket, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer socket.Close()
		if opened.Add(1) > 1 {
			_ = socket.WriteMessage(websocket.TextMessage, []byte(event))
		}
		_, _, _ = socket.ReadMessage() // until the client is gone
	}))
	client, err := sc.NewClient(sc.Options{Endpoints: []string{strings.TrimPrefix(registry.URL, "http://")}})
	if err != nil {
		panic(err)
	}
	err = client.WatchMicroService("me", func(*sc.MicroServiceInstanceChangedEvent) { events.Add(1) })
	if err != nil {
		panic(err)
	}
	for opened.Load() == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	before := opened.Load()
	if err := client.Close(); err != nil {
		panic(err)
	}
	time.Sleep(4 * time.Second)
	after := opened.Load()
	if err := client.Close(); err != nil {
		panic(err)
	}
	time.Sleep(4 * time.Second)
	fmt.Printf("watches opened: %d; after Close(): %d, after a second Close(): %d; events after Close(): %d\n",
		before, after, opened.Load(), events.Load())
	if before != 1 || after != 2 || opened.Load() != 3 || events.Load() != 2 {
		fmt.Println("CHANGED: Close() ends the watch")
		os.Exit(1)
	}
}
GO
go build -mod=mod -o probe .
timeout 60 ./probe
