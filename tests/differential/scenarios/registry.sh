# To a registry and back.

docker tag busybox "$REGISTRY/app:1"
docker push --quiet "$REGISTRY/app:1"
docker push "$REGISTRY/app:1" | sed 's/sha256:[0-9a-f]* size: [0-9]*/sha256:… size: …/; s/^[0-9a-f]*: /…: /'
docker push "$REGISTRY/app:2"
docker push "$REGISTRY/nothing"
docker image inspect --format '{{len .RepoDigests}} {{.RepoTags}}' busybox
docker tag busybox "$REGISTRY/app:2"
docker push --all-tags --quiet "$REGISTRY/app"
docker rmi "$REGISTRY/app:1" "$REGISTRY/app:2" | sed 's/sha256:[0-9a-f]*/sha256:…/'
docker pull "$REGISTRY/app:1" | sed 's/sha256:[0-9a-f]*/sha256:…/'
docker pull "$REGISTRY/app:1" | sed 's/sha256:[0-9a-f]*/sha256:…/'
docker pull --quiet "$REGISTRY/app:2"
docker pull --all-tags "$REGISTRY/app" | sed 's/sha256:[0-9a-f]*/sha256:…/'
docker pull "$REGISTRY/app:none"
docker pull "$REGISTRY/nothing"
docker pull "$REGISTRY/UPPER"
docker pull "$REGISTRY/app@sha256:0000000000000000000000000000000000000000000000000000000000000000"
docker pull "$REGISTRY/app@sha256:xyz"
docker image inspect --format '{{json .RepoTags}}' busybox
docker images --digests --format '{{.Repository}}:{{.Tag}}' | sort
docker pull "$(docker image inspect --format '{{index .RepoDigests 0}}' busybox)" | sed 's/sha256:[0-9a-f]*/sha256:…/'
docker run --rm --pull always "$REGISTRY/app:1" echo pulled | tail -n 1
docker run --rm "$REGISTRY/app:none" true
docker create --pull missing "$REGISTRY/app:2" | wc -c
docker pull --platform linux/s390x "$REGISTRY/app:1" | sed 's/sha256:[0-9a-f]*/sha256:…/'
docker pull 127.0.0.1:1/app
docker push 127.0.0.1:1/app
docker tag busybox 127.0.0.1:1/app; docker push --quiet 127.0.0.1:1/app
docker login --username u --password p 127.0.0.1:1
docker logout 127.0.0.1:1
docker login --username u --password p "$REGISTRY"
docker logout "$REGISTRY"
docker search "$REGISTRY/app"
docker manifest inspect --insecure "$REGISTRY/nothing:1"
api GET "/v1.41/distribution/$REGISTRY/app:1/json" | tail -n 1
api GET "/v1.41/distribution/$REGISTRY/nothing/json" | tail -n 1
