// Greets everybody that it is told of.
package main

import (
	"fmt"
	"os"

	"example.org/greet"
)

func main() {
	for _, name := range os.Args[1:] {
		fmt.Println(greet.Hello(name))
	}
}
