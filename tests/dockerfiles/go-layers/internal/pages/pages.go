// Package pages names pages.
package pages

import "strings"

// Title is what a page is called.
func Title(path string) string {
	return strings.ToUpper(strings.Trim(path, "/"))
}
