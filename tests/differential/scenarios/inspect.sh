# Whole documents of containers, made in every way there is, before, while and after they run.

docker create --name plain busybox | wc -c
docker inspect plain
docker container inspect --size plain | sed -n 's/.*"Size\([A-Za-z]*\)": [0-9]*.*/\1/p'
docker create --name full --hostname h --domainname d.example --user user --workdir /work --env A=1 --label l=v --entrypoint sh --interactive --tty --stop-signal SIGINT --stop-timeout 3 --expose 80 --expose 53/udp --publish 8080:80 --publish 127.0.0.1:5353:53/udp --volume /data --volume named:/named:ro --tmpfs /t:size=1m --read-only --cap-add NET_ADMIN --cap-drop CHOWN --security-opt no-new-privileges --dns 10.0.0.53 --dns-search example.org --dns-option ndots:2 --add-host there:10.0.0.9 --group-add 50 --log-driver json-file --log-opt max-size=1m --log-opt max-file=2 --init --restart on-failure:3 --shm-size 32m --sysctl net.ipv4.ip_forward=1 --ulimit nofile=10:20 --memory 32m --cpus 1 --pids-limit 100 --device /dev/null:/dev/mine --ipc shareable --pid host --uts private --cgroup-parent /differential --oom-score-adj 5 --health-cmd 'true' --health-interval 5s --health-retries 2 --health-start-period 1s --health-timeout 2s busybox -c 'sleep 1000' | wc -c
docker inspect full
docker inspect --format '{{.Id}}' full | wc -c
docker inspect --format '{{.Nonsense}}' full
docker inspect --format '{{json .Config.Healthcheck}} {{.HostConfig.RestartPolicy.Name}} {{.Path}} {{.Args}}' full
docker run --detach --name up --publish 8081:80 busybox sleep 1000 | wc -c
docker inspect up
docker stop --timeout 0 up
docker inspect up
docker run --detach --name host --network host busybox sleep 1000 | wc -c
docker inspect --format '{{json .NetworkSettings}}' host
docker run --detach --name none --network none busybox sleep 1000 | wc -c
docker inspect --format '{{json .NetworkSettings}}' none
docker run --detach --name shares --network container:up busybox sleep 1000
docker start up
docker run --detach --name shares --network container:up busybox sleep 1000
docker rm shares
docker run --detach --name shares --network container:up busybox sleep 1000 | wc -c
docker inspect shares
docker inspect up nobody
docker inspect --type image up
docker inspect --type nonsense up
docker inspect --type volume named
docker inspect --type network bridge
docker inspect busybox
docker container inspect nobody
docker run --name failed busybox no-such-program
docker inspect --format '{{json .State}}' failed
docker run --name code busybox sh -c 'exit 5'
docker inspect --format '{{json .State}}' code
docker run --name killed busybox sh -c 'kill -9 $$'
docker inspect --format '{{json .State}}' killed
