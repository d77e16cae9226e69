# Limits: what is taken, what is refused, what they do.

docker run --rm --memory 32m busybox sh -c 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max'
docker run --rm --memory 4m busybox true
docker run --rm --memory 1m busybox true
docker run --rm --memory nonsense busybox true
docker run --rm --memory 64m --memory-swap 32m busybox true
docker run --rm --memory-swap 32m busybox true
docker run --rm --memory 64m --memory-reservation 128m busybox true
docker run --rm --memory-reservation 1m busybox true
docker run --rm --memory-swappiness 101 busybox true
docker run --rm --cpus 0.5 busybox sh -c 'cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cat /sys/fs/cgroup/cpu.max'
docker run --rm --cpus 1000 busybox true
docker run --rm --cpus -1 busybox true
docker run --rm --cpus 0.5 --cpu-quota 1000 busybox true
docker run --rm --cpu-period 10 busybox true
docker run --rm --cpu-period 2000000 busybox true
docker run --rm --cpu-quota 10 busybox true
docker run --rm --cpu-shares -1 busybox true
docker run --rm --cpuset-cpus 0 busybox grep Cpus_allowed_list /proc/self/status
docker run --rm --cpuset-cpus 500 busybox true
docker run --rm --cpuset-cpus nonsense busybox true
docker run --rm --cpuset-mems 0 busybox true
docker run --rm --cpuset-mems 9 busybox true
docker run --rm --pids-limit 20 busybox sh -c 'cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max'
docker run --rm --pids-limit -1 busybox true
docker run --rm --pids-limit 0 busybox true
docker run --rm --blkio-weight 5 busybox true
docker run --rm --blkio-weight 2000 busybox true
docker run --rm --device-read-bps /dev/nothing:1mb busybox true
docker run --rm --device-write-iops /dev/null:-1 busybox true
docker run --name hog --memory 16m --memory-swap 16m busybox sh -c 'head -c 100m /dev/zero | tail' 2>/dev/null; docker inspect --format '{{.State.OOMKilled}} {{.State.ExitCode}}' hog
docker create --name all --memory 64m --memory-swap -1 --memory-reservation 32m --memory-swappiness 10 --cpus 1.5 --cpu-shares 100 --cpuset-cpus 0-1 --pids-limit 10 --blkio-weight 300 --ulimit nproc=5 --shm-size 2m --oom-score-adj 10 --restart on-failure:2 busybox > /dev/null
docker inspect --format '{{json .HostConfig}}' all
docker update --memory 0 all
docker update --memory 128m --memory-swap 256m --cpus 2 all
docker update --memory 512m all; docker inspect --format '{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}}' all
docker create --name swapless --memory 64m --memory-swap 64m busybox > /dev/null; docker update --memory 1g swapless; docker update --memory 32m swapless; docker inspect --format '{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}}' swapless
docker create --name endless --memory 64m --memory-swap -1 busybox > /dev/null; docker update --memory 1g endless; docker inspect --format '{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}}' endless; docker rm swapless endless
docker inspect --format '{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.NanoCpus}}' all
docker update --cpu-quota 5000 all
docker update --blkio-weight 2000 all
docker update --cpuset-cpus 500 all
docker run --rm --restart nonsense busybox true
docker run --restart always --rm busybox true
docker create --restart on-failure:-1 busybox
docker create --restart always:3 busybox
docker create --restart unless-stopped --name r busybox
docker create --name re --restart no busybox > /dev/null; docker inspect --format '{{json .HostConfig.RestartPolicy}}' re
