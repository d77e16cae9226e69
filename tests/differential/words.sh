# What every scenario can say, beside what is installed.

# A request as a client makes it, and the answer: status, headers by name, body. What differs from one second to the
# next, or follows from the body, is left out.
#   api METHOD PATH [BODY] [CURL-OPTION…]
api() {
	method=$1 path=$2 body=${3-}
	shift "$(($# > 3 ? 3 : $#))"
	if [ -n "$body" ]; then set -- --data-binary "$body" --header 'Content-Type: application/json' "$@"; fi
	if [ "$method" = HEAD ]; then set -- --head "$@"; else set -- --include --request "$method" "$@"; fi
	curl --silent --show-error --max-time 60 --unix-socket "$SOCKET" "$@" \
		"http://docker$path" | tr -d '\r' | awk '
			!body && /^$/ { close("sort"); body = 1; print; next }
			body || NR == 1 { print; fflush(); next }
			!/^(Date|Content-Length|Transfer-Encoding):/ { print | "sort" }'
}

# Looks until a command succeeds.
until_() {
	until "$@" >/dev/null 2>&1; do sleep 0.02; done
}

# Looks until a field of a container has a value: until_is CONTAINER FORMAT VALUE
until_is() {
	until [ "$(docker inspect --type container --format "$2" "$1" 2>/dev/null)" = "$3" ]; do sleep 0.02; done
}

# Everything that a scenario made goes. There is one image again, as it came.
clean_up() {
	docker container ls --all --quiet | xargs --no-run-if-empty docker container rm --force --volumes
	docker network prune --force
	docker volume prune --force
	# An image stays as long as others were made from it: those go first.
	until [ -z "$(docker image ls --all --quiet)" ]; do
		docker image ls --all --quiet --no-trunc | sort -u | xargs docker image rm --force
	done
	# dockerd's classic builder has no cache but its images.
	docker builder prune --all --force
	docker load --quiet --input "$IMAGE"
}

# Builds the Dockerfile that it is given on standard input, of the context in ./app, and shows what came of it: how its
# containers run, and its files, with their modes and owners. Where $parts names directories, those in them.
#   built [FLAG…]
built() {
	cat >app/Dockerfile
	DOCKER_BUILDKIT=0 docker build --quiet --tag built "$@" app >/dev/null || return
	docker image inspect built | jq --sort-keys '.[0] | {Author, Architecture, Os, Comment, layers: (.RootFS.Layers | length), Config: (.Config | del(.Image, .Hostname))}'
	history_of built
	docker create --name built built none >/dev/null && files_of built $parts
	docker rm --force built >/dev/null
}

# Builds a directory of the project as it is, and shows the same.
#   project DIRECTORY [FLAG…]
project() {
	directory=$SOURCES/$1
	shift
	rm --recursive --force app
	cp --recursive "$directory" app
	built "$@" <"$directory/Dockerfile"
}

# Has images that Dockerfiles begin with.
#   based_on NAME…
based_on() {
	for base in "$@"; do zstd --decompress --quiet <"$BASES/$base" | docker load --quiet >/dev/null || return; done
}

# How an image came about, the first step first: of each the instruction, and whether it made a layer with something in it. How an instruction is
# written there is each side's own.
#   history_of IMAGE
history_of() {
	docker history --no-trunc --format '{{.CreatedBy}}	{{.Size}}' "$1" | tac |
		sed 's,^/bin/sh -[a-z]*c #(nop) *,,' |
		awk -F '	' '{
			split($1, words, " ")
			name = toupper(words[1])
			# What is executed stands there as it is.
			if (name !~ /^(ADD|ARG|CMD|COPY|ENTRYPOINT|ENV|EXPOSE|HEALTHCHECK|LABEL|MAINTAINER|ONBUILD|RUN|SHELL|STOPSIGNAL|USER|VOLUME|WORKDIR)$/) name = "RUN"
			print "step", name, ($2 == "0B" ? "-" : "layer")
		}'
}

# Has the daemon build what it fetches itself, and shows what it says but for what is each side's own: built_of PARAMETERS
built_of() {
	curl --silent --show-error --unix-socket "$SOCKET" --request POST "http://docker/v1.41/build?t=remote&$1" |
		jq --raw-output '.stream // .error // .message // empty' | tr '\r' '\n' |
		grep -v -e '^ ---> [0-9a-f]' -e '^Successfully built' -e '^$' -e '^ ---> Running in' -e '^Removing intermediate'
}

# The files of a container, but what every container has, or those of some of its directories, and what is in them.
#   files_of CONTAINER [DIRECTORY…]
files_of() {
	container=$1
	shift
	rm --recursive --force exported exported.tar
	mkdir exported
	if [ $# = 0 ]; then
		docker export "$container" >exported.tar
		listed
	else
		for part in "$@"; do docker cp "$container:$part" - >exported.tar && echo "in $part:" && listed; done
	fi
	# Not by sums of a length that ids have: those are taken for the same. What Python compiles has the time of its source in it.
	(cd exported && find . -type f ! -name '*.pyc' -print0 | sort --zero-terminated | xargs --null --no-run-if-empty b2sum --length=160)
	(cd exported && find . -print0 | sort --zero-terminated | xargs --null getfattr --no-dereference --match=- --dump 2>/dev/null)
	rm --recursive --force exported exported.tar
}

# Unpacks exported.tar into exported, and shows what is in it.
listed() {
	tar --list --verbose --numeric-owner --file exported.tar |
		awk '$6 !~ "^(dev|proc|sys|bin|[.]dockerenv|etc/(hosts|hostname|resolv.conf|mtab))" { print $1, $2, $1 ~ /^d/ ? "" : $3, $6, $7, $8 }' |
		sort --key=4
	tar --extract --file exported.tar --directory exported --xattrs --xattrs-include='*' --anchored --exclude=dev --exclude=proc --exclude=sys --exclude=bin \
		--exclude=.dockerenv --exclude=etc/hosts --exclude=etc/hostname --exclude=etc/resolv.conf --exclude=etc/mtab
}
