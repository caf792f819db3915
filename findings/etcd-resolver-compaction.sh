#!/usr/bin/env bash
# etcd's resolver for gRPC stops for good, and gRPC is not told, when its watch meets a compaction.
#
# Library:  go.etcd.io/etcd/client/v3 v3.7.3, its packages naming/endpoints and naming/resolver.
# Expected: a watch that etcd cancels because its revision was compacted makes the resolver read the endpoints again and
#           watch from there, or at least report an error to gRPC.
# Seen:     the resolver writes "watch failed" to etcd's log and ends its only goroutine. It reads nothing again, opens no
#           other watch and reports no error, and ResolveNow, which gRPC calls when a connection fails, does nothing.
# Output:   delivered: [127.0.0.1:1], errors: 0, reads: 1, watches: 1
#           10 s after the compaction and a ResolveNow: [127.0.0.1:1], errors: 0, reads: 1, watches: 1
# Matters:  to an operator of a registry on etcd: a client that was cut off for longer than compaction keeps revisions
#           (five minutes is usual) calls its last addresses until it restarts. To the author of a registry: a watch that
#           cannot be resumed must end in a way that clients cannot overlook, or be mended by a full state.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

cat > go.mod <<'MOD'
module probe

go 1.26.0

require (
	go.etcd.io/etcd/api/v3 v3.7.3
	go.etcd.io/etcd/client/v3 v3.7.3
	google.golang.org/grpc v1.83.2
)
MOD

cat > main.go <<'GO'
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/resolver"
	"google.golang.org/grpc"
	gresolver "google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"
)

// store answers as etcd does: one endpoint at the revision 10, and a watch that is cancelled as compacted.
type store struct {
	etcdserverpb.UnimplementedKVServer
	etcdserverpb.UnimplementedWatchServer
	mu             sync.Mutex
	reads, watches int
	compact        chan struct{}
}

func (s *store) Range(context.Context, *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	value := []byte(`{"Op":0,"Addr":"127.0.0.1:1","Metadata":null}`)
	return &etcdserverpb.RangeResponse{
		Header: &etcdserverpb.ResponseHeader{Revision: 10}, Count: 1,
		Kvs: []*mvccpb.KeyValue{{Key: []byte("orders/1"), Value: value, CreateRevision: 5, ModRevision: 5, Version: 1}},
	}, nil
}

func (s *store) Watch(stream etcdserverpb.Watch_WatchServer) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	s.mu.Lock()
	s.watches++
	s.mu.Unlock()
	header := &etcdserverpb.ResponseHeader{Revision: 30}
	if err := stream.Send(&etcdserverpb.WatchResponse{Header: header, Created: true}); err != nil {
		return err
	}
	<-s.compact
	err := stream.Send(&etcdserverpb.WatchResponse{Header: header, Canceled: true, CompactRevision: 20})
	if err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

// channel is the part of a gRPC channel that a resolver reports to.
type channel struct {
	mu        sync.Mutex
	addresses []string
	errors    int
}

func (c *channel) UpdateState(state gresolver.State) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.addresses = nil
	for _, endpoint := range state.Endpoints {
		c.addresses = append(c.addresses, endpoint.Addresses[0].Addr)
	}
	return nil
}

func (c *channel) ReportError(error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.errors++
}

func (c *channel) NewAddress([]gresolver.Address) {}

func (c *channel) ParseServiceConfig(string) *serviceconfig.ParseResult {
	return &serviceconfig.ParseResult{Err: errors.New("none")}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	etcd := &store{compact: make(chan struct{})}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	server := grpc.NewServer()
	etcdserverpb.RegisterKVServer(server, etcd)
	etcdserverpb.RegisterWatchServer(server, etcd)
	go func() { _ = server.Serve(listener) }()

	client, err := clientv3.New(clientv3.Config{Endpoints: []string{listener.Addr().String()}})
	must(err)
	builder, err := resolver.NewBuilder(client)
	must(err)
	told := &channel{}
	target := gresolver.Target{URL: url.URL{Scheme: "etcd", Path: "/orders"}}
	built, err := builder.Build(target, told, gresolver.BuildOptions{})
	must(err)
	state := func() string {
		told.mu.Lock()
		defer told.mu.Unlock()
		etcd.mu.Lock()
		defer etcd.mu.Unlock()
		return fmt.Sprintf("[%s], errors: %d, reads: %d, watches: %d",
			strings.Join(told.addresses, " "), told.errors, etcd.reads, etcd.watches)
	}
	time.Sleep(2 * time.Second)
	before := state()
	fmt.Println("delivered:", before)
	close(etcd.compact)
	time.Sleep(time.Second)
	built.ResolveNow(gresolver.ResolveNowOptions{})
	time.Sleep(9 * time.Second)
	after := state()
	fmt.Println("10 s after the compaction and a ResolveNow:", after)
	if before != "[127.0.0.1:1], errors: 0, reads: 1, watches: 1" || after != before {
		fmt.Println("CHANGED: the resolver goes on, or says that it cannot")
		os.Exit(1)
	}
	os.Exit(0)
}
GO
go build -mod=mod -o probe .
timeout 60 ./probe
