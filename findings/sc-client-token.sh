#!/usr/bin/env bash
# sc-client sends no token with its sockets, and fetches no new token after a 401.
#
# Library:  github.com/go-chassis/sc-client v0.7.0 (the Go client of Service-Center registries).
# Expected: with EnableAuth every request carries the token, the upgrades of WatchMicroService and WSHeartbeat included.
#           A request that is answered with 401 makes the client log in again, as its token ended or was revoked.
# Seen:     only its HTTP requests carry "Authorization"; the upgrades have the default headers alone. The token is kept
#           for TokenExpiration (ten hours if not set), whatever the registry answers.
# Output:   register: token t1, watch: token "", error: true, heartbeat socket: token "", error: true
#           after the registry forgot t1: three requests failed, logins 1
# Matters:  to an operator: with access control, Go applications cannot watch, and after a change of the key that signs
#           tokens they are locked out for up to ten hours; keep the old key valid for as long as their tokens live. To an
#           author: a token must live longer than the clients keep it, since they do not ask how long it lives.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

cat > go.mod <<'MOD'
module probe

go 1.19

require (
	github.com/go-chassis/cari v0.5.1-0.20210823023004-74041d1363c4
	github.com/go-chassis/sc-client v0.7.0
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

	"github.com/go-chassis/cari/discovery"
	"github.com/go-chassis/cari/rbac"
	sc "github.com/go-chassis/sc-client"
)

func main() {
	valid, logins := "t1", 0
	sent := map[string]string{}
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v4/token" {
			logins++
			fmt.Fprintf(w, `{"token":%q}`, valid)
			return
		}
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		sent[r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]] = token
		if token != valid {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"errorCode":"401002","errorMessage":"no valid token"}`)
			return
		}
		fmt.Fprint(w, `{"serviceId":"s1"}`)
	}))
	defer registry.Close()
	client, err := sc.NewClient(sc.Options{
		Endpoints:  []string{strings.TrimPrefix(registry.URL, "http://")},
		EnableAuth: true, AuthUser: &rbac.AuthUser{Username: "app", Password: "Example_1"},
	})
	if err != nil {
		panic(err)
	}
	service := &discovery.MicroService{AppId: "shop", ServiceName: "orders", Version: "1.0.0"}
	if _, err := client.RegisterService(service); err != nil {
		panic(err)
	}
	watch := client.WatchMicroService("s1", func(*sc.MicroServiceInstanceChangedEvent) {})
	beat := client.WSHeartbeat("s1", "i1", func() {})
	fmt.Printf("register: token %s, watch: token %q, error: %t, heartbeat socket: token %q, error: %t\n",
		sent["microservices"], sent["watcher"], watch != nil, sent["heartbeat"], beat != nil)
	same := sent["microservices"] == "t1" && watch != nil && beat != nil && sent["watcher"] == "" && sent["heartbeat"] == ""

	valid = "t2"
	failed := 0
	for range [3]int{} {
		if _, err := client.RegisterService(service); err != nil {
			failed++
		}
	}
	if failed == 3 {
		fmt.Printf("after the registry forgot t1: three requests failed, logins %d\n", logins)
	}
	if !same || failed != 3 || logins != 1 {
		fmt.Println("CHANGED: tokens are sent with sockets, or renewed")
		os.Exit(1)
	}
}
GO
go build -mod=mod -o probe .
timeout 60 ./probe
