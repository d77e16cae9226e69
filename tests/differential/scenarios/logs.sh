# What containers say: attached, logged, followed, on disk.

docker run --name talker busybox sh -c 'echo one; echo two >&2; printf three'
docker logs talker
docker logs talker 2>/dev/null
docker logs --tail 1 talker
docker logs --tail 0 talker
docker logs --tail nonsense talker
docker logs --timestamps talker 2>&1 | sed 's/^20[^ ]*Z/<time>/' | sort
docker logs --since 1h talker
docker logs --until 1h talker
docker logs --since nonsense talker
docker logs --details talker
docker logs nobody
cat "$(docker inspect --format '{{.LogPath}}' talker)" | sort
docker start --attach talker
docker logs talker 2>/dev/null
docker run --detach --name follower busybox sh -c 'echo begin; while ! [ -e /stop ]; do sleep 0.02; done; echo end' | wc -c
docker logs --follow follower > followed & docker exec follower touch /stop; wait; cat followed
docker run --tty --name terminal busybox sh -c 'echo one; echo two >&2'
docker logs terminal
docker run --log-driver none --name silent busybox echo lost
docker logs silent
docker inspect --format '{{json .HostConfig.LogConfig}} {{.LogPath}}' silent
docker run --log-driver local --name compact busybox echo kept
docker logs compact
docker run --rm --log-driver nonsense busybox true
docker run --rm --log-driver json-file --log-opt nonsense=1 busybox true
docker run --rm --log-driver json-file --log-opt max-size=nonsense busybox true
docker run --rm --log-driver json-file --log-opt max-file=0 busybox true
docker run --rm --log-driver json-file --log-opt max-file=2 busybox true
docker run --name labelled --label a=b --env C=d --log-opt labels=a --log-opt env=C --log-opt tag='{{.Name}}' busybox echo marked
docker run --name chosen --label app.a=1 --label b=2 --env XA=5 --env Y=6 --log-opt labels-regex=^app --log-opt env-regex=^X busybox echo chosen
docker logs --details chosen
docker run --name tagged --log-opt tag='{{.ImageName}}/{{ .Name }}/{{.Command}}' busybox echo tagged
docker logs --details tagged
docker create --name idle busybox echo never | wc -c
docker logs --follow idle
docker logs --details labelled
cat "$(docker inspect --format '{{.LogPath}}' labelled)"
docker run --name long busybox sh -c 'head -c 40000 /dev/zero | tr "\0" x; echo; echo end'
docker logs long | wc -c
cut -c 1-30 "$(docker inspect --format '{{.LogPath}}' long)"
docker run --name binary busybox printf 'a\001\377\tb"\\<>&\n'
cat "$(docker inspect --format '{{.LogPath}}' binary)"
docker attach talker
docker attach nobody
docker run --detach --name ticking busybox sh -c 'while sleep 0.02; do echo tick; done' | wc -c
docker attach --no-stdin ticking | head -n 1
docker create --interactive --name echo busybox cat | wc -c
echo words | docker start --attach --interactive echo
docker logs echo
docker wait echo
docker run --detach --name paused busybox sleep 1000 | wc -c; docker pause paused
docker attach --no-stdin paused
docker unpause paused
