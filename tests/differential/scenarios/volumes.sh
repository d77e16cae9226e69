# Volumes and mounts in all forms, right and wrong.

docker volume create
docker volume create data
docker volume create data
docker volume create --label a=b --label c labelled
docker volume create --driver nonsense other
docker volume create --opt type=tmpfs --opt device=tmpfs --opt o=size=1m,uid=1000 memory
docker volume create --opt nonsense=1 other
docker volume create --opt type=tmpfs other
docker volume create 'bad name'
docker volume create /bad
docker volume create x
docker volume ls --format '{{.Driver}} {{.Name}}' | sed 's/[0-9a-f]\{64\}/…/' | sort
docker volume ls --quiet --filter name=dat
docker volume ls --quiet --filter label=a=b
docker volume ls --quiet --filter driver=local | wc -l
docker volume ls --filter dangling=true --quiet | wc -l
docker volume ls --filter dangling=perhaps
docker volume ls --filter nonsense=1
docker volume inspect data labelled memory
docker volume inspect nothing
docker volume inspect data nothing
docker run --rm --volume data:/data busybox sh -c 'echo kept > /data/file'
docker run --rm --volume data:/data:ro busybox sh -c 'cat /data/file; touch /data/other'
docker run --rm --volume memory:/m busybox sh -c 'grep " /m " /proc/mounts; stat -c %u /m'
docker run --rm --volume fresh:/etc busybox sh -c 'ls /etc/passwd'
docker run --rm --volume plain:/etc:nocopy busybox sh -c 'ls /etc/passwd'
docker run --rm --mount type=volume,source=copied,target=/home,volume-label=x=y busybox ls /home
docker volume inspect --format '{{json .Labels}} {{.Driver}} {{.Scope}} {{json .Options}}' copied
docker run --rm --mount type=volume,target=/anonymous busybox sh -c 'grep -c " /anonymous " /proc/mounts'
mkdir dir; echo content > dir/file
docker run --rm --volume "$PWD/dir:/dir" busybox cat /dir/file
docker run --rm --volume "$PWD/dir:/dir:ro" busybox touch /dir/file
docker run --rm --volume "$PWD/dir/file:/etc/file:ro" busybox cat /etc/file
docker run --rm --volume "$PWD/new:/dir" busybox ls /dir; ls -d new
docker run --rm --mount "type=bind,source=$PWD/dir,target=/dir,readonly" busybox touch /dir/file
docker run --rm --mount "type=bind,source=$PWD/missing,target=/dir" busybox true
docker run --rm --mount "type=bind,source=$PWD/dir,target=/dir,bind-propagation=rslave" busybox true
docker run --rm --mount "type=bind,source=$PWD/dir,target=/dir,bind-propagation=nonsense" busybox true
docker run --rm --mount type=bind,source=relative,target=/dir busybox true
docker run --rm --mount type=bind,target=/dir busybox true
docker run --rm --mount type=bind,source=/etc busybox true
docker run --rm --mount type=nonsense,target=/dir busybox true
docker run --rm --mount type=tmpfs,target=/t,tmpfs-size=1048576,tmpfs-mode=0700 busybox sh -c 'grep " /t " /proc/mounts; stat -c %a /t'
docker run --rm --mount type=tmpfs,source=x,target=/t busybox true
docker run --rm --mount type=volume,source=data,target=/ busybox true
docker run --rm --mount type=volume,source=data,target=relative busybox true
docker run --rm --volume data:/ busybox true
docker run --rm --volume data:relative busybox true
docker run --rm --volume relative/path:/dir busybox true
docker run --rm --volume data:/data:nonsense busybox true
docker run --rm --volume data:/data:ro,rw busybox true
docker run --rm --volume data:/one --volume data:/one busybox true
docker run --rm --volume data:/one --tmpfs /one busybox true
docker run --rm --volume data:/one:z,rprivate busybox true
docker run --rm --volume /data:/data:shared busybox true
docker run --rm --mount type=bind,source=/proc,target=/p,bind-propagation=slave busybox true
docker run --rm --volume /proc:/p:rprivate busybox true
mount -t tmpfs memory dir && mount --make-shared dir && docker run --rm --volume "$PWD/dir:/dir:rslave" --volume "$PWD/dir:/other:rshared" busybox echo mounted; umount dir
docker run --rm --pull never --mount type=volume,source=data,target=/data,volume-driver=nonsense busybox true
docker create --name holder --volume data:/data --volume /own --mount type=bind,source=/etc,target=/host,readonly --tmpfs /t --volume "$PWD/dir:/dir:ro,Z" busybox true | wc -c
docker inspect --format '{{json .Mounts}}' holder | jq 'sort_by(.Destination)'
docker inspect --format '{{json .HostConfig.Binds}}' holder | jq sort
docker inspect --format '{{json .HostConfig.Mounts}}' holder
docker inspect --format '{{json .Config.Volumes}} {{json .HostConfig.Tmpfs}}' holder
docker run --name second --volumes-from holder busybox sh -c 'ls -d /data /own /host'
docker inspect --format '{{json .Mounts}}' second | jq 'sort_by(.Destination)'
docker run --rm --volumes-from holder:ro busybox touch /data/x
docker run --rm --volumes-from nobody busybox true
docker run --rm --volumes-from holder:nonsense busybox true
docker volume rm data
docker rm second
docker volume rm data nothing
docker rm holder
docker volume ls --quiet --filter dangling=true | wc -l
docker volume rm data
docker volume rm --force nothing
docker volume prune --force --filter label=a=b
docker volume rm memory
docker volume prune --force | sed 's/[0-9a-f]\{64\}/…/' | sort
docker volume prune --force --filter nonsense=1
docker run --name throwaway --volume /own busybox true
docker rm --volumes throwaway; docker volume ls --quiet
docker run --name kept --volume /own busybox true
docker rm kept; docker volume ls --quiet | wc -l
