#!/bin/sh
# On the server, as root, once it is up: the tests. The last line is the verdict, which is waited for outside.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
cd /mnt || exit
export STRATUS_BIN=/mnt/stratus STRATUS_CONTRIB=/mnt/contrib
# It is emulated, by a machine that may have other things to do.
export E2E_DEADLINE=300
# Tests that write nothing for so long hang: each ends what takes longer than its deadline.
patience=900
install -m 755 docker /usr/local/bin/docker

# Of each processor, that it computes.
for processor in $(seq 0 $(($(nproc) - 1))); do
	taskset -c "$processor" sh -c "while sleep 5; do echo $processor; done" >/dev/ttyS2 &
done

# What the processes of tests that hang wait for.
report() {
	echo "# nothing was written for $patience s; what there is:"
	ps --ppid 2 -p 2 --deselect fo pid,stat,wchan:32,args --no-headers | cut -c1-200
	for process in $(pgrep -f '/mnt/|stratus'); do
		for task in /proc/"$process"/task/*; do
			echo "$task: $(cat "$task/comm" 2>/dev/null)"
			cat "$task/stack" 2>/dev/null
		done
	done
}

# Ends a process that hangs.
watch() {
	written= silent=0
	while sleep 5; do
		before=$written written=$(grep wchar "/proc/$1/io")
		if [ "$written" = "$before" ]; then silent=$((silent + 5)); else silent=0; fi
		if [ "$silent" -ge "$patience" ]; then
			report
			kill -9 "$1"
		fi
	done
}

# Runs a file of tests, whose time is watched.
run() {
	"$@" &
	tests=$!
	watch "$tests" &
	wait "$tests"
	ended=$?
	kill $!
	return "$ended"
}

up=$(cut -d' ' -f1 /proc/uptime)
echo "Linux $(uname -r), $(systemctl --version | head -n1), $(stat -f -c %T /sys/fs/cgroup), up for $up s"
passed=$(sed -n 's/.*stratus\.passed=\([^ ]*\).*/,\1,/p' /proc/cmdline)
verdict=passed
# Those that change the machine itself are ignored elsewhere; here they are the only ones of their file.
for test in tests/*; do
	name=${test#tests/}
	case $passed in *,"$name",*) continue ;; esac
	echo "# $test"
	case $name in
	server | nested | version1) run "$test" --color never --ignored --test-threads 1 ;;
	*) run "$test" --color never --test-threads 2 ;;
	esac && echo "passed: $name" || verdict=failed
done
echo "verdict: $verdict"
