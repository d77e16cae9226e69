# Further processes in a container.

docker run --detach --name box --env OUTER=1 --user user --workdir /tmp busybox sleep 1000 | wc -c
docker exec box id
docker exec box pwd
docker exec box sh -c 'echo out; echo err >&2; exit 6'
docker exec --user root box id -u
docker exec --user 5:6 box id
docker exec --user nobody-here box id
docker exec --workdir /etc box pwd
docker exec --workdir /nothing box pwd
docker exec --workdir relative box pwd
docker exec --env INNER=2 box sh -c 'echo $OUTER $INNER'
docker exec --env-file /nothing box env
docker exec box no-such-program
docker exec box /etc
docker exec box /no/such/program
docker exec box ''
docker exec box
docker exec --interactive box cat < /etc/hostname | cmp - /etc/hostname
docker exec box cat < /etc/hostname
docker exec --tty box sh -c 'tty; test -t 1 && echo terminal'
docker exec --detach box touch /tmp/made
until_ docker exec box ls /tmp/made
docker exec --detach box no-such-program
docker exec --user root box grep CapEff /proc/self/status
docker exec box grep CapEff /proc/self/status
docker exec box sh -c 'kill -9 $$'
docker exec --detach-keys nonsense --interactive box cat < /dev/null
docker inspect --format '{{json .ExecIDs}}' box
docker stop --timeout 0 box
docker exec box true
docker exec nobody true
docker create --name never busybox | wc -c; docker exec never true
