# A container from its creation to its end.

docker run --rm busybox echo hello
docker run --rm busybox sh -c 'echo out; echo err >&2; exit 3'
docker run --name one busybox true
docker run --name one busybox true
docker run --rm busybox no-such-program
docker run --rm busybox /etc
docker run --rm busybox ""
docker run --rm --pull never nobody/nothing:1
docker run --pull never --rm nothing
docker run --rm Upper/Case
docker run --name a busybox
docker run --name 'no/slash' busybox
docker inspect one
docker start --attach one
docker start nobody
docker ps --all
docker ps --all --quiet --filter name=one --filter status=running
docker create --name two --hostname inside --domainname example.org --env A=1 --label x=y --label z busybox sh -c 'hostname; cat /etc/hostname'
docker start --attach two
docker inspect two
docker rename two three
docker rename three one
docker rename three ''
docker rename three three
docker rename nobody somebody
docker rm two
docker rm one three
docker run --detach --name long busybox sleep 1000 | wc -c
docker rm long
docker start long
docker exec long sh -c 'ps -o user,args | head -n 2'
docker top long | head -n 1
docker top long -eo pid,user,args | sed "s/[0-9][0-9]*/PID/"
docker top nobody
docker top long -nonsense
docker pause long
docker pause long
docker ps --format '{{.Names}} {{.Status}}'
docker exec long true
docker stats --no-stream --format '{{.Name}}' long
docker unpause long
docker unpause long
docker kill --signal NOPE long
docker kill --signal 99 long
docker kill --signal CONT long
docker inspect --format '{{.State.Status}} {{.State.Running}}' long
docker stop --timeout 0 long
docker stop long
docker kill long
docker pause long
docker inspect --format '{{json .State}}' long
docker restart --timeout 0 long
docker inspect --format '{{.State.Status}} {{.RestartCount}}' long
docker update --memory 64m --memory-swap 64m --cpu-shares 512 --pids-limit 50 long
docker inspect --format '{{json .HostConfig}}' long
docker update --memory 1 long
docker update --restart sometimes long
docker update --restart on-failure:3 long
docker update nobody
docker update --cpu-shares 5 nobody
docker exec nobody true
docker kill nobody
docker stop nobody
docker restart nobody
docker wait nobody
docker pause nobody
docker rm nobody
docker rm --force nobody
docker rm --force long
docker run --detach --name quick busybox sh -c 'exit 7' >/dev/null
docker wait quick
docker wait quick quick
docker ps --all --format '{{.Names}} {{.Status}} {{.Command}} {{.Image}} {{.Ports}} {{.Mounts}} {{.Networks}} {{.LocalVolumes}} {{.Size}}'
docker container prune --force | grep -v '^[0-9a-f]*$'
docker run --interactive --rm busybox cat < /etc/hostname | cmp - /etc/hostname
echo words | docker run --interactive --rm busybox wc -c
docker run --rm busybox cat < /etc/hostname
docker run --tty --rm busybox sh -c 'tty; stty size'
docker run --cidfile id --rm busybox true; wc -c < id
docker run --rm --cidfile id busybox true
docker run --detach --rm busybox sh -c 'sleep 1000' > gone; docker rm --force "$(cat gone)" | wc -c
docker run --attach stdout --rm busybox sh -c 'echo out; echo err >&2'
docker run --attach stdin --attach stderr --rm busybox sh -c 'echo out; echo err >&2'
