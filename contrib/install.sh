#!/bin/sh
# Puts stratus onto this machine, or a newer one over an older: install.sh PROGRAM
# PREFIX says where to (/usr/local), DESTDIR below which root, for those who make packages. What runs is left alone.
set -eu

program=${1:?which program? target/release/stratus, after cargo build --release}
prefix=${PREFIX:-/usr/local}
to=${DESTDIR:-}$prefix
here=$(dirname "$0")

# Under another name first: a program that runs is replaced, never written to, and there is one at any instant.
mkdir -p "$to/bin"
install -m 755 "$program" "$to/bin/stratus.new"
mv -f "$to/bin/stratus.new" "$to/bin/stratus"

for unit in stratus.service stratus.socket; do
	mkdir -p "$to/lib/systemd/system"
	sed "s|/usr/bin/stratus|$prefix/bin/stratus|" "$here/$unit" > "$to/lib/systemd/system/$unit"
done
install -D -m 644 "$here/stratus.sysusers" "$to/lib/sysusers.d/stratus.conf"

# What the daemon may be told, for who wants to copy it to /etc/stratus/daemon.toml.
install -D -m 644 "$here/daemon.toml.example" "$to/share/doc/stratus/daemon.toml.example"

# The page of each command, and completions for the shells.
mkdir -p "$to/share/man/man1" "$to/share/bash-completion/completions" "$to/share/zsh/site-functions" \
	"$to/share/fish/vendor_completions.d"
"$program" man "$to/share/man/man1"
"$program" completions bash > "$to/share/bash-completion/completions/stratus"
"$program" completions zsh > "$to/share/zsh/site-functions/_stratus"
"$program" completions fish > "$to/share/fish/vendor_completions.d/stratus.fish"

# A package's own scripts do the rest.
if [ -n "${DESTDIR:-}" ]; then exit 0; fi

# The group whose members may use the socket.
if ! getent group docker > /dev/null; then groupadd --system docker; fi

echo "Installed: $to/bin/stratus, its units, manual pages and completions."
echo "What the daemon may be told in /etc/stratus/daemon.toml: $to/share/doc/stratus/daemon.toml.example"
if [ ! -d /run/systemd/system ]; then
	echo "There is no systemd here. Start the daemon: $prefix/bin/stratus daemon"
else
	systemctl daemon-reload
	if systemctl --quiet is-active stratus.service; then
		echo "The daemon that runs is the one before. Replace it, with all that runs left alone: systemctl restart stratus"
	else
		echo "Start it now and at each boot: systemctl enable --now stratus"
	fi
fi
# A base image of this machine's own distribution needs neither other keys nor another mirror.
# shellcheck disable=SC1091 # It is the machine's.
base=$(. /etc/os-release && echo "$ID:${VERSION_CODENAME:-}") 2>/dev/null || base=
case $base in
debian:?* | ubuntu:?*) ;;
*) base=debian:bookworm ;;
esac
# Where the shell does not look for it, it has to be called by its path.
case :$PATH: in
*:"$prefix/bin":*) command=stratus ;;
*) command=$prefix/bin/stratus ;;
esac
echo "Then: export DOCKER_HOST=unix:///run/stratus/docker.sock, and $command image bootstrap $base"
