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

if ! command -v dpkg-query >/dev/null; then
	echo "This is no Debian or Ubuntu: see to it yourself that there is: $*" >&2
	exit 0
fi

missing=
for name; do
	package=${name%\~}
	if installed "$package"; then continue; fi
	if [ "$package" != "$name" ] && ! available "$package"; then continue; fi
	missing="$missing $package"
done
if [ -z "$missing" ]; then exit 0; fi

if [ "$(id -u)" -ne 0 ]; then
	echo "Missing packages. Install them and try again:" >&2
	echo "    sudo apt-get install --no-install-recommends$missing" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
echo "Installing:$missing"
# The lists of a fresh machine are empty or old, so a failure is tried once more with new ones.
# shellcheck disable=SC2086 # A list of names, none of which has a space.
install() { apt-get install --quiet --quiet --yes --no-install-recommends $missing; }
install || { apt-get update --quiet --quiet && install; }
