# Builds whose context, or what they add, lies at an address.

mkdir -p www/sub app ctx/dir; echo a > ctx/a.txt; echo in > ctx/dir/in; ln -s ../a.txt ctx/dir/link; printf 'FROM busybox\nCOPY . /ctx\nCMD ["cat", "/ctx/a.txt"]\n' > ctx/Dockerfile; printf 'FROM busybox\nCOPY dir /other\n' > ctx/Other; tar -C ctx --sort=name --mtime=@1500000000 --owner=0 --group=0 -cf www/context.tar .; gzip -nk www/context.tar; xz -k www/context.tar; printf 'FROM busybox\nRUN echo alone > /alone\n' > www/sub/Recipe; printf 'a library\n' > www/lib.txt; head -c 300000 /dev/zero | tr '\0' x > www/large; printf 'nothing of the kind\n' > www/words; : > www/empty
git init -q repo && cp -r ctx/. repo && git -C repo add . && git -C repo -c user.name=a -c user.email=a@example.invalid commit -qm first && git clone -q --bare repo www/repo.git && git -C www/repo.git update-server-info
busybox httpd -p 127.0.0.1:8099 -h www; until_ curl -sf http://127.0.0.1:8099/lib.txt
export DOCKER_BUILDKIT=0
for end in tar tar.gz tar.xz; do built_of "remote=http://127.0.0.1:8099/context.$end"; docker run --rm remote; done; docker create --name remote remote >/dev/null; files_of remote; docker rm remote
built_of 'dockerfile=Other&remote=http://127.0.0.1:8099/context.tar.gz'; docker create --name remote remote >/dev/null; files_of remote; docker rm remote
built_of 'remote=http://127.0.0.1:8099/sub/Recipe'; docker run --rm remote cat /alone
built_of 'remote=http://127.0.0.1:8099/repo.git'; docker run --rm remote
built_of 'remote=http://127.0.0.1:8099/repo.git%23:dir'
built_of 'remote=http://127.0.0.1:8099/repo.git%23nothing'
built_of 'remote=http://127.0.0.1:8099/nothing'
built_of 'remote=http://127.0.0.1:8099/words'
built_of 'remote=http://127.0.0.1:8099/empty'
built_of 'remote=http://127.0.0.1:1/context.tar'
built_of 'remote=nothing-of-the-kind'
built_of 'dockerfile=nothing&remote=http://127.0.0.1:8099/context.tar'
printf 'FROM busybox\nADD http://127.0.0.1:8099/lib.txt /\nADD http://127.0.0.1:8099/lib.txt /named\nADD http://127.0.0.1:8099/lib.txt http://127.0.0.1:8099/large /dir/\nADD --chown=7:8 http://127.0.0.1:8099/context.tar.gz /packed/\n' | built
printf 'FROM busybox\nADD http://127.0.0.1:8099/nothing /\n' | built 2>&1 | grep -m 1 -e failed -e answered
printf 'FROM busybox\nADD http://127.0.0.1:8099/ /dir/\n' | built 2>&1 | grep -m 1 -e failed -e answered
printf 'FROM busybox\nADD http://127.0.0.1:8099/large /\n' > app/Dockerfile; docker build --no-cache app 2>&1 | tr '\r' '\n' | sed 's/^.*\(Downloading\).*/\1/' | sort -u | grep -e Downloading -e Step
