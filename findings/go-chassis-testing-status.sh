#!/usr/bin/env bash
# go-chassis learns of an instance in the status TESTING by polling, and forgets it when the same status is pushed.
#
# Library:  github.com/go-chassis/go-chassis/v2 v2.7.0.
# Expected: an application sees the same instances whether a state reached it by a poll or by an event of its watch.
# Seen:     polls keep instances that are UP or TESTING. An event with any status but UP counts as the end of the
#           instance. So an event that tells of an instance in TESTING removes it, and the next poll brings it back.
# Output:   poll, TESTING: application sees 1
#           event, TESTING: application sees 0
#           next poll, TESTING: application sees 1
# Matters:  to an operator: an instance in TESTING gets calls or not, depending on whether a poll or a change came last; it
#           is not a way to keep calls away (that is DOWN or OUTOFSERVICE). To the author of a registry: a client that
#           seems to lose pushes may be applying them.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

cat > go.mod <<'MOD'
module probe

go 1.19

require (
	github.com/go-chassis/go-chassis/v2 v2.7.0
	github.com/gorilla/websocket v1.4.3-0.20210424162022-e8629af678b7
)
MOD

cat > main.go <<'GO'
package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-chassis/go-archaius"
	"github.com/go-chassis/go-chassis/v2/core/config"
	"github.com/go-chassis/go-chassis/v2/core/registry"
	"github.com/go-chassis/go-chassis/v2/core/registry/servicecenter"
	"github.com/go-chassis/go-chassis/v2/pkg/runtime"
	"github.com/gorilla/websocket"
)

type object map[string]interface{}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

var instance = object{
	"instanceId": "i1", "serviceId": "s1", "status": "TESTING", "version": "1.0.0",
	"endpoints": []string{"rest://127.0.0.1:1"},
}

func main() {
	var finds atomic.Int32
	watches := make(chan *websocket.Conn, 1)
	center := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/watcher"):
			upgrader := websocket.Upgrader{}
			watch, err := upgrader.Upgrade(w, r, nil)
			must(err)
			watches <- watch
		case strings.HasSuffix(r.URL.Path, "/instances/action"):
			result := object{"index": 0, "rev": fmt.Sprint(finds.Add(1)), "instances": []object{instance}}
			_ = json.NewEncoder(w).Encode(object{"services": object{"updated": []object{result}}})
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	must(archaius.Init(archaius.WithMemorySource()))
	must(archaius.Set("servicecomb.registry.refreshInterval", "5s"))
	must(archaius.Set("servicecomb.registry.watch", true))
	must(config.ReadGlobalConfigFromArchaius())
	runtime.ServiceID = "me"
	registry.EnableRegistryCache()
	registry.AddProviderToCache("orders", "shop")
	address := strings.TrimPrefix(center.URL, "http://")
	discovery := servicecenter.NewServiceDiscovery(registry.Options{Addrs: []string{address}})
	sees := func() int {
		found, _ := registry.MicroserviceInstanceIndex.Get("orders", nil) // what calls are made from
		return len(found)
	}

	discovery.AutoSync() // polls, and opens the watch
	polled := sees()
	fmt.Println("poll, TESTING: application sees", polled)
	watch := <-watches
	before := finds.Load()
	must(watch.WriteJSON(object{
		"action": "UPDATE", "key": object{"appId": "shop", "serviceName": "orders", "version": "1.0.0"}, "instance": instance,
	}))
	time.Sleep(time.Second)
	if finds.Load() != before {
		panic("a poll came in between")
	}
	pushed := sees()
	fmt.Println("event, TESTING: application sees", pushed)
	for finds.Load() == before {
		time.Sleep(100 * time.Millisecond)
	}
	time.Sleep(500 * time.Millisecond)
	again := sees()
	fmt.Println("next poll, TESTING: application sees", again)
	if polled != 1 || pushed != 0 || again != 1 {
		fmt.Println("CHANGED: polls and events agree on TESTING")
		os.Exit(1)
	}
	os.Exit(0)
}
GO
go build -mod=mod -o probe .
timeout 60 ./probe 2> probe.log
