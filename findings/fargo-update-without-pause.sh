#!/usr/bin/env bash
# UpdateApp of fargo asks the registry again and again, without a pause.
#
# Library:  github.com/hudl/fargo v1.4.0, a client of Eureka.
# Expected: with its default configuration an application is asked for every 30 s.
# Seen:     the interval of the configuration is a duration already and is multiplied by a second once more. 30 s times
#           10^9 is more than a duration can hold and comes out negative, so the pause is over when it begins. With an
#           interval of 5 s the product comes out as about 158 years, so there is no second question.
# Output:   interval 30s: hundreds of questions in a second
#           interval 5s: 1 question in 7 s
# Matters:  to an operator: each process that calls `UpdateApp` sends as many questions as the server answers. To the
#           author of a server: questions of one client need a limit of their own.
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
	"sync/atomic"
	"time"

	"github.com/hudl/fargo"
)

// The questions about one application in this time.
func questions(interval int, during time.Duration) int32 {
	var asked atomic.Int32
	var over atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if over.Load() {
			<-r.Context().Done()
			return
		}
		asked.Add(1)
		fmt.Fprint(w, "<application><name>ORDERS</name></application>")
	}))
	var config fargo.Config
	config.Eureka.ServiceUrls = []string{server.URL}
	config.Eureka.PollIntervalSeconds = interval
	eureka := fargo.NewConnFromConfig(config)
	eureka.UpdateApp(&fargo.Application{Name: "ORDERS"})
	time.Sleep(during)
	over.Store(true)
	return asked.Load()
}

func main() {
	seldom := questions(5, 7*time.Second)
	often := questions(30, time.Second)
	if often > 100 {
		fmt.Println("interval 30s: hundreds of questions in a second")
	} else {
		fmt.Println("interval 30s:", often, "questions in a second")
	}
	fmt.Println("interval 5s:", seldom, "question in 7 s")
	if often <= 100 || seldom != 1 {
		fmt.Println("CHANGED: the interval is kept")
		os.Exit(1)
	}
	os.Exit(0)
}
GO
go build -mod=mod -o probe .
timeout 60 ./probe 2> probe.log
