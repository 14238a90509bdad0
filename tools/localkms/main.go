// Command localkms is a key management service for tests, with the API of AWS KMS. It
// wraps github.com/nsmithuk/local-kms, whose own program listens on all interfaces and
// keeps its keys in one place for everybody: this one listens on the loopback interface
// only, with keys in a directory of the test's.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"sync"

	kms "github.com/nsmithuk/local-kms/src"
	"github.com/nsmithuk/local-kms/src/config"
	"github.com/nsmithuk/local-kms/src/data"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "address and port on the loopback interface")
	dir := flag.String("data", "", "directory of the keys")
	flag.Parse()
	if err := serve(*listen, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "localkms:", err)
		os.Exit(1)
	}
}

func serve(listen, dir string) error {
	if dir == "" {
		return fmt.Errorf("-data is missing")
	}
	addr, err := net.ResolveTCPAddr("tcp", listen)
	if err != nil {
		return err
	}
	if !addr.IP.IsLoopback() {
		return fmt.Errorf("%s is not on the loopback interface", listen)
	}
	config.AWSRegion, config.AWSAccountId = "us-east-1", "111122223333"
	ln, err := net.ListenTCP("tcp", addr)
	if err != nil {
		return err
	}
	db := data.NewDatabase(dir)
	defer db.Close()
	var mu sync.Mutex // its handlers read a key, change it and write it back
	log.Printf("listening on %s", ln.Addr())
	return http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		kms.HandleRequest(w, r, db)
	}))
}
