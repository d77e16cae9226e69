# What a container is told to be: who runs, where, with what.

docker run --rm --user user busybox id
docker run --rm --user 1000:50 busybox id
docker run --rm --user 4711 busybox id
docker run --rm --user user:staff --group-add daemon --group-add 77 busybox id
docker run --rm --user nobody-here busybox id
docker run --rm --user root:no-group busybox id
docker run --rm --user 99999999999 busybox id
docker run --rm --group-add no-group busybox id
docker run --rm --workdir /made/for/it busybox sh -c 'pwd; ls -ld .'
docker run --rm --workdir relative busybox pwd
docker run --rm --workdir /etc/passwd busybox pwd
docker run --rm --env A=1 --env B=two=3 --env EMPTY= --env ONLY_NAME busybox env | sort
docker run --rm --hostname box busybox env | sort
docker run --rm --tty --env TERM=vt100 busybox env | tr -d '\r' | grep -v HOSTNAME | sort
printf 'FROM_FILE=1\n# comment\nOTHER=a b\n' > list; docker run --rm --env-file list busybox env | grep -v HOSTNAME
docker run --rm --env =x busybox true
docker run --rm --label =x busybox true
docker run --rm --entrypoint echo busybox one two
docker run --rm --entrypoint '' busybox echo none
docker run --rm --entrypoint no-such busybox
docker run --rm --ulimit nofile=100:200 --ulimit core=0 busybox sh -c 'ulimit -n; ulimit -Hn; ulimit -c'
docker run --rm --ulimit nofile=300:200 busybox true
docker run --rm --ulimit nonsense=1 busybox true
docker run --rm --sysctl net.ipv4.ip_forward=0 --sysctl kernel.msgmax=4096 busybox sh -c 'cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax'
docker run --rm --sysctl kernel.panic=1 busybox true
docker run --rm --sysctl net.nothing.here=1 busybox true
docker run --rm --network host --sysctl net.ipv4.ip_forward=1 busybox true
docker run --rm --device /dev/null:/dev/mine busybox ls -l /dev/mine
docker run --rm --device /dev/null:/dev/mine:rw busybox sh -c 'echo x > /dev/mine'
docker run --rm --device /dev/nothing-there busybox true
docker run --rm --device /dev/null:/dev/mine:xyz busybox true
docker run --rm --device-cgroup-rule 'c 1:3 rwm' busybox true
docker run --rm --device-cgroup-rule 'nonsense' busybox true
docker run --rm busybox ls -l /dev | awk '{print $1, $NF}'
docker run --rm --tmpfs /scratch busybox sh -c 'grep scratch /proc/mounts'
docker run --rm --tmpfs /scratch:size=1m,mode=700,noexec busybox sh -c 'grep scratch /proc/mounts; ls -ld /scratch'
docker run --rm --tmpfs /scratch:size=nonsense busybox true
docker run --rm --tmpfs /scratch:nonsense busybox true
docker run --rm --tmpfs relative busybox true
docker run --rm --read-only busybox touch /here
docker run --rm --read-only --tmpfs /tmp busybox touch /tmp/here
docker run --rm --shm-size 1m busybox sh -c 'grep /dev/shm /proc/mounts'
docker run --rm --shm-size 0 busybox sh -c 'grep /dev/shm /proc/mounts'
docker run --rm --ipc none busybox ls -d /dev/shm
docker run --rm --ipc nonsense busybox true
docker run --rm --ipc container:nobody busybox true
docker run --rm --pid host busybox sh -c 'test -d /proc/1'
docker run --rm --pid nonsense busybox true
docker run --rm --pid container:nobody busybox true
docker run --rm --uts host busybox true
docker run --rm --uts nonsense busybox true
docker run --rm --uts host --hostname x busybox true
docker run --rm --userns nonsense busybox true
docker run --rm --cgroupns private busybox cat /proc/self/cgroup | sort -t: -k2 | sed 's/^[0-9]*//'
docker run --rm --cgroupns nonsense busybox true
docker run --rm --cap-drop ALL busybox grep Cap /proc/self/status
docker run --rm --cap-add NET_ADMIN --cap-drop CHOWN busybox grep Cap /proc/self/status
docker run --rm --cap-add cap_sys_admin --cap-drop all busybox grep Cap /proc/self/status
docker run --rm --cap-add NONSENSE busybox true
docker run --rm --cap-drop NONSENSE busybox true
docker run --rm --user user busybox grep Cap /proc/self/status
docker run --rm --user user --cap-add NET_RAW busybox grep Cap /proc/self/status
docker run --rm busybox grep -E 'Cap|Seccomp|NoNewPrivs' /proc/self/status
docker run --rm --security-opt no-new-privileges busybox grep -E 'Seccomp|NoNewPrivs' /proc/self/status
docker run --rm --security-opt seccomp=unconfined busybox grep -E 'Seccomp|NoNewPrivs' /proc/self/status
docker run --rm --security-opt nonsense busybox true
docker run --rm --security-opt nonsense=1 busybox true
docker run --rm --security-opt no-new-privileges=perhaps busybox true
echo '{' > bad.json; docker run --rm --security-opt seccomp=bad.json busybox true
echo '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}' > no-mkdir.json
docker run --rm --security-opt seccomp=no-mkdir.json busybox mkdir /x
docker run --rm busybox sh -c 'unshare -U true; mount -t tmpfs none /tmp'
docker create --name all --privileged busybox | wc -c; docker inspect --format '{{json .HostConfig}}' all
docker run --rm busybox sh -c 'ls -l /proc/kcore; cat /proc/timer_list; echo b > /proc/sysrq-trigger; ls /sys/firmware'
docker run --rm --security-opt systempaths=unconfined busybox sh -c 'grep -c " /proc/" /proc/mounts'
docker run --rm busybox sh -c "sed 's/lowerdir=.*/…/' /proc/mounts | grep -E '^(overlay|proc|sysfs|mqueue|shm|devpts|tmpfs /dev) ' | sort"
docker run --rm --init busybox sh -c 'exit 9'
docker run --rm --oom-score-adj 500 busybox cat /proc/self/oom_score_adj
docker run --rm --oom-score-adj 5000 busybox true
docker run --rm --oom-kill-disable --memory 32m busybox true
docker run --rm --stop-signal NOPE busybox true
docker run --rm --stop-signal SIGUSR1 busybox true
docker run --rm --stop-timeout -5 busybox true
docker run --rm --runtime nonsense busybox true
docker run --rm --isolation hyperv busybox true
docker run --rm --pull never --platform linux/s390x busybox true
docker run --rm --platform nonsense/system/of/mine busybox true
docker run --rm --storage-opt size=1G busybox true
docker run --rm --pull never --volume-driver nonsense --volume data:/data busybox true
docker run --rm --annotation a=b busybox true
docker run --rm --mac-address 02:00:00:00:00:99 busybox cat /sys/class/net/eth0/address
docker run --rm --mac-address nonsense busybox true
docker run --rm --cgroup-parent nonsense busybox true
docker run --rm --domainname d.example --hostname h busybox sh -c 'hostname -f; tail -n 1 /etc/hosts'
docker run --rm --hostname "$(printf '%080d' 0)" busybox hostname
docker run --rm --hostname 'not_ok!' busybox hostname
