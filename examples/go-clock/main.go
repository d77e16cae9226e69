// Command clock tells the time in the zones that it is asked for.
package main

import (
	"encoding/json"
	"log"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
	_ "time/tzdata"
)

// version is set by the linker.
var version = "dev"

type answer struct {
	Zone    string `json:"zone"`
	Time    string `json:"time"`
	Version string `json:"version"`
	Machine string `json:"machine"`
}

func tell(w http.ResponseWriter, r *http.Request) {
	zone := r.URL.Query().Get("zone")
	if zone == "" {
		zone = "UTC"
	}
	place, err := time.LoadLocation(zone)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(answer{place.String(), time.Now().In(place).Format(time.RFC3339), version, runtime.GOARCH})
}

func main() {
	http.HandleFunc("/", tell)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go func() { log.Fatal(http.ListenAndServe(":8080", nil)) }()
	<-stop
}
