#!/bin/sh
# Fetches the distribution's kernel for clouds, and has its parts in a directory: kernel.sh DIRECTORY
# vmlinuz, and the modules that a KVM host and its guests need. What was fetched before is kept until other modules are wanted.
set -eu
directory=$1
wanted=$(sha256sum < "$0")
is_there() { [ "$(cat "$directory/made-of" 2>/dev/null)" = "$wanted" ]; }
! is_there || exit 0
mkdir -p "$directory"
exec 9> "$directory/lock"
flock 9
! is_there || exit 0

new=$(mktemp -d "$directory/new.XXXXXX")
trap 'rm -rf "$new"' EXIT
cd "$new"
# The package of the name that stays depends on the one with the version in its name.
package=$(apt-cache depends --important linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
[ -n "$package" ] || { echo "apt knows no linux-image-cloud-amd64: add Debian's main to its sources, and apt-get update" >&2; exit 1; }
apt-get download --quiet --quiet -o APT::Sandbox::User=root "$package"
dpkg-deb --extract ./*.deb .
for module in irqbypass kvm kvm-amd virtio virtio_ring virtio_mmio virtio_blk virtio-rng \
	vsock vmw_vsock_virtio_transport_common vmw_vsock_virtio_transport; do
	# A newer kernel's modules may be packed.
	found=$(find lib/modules -name "$module.ko*")
	case $found in
	*.ko) cp "$found" "../$module.ko" ;;
	*.ko.xz) xz --decompress --stdout "$found" > "../$module.ko" ;;
	*.ko.zst) zstd --quiet --decompress --force "$found" -o "../$module.ko" ;;
	*) echo "$package has no module $module" >&2; exit 1 ;;
	esac
done
mv boot/vmlinuz-* ../vmlinuz
# Last: whoever finds it finds the rest.
echo "$wanted" > ../made-of
