package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	_ "net/http/pprof"
	"os"
	"os/signal"
	"syscall"

	"github.com/paraglide/glide/internal/api"
	"github.com/paraglide/glide/internal/host"
	"github.com/paraglide/glide/internal/objstore"
	"github.com/paraglide/glide/nbd"
)

func main() {
	dir := os.Args[1]
	os.MkdirAll(dir, 0o755)
	st, err := objstore.Open(context.Background(), "file://"+dir+"/store", objstore.Options{})
	if err != nil {
		panic(err)
	}
	wl := host.Share{Percent: 80}
	if len(os.Args) > 3 {
		var n int64
		fmt.Sscan(os.Args[3], &n)
		wl = host.Share{Bytes: n}
	}
	h, err := host.Open(context.Background(), host.Config{Data: dir, Store: st, StoreURL: "x", WALLimit: wl})
	if err != nil {
		panic(err)
	}
	var size uint64 = 1 << 30
	if len(os.Args) > 2 {
		fmt.Sscan(os.Args[2], &size)
	}
	fmt.Println(h.Create(context.Background(), api.CreateRequest{Name: "v", Size: size}))
	os.Remove(dir + "/nbd.sock")
	l, err := net.Listen("unix", dir+"/nbd.sock")
	if err != nil {
		panic(err)
	}
	go http.ListenAndServe("127.0.0.1:6060", nil)
	s := nbd.Server{Exporter: h.Exports()}
	go s.Serve(context.Background(), l)
	fmt.Println("ready")
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM, os.Interrupt)
	<-c
	s.Shutdown(context.Background())
	h.Close(context.Background())
	st2, _ := h.Stats(context.Background(), "")
	fmt.Printf("%+v\n", st2)
}
