# Networks: made, shown, joined, left, removed; names, addresses, ports.

docker network ls --format '{{.Name}} {{.Driver}} {{.Scope}}' | sort
docker network ls --quiet --filter driver=bridge | wc -l
docker network ls --filter name=hos --format '{{.Name}}'
docker network ls --filter type=custom --format '{{.Name}}'
docker network ls --filter type=nonsense
docker network ls --filter nonsense=1
docker network ls --filter dangling=true --format '{{.Name}}'
docker network inspect bridge
docker network inspect host none
docker network inspect nothing
docker network create one | wc -c
docker network create one
docker network create bridge
docker network create --driver nonsense other
docker network create --driver overlay other
docker network create --driver macvlan --opt parent=lo other
docker network create --driver macvlan --opt macvlan_mode=fast other
docker network create --driver macvlan --opt parent=nosuch other
docker network create --driver macvlan --opt parent=nosuch.3 other
docker network create --driver ipvlan --opt ipvlan_mode=l4 other
docker network create --opt com.docker.network.bridge.name=differential1 --subnet 10.75.0.0/24 wire | wc -c
docker network create --driver macvlan --opt parent=differential1 --subnet 10.76.0.0/24 --gateway 10.76.0.254 lan | wc -c
docker network create --driver macvlan --opt parent=differential1 other
docker network inspect lan
docker run --rm --network lan busybox sh -c 'ip route; cat /etc/resolv.conf | grep nameserver; cat /sys/class/net/eth0/address'
docker run --detach --name there --network lan --ip 10.76.0.7 --publish 8099:80 busybox sleep 1000 | wc -c
docker run --rm --network lan busybox ping -c 1 -W 5 there | grep received
docker port there
docker inspect --format '{{json .NetworkSettings.Networks}}' there
docker network disconnect --force lan there
docker network connect --ip 10.76.0.9 lan there
docker exec there ip -4 addr | grep -o '10.76[0-9./]* '
docker rm --force there
docker network rm lan wire
docker network create --subnet nonsense other
docker network create --subnet 10.77.0.0/16 --gateway 10.78.0.1 other
docker network create --subnet 10.77.0.0/16 --ip-range 10.78.0.0/24 other
docker network create --gateway 10.77.0.1 other
docker network create --subnet 172.31.0.0/16 other
docker network create --subnet 10.77.0.0/24 --gateway 10.77.0.254 --ip-range 10.77.0.128/25 --label a=b --opt com.docker.network.bridge.name=differential0 --aux-address spare=10.77.0.5 two | wc -c
docker network create --subnet 10.77.0.0/25 other
docker network create --subnet 10.79.0.0/24 --gateway 10.79.0.1 --ipam-driver default --ipam-opt kept=yes told | wc -c
docker network inspect --format '{{json .IPAM}}' told
docker network rm told
docker network create --internal inside | wc -c
docker network create --driver host another
docker network create --driver null another
docker network create --opt com.docker.network.bridge.enable_icc=perhaps another
docker network inspect one two inside
docker network inspect --format '{{json .IPAM}}' two
docker network inspect --verbose one | jq length
docker network rm bridge
docker network rm nothing
docker run --detach --name web --network one --network-alias site --publish 8080:80 busybox sh -c 'mkdir /www; echo hello > /www/index.html; httpd -f -h /www' | wc -c
until_ curl --silent --fail http://127.0.0.1:8080/
curl --silent http://127.0.0.1:8080/
docker run --rm --network one busybox wget -q -O - http://web/
docker run --rm --network one busybox wget -q -O - http://site/
docker run --rm --network one busybox nslookup web | grep -A 1 '^Name'
docker run --rm --network one busybox cat /etc/resolv.conf | grep nameserver
docker run --rm --network one --hostname me busybox cat /etc/hosts | tail -n 1
docker run --rm busybox wget -q -T 1 -O - http://web/
docker inspect --format '{{json .NetworkSettings}}' web
docker port web
docker port web 80
docker port web 81
docker port web 80/udp
docker port nobody
docker network inspect one
docker network rm one
docker network disconnect one web
docker network disconnect one web
docker network disconnect one nobody
docker network connect two web
docker network connect two web
docker network connect --ip 10.77.0.200 --alias other two nobody
docker network connect nothing web
docker network connect host web
docker network connect none web
docker network connect --ip 10.1.1.1 one web
docker network connect --ip nonsense one web
docker network connect --alias late one web
docker run --rm --network one busybox nslookup late | grep -A 1 '^Name'
docker inspect --format '{{json .NetworkSettings.Networks}}' web
docker run --rm --network two --ip 10.77.0.150 busybox ip -4 -o addr show dev eth0 | sed 's/^[0-9]*: //; s/  */ /g'
docker run --rm --network two busybox ip route
docker run --rm --network two --ip 10.99.0.1 busybox true
docker run --rm --network one --ip 172.31.1.9 busybox true
docker run --rm --ip 172.31.0.9 busybox true
docker run --rm --network-alias x busybox true
docker run --rm --network nothing busybox true
docker run --rm --network inside busybox ip route
docker run --rm --network host busybox ip -o link show lo | cut -d: -f 2
docker run --rm --network none busybox ip -o link | cut -d: -f 2
docker run --rm --network none --publish 80:80 busybox true
docker run --rm --network container:web busybox hostname
docker run --rm --network container:nobody --pull never busybox true
docker run --rm --network container:web --publish 81:81 busybox true
docker run --rm --network container:web --hostname x busybox true
docker run --rm --network one --link web:alias busybox nslookup alias | grep -A 1 '^Name'
docker run --detach --name plain busybox sleep 1000 | wc -c
docker run --detach --name joined --link plain:alias --link plain busybox sleep 1000 | wc -c
docker inspect --format '{{json .HostConfig.Links}}' joined | jq -c sort
docker rm --force joined
docker run --rm --name linked --link plain:alias busybox sh -c 'tail -n 2 /etc/hosts | cut -f 2; env | grep ALIAS | sort'
docker run --detach --name db --expose 53/udp --expose 80-82 --expose 443-444 --env USER=me --env EMPTY= --env HOME=/db busybox sleep 1000 | wc -c
docker run --rm --name linked --link db --link db:my-db --env MY_DB_NAME=own busybox sh -c 'env | grep DB | sort'
docker run --rm --interactive --tty --name linked --link plain:alias busybox env | sed 's/^HOSTNAME=.*/HOSTNAME/'
docker run --detach --name linked --link plain:alias busybox sleep 1000 | wc -c
docker exec linked sh -c 'env | grep ALIAS'
docker rm --force linked db
docker run --rm --network one --link web:alias busybox sh -c 'env | grep ALIAS'
docker run --rm --link nobody:alias busybox true
docker run --rm --link web:alias busybox true
docker run --detach --publish 8080:80 --name thief busybox sleep 1
docker run --detach --publish 127.0.0.1:8081-8083:81-83 --publish 53/udp --expose 99 --name many busybox sleep 1000 | wc -c
docker port many | sed 's/:[3-6][0-9]\{4\}/:…/'
docker ps --filter name=many --format '{{.Ports}}' | sed 's/:[3-6][0-9]\{4\}/:…/g'
docker run --rm --publish 99999:80 busybox true
docker run --rm --publish 80:nonsense busybox true
docker run --rm --name elsewhere --publish 1.2.3.4:8090:80 busybox true
docker run --rm --publish 8091-8093:80-81 busybox true
docker run --rm --detach --publish-all --expose 70 --name all busybox sleep 1000 | wc -c; docker port all | sed 's/:[3-6][0-9]\{4\}/:…/'
docker run --rm --dns 10.9.9.9 --dns-search example.org --dns-option ndots:3 busybox cat /etc/resolv.conf | grep -v -e '^#' -e '^$' | sort
docker run --rm --dns nonsense busybox true
docker run --rm --add-host there:10.9.9.9 --add-host me:host-gateway busybox sh -c 'grep -E "there|me$" /etc/hosts'
docker run --rm --add-host nonsense busybox true
docker run --rm busybox sh -c 'sed "s/[0-9a-f]\{12\}/…/" /etc/hosts'
docker run --rm busybox ip route
docker run --rm --sysctl net.ipv6.conf.all.disable_ipv6=1 busybox cat /proc/sys/net/ipv6/conf/all/disable_ipv6
docker network prune --force --filter label=x
docker rm --force web many plain all thief
docker network prune --force | sort
docker network ls --format '{{.Name}}' | sort
