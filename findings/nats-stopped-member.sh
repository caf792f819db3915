#!/usr/bin/env bash
# A NATS server goes on giving requests to a member of a queue group whose process stands still.
#
# Library:  nats-server v2.15.3 with its defaults, nats.go v1.55.0.
# Expected: requests go to the member that answers, at the latest after the few seconds in which a health check of a load
#           balancer would have noticed. "No responders" is told at once for a member that has gone, after all.
# Seen:     a member that was killed gets no request any more. One that is stopped (SIGSTOP: a paused virtual machine, a
#           machine out of memory) is still given about half of the requests a minute later, and each of them times out.
#           The server pings a client every two minutes and gives it up after two pings without an answer.
# Output:   answered of 100: both run 100, one stopped for 60 s 46, one killed 100 (from run to run 30 to 70 for the second)
# Matters:  to everyone who spreads requests over replicas with a queue group, as the micro services of NATS do: the timeout
#           of a request is its delay as long as a member stands still, and a repetition within the group meets the same
#           member again. Send the repetition to all members on a subject without a group, or lower ping_interval.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

cat > go.mod <<'MOD'
module probe

go 1.26.0

require (
	github.com/nats-io/nats-server/v2 v2.15.3
	github.com/nats-io/nats.go v1.55.0
)
MOD

cat > main.go <<'GO'
package main

import (
	"fmt"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// member answers the requests of its group for at most three minutes.
func member(url string) {
	client := must(nats.Connect(url))
	must(client.QueueSubscribe("question", "members", func(message *nats.Msg) {
		_ = message.Respond([]byte("answer"))
	}))
	if err := client.Flush(); err != nil {
		panic(err)
	}
	fmt.Println("ready")
	time.Sleep(3 * time.Minute)
}

func start(url string) *exec.Cmd {
	command := exec.Command(os.Args[0], url)
	output := must(command.StdoutPipe())
	if err := command.Start(); err != nil {
		panic(err)
	}
	must(output.Read(make([]byte, 8)))
	return command
}

// answered counts the answers to 100 requests that are sent at once.
func answered(client *nats.Conn) int32 {
	var count atomic.Int32
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			if _, err := client.Request("question", nil, 2*time.Second); err == nil {
				count.Add(1)
			}
		})
	}
	all.Wait()
	return count.Load()
}

func main() {
	if len(os.Args) > 1 {
		member(os.Args[1])
		return
	}
	bus := must(server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1}))
	go bus.Start()
	if !bus.ReadyForConnections(10 * time.Second) {
		panic("the server does not start")
	}
	members := []*exec.Cmd{start(bus.ClientURL()), start(bus.ClientURL())}
	client := must(nats.Connect(bus.ClientURL()))

	both := answered(client)
	_ = members[0].Process.Signal(syscall.SIGSTOP)
	time.Sleep(60 * time.Second)
	stopped := answered(client)
	_ = members[0].Process.Kill()
	_ = members[0].Wait()
	time.Sleep(time.Second)
	killed := answered(client)
	_ = members[1].Process.Kill()
	_ = members[1].Wait()

	fmt.Printf("answered of 100: both run %d, one stopped for 60 s %d, one killed %d\n", both, stopped, killed)
	if both != 100 || stopped < 30 || stopped > 70 || killed != 100 {
		fmt.Println("CHANGED: a member that stands still is noticed")
		os.Exit(1)
	}
}
GO
go build -mod=mod -o probe .
timeout 120 ./probe
