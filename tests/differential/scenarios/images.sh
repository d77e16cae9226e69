# Images: names, lists, history, archives, commits, imports, removal.

docker images
docker images --no-trunc --digests
docker images --quiet --no-trunc
docker images --format '{{.Repository}}:{{.Tag}} {{.Size}}'
docker images nothing
docker images --filter dangling=true
docker images --filter reference='busy*'
docker images --filter label=x
docker images --filter nonsense=x
docker images --filter before=nothing
docker images --filter dangling=perhaps
docker history busybox
docker history --no-trunc --human=false busybox
docker history nothing
docker tag busybox copy
docker tag busybox copy:two
docker tag busybox localhost:5000/team/copy:1
docker tag nothing copy
docker tag busybox UPPER
docker tag busybox copy:
docker tag busybox 'copy:bad tag'
docker images --format '{{.Repository}}:{{.Tag}}' | sort
docker image inspect copy:two | jq '.[0].RepoTags'
docker rmi copy:two
docker rmi copy:two
docker rmi localhost:5000/team/copy:1
docker rmi nothing another
docker create --name user busybox | wc -c
docker rmi copy busybox
docker tag busybox last
docker rmi "$(docker image inspect --format '{{.Id}}' busybox)"
docker rm user
docker rmi "$(docker image inspect --format '{{.Id}}' busybox)"
docker tag busybox copy
docker run --name changed busybox sh -c 'echo new > /new; rm /etc/group; mkdir /dir; chmod 700 /tmp'
docker diff changed | sort
docker diff nobody
docker commit --author somebody --message 'a change' --change 'ENV A=1' --change 'CMD ["cat","/new"]' --change 'EXPOSE 80' --change 'LABEL l=v' --change 'USER user' --change 'WORKDIR /dir' --change 'VOLUME /data' --change 'ENTRYPOINT ["/bin/sh","-c"]' --change 'HEALTHCHECK --interval=5s CMD true' --change 'ONBUILD RUN true' changed derived:1 | sed 's/[0-9a-f]\{64\}/…/'
docker image inspect derived:1 | jq --compact-output '.[0].Comment, .[0].Author, .[0].Architecture, .[0].Os, .[0].RootFS.Type'
docker image inspect derived:1
docker history --format '{{.CreatedBy}} {{.Size}} {{.Comment}}' derived:1
docker run --rm derived:1 'cat /new; id -un; pwd; ls -d /etc/group /dir'
docker commit --change 'NONSENSE x' changed wrong
docker commit --change 'ENV' changed wrong
docker commit --change 'FROM x' changed wrong
docker commit --change 'RUN true' changed wrong
docker commit --change 'EXPOSE x' changed wrong
docker commit changed UPPER
docker commit nobody
docker commit changed | sed 's/[0-9a-f]\{64\}/…/'
docker images --filter dangling=true --format '{{.Repository}} {{.Tag}}'
docker image prune --force | sed 's/[0-9a-f]\{64\}/…/; s/reclaimed space: .*/reclaimed space: …/'
docker run --detach --name running busybox sleep 1000 | wc -c
docker commit running live | wc -c
docker commit --pause=false running live | wc -c
docker rmi live
docker rmi derived:1 | sed 's/[0-9a-f]\{64\}/…/'
docker save busybox | tar -t | sed 's/[0-9a-f]\{64\}/…/' | sort
docker save busybox | tar -xO manifest.json
docker save --output saved.tar busybox copy
docker rmi copy
docker load --input saved.tar
docker load --quiet < saved.tar
docker save nothing > nothing.tar
docker save --output nothing.tar busybox nothing
echo 'no archive' | docker load
tar -c --files-from /dev/null | docker load
docker export changed | tar -t | grep -E '^(new|dir/|etc/group|etc/hosts|\.dockerenv)$' | sort
docker export nobody > nobody.tar
docker export changed > exported.tar; docker import exported.tar imported:1 | sed 's/[0-9a-f]\{64\}/…/'
docker import --change 'CMD ["true"]' --change 'ENV B=2' --message 'from outside' - imported:2 < exported.tar | sed 's/[0-9a-f]\{64\}/…/'
docker image inspect imported:2 | jq '.[0].Config, .[0].Comment, .[0].RootFS.Layers|length'
docker history --format '{{.Comment}}' imported:2
docker run --rm imported:1 true
docker run --rm imported:1
docker import nothing.file x
docker import - UPPER < exported.tar
echo 'no archive' | docker import - broken
docker create --name marked --label keep=yes busybox true | wc -c; docker commit --change 'LABEL kind=test' marked labelled | wc -c
docker images --filter label=kind=test --format '{{.Repository}}'
docker images --filter label=kind=other --format '{{.Repository}}'
docker images --filter since=busybox --format '{{.Repository}}' | sort
docker image prune --all --force --filter label=kind=test | sed 's/[0-9a-f]\{64\}/…/; s/reclaimed space: .*/reclaimed space: …/'
docker rm marked
docker image prune --all --force --filter label=kind=test | sed 's/[0-9a-f]\{64\}/…/; s/reclaimed space: .*/reclaimed space: …/'
docker image prune --force --filter nonsense=1
docker image prune --force --filter until=nonsense
