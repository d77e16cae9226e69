from gcc:14 as build
arg CFLAGS="-O2 -Wall"
env CFLAGS=$CFLAGS
copy ["a file.c", "Makefile", "/src/"]
workdir /src
run make -j"$(nproc)" \

    && make test
run ["strip", "/src/prog"]

from scratch
copy --from=0 /src/prog /prog
user 1000:1000
entrypoint ["/prog"]
healthcheck none
