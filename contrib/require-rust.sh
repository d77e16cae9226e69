#!/bin/sh
# Sees to it that there is a Rust toolchain, at least of the version that Cargo.toml asks for: require-rust.sh [COMPONENT…]
# Where the distribution has a package of rustup (Debian 13, Ubuntu 24.04), root gets it; else the one command is told.
set -eu

cd "$(dirname "$0")/.."
wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)

# Whether the compiler there is, if any, is new enough.
enough() {
	version=$(rustc --version 2>/dev/null | cut -d' ' -f2) || return 1
	test -n "$version" && test "$(printf '%s\n%s\n' "$wanted" "$version" | sort -V | head -n1)" = "$wanted"
}

if ! enough; then
	if ! command -v rustup >/dev/null && test "$(id -u)" -eq 0; then
		contrib/require.sh rustup~
	fi
	if command -v rustup >/dev/null; then
		# A distribution's rustup is renewed by its package; Ubuntu 24.04's fails when it tries to do so itself.
		rustup toolchain install --no-self-update --profile minimal stable
		rustup default stable
	fi
fi
if ! enough; then
	echo "Rust $wanted or newer is missing. Install it and try again:" >&2
	echo "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal" >&2
	exit 1
fi
for component; do
	if ! cargo "$component" --version >/dev/null 2>&1; then
		case $component in
		fmt) rustup component add rustfmt ;;
		*) rustup component add "$component" ;;
		esac
	fi
done
