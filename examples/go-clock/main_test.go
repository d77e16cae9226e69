package main

import (
	"net/http/httptest"
	"strings"
	"testing"
)

func TestUnknownZonesAreRefused(t *testing.T) {
	w := httptest.NewRecorder()
	tell(w, httptest.NewRequest("GET", "/?zone=Nowhere/Land", nil))
	if w.Code != 400 {
		t.Fatalf("status %d", w.Code)
	}
}

func TestZonesAreKnownWithoutAnyFile(t *testing.T) {
	w := httptest.NewRecorder()
	tell(w, httptest.NewRequest("GET", "/?zone=Europe/Vienna", nil))
	if w.Code != 200 || !strings.Contains(w.Body.String(), "Europe/Vienna") {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
}
