// Drives a registry through sc-client, the library below go-chassis, as an application would, and says what it saw.
//
// In: the registry's address (host:port), and with access control an account in ACCOUNT and its password in PASSWORD.
// Out: one line per step, and exit code 1 at the first step that differs from what an application relies on. With access
// control a line "ASK CHANGE" asks the caller for a change of the registry, which a line on the standard input confirms.
package main

import (
	"fmt"
	"os"
	"time"

	"github.com/go-chassis/cari/discovery"
	sc "github.com/go-chassis/sc-client"
)

// How long an event may take before the step counts as failed.
const patience = 10 * time.Second

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "expected one argument: HOST:PORT of a registry")
		os.Exit(2)
	}
	run := fmt.Sprint(time.Now().UnixNano())
	if account := os.Getenv("ACCOUNT"); account != "" {
		guarded(os.Args[1], run, account, os.Getenv("PASSWORD"))
		return
	}
	client, err := sc.NewClient(sc.Options{Endpoints: []string{os.Args[1]}, Timeout: patience})
	must("a client is made", err)
	defer client.Close()

	provider := register(client, "sdk-provider-"+run, "1.0.0")
	consumer := register(client, "sdk-consumer-"+run, "0.1.0")
	schemas(client, provider)
	records(client, provider, run)

	_, err = client.FindMicroServiceInstances(consumer, "sdk-check", "sdk-absent-"+run, "0+")
	want("an unknown provider is told as such", err == sc.ErrMicroServiceNotExists, err)

	events := make(chan *sc.MicroServiceInstanceChangedEvent, 64)
	found, err := client.FindMicroServiceInstances(consumer, "sdk-check", "sdk-provider-"+run, "0+", sc.WithoutRevision())
	want("a find before the first instance is empty", err == nil && len(found) == 0, err)
	must("a watch begins", client.WatchMicroService(consumer, func(event *sc.MicroServiceInstanceChangedEvent) {
		events <- event
	}))
	instance := lifeOfAnInstance(client, consumer, provider, run, events)
	finds(client, consumer, provider, run, instance)
	theEnd(client, consumer, provider, instance, events)
	fmt.Println("sc-client: all steps as expected")
}

func register(client *sc.Client, name, version string) string {
	service := &discovery.MicroService{
		AppId: "sdk-check", ServiceName: name, Version: version, Environment: "",
		Level: "BACK", Status: sc.MicorserviceUp, Schemas: []string{"hello"},
		Framework:  &discovery.FrameWork{Name: "sc-client", Version: "0.7.0"},
		RegisterBy: "SDK", Properties: map[string]string{"a": "b"},
	}
	id, err := client.RegisterService(service)
	want("a service registers: "+name, err == nil && id != "", err)
	again, err := client.GetMicroServiceID(service.AppId, service.ServiceName, service.Version, service.Environment)
	want("its id is found by its key", err == nil && again == id, err)
	return id
}

func schemas(client *sc.Client, provider string) {
	must("a schema is added", client.AddSchemas(provider, "hello", "swagger: '2.0'"))
	schema, err := client.GetSchema(provider, "hello")
	want("and read", err == nil && len(schema) > 0, err)
}

func records(client *sc.Client, provider, run string) {
	service, err := client.GetMicroService(provider)
	want("a service is read", err == nil && service.ServiceName == "sdk-provider-"+run, err)
	service.Properties = map[string]string{"c": "d"}
	done, err := client.UpdateMicroServiceProperties(provider, service)
	want("its properties change", err == nil && done, err)
	service, err = client.GetMicroService(provider)
	want("and are replaced", err == nil && service.Properties["c"] == "d" && service.Properties["a"] == "", err)
	all, err := client.GetAllMicroServices()
	want("services are listed", err == nil && len(all) >= 2, err)
	applications, err := client.GetAllApplications()
	want("applications are listed", err == nil && contains(applications, "sdk-check"), err)
	details, err := client.GetAllResources("instances")
	want("govern lists services with their instances", err == nil && len(details) >= 2, err)
	_, err = client.Health()
	must("health names the registry's own instances", err)
}

func lifeOfAnInstance(client *sc.Client, consumer, provider, run string, events chan *sc.MicroServiceInstanceChangedEvent) string {
	instance := &discovery.MicroServiceInstance{
		ServiceId: provider, HostName: "sdk-host", Status: sc.MSInstanceUP,
		Endpoints:   []string{"rest://127.0.0.1:8080"},
		HealthCheck: &discovery.HealthCheck{Mode: sc.CheckByHeartbeat, Interval: 30, Times: 3},
	}
	id, err := client.RegisterMicroServiceInstance(instance)
	want("an instance registers", err == nil && id != "", err)
	expect(events, sc.EventCreate, id)

	alive, err := client.Heartbeat(provider, id)
	want("its heartbeat is taken", err == nil && alive, err)
	must("and over a WebSocket", client.WSHeartbeat(provider, id, func() {}))

	done, err := client.UpdateMicroServiceInstanceProperties(provider, id, &discovery.MicroServiceInstance{
		ServiceId: provider, InstanceId: id, Properties: map[string]string{"zone": "a"},
	})
	want("its properties change", err == nil && done, err)
	event := expect(events, sc.EventUpdate, id)
	want("the event carries them", event.Instance.Properties["zone"] == "a", nil)
	want("the event names the provider", event.Key != nil && event.Key.ServiceName == "sdk-provider-"+run, nil)

	done, err = client.UpdateMicroServiceInstanceStatus(provider, id, sc.MSIinstanceDown)
	want("its status changes", err == nil && done, err)
	event = expect(events, sc.EventUpdate, id)
	want("the event carries it", event.Instance.Status == sc.MSIinstanceDown, nil)
	return id
}

func finds(client *sc.Client, consumer, provider, run, id string) {
	name := "sdk-provider-" + run
	for _, rule := range []string{"0+", "0.0.0+", "latest", "1.0.0", "1.0.0-2.0.0", "1.0.0+"} {
		found, err := client.FindMicroServiceInstances(consumer, "sdk-check", name, rule, sc.WithoutRevision())
		want("a find by "+rule, err == nil && len(found) == 1 && found[0].InstanceId == id, err)
	}
	_, err := client.FindMicroServiceInstances(consumer, "sdk-check", name, "0+")
	want("a find that repeats its revision is not answered again", err == sc.ErrNotModified, err)
	none, err := client.FindMicroServiceInstances(consumer, "sdk-check", name, "2.0.0+", sc.WithoutRevision())
	want("a find by 2.0.0+ has nothing", (err == nil && len(none) == 0) || err == sc.ErrMicroServiceNotExists, err)
	batch, err := client.BatchFindInstances(consumer, []*discovery.FindService{{
		Service: &discovery.MicroServiceKey{AppId: "sdk-check", ServiceName: name, Version: "0+"},
	}})
	want("a batch find", err == nil && batch.Services != nil && len(batch.Services.Updated) == 1 &&
		len(batch.Services.Updated[0].Instances) == 1, err)
	listed, err := client.GetMicroServiceInstances(consumer, provider)
	want("instances are listed", err == nil && len(listed) == 1, err)
	providers, err := client.GetProviders(consumer)
	want("the consumer's providers are known", err == nil && len(providers.Services) == 1, err)
}

func theEnd(client *sc.Client, consumer, provider, id string, events chan *sc.MicroServiceInstanceChangedEvent) {
	done, err := client.UnregisterMicroServiceInstance(provider, id)
	want("an instance unregisters", err == nil && done, err)
	expect(events, sc.EventDelete, id)
	alive, err := client.Heartbeat(provider, id)
	want("its heartbeat is refused", err != nil && !alive, err)
	for _, service := range []string{consumer, provider} {
		done, err = client.UnregisterMicroService(service)
		want("a service unregisters", err == nil && done, err)
	}
}

func expect(events chan *sc.MicroServiceInstanceChangedEvent, action, id string) *sc.MicroServiceInstanceChangedEvent {
	select {
	case event := <-events:
		want("the watcher hears of "+action, event.Action == action && event.Instance.InstanceId == id,
			fmt.Errorf("it heard of %s of %s", event.Action, event.Instance.InstanceId))
		return event
	case <-time.After(patience):
		want("the watcher hears of "+action, false, fmt.Errorf("nothing came within %s", patience))
		return nil
	}
}

func contains(list []string, name string) bool {
	for _, one := range list {
		if one == name {
			return true
		}
	}
	return false
}

func must(step string, err error) { want(step, err == nil, err) }

func want(step string, holds bool, err error) {
	if holds {
		fmt.Println("ok    ", step)
		return
	}
	fmt.Println("FAILED", step, "-", err)
	os.Exit(1)
}
