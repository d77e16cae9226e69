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
# containers run, and its files, with their modes and owners.
#   built [FLAG…]
built() {
	cat >app/Dockerfile
	DOCKER_BUILDKIT=0 docker build --quiet --tag built "$@" app >/dev/null || return
	docker image inspect built | jq --sort-keys '.[0] | {Author, Architecture, Os, Comment, layers: (.RootFS.Layers | length), Config: (.Config | del(.Image, .Hostname))}'
	history_of built
	docker create --name built built none >/dev/null && files_of built
	docker rm --force built >/dev/null
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

# The files of a container, but what every container has, and what is in them.
files_of() {
	docker export "$1" > exported.tar
	tar --list --verbose --numeric-owner --file exported.tar |
		awk '$6 !~ "^(dev|proc|sys|bin|[.]dockerenv|etc/(hosts|hostname|resolv.conf|mtab))" { print $1, $2, $1 ~ /^d/ ? "" : $3, $6, $7, $8 }' |
		sort --key=4
	rm --recursive --force exported
	mkdir exported
	tar --extract --file exported.tar --directory exported --xattrs --xattrs-include='*' --anchored --exclude=dev --exclude=proc --exclude=sys --exclude=bin \
		--exclude=.dockerenv --exclude=etc/hosts --exclude=etc/hostname --exclude=etc/resolv.conf --exclude=etc/mtab
	(cd exported && find . -type f -print0 | sort --zero-terminated | xargs --null --no-run-if-empty sha256sum)
	(cd exported && find . -print0 | sort --zero-terminated | xargs --null getfattr --no-dereference --match=- --dump 2>/dev/null)
	rm --recursive --force exported exported.tar
}
