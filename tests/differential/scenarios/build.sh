# Builds with the classic builder: what comes of Dockerfiles, file by file, and what is said meanwhile.

mkdir -p app/dir/sub app/src; echo a > app/a.txt; echo b > app/b.txt; echo in > app/dir/sub/in; echo log > app/dir/x.log; echo one > app/src/main; ln -s ../a.txt app/dir/link; printf 'hidden\n**/*.tmp\n!keep.tmp\n' > app/.dockerignore; echo h > app/hidden; echo t > app/x.tmp; echo k > app/keep.tmp; chmod 750 app/src; tar -C app/dir --sort=name --mtime=@0 --owner=7 --group=8 -czf app/files.tar.gz .
export DOCKER_BUILDKIT=0
printf 'FROM busybox\nRUN echo hello > /hello\nCMD ["cat", "/hello"]\n' | built; docker run --rm built
printf 'FROM busybox\nCOPY a.txt /one\nCOPY a.txt b.txt /two/\nCOPY dir /three\nCOPY dir/ /four/five/\nCOPY src .\n' | built
printf 'FROM busybox\nCOPY . /all\n' | built
mkdir app/names; echo n > app/names/a; ln app/names/a app/names/b; ln app/names/a app/names/z; printf 'FROM busybox\nCOPY names /names\nCOPY names/a names/b /some/\nADD names/z /z\n' | built; rm -r app/names
printf 'FROM busybox\nCOPY *.txt /some/\nCOPY d?r /q/\nCOPY [ab].txt /class/\n' | built
printf 'FROM busybox\nWORKDIR /work\nCOPY a.txt .\nWORKDIR deep/er\nCOPY a.txt ./\nRUN pwd > where\n' | built
printf 'FROM busybox\nCOPY --chown=1000:1001 dir /owned\nCOPY --chown=root a.txt /home/new/a.txt\nCOPY --chown=root:staff b.txt /b\n' | built
printf 'FROM busybox\nADD files.tar.gz /unpacked/\nADD a.txt /added\n' | built
mkdir -p app/tree/lib app/tree/deep/er app/tree/kept/under; echo lib > app/tree/lib/foo; ln app/tree/lib/foo app/tree/lib/hard; echo new > app/tree/lib/new; echo deep > app/tree/deep/er/file; echo kept > app/tree/kept/under/file; tar -C app/tree --mtime=@0 --owner=0 --group=0 -cf app/through.tar lib/foo lib/hard deep/er/file kept/under/file; tar -C app/tree --mtime=@0 --owner=0 --group=0 -cf app/over.tar lib; tar -C app/tree --mtime=@0 --owner=0 --group=0 -cf app/sub.tar lib/new; rm -r app/tree
printf 'FROM busybox\nRUN mkdir -p /usr/lib /opt/kept && chmod 750 /usr/lib && chown 7:8 /usr/lib && ln -s usr/lib /lib && ln -s /opt/kept /kept && mkdir -m 700 /opt/kept/under\nADD through.tar /\n' | built
printf 'FROM busybox\nRUN mkdir -p /usr/lib && ln -s usr/lib /lib\nADD over.tar /\n' | built
printf 'FROM busybox\nRUN mkdir -p /usr/lib && ln -s ../usr/lib /lib\nADD through.tar sub.tar /\n' | built
mkdir -p app/t1 app/t2/kept app/t3/lib; echo x > app/t1/kept; echo n > app/t2/kept/new; echo f > app/t3/lib/first; chmod 640 app/t3/lib/first; ln app/t3/lib/first app/t3/lib/second; tar -C app/t1 --mtime=@0 --owner=0 --group=0 -cf app/again.tar kept; tar -C app/t2 --mtime=@0 --owner=0 --group=0 -rf app/again.tar kept; tar -C app/t3 --mtime=@7 --owner=5 --group=6 -cf app/name.tar lib/first lib/second; tar --delete -f app/name.tar lib/first; rm -r app/t1 app/t2 app/t3
printf 'FROM busybox\nRUN mkdir -p /opt/kept/old && touch /opt/kept/file\nADD again.tar /opt/\nRUN ls -R /opt > /seen\n' | built
printf 'FROM busybox\nRUN mkdir -p /usr/lib && ln -s usr/lib /lib && echo own > /usr/lib/first && chmod 755 /usr/lib/first\nADD name.tar /\nRUN stat -c "%%h %%a %%u:%%g %%s" /lib/first /lib/second > /seen; cat /lib/second >> /seen\n' | built
printf 'FROM busybox AS first\nRUN mkdir /out && echo made > /out/made\nFROM busybox\nCOPY --from=first /out/made /got\nCOPY --from=0 /out /dir\n' | built
printf 'FROM busybox AS a\nRUN echo a > /a\nFROM busybox AS b\nRUN echo b > /b\nFROM a\nRUN echo c > /c\n' | built --target a
printf 'FROM scratch\nCOPY a.txt /\nENTRYPOINT ["/a.txt"]\n' | built
printf 'FROM busybox\nRUN ln -s /opt/real /link && mkdir -p /opt/real\nCOPY a.txt /link/\nCOPY b.txt /link/new/b\n' | built
printf 'FROM busybox\nRUN rm /etc/group && mkdir -m 700 /private && touch /private/x && rm /private/x && chmod 777 /tmp\n' | built
printf 'ARG TAG=latest\nFROM busybox:$TAG\nARG A=1 B\nARG TAG\nENV C=$A D="$B e" E=${F:-g} TAG=$TAG\nRUN echo $A $B $C $D $E > /values\n' | built --build-arg B=2
printf 'FROM busybox\nENV A=1 B="two words" C=three\\ words\nENV D four words here\nLABEL one=1 "two"="2 2" three=3\nLABEL four 4\n' | built --label five=5
printf 'FROM busybox\nEXPOSE 80 53/udp 1000-1002\nVOLUME /data /more\nVOLUME ["/json"]\nUSER nobody\nSTOPSIGNAL SIGINT\nMAINTAINER somebody\nHEALTHCHECK --interval=5s --timeout=3s --retries=2 CMD true\n' | built
printf 'FROM busybox\nENTRYPOINT ["a", "b"]\nCMD c d\nSHELL ["/bin/sh", "-ec"]\nCMD e f\n' | built
printf 'FROM busybox\nCMD ["x"]\nENTRYPOINT ["y"]\nFROM busybox\nCMD ["x"]\n' | built
printf 'FROM busybox\nCMD ["first"]\n' | docker build -q -t base - > /dev/null; printf 'FROM base\nENTRYPOINT ["y"]\n' | built; printf 'FROM base\nHEALTHCHECK NONE\nCMD []\n' | built
docker create --name said busybox > /dev/null; docker export said | docker import -m 'what was done' - said > /dev/null; docker rm said > /dev/null; printf 'FROM said\nRUN echo more > /more\n' | built; docker rmi -f built said >/dev/null
printf 'FROM busybox\nONBUILD COPY a.txt /triggered\nONBUILD RUN echo t > /ran\n' | docker build -q -t base - > /dev/null; printf 'FROM base\nRUN ls / | grep -e triggered -e ran > /seen\n' | built
printf '# escape=`\nFROM busybox\nRUN echo a `\n  b > /file\n# a comment\nRUN echo c \\ d > /other\n' | built
printf 'FROM busybox\nRUN echo one && \\\n# in between\n\\\n   echo two > /file\n' | built
printf 'FROM busybox\nRUN ["/bin/sh", "-c", "echo exec form > /file"]\nRUN ["touch", "/a b"]\n' | built
printf 'from busybox\nrun echo lower > /file\ncmd ["x"]\n' | built
printf 'FROM busybox\nVOLUME /vol\nRUN mkdir -p /vol && id -u > /who\nUSER 1000:1001\nRUN id -u > /tmp/who; id -g >> /tmp/who\n' | built
printf 'FROM busybox\nRUN echo hello\n' | docker build - 2>&1 | sed 's/[0-9a-f]\{12\}/…/g'
printf 'ARG TAG=latest\nARG A B=2\nFROM busybox:$TAG\nRUN echo hello\n' | docker build - 2>&1 | sed 's/[0-9a-f]\{12\}/…/g'
printf 'ARG TAG=latest\nFROM busybox:$TAG AS one\nFROM one\n' | docker build --target one - 2>&1 | sed 's/[0-9a-f]\{12\}/…/g'
printf 'FROM busybox\nRUN exit 3\n' | docker build - 2>&1 | sed 's/[0-9a-f]\{12\}/…/g'
printf 'FROM busybox\nCOPY nothing /\n' > app/Dockerfile; docker build -q app
printf 'FROM nothing-of-the-kind\n' | docker build -q -
printf 'FORM busybox\n' | docker build -q -
printf 'FROM busybox\nCOPY a\n' | docker build -q -
printf 'RUN true\n' | docker build -q -
printf '' | docker build -q -
printf 'FROM busybox\nRUN --nothing true\n' | docker build -q -
printf 'FROM busybox\nENV A\n' | docker build -q -
docker build -q -f nothing app
docker build -q -t UPPER app
printf 'FROM busybox\n' > app/Dockerfile; docker build -q --target nothing app
docker build -q --network nothing app
printf 'FROM busybox\nRUN cat /etc/hosts > /hosts; ulimit -n > /limit; df -k /dev/shm | tail -1 | cut -c 24-33 > /shm\n' > app/Dockerfile; docker build -q -t built --add-host there:10.1.2.3 --ulimit nofile=100:200 --shm-size 1m app > /dev/null; docker run --rm built cat /hosts /limit /shm | grep -v -e '^[^ ]*:' -e build -e '[0-9a-f]\{12\}'
docker build -q -t one -t two:2 app > /dev/null; docker images --format '{{.Repository}}:{{.Tag}}' | sort
printf 'FROM busybox\nRUN ln -s /nowhere /lib\nADD sub.tar /\n' | built
printf 'FROM busybox\nRUN ln -s lib /lib\nADD sub.tar /\n' | built
api POST '/v1.41/build?buildargs=nonsense' x | head -1
printf 'FROM busybox\nRUN echo kept > /kept\nRUN cat /kept; exit 4\n' > app/Dockerfile; for flags in '' --force-rm --rm=false '--rm=false --force-rm'; do docker build --no-cache $flags app >/dev/null 2>&1; echo "with $flags:"; docker ps -aq | xargs -r docker inspect -f '{{.State.Status}} {{.State.ExitCode}} {{json .Config.Cmd}} {{len .Mounts}}'; docker container prune -f >/dev/null; done
printf 'FROM busybox\nRUN echo kept > /kept && rm /bin/true && mkdir /d && echo x > /d/x\nRUN echo more >> /kept; rm /d/x\n' > app/Dockerfile; docker build --no-cache --rm=false app >/dev/null 2>&1; docker ps -aq | xargs -r -n 1 docker diff | sort; docker container prune -f >/dev/null
