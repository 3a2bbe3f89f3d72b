// Command mcpb is the bridge by itself, which the bundle for desktop clients carries: static, and a
// tenth of the daemon.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/secmcpd/secmcpd/internal/bridge"
)

func main() {
	socket := flag.String("socket", bridge.Socket, "the daemon's socket")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := bridge.Connect(ctx, *socket, bridge.Retry, bridge.Drain, os.Stdin, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "secmcpd:", err)
		os.Exit(1)
	}
}
