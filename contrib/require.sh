#!/bin/sh
# Sees to it that Debian packages are installed: require.sh PACKAGE…
# As root it installs what is missing; anybody else is told the one command. A name with `~` at its end is wanted only
# where the distribution has it.
set -eu

installed() {
	dpkg-query --show --showformat='${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed
}

# Whether apt could install it.
available() {
	LC_ALL=C apt-cache policy "$1" 2>/dev/null | grep -q '^  Candidate: [^(]'
}

update() {
	apt-get update --quiet --quiet
}

if ! command -v dpkg-query >/dev/null; then
	echo "This is no Debian or Ubuntu: see to it yourself that there is: $*" >&2
	exit 0
fi

absent=
for name; do
	if ! installed "${name%\~}"; then absent="$absent $name"; fi
done
if [ -z "$absent" ]; then exit 0; fi

# On a fresh machine apt knows no archive yet, and so of no package whether the distribution has it.
if [ "$(id -u)" -eq 0 ] && [ -z "$(apt-cache madison apt 2>/dev/null)" ]; then update; fi

missing=
for name in $absent; do
	package=${name%\~}
	if [ "$package" = "$name" ] || available "$package"; then missing="$missing $package"; fi
done
if [ -z "$missing" ]; then exit 0; fi

if [ "$(id -u)" -ne 0 ]; then
	echo "Missing packages. Install them and try again:" >&2
	echo "    sudo apt-get install --no-install-recommends$missing" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
echo "Installing:$missing"
# Old lists name packages that the archive has no more, so a failure is tried once more with new ones.
# shellcheck disable=SC2086 # A list of names, none of which has a space.
install() { apt-get install --quiet --quiet --yes --no-install-recommends $missing; }
install || { update && install; }
