# Lists of containers: filters, formats, what of an image shows through.

docker ps
docker create --name first --label color=red --label size=big busybox sleep 1000 | wc -c
docker run --detach --name second --label color=red --publish 8085:80 busybox sleep 1000 | wc -c
docker run --name third --label color=blue --expose 90 busybox sh -c 'exit 3'
docker run --detach --name fourth --volume data:/data --network none --health-cmd true --health-interval 1h busybox sleep 1000 | wc -c
docker ps --all
docker ps --no-trunc --all --format 'table {{.Names}}\t{{.Command}}\t{{.Status}}\t{{.Ports}}\t{{.Mounts}}\t{{.Networks}}\t{{.Labels}}'
docker ps --all --format '{{json .}}' | jq -c 'del(.CreatedAt, .RunningFor, .Size, .ID)'
docker ps --all --filter status=exited --format '{{.Names}}'
docker ps --all --filter status=created --filter status=running --format '{{.Names}}'
docker ps --all --filter exited=3 --format '{{.Names}}'
docker ps --all --filter exited=x
docker ps --all --filter label=color --format '{{.Names}}'
docker ps --all --filter label=color=red --filter label=size=big --format '{{.Names}}'
docker ps --all --filter name=ir --format '{{.Names}}'
docker ps --all --filter name='^/first$' --format '{{.Names}}'
docker ps --all --filter name='[' --format '{{.Names}}'
docker network create alpha | wc -c; docker network create alphabet | wc -c
docker network ls --filter name='^bridge$' --format '{{.Name}}'
docker network ls --filter name=a.pha --format '{{.Name}}'
docker network ls --filter name='^alpha$' --format '{{.Name}}'
docker network ls --filter name='(' --format '{{.Name}}'
docker network ls --filter id="$(docker network inspect --format '{{slice .Id 3 30}}' alpha)" --format '{{.Name}}'
docker volume create one; docker volume create once
docker volume ls --quiet --filter name='^one$'
docker volume ls --quiet --filter name='on.'
docker volume ls --quiet --filter name='('
docker volume rm one once
docker ps --all --filter ancestor=busybox --format '{{.Names}}'
docker ps --all --filter ancestor=nothing --format '{{.Names}}'
docker ps --all --filter volume=data --format '{{.Names}}'
docker ps --all --filter volume=/data --format '{{.Names}}'
docker ps --all --filter network=none --format '{{.Names}}'
docker ps --all --filter network=nothing --format '{{.Names}}'
docker ps --all --filter publish=8085 --format '{{.Names}}'
docker ps --all --filter publish=80 --format '{{.Names}}'
docker ps --all --filter expose=90 --format '{{.Names}}'
docker ps --all --filter expose=nonsense
docker ps --all --filter health=none --format '{{.Names}}'
docker ps --all --filter health=nonsense
docker ps --all --filter since=second --format '{{.Names}}'
docker ps --all --filter before=second --format '{{.Names}}'
docker ps --all --filter before=nobody
docker ps --all --filter is-task=true --format '{{.Names}}'
docker ps --all --filter is-task=perhaps
docker ps --all --filter isolation=default --format '{{.Names}}'
docker ps --all --filter status=nonsense
docker ps --all --filter nonsense=1
docker ps --last 2 --format '{{.Names}}'
docker ps --latest --format '{{.Names}}'
docker ps --all --size --format '{{.Names}} {{.Size}}' | sed 's/ [^ ]*B (/ … (/'
docker ps --quiet | wc -l
docker ps --quiet --no-trunc | head -n 1 | wc -c
docker container ls --all --filter id=nothing
docker container prune --force --filter label=color=blue | grep -v '^[0-9a-f]*$'
docker container prune --force --filter label!=color=red | grep -v '^[0-9a-f]*$'
docker container prune --force --filter until=nonsense
docker container prune --force --filter nonsense=1
docker ps --all --format '{{.Names}}'
