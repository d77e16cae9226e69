# The stream of events, and lists of containers with filters and formats.

date +%s.%N > began
docker network create net | wc -c
docker volume create data
docker create --name one --network net --label kind=test --volume data:/data busybox sleep 1000 | wc -c
docker start one
docker pause one; docker unpause one
docker exec one true
docker kill --signal CONT one
docker rename one uno; docker update --cpu-shares 100 uno
docker network disconnect net uno; docker network connect bridge uno
docker restart --timeout 0 uno
docker export uno | tail -c 1 | wc -c
docker commit --pause=false uno committed | wc -c
docker stop --timeout 0 uno
docker tag committed again; docker rmi again; docker rmi committed | wc -l
docker rm uno
docker run --rm --name two busybox sh -c 'exit 3'
docker run --name three busybox no-such-program
docker rm three
docker volume rm data; docker network rm net
date +%s.%N > ended
docker events --since "$(cat began)" --until "$(cat ended)" --format '{{json .}}'
docker events --since "$(cat began)" --until "$(cat ended)" --filter type=container --filter container=uno --format '{{.Type}} {{.Action}} {{.Actor.Attributes.name}}'
docker events --since "$(cat began)" --until "$(cat ended)" --filter event=die
docker events --since "$(cat began)" --until "$(cat ended)" --filter label=kind=test --format '{{.Action}}'
docker events --since "$(cat began)" --until "$(cat ended)" --filter image=busybox --filter event=create --format '{{.From}} {{.Status}} {{.Scope}}'
docker events --since "$(cat began)" --until "$(cat ended)" --filter type=nonsense
docker events --since "$(cat began)" --until "$(cat ended)" --filter nonsense=1
docker events --since "$(cat began)" --until "$(cat ended)" --filter type=volume --format '{{.Action}} {{.Actor.ID}} {{json .Actor.Attributes}}' | sed 's/[0-9a-f]\{64\}/…/g'
docker events --since nonsense --until 1
docker events --since 2 --until 1
