// A go-chassis application that plays both sides: `provider NAME` serves, `consumer` calls the provider by its name, as
// the framework discovers it, and `check` starts them and says whether the consumer learnt of each change by push.
// `calls` is in calls.go.
//
// In: the registry's address in REGISTRY (host:port), and with access control an account in ACCOUNT and its password in
// PASSWORD. The framework asks again only every ten minutes here, so what the consumer learns earlier was pushed. With
// access control nothing is pushed to it, because it sends no token with its watch; so it asks every second. A line "ASK
// CHANGE" then asks the caller for a change of the registry, which a line on the standard input confirms.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/go-chassis/go-chassis/v2"
	_ "github.com/go-chassis/go-chassis/v2/bootstrap"
	"github.com/go-chassis/go-chassis/v2/client/rest"
	"github.com/go-chassis/go-chassis/v2/core"
	"github.com/go-chassis/go-chassis/v2/pkg/util/httputil"
	_ "github.com/go-chassis/go-chassis/v2/security/cipher/plugins/plain"
	rf "github.com/go-chassis/go-chassis/v2/server/restful"
)

// How long a change may take until the consumer's calls show it.
const patience = 30 * time.Second

func main() {
	registry := os.Getenv("REGISTRY")
	if len(os.Args) < 2 || registry == "" {
		fmt.Fprintln(os.Stderr, "expected: REGISTRY=HOST:PORT in the environment, and check, calls, provider NAME or consumer")
		os.Exit(2)
	}
	switch os.Args[1] {
	case "provider":
		provide(os.Args[2])
	case "consumer":
		consume()
	case "calls":
		calls(registry)
	default:
		check(registry)
	}
}

type named struct{ name string }

func (n *named) Name(b *rf.Context) { _ = b.Write([]byte(n.name)) }

// URLPatterns tells the framework the routes of this schema.
func (n *named) URLPatterns() []rf.Route {
	return []rf.Route{{Method: http.MethodGet, Path: "/name", ResourceFunc: n.Name, Returns: []*rf.Returns{{Code: 200}}}}
}

func provide(name string) {
	chassis.RegisterSchema("rest", &named{name})
	fail("the framework starts", chassis.Init())
	fail("the framework runs", chassis.Run())
}

// Prints who answers, a line a call, until it is ended.
func consume() {
	fail("the framework starts", chassis.Init())
	go func() { fail("the framework runs", chassis.Run()) }()
	invoker := core.NewRestInvoker()
	for {
		request, err := rest.NewRequest(http.MethodGet, "http://"+os.Getenv("PROVIDER")+"/name", nil)
		fail("a request is made", err)
		answer, err := invoker.ContextDo(context.Background(), request)
		if err != nil {
			fmt.Println("ANSWER none")
		} else {
			fmt.Println("ANSWER", string(httputil.ReadBody(answer)))
			_ = answer.Body.Close()
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func check(registry string) {
	folder, err := os.MkdirTemp("", "go-chassis")
	fail("a folder is made", err)
	home = folder
	defer os.RemoveAll(home)
	service := fmt.Sprintf("sdk-provider-%d", time.Now().UnixNano())

	one := start(home, registry, service, "provider", "one")
	defer one.end(syscall.SIGKILL)
	consumer := start(home, registry, service, "consumer")
	defer consumer.end(syscall.SIGKILL)
	consumer.hears("the first instance is called", "one")
	two := start(home, registry, service, "provider", "two")
	defer two.end(syscall.SIGKILL)
	consumer.hears("a second instance is learnt of and called", "two")
	one.end(syscall.SIGTERM)
	consumer.hearsOnly("an instance that left is called no more", "two")
	if os.Getenv("ACCOUNT") != "" {
		fmt.Println("ASK sign with the new key")
		_, err := bufio.NewReader(os.Stdin).ReadString('\n')
		fail("the key is replaced", err)
	}
	two.end(syscall.SIGTERM)
	consumer.hears("nobody is left to call", "none")
	three := start(home, registry, service, "provider", "three")
	defer three.end(syscall.SIGKILL)
	consumer.hears("and one that comes after all were gone is", "three")
	fmt.Println("go-chassis: all steps as expected")
}

type child struct {
	command *exec.Cmd
	lines   chan string
}

// The processes that this one has started, and the folder of their settings.
var (
	children []*child
	home     string
)

// Ends the program, and leaves nothing behind.
func giveUp() {
	for _, child := range children {
		child.end(syscall.SIGKILL)
	}
	if home != "" {
		_ = os.RemoveAll(home)
	}
	os.Exit(1)
}

// Starts this program in another role, with settings of its own.
func start(home, registry, service string, role ...string) *child {
	folder := filepath.Join(home, strings.Join(role, "-"))
	name := service
	if role[0] == "consumer" {
		name = strings.Replace(service, "provider", "consumer", 1)
	}
	refresh := "10m"
	if os.Getenv("ACCOUNT") != "" {
		refresh = "1s"
	}
	settings(folder, registry, name, refresh, freePort())
	command := exec.Command(os.Args[0], role...)
	command.Env = append(os.Environ(), "CHASSIS_HOME="+folder, "PROVIDER="+service)
	command.Dir = folder
	output, err := command.StdoutPipe()
	fail("its output is read", err)
	fail("a process starts", command.Start())
	started := &child{command: command, lines: make(chan string, 1024)}
	children = append(children, started)
	go func() {
		lines := bufio.NewScanner(output)
		for lines.Scan() {
			if answer := strings.TrimPrefix(lines.Text(), "ANSWER "); answer != lines.Text() {
				started.lines <- answer
			} else if strings.HasPrefix(lines.Text(), "FAILED") {
				fmt.Println(strings.Join(role, " ")+":", lines.Text())
			}
		}
	}()
	return started
}

// Writes the settings of a process of the framework.
func settings(folder, registry, name, refresh string, port int) {
	fail("settings are written", os.MkdirAll(filepath.Join(folder, "conf"), 0o755))
	credentials := ""
	if account := os.Getenv("ACCOUNT"); account != "" {
		credentials = fmt.Sprintf("  credentials:\n    cipher: default\n    account:\n      name: %s\n      password: %s\n",
			account, os.Getenv("PASSWORD"))
	}
	write(folder, "chassis.yaml", fmt.Sprintf(`servicecomb:
%s  registry:
    type: servicecenter
    address: http://%s
    refreshInterval: %s
    watch: true
  protocols:
    rest:
      listenAddress: 127.0.0.1:%d
`, credentials, registry, refresh, port))
	write(folder, "microservice.yaml", "servicecomb:\n  service:\n    name: "+name+"\n    version: 1.0.0\n")
}

// A port of this machine on which nobody listens. It lies below those that the system takes for outgoing connections, which
// could hold it meanwhile, and below those of the tests' servers.
func freePort() int {
	random := rand.New(rand.NewSource(time.Now().UnixNano()))
	for attempt := 0; attempt < 1000; attempt++ {
		port := 2000 + random.Intn(13000)
		if listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			_ = listener.Close()
			return port
		}
	}
	fail("a port is found", errors.New("none of a thousand is free"))
	return 0
}

func write(folder, name, text string) {
	fail("settings are written", os.WriteFile(filepath.Join(folder, "conf", name), []byte(text), 0o644))
}

func (c *child) end(signal syscall.Signal) {
	if c.command.ProcessState == nil {
		_ = c.command.Process.Signal(signal)
		_ = c.command.Wait()
	}
}

// Waits until the consumer's calls are answered by `name`.
func (c *child) hears(step, name string) {
	c.until(step, func(answer string) bool { return answer == name })
}

// Waits until twenty calls in a row are answered by `name`, so that nobody else is in the turn any more.
func (c *child) hearsOnly(step, name string) {
	row := 0
	c.until(step, func(answer string) bool {
		if answer != name {
			row = 0
			return false
		}
		row++
		return row == 20
	})
}

func (c *child) until(step string, holds func(string) bool) {
	deadline := time.After(patience)
	for {
		select {
		case answer := <-c.lines:
			if holds(answer) {
				fmt.Println("ok    ", step)
				return
			}
		case <-deadline:
			fmt.Println("FAILED", step, "- not within", patience)
			giveUp()
		}
	}
}

func fail(step string, err error) {
	if err != nil {
		fmt.Println("FAILED", step, "-", err)
		giveUp()
	}
}
