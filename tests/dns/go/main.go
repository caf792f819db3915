// Asks by Go's own resolver.
//
//	lookup PORT NAME TYPE   prints a record a line, or the kind of the error; types are A, AAAA and SRV
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
)

func main() {
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, "127.0.0.1:"+os.Args[1])
	}}
	name := os.Args[2] + "."
	var err error
	switch os.Args[3] {
	case "SRV":
		var records []*net.SRV
		_, records, err = resolver.LookupSRV(context.Background(), "", "", name)
		for _, record := range records {
			fmt.Println(record.Priority, record.Weight, record.Port, record.Target)
		}
	case "A":
		err = print(resolver.LookupNetIP(context.Background(), "ip4", name))
	default:
		err = print(resolver.LookupNetIP(context.Background(), "ip6", name))
	}
	var failure *net.DNSError
	switch {
	case err == nil:
	case errors.As(err, &failure) && failure.IsNotFound:
		fmt.Println("not found")
	default:
		fmt.Println("failed")
	}
}

func print[T any](addresses []T, err error) error {
	for _, address := range addresses {
		fmt.Println(address)
	}
	return err
}
