#!/usr/bin/env bash
# sc-client keeps one revision for all services, and sends it with the first find of a service that it never asked for.
#
# Library:  github.com/go-chassis/sc-client v0.7.0 (the Go client of Service-Center registries).
# Expected: the revision of an answer belongs to the service that was asked for. The first find of another service
#           carries no revision, or "0", so that the registry answers with the instances.
# Seen:     the client has a single revision. A find of "orders" that is answered with the revision r7 makes the first
#           find of "billing" carry rev=r7. A registry that counts one revision for all its data (as a registry on etcd
#           might) rightly answers 304, and the application gets no list at all, only the error "instance is not changed".
# Output:   first find of orders sent rev=0, first find of billing sent rev=r7
#           billing: 0 instances, error: instance is not changed since last query
# Matters:  to the author of a registry: a revision must differ from the revisions of all other lists, not only from the
#           older ones of the same list. To an operator: a consumer that calls two services can find one of them empty.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

cat > go.mod <<'MOD'
module probe

go 1.19

require github.com/go-chassis/sc-client v0.7.0
MOD

cat > main.go <<'GO'
package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"

	sc "github.com/go-chassis/sc-client"
)

func main() {
	sent := map[string]string{}
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		revision := r.URL.Query().Get("rev")
		sent[r.URL.Query().Get("serviceName")] = revision
		w.Header().Set("X-Resource-Revision", "r7")
		if revision == "r7" {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		fmt.Fprint(w, `{"instances":[{"instanceId":"i1","serviceId":"s1","endpoints":["rest://127.0.0.1:1"],"status":"UP"}]}`)
	}))
	defer registry.Close()
	client, err := sc.NewClient(sc.Options{Endpoints: []string{strings.TrimPrefix(registry.URL, "http://")}})
	if err != nil {
		panic(err)
	}
	orders, err := client.FindMicroServiceInstances("me", "shop", "orders", "0+")
	if err != nil || len(orders) != 1 {
		panic(fmt.Sprint("orders: ", orders, err))
	}
	billing, err := client.FindMicroServiceInstances("me", "shop", "billing", "0+")
	fmt.Printf("first find of orders sent rev=%s, first find of billing sent rev=%s\n", sent["orders"], sent["billing"])
	fmt.Printf("billing: %d instances, error: %v\n", len(billing), err)
	if sent["billing"] != "r7" || err != sc.ErrNotModified {
		fmt.Println("CHANGED: the revision of one service is no longer sent for another")
		os.Exit(1)
	}
}
GO
go build -mod=mod -o probe .
timeout 60 ./probe
