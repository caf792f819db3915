package main

import (
	"bufio"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/go-chassis/cari/discovery"
	"github.com/go-chassis/cari/rbac"
	sc "github.com/go-chassis/sc-client"
)

// The age at which the library fetches a new token. It does so for no other reason, a 401 included.
const tokenAge = 5 * time.Second

var answers = bufio.NewReader(os.Stdin)

// Plays an application in a registry with access control: logs in, works, and goes on while keys are replaced.
func guarded(address, run, account, password string) {
	open := dial(address, nil)
	_, err := open.RegisterService(&discovery.MicroService{AppId: "sdk-check", ServiceName: "sdk-open-" + run})
	want("without a token nothing is registered", err != nil, err)
	_, err = open.GetToken(&rbac.AuthUser{Username: account, Password: "Wrong_password1"})
	want("a wrong password gives no token", err != nil, err)

	client := dial(address, &rbac.AuthUser{Username: account, Password: password})
	provider := register(client, "sdk-provider-"+run, "1.0.0")
	consumer := register(client, "sdk-consumer-"+run, "0.1.0")
	schemas(client, provider)
	records(client, provider, run)
	id, err := client.RegisterMicroServiceInstance(&discovery.MicroServiceInstance{
		ServiceId: provider, HostName: "sdk-host", Status: sc.MSInstanceUP,
		Endpoints:   []string{"rest://127.0.0.1:8080"},
		HealthCheck: &discovery.HealthCheck{Mode: sc.CheckByHeartbeat, Interval: 30, Times: 3},
	})
	want("an instance registers", err == nil && id != "", err)
	finds(client, consumer, provider, run, id)
	// The library sends no token with its sockets, so its applications find by polling.
	err = client.WatchMicroService(consumer, func(*sc.MicroServiceInstanceChangedEvent) {})
	want("a watch, which has no token, is refused", err != nil, err)
	err = client.WSHeartbeat(provider, id, func() {})
	want("and so is a heartbeat's socket", err != nil, err)

	work := func() error {
		if _, err := client.Heartbeat(provider, id); err != nil {
			return err
		}
		found, err := client.FindMicroServiceInstances(consumer, "sdk-check", "sdk-provider-"+run, "0+", sc.WithoutRevision())
		if err == nil && len(found) != 1 {
			err = fmt.Errorf("%d instances were found", len(found))
		}
		return err
	}
	undisturbed("the key is replaced, and nothing fails", work, func() { ask("sign with the new key") })
	ask("forget the old key")
	deadline := time.Now().Add(patience + tokenAge)
	err = work()
	for err != nil && time.Now().Before(deadline) {
		time.Sleep(100 * time.Millisecond)
		err = work()
	}
	want("a login after the end of the token brings it back", err == nil, err)
	for _, service := range []string{consumer, provider} {
		done, err := client.UnregisterMicroService(service)
		want("a service unregisters", err == nil && done, err)
	}
	fmt.Println("sc-client with access control: all steps as expected")
}

func dial(address string, user *rbac.AuthUser) *sc.Client {
	client, err := sc.NewClient(sc.Options{
		Endpoints: []string{address}, Timeout: patience,
		EnableAuth: user != nil, AuthUser: user, TokenExpiration: tokenAge,
	})
	must("a client is made", err)
	return client
}

// Repeats the work while something else goes on, and at least until two tokens have been fetched.
func undisturbed(step string, work func() error, meanwhile func()) {
	var over atomic.Bool
	go func() {
		meanwhile()
		over.Store(true)
	}()
	least := time.Now().Add(2 * tokenAge)
	times := 0
	for !over.Load() || time.Now().Before(least) {
		if err := work(); err != nil {
			want(step, false, fmt.Errorf("after %d rounds: %w", times, err))
		}
		times++
		time.Sleep(20 * time.Millisecond)
	}
	want(fmt.Sprintf("%s in %d rounds", step, times), true, nil)
}

// Asks the starter of this program for a change of the registry, and waits until it is done.
func ask(change string) {
	fmt.Println("ASK", change)
	_, err := answers.ReadString('\n')
	must("done: "+change, err)
}
