# Files in and out of containers.

docker create --name box busybox sleep 1000 | wc -c
echo content > file; mkdir -p tree/deep; echo leaf > tree/deep/leaf; ln -s leaf tree/deep/link
docker cp file box:/tmp/file
docker cp file box:/tmp
docker cp file box:/nothing/file
# The client closes its own archive under its feet where it finds out by itself that it can't be.
docker cp file box:/tmp/new/ 2>&1 | grep -v 'closed pipe'
docker cp tree box:/home
docker cp tree/. box:/home/user
docker cp missing box:/tmp
docker cp file nobody:/tmp
docker cp box:/tmp/file out; cat out
docker cp box:/home/tree tree-back; find tree-back | sort; cat tree-back/deep/link
docker cp box:/nothing out
docker cp box:/tmp/file nothing/out
docker cp box:/etc/passwd - | tar -t
docker cp - box:/tmp < /dev/null
docker cp - box:/tmp/file < /dev/null
tar -c file | docker cp - box:/root
docker cp box:/root/file - | tar -xO
docker cp box:/a box:/b
docker cp --archive file box:/root/owned
docker cp --follow-link tree/deep/link box:/root/followed
docker cp box:/home/tree/deep/link link-out; readlink link-out
docker cp --follow-link box:/home/tree/deep/link followed-out; cat followed-out
docker start box
docker exec box sh -c 'cat /tmp/file /home/user/deep/leaf /root/file; readlink /home/tree/deep/link; stat -c "%u %a" /root/owned'
docker exec box sh -c 'ln -s /etc/passwd /root/away; ln -s /nothing /root/dangling; ln -s / /root/top'
docker cp box:/root/away out-away; readlink out-away
docker cp box:/root/dangling out-dangling; readlink out-dangling
docker cp file box:/root/dangling
docker cp file box:/root/top/through
docker exec box cat /through
docker diff box | sort
docker cp file box:/etc
docker cp tree box:/tmp/file 2>&1 | grep -v 'closed pipe'
docker pause box; docker cp file box:/tmp/while-paused; docker unpause box
docker run --detach --name ro --read-only --volume data:/data busybox sleep 1000 | wc -c
docker cp file ro:/tmp
docker cp file ro:/data
docker exec ro cat /data/file
docker run --name stopped --volume other:/srv/data busybox sh -c 'echo kept > /srv/data/kept; ln -s /srv/data /to-data'
docker cp stopped:/srv/data vol-out; ls vol-out
docker cp stopped:/srv/data/. vol-flat; cat vol-flat/kept
docker cp stopped:/srv - | tar -t | sort
docker cp stopped:/to-data/kept - | tar -xO
docker cp file stopped:/srv/data/in
docker cp file stopped:/to-data
docker run --rm --volume other:/d busybox ls /d
docker create --name locked --volume other:/d:ro busybox | wc -c
docker cp file locked:/d
