#!/bin/sh
# Fetches the distribution's kernel for clouds, with the modules that a microVM needs: kernel.sh DIRECTORY
# vmlinuz, the modules, and their list in the order in which they are loaded. What was fetched before is kept.
set -eu
directory=$1
[ ! -e "$directory/vmlinuz" ] || exit 0
mkdir -p "$directory"
exec 9> "$directory/lock"
flock 9
[ ! -e "$directory/vmlinuz" ] || exit 0

new=$(mktemp -d "$directory/new.XXXXXX")
trap 'rm -rf "$new"' EXIT
cd "$new"
# The package of the name that stays depends on the one with the version in its name.
package=$(apt-cache depends --important linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
[ -n "$package" ] || { echo "apt knows no linux-image-cloud-amd64: add Debian's main to its sources, and apt-get update" >&2; exit 1; }
apt-get download --quiet --quiet -o APT::Sandbox::User=root "$package"
dpkg-deb --extract ./*.deb .
for module in virtio_ring virtio virtio_mmio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk failover net_failover \
	virtio_net virtio_console libcrc32c erofs overlay fuse virtiofs; do
	# Some are built in, with some kernels.
	file=$(find lib/modules -name "$module.ko")
	[ -n "$file" ] || continue
	cp "$file" "../$module.ko"
	echo "$module.ko" >> list
done
mv list ..
# Last: whoever finds it finds the rest.
mv boot/vmlinuz-* ../vmlinuz
