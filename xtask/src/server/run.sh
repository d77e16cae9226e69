#!/bin/sh
# On the server, as root, once it is up: the tests. The last line is the verdict, which is waited for outside.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
cd /mnt || exit
export STRATUS_BIN=/mnt/stratus STRATUS_CONTRIB=/mnt/contrib
# It is emulated, by a machine that may have other things to do.
export E2E_DEADLINE=300
install -m 755 docker /usr/local/bin/docker

up=$(cut -d' ' -f1 /proc/uptime)
echo "Linux $(uname -r), $(systemctl --version | head -n1), $(stat -f -c %T /sys/fs/cgroup), up for $up s"
verdict=passed
# Those that change the machine itself are ignored elsewhere; here they are the only ones of their file.
for test in tests/*; do
	echo "# $test"
	case $test in
	tests/server | tests/nested | tests/version1) "$test" --color never --ignored --test-threads 1 ;;
	*) "$test" --color never --test-threads 2 ;;
	esac || verdict=failed
done
echo "verdict: $verdict"
