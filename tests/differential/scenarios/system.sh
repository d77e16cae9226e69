# The daemon itself, health, restarts, and what is waited for.

docker version --format '{{json .Server}}' | jq 'del(.Components, .GitCommit, .GoVersion, .BuildTime, .Platform, .Version, .ApiVersion, .MinAPIVersion)'
docker version --format '{{range .Server.Components}}{{.Name}}{{"\n"}}{{end}}'
docker info --format '{{json .}}' | jq 'del(.ID, .SystemTime, .NFd, .NGoroutines, .OperatingSystem, .ServerVersion, .ClientInfo, .DockerRootDir, .Containerd, .ContainerdCommit, .RuncCommit, .InitCommit, .MemoryLimit, .KernelMemory, .KernelMemoryTCP)'
docker info --format '{{.Containers}} {{.ContainersRunning}} {{.Images}} {{.Driver}} {{.CgroupDriver}} {{.OSType}}'
docker system df | sed 's/[0-9.]*[kM]*B//g'
docker run --detach --name one --volume data:/data busybox sleep 1000 | wc -c
docker system df --format '{{.Type}} {{.TotalCount}} {{.Active}}'
docker system df --verbose --format '{{json .Images}}' | jq -r '.[0] | .Repository, .Tag, .Containers'
docker system df --verbose --format '{{json .Volumes}}' | jq -c '.[0] | .Name, .Links, .Driver'
docker system df --verbose --format '{{json .Containers}}' | jq -c '.[0] | .Names, .Image, .LocalVolumes, .State'
docker stats --no-stream --format '{{.Name}} {{.PIDs}}' one
docker stats --no-stream nobody
docker stats --no-stream --format '{{.Name}}'
docker stop --timeout 0 one; docker stats --no-stream --format '{{.Name}} {{.CPUPerc}} {{.MemUsage}} {{.NetIO}} {{.PIDs}}' one
docker run --detach --name well --health-cmd 'test -e /well' --health-interval 50ms --health-retries 1 busybox sleep 1000 | wc -c
until_is well '{{.State.Health.Status}}' unhealthy
docker exec well touch /well
until_is well '{{.State.Health.Status}}' healthy
docker inspect --format '{{json .State.Health}}' well | jq '.Status, .FailingStreak, (.Log[0] | keys)'
docker ps --filter health=healthy --format '{{.Names}} {{.Status}}'
docker inspect --format '{{json .Config.Healthcheck}}' well
docker run --rm --health-interval 1us --health-cmd true busybox true
docker run --rm --health-retries -1 --health-cmd true busybox true
docker run --rm --no-healthcheck --health-cmd true busybox true
docker run --detach --name again --restart on-failure:2 busybox sh -c 'exit 2' | wc -c
docker wait again >/dev/null; until_is again '{{.RestartCount}} {{.State.Status}}' '2 exited'
docker inspect --format '{{json .State}} {{.RestartCount}}' again | sed 's/} [0-9]*$/}/'
docker logs again
docker run --detach --name forever --restart always busybox sleep 1000 | wc -c
docker exec forever sh -c 'kill -9 -1' ; docker kill forever; docker inspect --format '{{.State.Status}}' forever
docker run --detach --name stubborn busybox sh -c 'trap "" TERM; while :; do sleep 0.1; done' | wc -c
docker stop --timeout 1 stubborn; docker inspect --format '{{.State.ExitCode}}' stubborn
docker run --detach --name polite busybox sh -c 'trap "exit 9" TERM; touch /ready; while :; do sleep 0.02; done' | wc -c
until_ docker exec polite ls /ready
docker stop polite; docker inspect --format '{{.State.ExitCode}}' polite
docker run --detach --name signalled --stop-signal USR1 busybox sh -c 'trap "exit 8" USR1; touch /ready; while :; do sleep 0.02; done' | wc -c
until_ docker exec signalled ls /ready
docker stop signalled; docker inspect --format '{{.State.ExitCode}}' signalled
docker run --detach --name waited busybox sh -c 'while ! [ -e /go ]; do sleep 0.02; done; exit 12' | wc -c
docker wait waited > code & docker exec waited touch /go; wait; cat code
docker swarm init
docker swarm leave
docker node ls
docker service ls
docker stack ls
docker secret ls
docker config ls
docker plugin ls
docker system prune --force | sed 's/[0-9a-f]\{64\}/…/; s/reclaimed space: .*/reclaimed space: …/'
