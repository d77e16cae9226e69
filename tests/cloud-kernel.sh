#!/bin/sh
# Fetches a distribution's kernel for clouds, for tests with machines: cloud-kernel.sh DIRECTORY [SUITE]
# vmlinuz; the modules that a KVM host and its guests need; `list`, those of the guests in the order in which they are loaded; and, as
# the package has them, `boot` and `modules`. It is the newest that this machine's apt knows, or that of a suite of Debian's.
# What was fetched before is kept until other modules are wanted.
set -eu
directory=$1
suite=${2:-}
host="irqbypass kvm kvm-amd tun"
guest="virtio_ring virtio virtio_mmio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk failover net_failover virtio_net
	virtio_console rng-core virtio-rng vsock vmw_vsock_virtio_transport_common vmw_vsock_virtio_transport libcrc32c erofs overlay fuse virtiofs
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
if [ -n "$suite" ]; then
	# Another release than this machine's: by lists of its own, from where this machine has Debian's packages, else from Debian itself.
	uri=$(apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' | sed -n 's/^Debian main //p' | grep -v -- -security | head -n 1)
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${uri:-http://deb.debian.org/debian} $suite main" > sources
	mkdir -p lists/partial archives/partial
	cat > apt.conf <<-END
		Dir::Etc::SourceList "$PWD/sources";
		Dir::Etc::SourceParts "-";
		Dir::State::Lists "$PWD/lists";
		Dir::Cache "$PWD";
		Acquire::Languages "none";
		APT::Sandbox::User "root";
	END
	export APT_CONFIG="$PWD/apt.conf"
	apt-get update --quiet --quiet
fi
# The package of the name that stays depends on the one with the version in its name.
package=$(apt-cache depends --important linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
[ -n "$package" ] || { echo "apt knows no linux-image-cloud-amd64: add Debian's main to its sources, and apt-get update" >&2; exit 1; }
apt-get download --quiet --quiet -o APT::Sandbox::User=root "$package"
dpkg-deb --extract ./*.deb .
# Where packages had them before /lib became a part of /usr.
[ -d lib/modules ] || mv usr/lib lib
for module in $host $guest; do
	# Some are built in, and those of newer kernels are packed.
	found=$(find lib/modules -name "$module.ko*")
	case $found in
	'') continue ;;
	*.ko) cp "$found" "$module.ko" ;;
	*.ko.xz) xz --decompress --stdout "$found" > "$module.ko" ;;
	*.ko.zst) zstd --quiet --decompress --force "$found" -o "$module.ko" ;;
	*) echo "$package has $found, which is packed in a way that this does not know" >&2; exit 1 ;;
	esac
	case " $host " in *" $module "*) ;; *) echo "$module.ko" >> list ;; esac
done
rm -rf ../boot ../modules ../*.ko
cp boot/vmlinuz-* ../vmlinuz
mv boot lib/modules list ./*.ko ..
# Last: whoever finds it finds the rest.
echo "$wanted" > ../made-of
