// A gRPC client in Go that finds its servers over xDS.
//
//	xds-go TARGET   calls for each line on the standard input; prints an answer for each
//
// Answers of calls that fail are `error`, the code and the words.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	_ "google.golang.org/grpc/xds"
)

const method = "/muster.test.Echo/Name"

// Messages are bytes as they are.
type plain struct{}

func (plain) Name() string { return "proto" }

func (plain) Marshal(message any) ([]byte, error) { return *message.(*[]byte), nil }

func (plain) Unmarshal(data []byte, message any) error {
	*message.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func call(channel *grpc.ClientConn) string {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var request, answer []byte
	if err := channel.Invoke(ctx, method, &request, &answer, grpc.ForceCodec(plain{})); err != nil {
		code := strings.ToUpper(status.Code(err).String())
		return fmt.Sprintf("error %s %q", code, status.Convert(err).Message())
	}
	return string(answer)
}

func main() {
	channel, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		panic(err)
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fmt.Println(call(channel))
	}
}
