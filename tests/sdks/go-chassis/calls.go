package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/go-chassis/go-chassis/v2"
	"github.com/go-chassis/go-chassis/v2/client/rest"
	"github.com/go-chassis/go-chassis/v2/core"
	"github.com/go-chassis/go-chassis/v2/pkg/util/httputil"
)

// Calls the service named in PROVIDER from as many threads as THREADS says, through the framework, which is pushed changes
// and also asks every POLL milliseconds. Each call that fails is a line "FAILED ERROR"; each line of the standard input is answered by
// "CALLS NUMBER", the calls that have ended so far. The end of the standard input ends the program.
func calls(registry string) {
	folder, err := os.MkdirTemp("", "go-chassis")
	fail("a folder is made", err)
	home = folder
	defer os.RemoveAll(home)
	settings(home, registry, os.Getenv("PROVIDER")+"-go", os.Getenv("POLL")+"ms", freePort())
	fail("the settings are named", os.Setenv("CHASSIS_HOME", home))
	fail("the framework starts", chassis.Init())
	go func() { fail("the framework runs", chassis.Run()) }()

	count := 0
	var lock sync.Mutex
	threads, err := strconv.Atoi(os.Getenv("THREADS"))
	fail("the number of threads is known", err)
	for thread := 0; thread < threads; thread++ {
		go func(name string) {
			invoker := core.NewRestInvoker()
			for {
				err := call(invoker, name)
				lock.Lock()
				count++
				if err != nil {
					fmt.Println("FAILED", err)
				}
				lock.Unlock()
				time.Sleep(5 * time.Millisecond)
			}
		}(fmt.Sprintf("go-%d", thread))
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		lock.Lock()
		fmt.Println("CALLS", count)
		lock.Unlock()
	}
}

func call(invoker *core.RestInvoker, name string) error {
	request, err := rest.NewRequest(http.MethodGet, "http://"+os.Getenv("PROVIDER")+"/work", nil)
	if err != nil {
		return err
	}
	request.Header.Set("X-Caller", name)
	answer, err := invoker.ContextDo(context.Background(), request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body := string(httputil.ReadBody(answer))
	if answer.StatusCode != http.StatusOK || body != "done" {
		return fmt.Errorf("%s answered %s: %s", answer.Request.URL, answer.Status, body)
	}
	return nil
}
