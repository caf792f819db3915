#!/usr/bin/env bash
# The polling of go-chassis never takes the last instance of a provider out of its cache.
#
# Library:  github.com/go-chassis/go-chassis/v2 v2.7.0.
# Expected: when a poll is answered with an empty list, the provider has no instances, and calls to it fail at once.
# Seen:     the polls take an instance out as long as another one is left. An empty list is skipped while the answer is
#           read, so the last instance stays for as long as the process runs. Only an event of the watch removes it.
# Output:   registry has 2: application sees 2
#           registry has 1: application sees 1
#           registry has 0: application sees 1 (after 3 more polls)
# Matters:  to an operator: a Go application whose watch is off (as if not set) or refused goes on calling the address of
#           the last instance, which may belong to another program by then. To the author of a registry: an event lost at
#           the very end of a provider is not made good by this client's polls.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

cat > go.mod <<'MOD'
module probe

go 1.19

require github.com/go-chassis/go-chassis/v2 v2.7.0
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
	utiltags "github.com/go-chassis/go-chassis/v2/pkg/util/tags"
)

type object map[string]interface{}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	var size, finds atomic.Int32
	center := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/instances/action") {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		instances := []object{}
		for number := int32(1); number <= size.Load(); number++ {
			instances = append(instances, object{
				"instanceId": fmt.Sprint("i", number), "serviceId": "s1", "status": "UP", "version": "1.0.0",
				"endpoints": []string{fmt.Sprint("rest://127.0.0.1:", number)},
			})
		}
		result := object{"index": 0, "rev": fmt.Sprint(finds.Add(1)), "instances": instances}
		_ = json.NewEncoder(w).Encode(object{"services": object{"updated": []object{result}}})
	}))
	must(archaius.Init(archaius.WithMemorySource()))
	must(archaius.Set("servicecomb.registry.refreshInterval", "1s"))
	must(config.ReadGlobalConfigFromArchaius())
	registry.EnableRegistryCache()
	address := strings.TrimPrefix(center.URL, "http://")
	discovery := servicecenter.NewServiceDiscovery(registry.Options{Addrs: []string{address}})
	sees := func() int {
		found, err := discovery.FindMicroServiceInstances("me", "orders", utiltags.NewDefaultTag("1.0.0", "shop"))
		must(err)
		return len(found)
	}
	polled := func(times int32) {
		until := finds.Load() + times
		for finds.Load() < until {
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(300 * time.Millisecond)
	}

	size.Store(2)
	two := sees()
	fmt.Println("registry has 2: application sees", two)
	discovery.AutoSync()
	size.Store(1)
	polled(2)
	one := sees()
	fmt.Println("registry has 1: application sees", one)
	size.Store(0)
	polled(3)
	none := sees()
	fmt.Println("registry has 0: application sees", none, "(after 3 more polls)")
	if two != 2 || one != 1 || none != 1 {
		fmt.Println("CHANGED: the polls follow the registry to the end, or not at all")
		os.Exit(1)
	}
	os.Exit(0)
}
GO
go build -mod=mod -o probe .
timeout 60 ./probe 2> probe.log
