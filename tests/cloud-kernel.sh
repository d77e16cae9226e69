#!/bin/sh
# Fetches the distribution's kernel for clouds, for tests with machines: cloud-kernel.sh DIRECTORY
# vmlinuz; the modules that a KVM host and its guests need; `list`, those of the guests in the order in which they are loaded.
# What was fetched before is kept until other modules are wanted.
set -eu
directory=$1
host="irqbypass kvm kvm-amd tun"
guest="virtio_ring virtio virtio_mmio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk failover net_failover virtio_net
	virtio_console virtio-rng vsock vmw_vsock_virtio_transport_common vmw_vsock_virtio_transport libcrc32c erofs overlay fuse virtiofs
	virtio_balloon virtio_mem"

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
for module in $host $guest; do
	# Some are built in, and those of newer kernels are packed.
	found=$(find lib/modules -name "$module.ko*")
	case $found in
	'') continue ;;
	*.ko) cp "$found" "../$module.ko" ;;
	*.ko.xz) xz --decompress --stdout "$found" > "../$module.ko" ;;
	*.ko.zst) zstd --quiet --decompress --force "$found" -o "../$module.ko" ;;
	*) echo "$package has $found, which is packed in a way that this does not know" >&2; exit 1 ;;
	esac
	case " $host " in *" $module "*) ;; *) echo "$module.ko" >> list ;; esac
done
mv list boot/vmlinuz-* ..
mv ../vmlinuz-* ../vmlinuz
# Last: whoever finds it finds the rest.
echo "$wanted" > ../made-of
