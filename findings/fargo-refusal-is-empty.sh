#!/usr/bin/env bash
# fargo takes the JSON of a refusal as an application without instances.
#
# Library:  github.com/hudl/fargo v1.4.0, a client of Eureka.
# Expected: a question that is answered 401, 429 or 503 ends with an error, and the caller keeps what it has.
# Seen:     `GetApp` knows 404 only. The body of every other answer is decoded as the application: the JSON object that
#           Spring Boot (and most servers) send with an error becomes an application with no name and no instances, and
#           no error is returned. A refusal as plain text is an error of the decoder, so it ends well.
# Output:   200: 1 instance(s), error <nil>
#           503 with a JSON object: 0 instance(s), error <nil>
#           429 with a JSON object: 0 instance(s), error <nil>
#           401 with a JSON object: 0 instance(s), error <nil>
#           503 with plain text: an error
# Matters:  to an operator: an overloaded or restarting server of Eureka empties the lists of Go applications that ask with
#           `UseJson`, although the server has told nobody that the instances are gone. To the author of a server: refuse
#           questions of Eureka's clients in plain text.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

cat > go.mod <<'MOD'
module probe

go 1.19

require github.com/hudl/fargo v1.4.0
MOD

cat > main.go <<'GO'
package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"

	"github.com/hudl/fargo"
)

const orders = `{"application": {"name": "ORDERS", "instance": [{
  "hostName": "node", "app": "ORDERS", "ipAddr": "10.0.0.1", "status": "UP",
  "port": {"$": 8080, "@enabled": "true"}, "securePort": {"$": 443, "@enabled": "false"},
  "dataCenterInfo": {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"},
  "leaseInfo": {"renewalIntervalInSecs": 30, "durationInSecs": 90}}]}}`

func main() {
	var status int
	var kind, body string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}))
	eureka := fargo.NewConn(server.URL)
	eureka.UseJson = true
	changed := false

	status, kind, body = 200, "application/json", orders
	app, err := eureka.GetApp("ORDERS")
	fmt.Printf("200: %d instance(s), error %v\n", len(app.Instances), err)
	changed = changed || err != nil || len(app.Instances) != 1
	for _, status = range []int{503, 429, 401} {
		body = fmt.Sprintf(`{"status": %d, "error": %q, "path": "/eureka/apps/ORDERS"}`, status, http.StatusText(status))
		app, err = eureka.GetApp("ORDERS")
		if err != nil {
			fmt.Printf("%d with a JSON object: an error\n", status)
			changed = true
			continue
		}
		fmt.Printf("%d with a JSON object: %d instance(s), error %v\n", status, len(app.Instances), err)
		changed = changed || len(app.Instances) != 0
	}
	status, kind, body = 503, "text/plain", "try again\n"
	if _, err = eureka.GetApp("ORDERS"); err == nil {
		fmt.Println("503 with plain text: no error")
		changed = true
	} else {
		fmt.Println("503 with plain text: an error")
	}
	if changed {
		fmt.Println("CHANGED: a refusal is told from an application without instances, or plain text is not")
		os.Exit(1)
	}
}
GO
go build -mod=mod -o probe .
timeout 60 ./probe 2> probe.log
