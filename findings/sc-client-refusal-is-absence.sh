#!/usr/bin/env bash
# sc-client takes every refusal (401, 403, 404, 429) of a look-up for "there is no such service", without an error.
#
# Library:  github.com/go-chassis/sc-client v0.7.0 (the Go client of Service-Center registries).
# Expected: GetMicroServiceID returns an error when the registry refuses to answer, and an empty id only when the registry
#           says that the service does not exist (400 with the code 400012).
# Seen:     it reads "serviceId" from any JSON body with a status below 500. An error has none, so the result is an
#           empty id and no error. Only a 5xx is an error. GetSchema does the same with every status, 5xx included.
# Output:   existence 400: id "", error <nil>
#           existence 401: id "", error <nil>
#           existence 403: id "", error <nil>
#           existence 429: id "", error <nil>
#           existence 503: id "", error given
#           schema 503: "", error <nil>
# Matters:  to an operator: a limit of requests that answers 429 makes applications register services which exist already
#           (go-chassis does so for an empty id), which is more load, not less. To an author: answer overload with 503.
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
	status := 0
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"errorCode":"%d001","errorMessage":"refused"}`, status)
	}))
	defer registry.Close()
	client, err := sc.NewClient(sc.Options{Endpoints: []string{strings.TrimPrefix(registry.URL, "http://")}})
	if err != nil {
		panic(err)
	}
	same := true
	for _, status = range []int{400, 401, 403, 429, 503} {
		id, err := client.GetMicroServiceID("shop", "orders", "1.0.0", "")
		said := "<nil>"
		if err != nil {
			said = "given"
		}
		fmt.Printf("existence %d: id %q, error %s\n", status, id, said)
		same = same && id == "" && (err == nil) == (status < 500)
	}
	schema, err := client.GetSchema("s1", "hello")
	fmt.Printf("schema %d: %q, error %v\n", status, schema, err)
	if !same || len(schema) != 0 || err != nil {
		fmt.Println("CHANGED: refusals are told from absence")
		os.Exit(1)
	}
}
GO
go build -mod=mod -o probe .
timeout 60 ./probe
