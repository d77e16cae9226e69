#!/bin/sh
test "$(echo Hello | ./rot)" = Uryyb
